"""The topologies that collaboration learned, as multiples of what they began as."""

from collections.abc import Sequence

from plait.report.figure import Figure, Section
from plait.report.maps import topology_map, topology_reach, topology_title
from plait.report.numbers import number, p_value
from plait.routing.metrics.topology import Topology, stored_topologies
from plait.routing.metrics.topology_over_seeds import LEVEL, TopologyOverSeeds, over_seeds
from plait.storage.weights import find_weights, read_weights
from plait.studies.results import FinishedRun, StudyResults

SHOWN = 8
"""banks shown for a variant: evenly spread where it has more, those that differ first"""


def topology_section(study: StudyResults) -> Section | None:
    """Maps of S of each collaborating variant, mean over its seeds; None where there is none.

    Folded unless one of them differs from the untrained S beyond chance.
    """
    found = {
        variant: banks for variant in study.finished_variants if (banks := _banks(study, variant))
    }
    shown = [bank for banks in found.values() for bank in banks if bank.trained]
    if not found:
        return None
    reach = max((topology_reach(bank.mean_EE, bank.neutral) for bank in shown), default=None)
    figures = [
        Figure(
            f"topology-{index}-{bank.bank}",
            f"{variant}, bank {bank.bank}",
            topology_map(
                bank.mean_EE, topology_title(bank.neighbours, bank.signed), bank.neutral, reach
            ),
            _caption(bank),
            "quarter",
        )
        for index, (variant, banks) in enumerate(found.items())
        for bank in _spread(banks)
    ]
    differing = [bank for bank in shown if bank.differs]
    seeds = max(len(study.of(variant)) for variant in found)
    return Section(
        "Collaboration: who listens to whom",
        [_reading(seeds)],
        figures,
        folded=not differing,
        gist=_gist(shown, differing, seeds),
    )


def _reading(seeds: int) -> str:
    text = (
        "S says how much each expert (row) listens to each other one (column), here as a multiple "
        "of what it was before training: grey is as untrained, blue less, orange more. One colour "
        "scale for all that were trained; one that never was may lie beyond its ends. "
    )
    if seeds < 2:
        return text + "One seed has no scatter that its S could be compared with."
    return text + (
        "Mean over seeds, which number their experts each for itself: what the mean keeps is what "
        "they share. It differs beyond chance where its farthest entry does from the scatter over "
        f"seeds, pooled over all entries: t test, p < {LEVEL:g} after Bonferroni’s correction over "
        "the entries."
    )


def _gist(
    shown: Sequence[TopologyOverSeeds], differing: Sequence[TopologyOverSeeds], seeds: int
) -> str:
    """One line beside the title, read also where the section is folded."""
    if not shown:
        return "never trained"
    if differing:
        return f"{len(differing)} of {len(shown)} banks differ from the untrained S beyond chance"
    farthest = number(max(bank.largest.value for bank in shown), 2)
    what = "S" if shown[0].signed else "S as a multiple of the untrained one"
    why = "one seed: no scatter to compare with" if seeds < 2 else "none beyond chance"
    return f"{what} moved by up to {farthest}; {why}"


def _caption(bank: TopologyOverSeeds) -> str:
    if not bank.trained:
        return "Never trained."
    said = f"A seed’s farthest entry: {number(bank.largest.value, 2)} from untrained."
    if not bank.signed:
        said += (
            f" Mean row entropy {bank.row_entropy.value:.3f} nats of at most "
            f"{bank.entropy_ceiling:.3f}."
        )
    if bank.p is not None:
        beyond = "Beyond chance" if bank.differs else "Within chance"
        said += f" {beyond}, {p_value(bank.p)}."
    return said


def _banks(study: StudyResults, variant: str) -> list[TopologyOverSeeds]:
    """Each bank over the seeds whose weights are there; none that stays uniform by construction."""
    by_bank: dict[int, list[Topology]] = {}
    for run in study.of(variant):
        for topology in _topologies(run):
            by_bank.setdefault(topology.bank, []).append(topology)
    banks = [over_seeds(topologies) for _, topologies in sorted(by_bank.items())]
    return [bank for bank in banks if bank.trained or bank.row_entropy.value < bank.entropy_ceiling]


def _topologies(run: FinishedRun) -> list[Topology]:
    """Measure the topologies in a run's newest checkpoint; none where there are no weights."""
    if run.config.model.collaboration is None:
        return []
    try:
        weights = read_weights(find_weights(run.folder))
    except (FileNotFoundError, ValueError):
        return []
    names = [name.split(".") for name in weights if name.startswith("collaboration.")]
    raw = {int(n[1]): weights[".".join(n)] for n in names if n[2:] == ["raw"]}
    return stored_topologies(run.config.model, raw)


def _spread(banks: list[TopologyOverSeeds]) -> list[TopologyOverSeeds]:
    banks = sorted(banks, key=lambda bank: not bank.differs)
    if len(banks) <= SHOWN:
        return banks
    return [banks[round(i * (len(banks) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
