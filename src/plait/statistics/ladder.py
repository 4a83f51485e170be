"""Losses over a ladder of sizes: their curve, what it foretells, and compute saved at equal loss.

L(C) = E + A·C^−α is fitted by variable projection (Golub & Pereyra 1973): at each exponent α of a
grid that is refined, E and A solve a linear least-squares problem with both ≥ 0 in closed form.

Intervals come from a bootstrap over seeds, the same seeds at every size and in both variants, since
runs of one seed share their data order. Percentiles of it are useless for few seeds: in simulated
ladders with three, those that promise 90 % cover about 65 %. So it gives only a standard error,
which is made unbiased by √(n ÷ (n − 1)) and multiplied by Student's t with n − 1 degrees of
freedom. In the resamples E may be negative: held at zero, it would hide how unsure a fit is.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, stdtrit

from plait.statistics.estimate import Estimate
from plait.statistics.proportions import wilson

Floats = npt.NDArray[np.float64]
Size = TypeVar("Size", bound=Hashable)

DRAWS = 400
EXPONENTS: Floats = np.geomspace(0.01, 2, 97)
_ROUNDS = 6
"""refinements of the grid, each to an eighth of two steps"""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """L(C) = `floor` + `scale`·C^−`exponent`: nats per token, C in the unit of the fit (FLOPs)."""

    floor: float
    scale: float
    exponent: float

    def at(self, compute: float) -> float:
        """Loss in nats per token at this compute."""
        return float(self.floor + self.scale * compute**-self.exponent)

    def compute_for(self, loss: float) -> float:
        """Compute at which the curve reaches this loss, infinite at its floor and below."""
        if loss <= self.floor:
            return math.inf
        return float((self.scale / (loss - self.floor)) ** (1 / self.exponent))


@dataclass(frozen=True, kw_only=True)
class HeldOut(Generic[Size]):
    """The largest size, foretold from the smaller ones, in nats per token.

    `low` and `high` bound where the mean over `seeds` seeds, `observed`, falls in 90 % of ladders
    whose loss is such a curve: they hold the spread of that mean too. None with one seed.
    """

    size: Size
    observed: float
    predicted: float
    low: float | None
    high: float | None
    seeds: int

    @property
    def inside(self) -> bool | None:
        """Whether the observed mean lies in the interval, None where there is none."""
        if self.low is None or self.high is None:
            return None
        return self.low <= self.observed <= self.high


class Ladder(Generic[Size]):
    """One variant at several sizes: `compute` (FLOPs) and losses (nats per token) by seed of each.

    Seeds that did not finish at every size are left out.

    Raises:
        ValueError: fewer than three sizes, compute that is not positive or not different, sizes
            without losses, no seed at all sizes, losses that are not finite.
    """

    def __init__(
        self, compute: Mapping[Size, float], losses: Mapping[Size, Mapping[int, float]]
    ) -> None:
        if set(compute) != set(losses):
            raise ValueError(f"sizes {list(compute)} have compute and {list(losses)} have losses")
        self.sizes = sorted(compute, key=lambda size: compute[size])
        self.compute_N = _checked([compute[size] for size in self.sizes])
        self.seeds = sorted(set.intersection(*(set(losses[size]) for size in self.sizes)))
        if not self.seeds:
            raise ValueError("no seed finished at every size: run one seed through the ladder")
        self.losses_SN: Floats = np.array(
            [[losses[size][seed] for size in self.sizes] for seed in self.seeds], dtype=np.float64
        )
        if not np.isfinite(self.losses_SN).all():
            raise ValueError("a loss is not finite: leave out the seeds that diverged")

    def curve(self) -> Curve:
        """Fit the means over seeds of all sizes."""
        return fit_curve(self.compute_N, self.losses_SN.mean(0))

    def held_out(self) -> HeldOut[Size]:
        """Foretell the largest size from the others.

        Raises:
            ValueError: fewer than four sizes, since a curve takes three.
        """
        if len(self.sizes) < 4:
            raise ValueError(
                f"holding a size out needs four, got {len(self.sizes)}: run another size"
            )
        mean_N, count = self.losses_SN.mean(0), len(self.seeds)
        predicted = fit_curve(self.compute_N[:-1], mean_N[:-1]).at(float(self.compute_N[-1]))
        reach = None
        if count > 1:
            weight_RS, chance_R = _resamples(count)
            mean_RN = weight_RS @ self.losses_SN
            curves = _fit(self.compute_N[:-1], mean_RN[:, :-1], below_zero=True)
            missed_R = mean_RN[:, -1] - curves.at(self.compute_N[-1])
            reach = _reach(missed_R, chance_R, count, 0.90)
        return HeldOut(
            size=self.sizes[-1],
            observed=float(mean_N[-1]),
            predicted=predicted,
            low=None if reach is None else predicted - reach,
            high=None if reach is None else predicted + reach,
            seeds=count,
        )


def fit_curve(compute_N: Sequence[float] | Floats, loss_N: Sequence[float] | Floats) -> Curve:
    """Least-squares curve through one loss (nats per token) per size, α from 0.01 to 2.

    Raises:
        ValueError: fewer than three sizes, compute that is not positive or not different, not one
            finite loss per size.
    """
    if len(loss_N) != len(compute_N) or not np.isfinite(loss_N).all():
        raise ValueError(f"{len(compute_N)} sizes need one finite loss each, got {list(loss_N)}")
    curves = _fit(_checked(compute_N), np.asarray(loss_N, dtype=np.float64)[None])
    return Curve(
        floor=float(curves.floor_R[0]),
        scale=float(curves.scale_R[0] * curves.unit ** curves.exponent_R[0]),
        exponent=float(curves.exponent_R[0]),
    )


def speed_up(reference: Ladder[Size], variant: Ladder[Size], loss: float) -> Estimate | None:
    """Compute of the reference ÷ compute of the variant at equal `loss`, with its 95 % interval.

    None where one of the two curves reaches the loss outside the compute it was measured at. The
    interval is symmetric in the logarithm; seeds are those that both ladders finished.
    """
    ladders = (reference, variant)
    computes = [ladder.curve().compute_for(loss) for ladder in ladders]
    for ladder, compute in zip(ladders, computes, strict=True):
        if not ladder.compute_N[0] <= compute <= ladder.compute_N[-1]:
            return None
    ratio = computes[0] / computes[1]
    shared = [s for s in reference.seeds if s in variant.seeds]
    if len(shared) < 2:
        return Estimate(value=ratio, n=len(shared))
    weight_RS, chance_R = _resamples(len(shared))
    logs = []
    for ladder in ladders:
        rows = [ladder.seeds.index(s) for s in shared]
        curves = _fit(ladder.compute_N, weight_RS @ ladder.losses_SN[rows], below_zero=True)
        span = ladder.compute_N[-1] / ladder.compute_N[0]
        compute_R = curves.compute_for(loss)
        logs.append(
            np.log(np.clip(compute_R, ladder.compute_N[0] / span, ladder.compute_N[-1] * span))
        )
    factor = math.exp(_reach(logs[0] - logs[1], chance_R, len(shared), 0.95))
    return Estimate(value=ratio, low=ratio / factor, high=ratio * factor, n=len(shared))


def decision_accuracy(
    losses: Mapping[str, Mapping[Size, float]], sizes: Sequence[Size]
) -> dict[Size, Estimate]:
    """Share of pairs of variants whose order at a size is that at the last of `sizes`.

    `losses` are means in nats per token by variant and size. A pair counts where both variants have
    both sizes and differ at the last; equal losses at the small size foretell nothing. Wilson's
    interval takes pairs for independent; they share variants, so it is too narrow if anything.
    """
    accuracy: dict[Size, Estimate] = {}
    for size in sizes[:-1]:
        both = [by_size for by_size in losses.values() if size in by_size and sizes[-1] in by_size]
        orders = [
            (_sign(a[size] - b[size]), _sign(a[sizes[-1]] - b[sizes[-1]]))
            for a, b in combinations(both, 2)
        ]
        kept = [small == large for small, large in orders if large]
        if kept:
            accuracy[size] = replace(wilson(sum(kept) / len(kept), len(kept)), chance=0.5)
    return accuracy


@dataclass(frozen=True)
class _Curves:
    """Curves of many samples; scales are at a compute of `unit`."""

    floor_R: Floats
    scale_R: Floats
    exponent_R: Floats
    unit: float

    def at(self, compute: float) -> Floats:
        return self.floor_R + self.scale_R * (compute / self.unit) ** -self.exponent_R

    def compute_for(self, loss: float) -> Floats:
        above_R = np.maximum(loss - self.floor_R, 1e-300)
        with np.errstate(over="ignore", divide="ignore"):
            return self.unit * (self.scale_R / above_R) ** (1 / self.exponent_R)


def _fit(compute_N: Floats, loss_RN: Floats, below_zero: bool = False) -> _Curves:
    """Fit every row; `below_zero` lets E be negative."""
    unit = float(np.exp(np.log(compute_N).mean()))
    log_N = np.log(compute_N / unit)
    exponent_RG = EXPONENTS[None]
    rows = np.arange(len(loss_RN))
    for _ in range(_ROUNDS):
        floor_RG, scale_RG, square_RG = _solve(
            np.exp(-exponent_RG[..., None] * log_N), loss_RN, below_zero
        )
        best_R = square_RG.argmin(1)
        exponent_RG = np.broadcast_to(exponent_RG, square_RG.shape)
        found = _Curves(
            floor_RG[rows, best_R], scale_RG[rows, best_R], exponent_RG[rows, best_R], unit
        )
        low_R = exponent_RG[rows, np.maximum(best_R - 1, 0)]
        high_R = exponent_RG[rows, np.minimum(best_R + 1, exponent_RG.shape[1] - 1)]
        exponent_RG = low_R[:, None] + (high_R - low_R)[:, None] * np.linspace(0, 1, 9)
    return found


def _solve(power_RGN: Floats, loss_RN: Floats, below_zero: bool) -> tuple[Floats, Floats, Floats]:
    """E, A and the squared error of each row at each exponent, both ≥ 0."""
    mean_RG, mean_R = power_RGN.mean(-1), loss_RN.mean(-1)[:, None]
    power_C, loss_C = power_RGN - mean_RG[..., None], loss_RN - mean_R  # centred
    total_R = (loss_C**2).sum(-1)[:, None]
    shared_RG = np.einsum("rgn,rn->rg", power_C, loss_C)
    scale_RG = np.maximum(shared_RG / (power_C**2).sum(-1), 0)
    floor_RG = mean_R - scale_RG * mean_RG
    square_RG = total_R - scale_RG * shared_RG
    if below_zero:
        return floor_RG, scale_RG, square_RG
    product_RG = shared_RG + len(loss_RN[0]) * mean_RG * mean_R
    alone_RG = product_RG / (power_RGN**2).sum(-1)
    bound = floor_RG < 0
    return (
        np.where(bound, 0.0, floor_RG),
        np.where(bound, alone_RG, scale_RG),
        np.where(bound, (loss_RN**2).sum(-1)[:, None] - alone_RG * product_RG, square_RG),
    )


def _resamples(count: int) -> tuple[Floats, Floats]:
    """Weights of seeds in each resample, (draws, seeds), and the chance of each resample.

    All there are while they are few (five seeds: 126), else drawn.
    """
    if math.comb(2 * count - 1, count) <= DRAWS:
        picked = combinations_with_replacement(range(count), count)
        times_RS = np.array([np.bincount(pick, minlength=count) for pick in picked])
        log_R = gammaln(count + 1) - gammaln(times_RS + 1).sum(1) - count * math.log(count)
        return times_RS / count, np.exp(log_R)
    generator = np.random.default_rng(0)
    times_RS = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS)
    return times_RS / count, np.full(DRAWS, 1 / DRAWS)


def _reach(values_R: Floats, chance_R: Floats, count: int, confidence: float) -> float:
    """Half an interval from resampled values: unbiased standard error × Student's t."""
    variance = float(chance_R @ (values_R - chance_R @ values_R) ** 2) * count / (count - 1)
    return float(stdtrit(count - 1, (1 + confidence) / 2)) * math.sqrt(variance)


def _checked(compute_N: Sequence[float] | Floats) -> Floats:
    compute = np.asarray(compute_N, dtype=np.float64)
    if len(compute) < 3 or len(np.unique(compute)) < len(compute) or not (compute > 0).all():
        raise ValueError(
            f"a curve needs three sizes of positive and different compute, got {compute.tolist()}"
        )
    return compute


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
