"""The learned topology S of collaboration (CT-MoE), beside the one before training.

A uniform S already has row entropy log(E − 1) and spectrum 1, 1/(E − 1), …: only the
difference to the untrained S says that something was learned.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from plait.config import ModelConfig
from plait.model import LanguageModel
from plait.model.collaboration import topology as topology_of
from plait.routing.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Statistics of one S (E×E), and the same of the untrained S.

    Row i is the expert that listens, column j the one it hears. `neighbours` is how many it could
    listen to: E − 1, or E with a self-loop; a `signed` S is no distribution over them.
    Rows are normalised in absolute value for the entropy (nats; `entropy_ceiling` = log(E − 1), or
    log E with a self-loop). Spectra are |eigenvalues| of S itself, which is not symmetric after the
    row softmax, largest first. `effective_EE[j, i]` is the mean over tokens that chose both i and j
    of Ŝ_ij, what expert j's gate receives from i's: NaN where no token did, and where S is uniform
    `effective_neutral`. None without a trace.
    """

    bank: int
    depths: tuple[int, ...]
    s_EE: npt.NDArray[np.float64]
    untrained_EE: npt.NDArray[np.float64]
    row_entropy: float
    untrained_row_entropy: float
    entropy_ceiling: float
    largest: float
    untrained_largest: float
    asymmetry: float
    spectrum: npt.NDArray[np.float64]
    untrained_spectrum: npt.NDArray[np.float64]
    effective_EE: npt.NDArray[np.float64] | None
    effective_neutral: float
    neighbours: int
    signed: bool

    @property
    def relative_EE(self) -> npt.NDArray[np.float64]:
        """S times its neighbours: 1 where it is uniform, as before training; a signed S itself."""
        return self.s_EE if self.signed else self.s_EE * self.neighbours

    @property
    def neutral(self) -> float:
        """What every entry of `relative_EE` is before training, unless S began at random."""
        return 0.0 if self.signed else 1.0

    @property
    def trained(self) -> bool:
        """Whether S is another than it began as."""
        return not np.array_equal(self.s_EE, self.untrained_EE)


def topology(
    bank: int,
    depths: tuple[int, ...],
    s_EE: npt.NDArray[np.floating],
    untrained_EE: npt.NDArray[np.floating],
    *,
    self_loop: bool = False,
    row_normalise: bool = True,
    signed: bool = False,
    trace: Trace | None = None,
) -> Topology:
    """Measure one bank's S.

    Args:
        bank: index of the collaboration bank.
        depths: model depths that use it.
        s_EE: S after training.
        untrained_EE: S before it.
        self_loop: an expert may send to itself (moves the ceiling of the entropy).
        row_normalise: S is renormalised over the chosen experts, as for the effective re-weighting.
        signed: entries are of either sign, 0 before training.
        trace: tokens over which the effective re-weighting is averaged.
    """
    s, untrained = np.asarray(s_EE, np.float64), np.asarray(untrained_EE, np.float64)
    neighbours = max(1, len(s) - (0 if self_loop else 1))
    chosen = neighbours
    if trace is not None and row_normalise:
        chosen = max(1, trace.info.top_k - (0 if self_loop else 1))
    return Topology(
        bank=bank,
        depths=depths,
        s_EE=s,
        untrained_EE=untrained,
        row_entropy=_row_entropy(s),
        untrained_row_entropy=_row_entropy(untrained),
        entropy_ceiling=log(neighbours),
        largest=float(np.abs(s).max()),
        untrained_largest=float(np.abs(untrained).max()),
        asymmetry=float(np.abs(s - s.T).max()),
        spectrum=_spectrum(s),
        untrained_spectrum=_spectrum(untrained),
        effective_EE=None if trace is None else effective(s, trace, depths, row_normalise),
        effective_neutral=0.0 if signed else 1 / chosen,
        neighbours=neighbours,
        signed=signed,
    )


def topologies(model: nn.Module, trace: Trace | None = None) -> list[Topology]:
    """Measure the S of each collaboration bank of our model beside the S that it began with.

    Empty for a model without one.
    """
    ours = next((m for m in model.modules() if isinstance(m, LanguageModel)), None)
    if ours is None:
        return []
    raw = {int(key): cast(Tensor, bank.raw) for key, bank in ours.collaboration.items()}
    return stored_topologies(ours.config, raw, trace)


@torch.no_grad()
def stored_topologies(
    config: ModelConfig, raw: Mapping[int, Tensor], trace: Trace | None = None
) -> list[Topology]:
    """Measure each bank's S from its stored parameter S_raw (E, E), by bank.

    S began from zeros; a frozen random one began as it is.
    """
    c = config.collaboration
    if c is None:
        return []
    plan, found = config.plans.collaboration, []
    for bank, raw_EE in sorted(raw.items()):
        began_EE = raw_EE if c.control == "frozen-random" else torch.zeros_like(raw_EE)
        found.append(
            topology(
                bank,
                tuple(depth for depth in plan.uses(bank) if depth in config.routed_depths),
                topology_of(raw_EE, c).cpu().numpy(),
                topology_of(began_EE, c).cpu().numpy(),
                self_loop=c.self_loop,
                row_normalise=c.row_normalise,
                signed=c.signed,
                trace=trace,
            )
        )
    return found


def effective(
    s_EE: npt.NDArray[np.float64],
    trace: Trace,
    depths: tuple[int, ...],
    row_normalise: bool = True,
) -> npt.NDArray[np.float64]:
    """Mean Ŝᵀ over the tokens of the depths that use S: entry [j, i] is what j receives from i."""
    experts = len(s_EE)
    total = np.zeros(experts * experts)
    count = np.zeros(experts * experts)
    rows = [trace.info.routed.index(depth) for depth in depths if depth in trace.info.routed]
    for row in rows:
        for start in range(0, len(trace), 65_536):
            ids_NK = trace.expert_ids_NLK[start : start + 65_536, row].astype(np.int64)
            chosen_NKK = s_EE[ids_NK[:, :, None], ids_NK[:, None, :]]
            if row_normalise:
                chosen_NKK = chosen_NKK / np.maximum(chosen_NKK.sum(-1, keepdims=True), 1e-20)
            cell = (ids_NK[:, None, :] * experts + ids_NK[:, :, None]).reshape(-1)  # [to, from]
            total += np.bincount(cell, weights=chosen_NKK.reshape(-1), minlength=len(total))
            count += np.bincount(cell, minlength=len(count))
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return mean.reshape(experts, experts)


def _row_entropy(s: npt.NDArray[np.float64]) -> float:
    """Mean entropy of the rows, nats; rows of zeros (nothing is sent) count as 0."""
    size = np.abs(s)
    sums = size.sum(axis=1, keepdims=True)
    p = np.divide(size, sums, out=np.zeros_like(size), where=sums > 0)
    logs = np.log(p, where=p > 0, out=np.zeros_like(p))
    return float(-(p * logs).sum(axis=1).mean())


def _spectrum(s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    spectrum: npt.NDArray[np.float64] = np.sort(np.abs(np.linalg.eigvals(s)))[::-1]
    return spectrum
