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
ROUNDING = 1e-5
"""of log S: what moved by less was not learned, however alike all seeds round it"""


@dataclass(frozen=True, kw_only=True)
class TopologyOverSeeds:
    """The mean over seeds of S in units of the untrained value, see `Topology.relative_EE`.

    `largest` is each seed's largest distance from the untrained S in these units, its mean and t
    interval over seeds. `p` tests the entry of the mean that lies farthest out against the scatter
    over seeds, pooled over all entries, after Bonferroni's correction over them: of log S, each row
    around its mean, which is as normal as the parameter behind it; None where one seed has no
    scatter, or nothing was trained.
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
    return TopologyOverSeeds(
        bank=first.bank,
        mean_EE=np.mean([topology.relative_EE for topology in topologies], axis=0),
        neutral=first.neutral,
        neighbours=first.neighbours,
        signed=first.signed,
        trained=any(topology.trained for topology in topologies),
        row_entropy=mean_interval([topology.row_entropy for topology in topologies]),
        entropy_ceiling=first.entropy_ceiling,
        largest=mean_interval([_largest(topology) for topology in topologies]),
        p=_p(np.stack([_moved(topology) for topology in topologies])),
    )


def _largest(topology: Topology) -> float:
    """Largest distance of an entry from the S that it began as, in units of the uniform one."""
    scale = 1 if topology.signed else topology.neighbours
    return float(np.abs(topology.s_EE - topology.untrained_EE).max()) * scale


def _moved(topology: Topology) -> npt.NDArray[np.float64]:
    """How far each entry moved, on the scale of the test; NaN on an empty diagonal."""
    if topology.signed:
        return np.where(np.eye(len(topology.s_EE)) > 0, np.nan, topology.s_EE)
    began_EE, smallest = topology.untrained_EE, np.finfo(np.float32).tiny
    used_EE = began_EE > 0
    ratio_EE = np.maximum(topology.s_EE, smallest) / np.where(used_EE, began_EE, np.nan)
    moved_EE = np.log(ratio_EE)
    centred: npt.NDArray[np.float64] = moved_EE - np.nanmean(moved_EE, axis=1, keepdims=True)
    return centred


def _p(moved_SEE: npt.NDArray[np.float64]) -> float | None:
    moved_SN = moved_SEE[:, np.isfinite(moved_SEE).all(axis=0)]
    seeds, entries = moved_SN.shape
    if seeds < 2 or not moved_SN.any():
        return None
    error = float(np.sqrt(moved_SN.var(axis=0, ddof=1).mean() / seeds))
    farthest = float(np.abs(moved_SN.mean(axis=0)).max())
    if farthest < ROUNDING:
        return 1.0
    if error == 0:
        return 0.0
    freedom = max(1, entries // 2) * (seeds - 1)  # what i hears of j and j of i is one parameter
    return float(min(1.0, 2 * entries * stdtr(freedom, -farthest / error)))
