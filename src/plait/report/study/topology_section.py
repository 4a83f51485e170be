"""The topologies that collaboration learned, as multiples of what they began as."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from plait.report.figure import Figure, Section
from plait.report.maps import topology_map, topology_reach, topology_title
from plait.report.numbers import number, p_value
from plait.routing.metrics.topology import Topology, stored_topologies
from plait.routing.metrics.topology_over_seeds import LEVEL, TopologyOverSeeds, over_seeds
from plait.statistics import holm
from plait.storage.weights import read_weights
from plait.studies.results import FinishedRun, StudyResults

TITLE = "Collaboration: who listens to whom"
SHOWN = 8
"""banks shown for a variant: evenly spread where it has more"""


def topology_sections(study: StudyResults) -> list[Section]:
    """Maps of S of each collaborating variant, mean over its seeds; empty where there is none.

    Those that differ from the untrained S beyond chance lie open, the others in a folded section.
    """
    found = {
        variant: banks for variant in study.finished_variants if (banks := _banks(study, variant))
    }
    if not found:
        return []
    found = _corrected(found)
    shown = [bank for banks in found.values() for bank in banks if bank.trained]
    reach = max((topology_reach(bank.mean_EE, bank.neutral) for bank in shown), default=None)
    seeds = max(len(study.of(variant)) for variant in found)
    sections: list[Section] = []
    for differing in (True, False):
        part = {
            variant: [bank for bank in of if bank.differs == differing]
            for variant, of in found.items()
        }
        inside = [bank for of in part.values() for bank in of]
        if inside:
            sections.append(
                Section(
                    TITLE if differing or not sections else f"{TITLE}, within chance",
                    [_reading(seeds)] if not sections else [],
                    _figures(part, reach, "differs" if differing else "rest"),
                    folded=not differing,
                    gist=_gist(inside, shown, differing, seeds),
                )
            )
    return sections


def _figures(
    banks: Mapping[str, Sequence[TopologyOverSeeds]], reach: float | None, part: str
) -> list[Figure]:
    return [
        Figure(
            f"topology-{part}-{index}-{bank.bank}",
            f"{variant}, bank {bank.bank}",
            topology_map(
                bank.mean_EE, topology_title(bank.neighbours, bank.signed), bank.neutral, reach
            ),
            _caption(bank),
            "quarter",
        )
        for index, (variant, of) in enumerate(banks.items())
        for bank in _spread(of)
    ]


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
        f"seeds, pooled over all entries: t test of log S, p < {LEVEL:g} corrected for the number "
        "of entries (Bonferroni) and of banks (Holm)."
    )


def _gist(
    inside: Sequence[TopologyOverSeeds],
    trained: Sequence[TopologyOverSeeds],
    differing: bool,
    seeds: int,
) -> str:
    """One line beside the title, read also where the section is folded."""
    if differing:
        banks = f"{len(inside)} of {len(trained)} banks"
        return f"{banks} differ from the untrained S beyond chance"
    moved = [bank.largest.value for bank in inside if bank.trained]
    if not moved:
        return "never trained"
    what = "S" if inside[0].signed else "S as a multiple of the untrained one"
    why = "one seed: no scatter to compare with" if seeds < 2 else "none beyond chance"
    return f"{what} moved by up to {number(max(moved), 2)}; {why}"


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
        for topology in run_topologies(run):
            by_bank.setdefault(topology.bank, []).append(topology)
    banks = [over_seeds(topologies) for _, topologies in sorted(by_bank.items())]
    return [bank for bank in banks if bank.trained or bank.row_entropy.value < bank.entropy_ceiling]


def run_topologies(run: FinishedRun) -> list[Topology]:
    """Measure the topologies in a run's newest checkpoint; none where there are no weights."""
    if run.config.model.collaboration is None:
        return []
    try:
        weights = read_weights(run.folder)
    except (FileNotFoundError, ValueError):
        return []
    names = [name.split(".") for name in weights if name.startswith("collaboration.")]
    raw = {int(n[1]): weights[".".join(n)] for n in names if n[2:] == ["raw"]}
    return stored_topologies(run.config.model, raw)


def _corrected(
    found: Mapping[str, Sequence[TopologyOverSeeds]],
) -> dict[str, list[TopologyOverSeeds]]:
    """The banks with their p values after Holm's correction over all of them."""
    tested = [bank for banks in found.values() for bank in banks if bank.p is not None]
    adjusted = holm([bank.p for bank in tested if bank.p is not None])
    p = {id(bank): value for bank, value in zip(tested, adjusted, strict=True)}
    return {
        variant: [replace(bank, p=p.get(id(bank))) for bank in banks]
        for variant, banks in found.items()
    }


def _spread(banks: Sequence[TopologyOverSeeds]) -> Sequence[TopologyOverSeeds]:
    if len(banks) <= SHOWN:
        return banks
    return [banks[round(i * (len(banks) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
