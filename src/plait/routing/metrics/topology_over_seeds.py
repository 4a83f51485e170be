"""One bank's S over the seeds of a study: its mean, and whether that differs from the untrained S.

Seeds number their experts each for itself. Their mean keeps what the numbers share, and what each
seed learned between experts of its own averages out; `largest` still shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr

from plait.routing.metrics.topology import Topology
from plait.statistics import Estimate, mean_interval

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class TopologyOverSeeds:
    """The mean over seeds of S in units of the untrained value, see `Topology.relative_EE`.

    `largest` is each seed's largest distance from the untrained S in these units, its mean and t
    interval over seeds. `p` tests the entry of the mean that lies farthest out against the scatter
    over seeds, pooled over all entries, after Bonferroni's correction over them; None where one
    seed has no scatter, or nothing was trained.
    """

    bank: int
    mean_EE: npt.NDArray[np.float64]
    neutral: float
    neighbours: int
    signed: bool
    trained: bool
    row_entropy: Estimate
    entropy_ceiling: float
    largest: Estimate
    p: float | None

    @property
    def differs(self) -> bool:
        """Whether the mean differs from the untrained S beyond chance."""
        return self.p is not None and self.p < LEVEL


def over_seeds(topologies: Sequence[Topology]) -> TopologyOverSeeds:
    """Average one bank's S over seeds; each with the same experts and the same kind of S."""
    first = topologies[0]
    departures_SEE = np.stack([_departure(topology) for topology in topologies])
    return TopologyOverSeeds(
        bank=first.bank,
        mean_EE=np.mean([topology.relative_EE for topology in topologies], axis=0),
        neutral=first.neutral,
        neighbours=first.neighbours,
        signed=first.signed,
        trained=any(topology.trained for topology in topologies),
        row_entropy=mean_interval([topology.row_entropy for topology in topologies]),
        entropy_ceiling=first.entropy_ceiling,
        largest=mean_interval([float(np.abs(d).max()) for d in departures_SEE]),
        p=_p(departures_SEE),
    )


def _departure(topology: Topology) -> npt.NDArray[np.float64]:
    """S minus the S that it began as, in units of the uniform one."""
    scale = 1 if topology.signed else topology.neighbours
    departure: npt.NDArray[np.float64] = (topology.s_EE - topology.untrained_EE) * scale
    return departure


def _p(departures_SEE: npt.NDArray[np.float64]) -> float | None:
    moved_EE = (departures_SEE != 0).any(axis=0)
    seeds, entries = len(departures_SEE), int(moved_EE.sum())
    if seeds < 2 or not entries:
        return None
    moved_SN = departures_SEE[:, moved_EE]
    error = float(np.sqrt(moved_SN.var(axis=0, ddof=1).mean() / seeds))
    farthest = float(np.abs(moved_SN.mean(axis=0)).max())
    if error == 0:
        return 0.0
    return min(1.0, 2 * entries * float(stdtr(entries * (seeds - 1), -farthest / error)))
