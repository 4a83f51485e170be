"""Looking at a study before its last seed, at an error that stays what was stated.

The looks are fixed beforehand as numbers of paired seeds. The level is spent over them as
O'Brien–Fleming would (Lan–DeMets 1983), on information n ÷ n_max: hardly anything at an early look.
A test then gives a *sequential p value*: the smallest overall level at which it has rejected at
this look or an earlier one (Liu & Anderson 2008). It never grows from look to look and is used as
any p value is: Holm over contrasts, the larger of two for equivalence. A difference that stopped a
study early is biased outwards, since it stopped for being large; report it so. Many looks at few
seeds cost power: (3, 4, 5, 6) up to 7 points of it, (4, 8, 12) up to 3, in simulated studies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from plait.statistics.paired import Equivalence, mean_and_error, ratio

Floats = npt.NDArray[np.float64]

DRAWS = 1 << 18
LEVELS: Floats = np.concatenate([np.geomspace(1e-12, 1e-3, 200)[:-1], np.geomspace(1e-3, 1, 400)])
"""where boundaries are computed; between them they are interpolated, and 1e-12 is the least p"""


def spent(level: float, information: float) -> float:
    """Level spent once `information`, in (0, 1], is there: 2(1 − Φ(z ÷ √information))."""
    if not 0 < information <= 1:
        raise ValueError(f"information is seeds ÷ seeds at the last look, in (0, 1]: {information}")
    return float(_spent(level, information))


@dataclass(frozen=True)
class Looks:
    """Numbers of paired seeds at which a study is looked at, the last being all of them."""

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or self.sizes[0] < 3:
            raise ValueError(f"looks {self.sizes}: the first look needs three seeds or more")
        if any(b <= a for a, b in zip(self.sizes, self.sizes[1:], strict=False)):
            raise ValueError(f"looks {self.sizes}: name them in increasing order, each once")

    def critical_values(self, level: float = 0.05, sides: int = 2) -> tuple[float, ...]:
        """Values of t from which each look rejects at an overall `level`; |t| where two-sided."""
        if not 0 < level < 1:
            raise ValueError(f"a level lies between 0 and 1, got {level:g}")
        tails = [_between(level, LEVELS, tail_L) for tail_L in _tails(self.sizes, sides)]
        return tuple(
            -float(stdtrit(size - 1, tail / sides))
            for size, tail in zip(self.sizes, tails, strict=True)
        )

    def p_value(self, statistics: Sequence[float], sides: int = 2) -> float:
        """Return the sequential p of the t statistics at the looks taken so far, in their order.

        One-sided, large values of t reject.
        """
        if not 1 <= len(statistics) <= len(self.sizes):
            raise ValueError(f"{len(statistics)} statistics for the looks {self.sizes}: one each")
        looks = zip(self.sizes, statistics, _tails(self.sizes, sides), strict=False)
        return min(_between(_tail(t, size, sides), tail_L, LEVELS) for size, t, tail_L in looks)


@dataclass(frozen=True)
class Sequential:
    """What was known at the last look taken.

    `seeds` counts the paired seeds of that look; later ones wait for the next. `p` is the
    sequential two-sided p value, `equivalence` the sequential TOST where a margin was given, and
    `last` says whether no look is left.
    """

    seeds: int
    last: bool
    p: float
    equivalence: Equivalence | None


def sequential_test(
    differences: Sequence[float], looks: Looks, margin: float | None = None
) -> Sequential | None:
    """Test paired differences (nats per token), in the order of their seeds, at the looks taken.

    None before the first look. For equivalence each side has its own sequential p value and the
    larger counts (Schuirmann 1987), whichever look each was reached at.

    Raises:
        ValueError: more seeds than the last look, or a margin that is not positive.
    """
    if len(differences) > looks.sizes[-1]:
        raise ValueError(
            f"{len(differences)} seeds, and the last look is at {looks.sizes[-1]}: state the looks "
            "for all seeds before the first"
        )
    if margin is not None and margin <= 0:
        raise ValueError(f"an equivalence margin is positive, in nats per token; got {margin}")
    taken = [size for size in looks.sizes if size <= len(differences)]
    if not taken:
        return None
    sums = [mean_and_error(differences[:size]) for size in taken]

    def sequential_p(sign: float, shift: float, sides: int) -> float:
        t_K = [ratio(sign * mean + shift, error or 0.0) for mean, error in sums]
        return looks.p_value(t_K, sides)

    tost = None
    if margin is not None:
        tost = Equivalence(margin, max(sequential_p(sign, margin, 1) for sign in (1.0, -1.0)))
    return Sequential(taken[-1], taken[-1] == looks.sizes[-1], sequential_p(1.0, 0.0, 2), tost)


def _spent(level: npt.ArrayLike, information: float) -> Floats:
    z = -ndtri(np.asarray(level) / 2)
    return np.asarray(2 * ndtr(-z / np.sqrt(information)), dtype=np.float64)


@cache
def _tails(sizes: tuple[int, ...], sides: int) -> tuple[Floats, ...]:
    """Tail chance of the ordinary t test below which each look rejects, at each of `LEVELS`.

    Look k may first reject with chance Δ, what is newly spent. Its tail u holds u − G(u) = Δ, where
    G(u) is the chance that t passes u and an earlier look rejected: only G is counted in simulated
    studies, all else is exact, so that a single look is the t test itself and a level too small for
    the draws gives Bonferroni's u = Δ. The t statistics of the looks have no unknowns under the
    null, so standard normal differences serve.
    """
    if sides not in (1, 2):
        raise ValueError(f"a test has one side or two, got {sides}")
    spent_KL = [_spent(LEVELS, size / sizes[-1]) for size in sizes]
    tails = [np.clip(spent_KL[0], 1e-300, 1.0)]
    if len(sizes) == 1:
        return tuple(tails)
    tails_KN = _simulated(sizes, sides)
    rejected_N = np.full(len(tails_KN[0]), len(LEVELS))
    for k in range(1, len(sizes)):
        rejected_N = np.minimum(rejected_N, np.searchsorted(tails[-1], tails_KN[k - 1]))
        tails.append(_boundary(spent_KL[k - 1], spent_KL[k], rejected_N, tails_KN[k]))
    return tuple(tails)


def _boundary(
    before_L: Floats, now_L: Floats, rejected_N: npt.NDArray[np.intp], tail_N: Floats
) -> Floats:
    """Solve u − G(u) = Δ at each level, the least u where noise leaves several."""
    order = np.argsort(tail_N)
    u_N, rejected_N = tail_N[order], rejected_N[order]
    found_L = np.empty(len(LEVELS))
    for level, (before, now) in enumerate(zip(before_L, now_L, strict=True)):
        reach = int(np.searchsorted(u_N, now))
        earlier_M = u_N[:reach][rejected_N[:reach] <= level]
        passed = earlier_M > now - before + np.arange(len(earlier_M)) / len(u_N)
        count = int(np.argmax(passed)) if passed.any() else len(earlier_M)
        found_L[level] = now - before + count / len(u_N)
    return np.maximum.accumulate(np.clip(found_L, 1e-300, 1.0))


def _simulated(sizes: tuple[int, ...], sides: int) -> list[Floats]:
    """Tail chances of t at each look, without a difference; both signs where one-sided."""
    generator = np.random.default_rng(0)
    count, mean_N, square_N = 0, np.zeros(DRAWS), np.zeros(DRAWS)
    tails = []
    for size in sizes:
        new = size - count
        block_N = generator.standard_normal(DRAWS) / np.sqrt(new)
        within_N = generator.chisquare(new - 1, DRAWS) if new > 1 else 0.0
        step_N = block_N - mean_N
        square_N = square_N + within_N + step_N**2 * count * new / size
        mean_N = mean_N + step_N * new / size
        count = size
        t_N = mean_N / np.sqrt(square_N / (size - 1) / size)
        if sides == 1:
            t_N = np.concatenate([t_N, -t_N])
        tails.append(_tail(t_N, size, sides))
    return tails


def _tail(t: npt.ArrayLike, size: int, sides: int) -> Floats:
    """P value of the ordinary t test of `size` differences."""
    outward = np.abs(t) if sides == 2 else np.asarray(t)
    return np.asarray(sides * stdtr(size - 1, -outward), dtype=np.float64)


def _between(x: npt.ArrayLike, from_L: Floats, to_L: Floats) -> float:
    """Interpolate in logarithms."""
    x = np.maximum(x, 1e-300)
    return float(np.exp(np.interp(np.log(x), np.log(from_L), np.log(to_L))))
