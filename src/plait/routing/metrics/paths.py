"""Paths: the sequence of top-1 experts over depth; how many there are and how they are used.

The idea of a path and its use as a unit of analysis: PathMoE (arXiv 2603.18297). Entropies follow
Miller (1955) for the correction of the plug-in estimate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, log1p

import numpy as np
import numpy.typing as npt

from plait.evaluation.choices import entropy_of, label
from plait.routing import chance
from plait.routing.trace import Trace
from plait.statistics import Estimate, Resampler

COVERAGE_AT = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
SHARES = (0.5, 0.9, 0.99)


@dataclass(frozen=True)
class Entropy:
    """Entropy of paths, nats: the plug-in estimate and the one with Miller and Madow's correction.

    The ceiling of both is log(sample size) or the logarithm of the number of possible paths,
    whichever is less. `distinct` is the number of paths seen.
    """

    plug_in: Estimate
    miller_madow: Estimate
    distinct: float


@dataclass(frozen=True)
class Coverage:
    """Share of tokens on the n most frequent paths, and the paths needed for a share of tokens."""

    shares: dict[int, Estimate]
    paths_for: dict[float, Estimate]
    curve: npt.NDArray[np.float64]
    chance_curve: npt.NDArray[np.float64]


def entropy(trace: Trace, resampler: Resampler, depths: slice | None = None) -> Entropy:
    """Entropy of the paths over all depths, or over a window of them.

    Args:
        trace: N tokens.
        resampler: of the trace's documents.
        depths: the window, as positions among the routed depths.
    """
    window = depths or slice(None)
    experts = trace.info.experts[window]
    labels_N = label(trace.top1_NL[:, window], experts)
    cells = int(labels_N.max()) + 1
    plug_in, corrected = [], []
    for counts in resampler.histograms(labels_N, cells):
        value = entropy_of(counts)
        plug_in.append(value)
        corrected.append(value + ((counts > 0).sum() - 1) / (2 * counts.sum()))
    log_paths = float(np.log(experts).sum())
    ceiling = min(log(len(trace)), log_paths)
    expected = chance.plug_in_entropy(len(trace), log_paths)
    correction = (_expected_distinct(len(trace), log_paths) - 1) / (2 * len(trace))
    return Entropy(
        plug_in=resampler.measure(np.asarray(plug_in), chance=expected, ceiling=ceiling),
        miller_madow=resampler.measure(
            np.asarray(corrected), chance=expected + correction, ceiling=ceiling
        ),
        distinct=cells,
    )


def window_entropy(trace: Trace, resampler: Resampler, width: int) -> Entropy:
    """Mean entropy over all windows of `width` adjacent routed depths.

    Raises:
        ValueError: the window is wider than the number of routed depths.
    """
    routed = len(trace.info.routed)
    if not 1 <= width <= routed:
        raise ValueError(f"a window of {width} depths does not fit {routed}: choose 1 to {routed}")
    windows = [
        entropy(trace, resampler, slice(start, start + width))
        for start in range(routed - width + 1)
    ]
    return Entropy(
        plug_in=mean_of([window.plug_in for window in windows]),
        miller_madow=mean_of([window.miller_madow for window in windows]),
        distinct=float(np.mean([window.distinct for window in windows])),
    )


def coverage(trace: Trace, resampler: Resampler) -> Coverage:
    """Share of tokens that the n most frequent paths cover, n = 1, 2, 5, 10 …; chance simulated."""
    labels_N = label(trace.top1_NL, trace.info.experts)
    cells = int(labels_N.max()) + 1
    at = [n for n in COVERAGE_AT if n <= cells]
    by_draw: list[list[float]] = []
    needed_by_draw: list[list[float]] = []
    for counts in resampler.histograms(labels_N, cells):
        curve = np.cumsum(np.sort(counts)[::-1]) / counts.sum()
        if not by_draw:
            first = curve
        by_draw.append([float(curve[n - 1]) for n in at])
        needed_by_draw.append(
            [float(np.searchsorted(curve, share - 1e-12)) + 1 for share in SHARES]
        )
    expected = chance.coverage(len(trace), float(np.log(trace.info.experts).sum()))
    shares_RA = np.asarray(by_draw)
    needed_RS = np.asarray(needed_by_draw, dtype=np.float64)
    return Coverage(
        shares={
            n: resampler.measure(
                shares_RA[:, i], chance=float(expected[min(n, len(expected)) - 1]), ceiling=1.0
            )
            for i, n in enumerate(at)
        },
        paths_for={
            share: resampler.measure(
                needed_RS[:, i], chance=float(np.searchsorted(expected, share - 1e-12) + 1)
            )
            for i, share in enumerate(SHARES)
        },
        curve=first,
        chance_curve=expected,
    )


def mean_of(parts: Sequence[Estimate]) -> Estimate:
    """Mean of figures over depths or windows of one trace.

    The half-width of the interval is the mean of theirs: the same documents stand behind all of
    them, so errors are taken as fully correlated, which makes the interval wide rather than narrow.
    """

    def mean(name: str) -> float | None:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else float(np.mean(values))

    return Estimate(
        value=float(np.mean([part.value for part in parts])),
        chance=mean("chance"),
        low=mean("low"),
        high=mean("high"),
        ceiling=mean("ceiling"),
        n=parts[0].n,
    )


def most_frequent(trace: Trace, count: int) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.intp]]:
    """Return the `count` most frequent paths, (n, L), and their tokens; ties by label order."""
    labels_N = label(trace.top1_NL, trace.info.experts)
    _, first_P, counts_P = np.unique(labels_N, return_index=True, return_counts=True)
    best = np.argsort(-counts_P, kind="stable")[:count]
    return trace.top1_NL[first_P[best]], counts_P[best]


def _expected_distinct(samples: int, log_cells: float) -> float:
    """Mean number of distinct cells among N uniform draws from M: M (1 − (1 − 1/M)^N)."""
    if log_cells <= 0:
        return 1.0
    if log_cells > 600:
        return float(samples)
    return -exp(log_cells) * float(np.expm1(samples * log1p(-exp(-log_cells))))
