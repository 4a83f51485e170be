"""How much neighbouring depths choose alike: Jaccard, mutual information, runs, agreement.

Where two depths share neither the expert bank, nor the router, nor the decision, an index has no
common meaning; the mutual information does not depend on labels and is the figure to read.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plait.evaluation.choices import agreement as agreement_of
from plait.evaluation.choices import bit_sets, jaccard
from plait.routing import chance
from plait.routing.metrics.paths import mean_of
from plait.routing.trace import Trace
from plait.statistics import Estimate, Resampler

CHUNK = 65_536  # tokens held as bit sets at a time


@dataclass(frozen=True)
class Consistency:
    """Jaccard index of the expert sets of two depths, mean over tokens.

    `adjacent` is the mean over all neighbouring depths, `within_shared` over those whose labels
    mean the same (None if there is no such pair). Matrices are L×L over the routed depths.
    """

    adjacent: Estimate | None
    within_shared: Estimate | None
    by_pair: tuple[Estimate, ...]
    matrix_LL: npt.NDArray[np.float64]
    chance_LL: npt.NDArray[np.float64]
    shared_labels_LL: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Information:
    """I(e_l; e_m) / H(e_m): the share of a depth's top-1 choice that another depth's tells.

    Independent of labels. `adjacent` is the mean over neighbouring depths, l before m.
    """

    adjacent: Estimate | None
    by_pair: tuple[Estimate, ...]
    matrix_LL: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Engagement:
    """The longest run of depths with the same top-1 expert.

    `longest` is its mean over tokens, `four` the share of tokens with a run of 4 or more.
    """

    longest: Estimate
    four: Estimate


def consistency(trace: Trace, resampler: Resampler) -> Consistency:
    """Jaccard index over all pairs of depths; chance for E and K is exact."""
    routed, top_k = len(trace.info.routed), trace.info.top_k
    sums_LLG = np.zeros((routed, routed, resampler.blocks))
    for rows, masks_NLW in _bit_sets(trace):
        block_N = resampler.block_N[rows]
        for a in range(routed):
            for b in range(a, routed):
                index_N = jaccard(masks_NLW[:, a], masks_NLW[:, b], top_k)
                sums_LLG[a, b] += np.bincount(block_N, weights=index_N, minlength=resampler.blocks)
    means_RLL = resampler.totals(sums_LLG.transpose(2, 0, 1))
    means_RLL /= resampler.token_totals()[:, None, None]
    experts = trace.info.experts
    chance_LL = np.array(
        [[chance.jaccard(max(a, b), top_k) for b in experts] for a in experts], dtype=np.float64
    )
    np.fill_diagonal(chance_LL, 1.0)
    pairs = list(range(routed - 1))
    shared_LL = trace.info.shared_labels_LL

    def over(chosen: list[int]) -> Estimate | None:
        if not chosen:
            return None
        values_R = np.mean([means_RLL[:, row, row + 1] for row in chosen], axis=0)
        expected = float(np.mean([chance_LL[row, row + 1] for row in chosen]))
        return resampler.measure(values_R, chance=expected, ceiling=1.0)

    upper = np.triu(means_RLL[0])
    by_pair = [over([row]) for row in pairs]
    return Consistency(
        adjacent=over(pairs),
        within_shared=over([row for row in pairs if shared_LL[row, row + 1]]),
        by_pair=tuple(pair for pair in by_pair if pair is not None),
        matrix_LL=upper + np.triu(upper, 1).T,
        chance_LL=chance_LL,
        shared_labels_LL=shared_LL,
    )


def information(trace: Trace, resampler: Resampler) -> Information:
    """Mutual information of the top-1 experts of two depths over the entropy of the second.

    The chance value is exact: the expected plug-in figure when both choose uniformly and apart.
    """
    routed, experts, tokens = len(trace.info.routed), trace.info.experts, len(trace)
    expected = [chance.plug_in_entropy(tokens, float(np.log(e))) for e in experts]
    matrix = np.eye(routed)
    by_pair, values = [], []
    for a in range(routed):
        for b in range(a + 1, routed):
            cells = experts[a] * experts[b]
            joint_N = trace.top1_NL[:, a].astype(np.int64) * experts[b] + trace.top1_NL[:, b]
            if b > a + 1:
                joint_RX = np.bincount(joint_N, minlength=cells)[None].astype(np.float64)
            else:
                index_N = resampler.block_N.astype(np.int64) * cells + joint_N
                counts_GX = np.bincount(index_N, minlength=resampler.blocks * cells)
                joint_RX = resampler.totals(counts_GX.reshape(resampler.blocks, cells))
            shares = _mutual_information(joint_RX.reshape(-1, experts[a], experts[b]))
            matrix[a, b], matrix[b, a] = shares[0][0], shares[1][0]
            if b == a + 1:
                joint = chance.plug_in_entropy(tokens, float(np.log(cells)))
                by_chance = (expected[a] + expected[b] - joint) / expected[b] if expected[b] else 0
                values.append(shares[0])
                by_pair.append(resampler.measure(shares[0], chance=by_chance, ceiling=1.0))
    adjacent = None
    if by_pair:
        mean_chance = mean_of(by_pair).chance
        adjacent = resampler.measure(np.mean(values, axis=0), chance=mean_chance, ceiling=1.0)
    return Information(adjacent=adjacent, by_pair=tuple(by_pair), matrix_LL=matrix)


def engagement(trace: Trace, resampler: Resampler) -> Engagement:
    """Runs of the same top-1 index over neighbouring routed depths."""
    run_N = np.ones(len(trace), dtype=np.int16)
    longest_N = run_N.copy()
    for before_N, after_N in zip(trace.top1_NL.T, trace.top1_NL.T[1:], strict=False):
        run_N = np.where(before_N == after_N, run_N + 1, 1).astype(np.int16)
        np.maximum(longest_N, run_N, out=longest_N)
    expected = chance.longest_run(list(trace.info.experts))
    lengths = np.arange(len(expected))
    return Engagement(
        longest=resampler.mean(
            longest_N,
            chance=float((expected * lengths).sum()),
            ceiling=float(len(trace.info.routed)),
            floor=1.0,
        ),
        four=resampler.mean(longest_N >= 4, chance=float(expected[4:].sum()), ceiling=1.0),
    )


def agreement(trace: Trace, resampler: Resampler) -> dict[tuple[int, ...], Estimate]:
    """Agreement of the depths that use one expert bank: 1 − (u − K) / (min(gK, E) − K).

    u counts the distinct experts that a token uses over the g depths of the group: 1 when all
    depths choose the same K, 0 when they choose as differently as they can.

    Returns:
        By group (the model's depths), in order; groups of one depth, and those where every choice
        uses all experts, are left out.
    """
    banks = np.asarray(trace.info.banks("expert"))
    top_k = trace.info.top_k
    groups = [np.flatnonzero(banks == bank) for bank in dict.fromkeys(banks.tolist())]
    groups = [g for g in groups if len(g) > 1 and trace.info.experts[g[0]] > top_k]
    by_token = [np.zeros(len(trace)) for _ in groups]
    for rows, masks_NLW in _bit_sets(trace):
        for index_N, group in zip(by_token, groups, strict=True):
            experts = trace.info.experts[group[0]]
            index_N[rows] = agreement_of(masks_NLW[:, group], top_k, experts)
    result = {}
    for index_N, group in zip(by_token, groups, strict=True):
        experts = trace.info.experts[group[0]]
        result[tuple(trace.info.routed[row] for row in group)] = resampler.mean(
            index_N,
            chance=chance.agreement(experts, top_k, len(group)),
            ceiling=1.0,
        )
    return result


def _bit_sets(trace: Trace) -> Iterator[tuple[slice, npt.NDArray[np.uint64]]]:
    """Expert sets as bits, (n, L, words), for chunks of tokens."""
    for start in range(0, len(trace), CHUNK):
        rows = slice(start, min(start + CHUNK, len(trace)))
        yield rows, bit_sets(trace.expert_ids_NLK[rows], max(trace.info.experts))


def _mutual_information(
    joint_RAB: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """I(a; b) / H(b) and I(a; b) / H(a) of joint counts; 0 where the entropy is 0."""

    def entropy(counts_RX: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        total = counts_RX.sum(axis=1)
        logs = np.log(counts_RX, where=counts_RX > 0, out=np.zeros_like(counts_RX))
        value: npt.NDArray[np.float64] = np.log(total) - (counts_RX * logs).sum(axis=1) / total
        return value

    h_a, h_b = entropy(joint_RAB.sum(axis=2)), entropy(joint_RAB.sum(axis=1))
    shared = np.maximum(h_a + h_b - entropy(joint_RAB.reshape(len(joint_RAB), -1)), 0.0)

    def share(h: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.divide(shared, h, out=np.zeros_like(h), where=h > 1e-12)

    return share(h_b), share(h_a)
