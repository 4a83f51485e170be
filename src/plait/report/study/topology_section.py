"""The topologies that collaboration learned, beside what they began as."""

import numpy as np

from plait.report.figure import Figure, Section
from plait.report.maps import topology_extent, topology_map
from plait.report.study.study_figures import variant_and_seed
from plait.routing.metrics.topology import Topology, stored_topologies
from plait.storage.weights import find_weights, read_weights
from plait.studies.results import FinishedRun, StudyResults

SHOWN = 8
"""banks shown for a run: evenly spread where it has more"""


def topology_section(study: StudyResults) -> Section | None:
    """Maps of S for the first seed of each collaborating variant; None where there is none."""
    maps: dict[str, tuple[np.ndarray, str]] = {}
    for variant in study.finished_variants:
        run = study.of(variant)[0]
        for topology in _spread(_topologies(run)):
            frozen = np.array_equal(topology.s_EE, topology.untrained_EE)
            start = f"Untrained, {len(topology.s_EE)} experts"
            if not frozen:
                maps.setdefault(start, (topology.untrained_EE, _entropy(topology, trained=False)))
            label = f"{variant_and_seed(study, run)}, bank {topology.bank}"
            maps[label] = (topology.s_EE, _entropy(topology) + (" Never trained." * frozen))
    if not maps:
        return None
    extent = topology_extent(*[s_EE for s_EE, _ in maps.values()])
    text = (
        "S says how much each expert (row) listens to each other one (column). It begins uniform, "
        "1/(E − 1) off the diagonal: only what differs from the untrained picture was learned. All "
        "on one colour scale."
    )
    figures = [
        Figure(f"topology-{index}", label, topology_map(s_EE, "S", extent), caption, "quarter")
        for index, (label, (s_EE, caption)) in enumerate(maps.items())
    ]
    return Section("Collaboration: who listens to whom", [text], figures)


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


def _entropy(topology: Topology, trained: bool = True) -> str:
    """Mean row entropy beside its ceiling; empty for a signed S, whose rows are no distribution."""
    if (topology.s_EE < 0).any():
        return ""
    entropy = topology.row_entropy if trained else topology.untrained_row_entropy
    return f"Mean row entropy {entropy:.3f} nats of at most {topology.entropy_ceiling:.3f}."


def _spread(banks: list[Topology]) -> list[Topology]:
    if len(banks) <= SHOWN:
        return banks
    return [banks[round(i * (len(banks) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
