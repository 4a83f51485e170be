"""What independent uniform choice gives: the value beside which each routing metric is read.

Exact where a closed form exists, simulated with a fixed seed where it does not; each function says.
E experts, K chosen per token without repetition, N tokens.
"""

from itertools import pairwise
from math import comb, exp, log

import numpy as np


def jaccard(experts: int, top_k: int) -> float:
    """Mean Jaccard index of two independent uniform K-subsets of E experts. Exact.

    The overlap i is hypergeometric, and the index is i / (2K − i).
    """
    total = comb(experts, top_k)
    return sum(
        comb(top_k, i) * comb(experts - top_k, top_k - i) / total * i / (2 * top_k - i)
        for i in range(max(0, 2 * top_k - experts), top_k + 1)
    )


def agreement(experts: int, top_k: int, group: int) -> float:
    """Agreement (see `metrics.consistency`) of g independent uniform K-subsets. Exact.

    Each expert is missed by all of them with probability (1 − K/E)^g.
    """
    distinct = experts * (1 - (1 - top_k / experts) ** group)
    return 1 - (distinct - top_k) / (min(group * top_k, experts) - top_k)


def longest_run(experts: list[int]) -> np.ndarray:
    """Distribution of the longest run of equal top-1 experts over depths: P[r] for r = 0 … L.

    Neighbouring depths agree with probability 1 / max(E, E'), independently of earlier
    agreements; exact when all depths have the same number of experts.
    """
    depths = len(experts)
    state = np.zeros((depths + 1, depths + 1))  # [longest so far, current run]
    state[1, 1] = 1.0
    for before, after in pairwise(experts):
        agree = 1 / max(before, after)
        following = np.zeros_like(state)
        for longest, run in zip(*np.nonzero(state), strict=True):
            following[max(longest, run + 1), run + 1] += state[longest, run] * agree
            following[max(longest, 1), 1] += state[longest, run] * (1 - agree)
        state = following
    distribution: np.ndarray = state.sum(axis=1)
    return distribution


def plug_in_entropy(samples: int, log_cells: float) -> float:
    """Mean plug-in entropy, nats, of N uniform draws from M cells, M given as its logarithm. Exact.

    log N − (M / N) Σ_x P(x) x log x with x binomial(N, 1/M); far below log M when M exceeds N.
    """
    if log_cells <= 0 or samples < 2:
        return 0.0
    if log_cells - 2 * log(samples) > log(1e6):  # two draws hardly ever meet
        return log(samples)
    rate = samples * exp(-log_cells)
    spread = 12 * rate**0.5 + 40
    x = np.arange(max(0, int(rate - spread)), min(samples, int(rate + spread)) + 1)
    log_odds = -log_cells - np.log1p(-exp(-log_cells))
    steps = np.log((samples - x[:-1]) / (x[:-1] + 1)) + log_odds
    log_pmf = np.concatenate([[0.0], np.cumsum(steps)])
    log_pmf -= log_pmf.max()
    pmf = np.exp(log_pmf)
    pmf /= pmf.sum()
    # Σ P(x) x log x, divided by the mean count: stays accurate when almost every cell is empty.
    positive = x > 0
    weighted = float((pmf[positive] * x[positive] * np.log(x[positive])).sum())
    mean = float((pmf * x).sum())
    return log(samples) - weighted / mean


def coverage(samples: int, log_cells: float, seed: int = 0) -> np.ndarray:
    """Share of N uniform draws from M cells that lie in the n most frequent ones. Simulated.

    Returns the cumulative share for n = 1, 2, … distinct cells.
    """
    generator = np.random.default_rng(seed)
    cells = min(2.0**62, exp(min(log_cells, 43.0)))
    drawn = generator.integers(0, max(1, round(cells)), size=samples)
    counts = np.sort(np.unique(drawn, return_counts=True)[1])[::-1]
    shares: np.ndarray = np.cumsum(counts) / samples
    return shares


def max_over_mean(samples: int, experts: int, top_k: int, seed: int = 0) -> float:
    """Mean of max/mean load when N tokens choose K of E experts uniformly. Simulated, 200 draws.

    Loads are drawn as normal with the exact variance and covariance when N K / E is large, and by
    choosing when it is small.
    """
    if top_k >= experts:
        return 1.0
    generator = np.random.default_rng(seed)
    mean = samples * top_k / experts
    if samples <= 1000:
        scores = generator.random((50, samples, experts))
        chosen = np.argpartition(scores, top_k - 1, axis=2)[:, :, :top_k]
        loads = np.stack([np.bincount(c.ravel(), minlength=experts) for c in chosen])
    else:
        share = top_k / experts
        noise = generator.standard_normal((200, experts))
        noise -= noise.mean(axis=1, keepdims=True)  # loads sum to N K: equal negative covariance
        scale = (samples * share * (1 - share) * experts / (experts - 1)) ** 0.5
        loads = mean + scale * noise
    return float(loads.max(axis=1).mean() / mean)


def dead_experts(samples: int, experts: int, top_k: int) -> float:
    """Mean number of experts that N uniform tokens never choose. Exact."""
    return float(experts * (1 - top_k / experts) ** samples)
