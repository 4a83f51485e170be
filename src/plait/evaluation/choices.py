"""What is counted of chosen experts: paths and their entropy, sets and their overlap.

Plain functions of arrays, for traces and for the evaluations of a run: both count by these.
N tokens, W or L depths, K experts per token.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def label(top1_NW: npt.NDArray[np.integer], experts: Sequence[int]) -> npt.NDArray[np.int64]:
    """Number the distinct paths: one label per token, 0 … P−1, whatever the number of depths.

    Args:
        top1_NW: experts of each token over W depths.
        experts: number of experts at each of them.
    """
    code_N = np.zeros(len(top1_NW), dtype=np.int64)
    radix = 1
    for column_N, count in zip(top1_NW.T, experts, strict=True):
        if radix * count >= 2**62:
            code_N = np.unique(code_N, return_inverse=True)[1].astype(np.int64)
            radix = int(code_N.max()) + 1
        code_N = code_N * count + column_N
        radix *= count
    return np.unique(code_N, return_inverse=True)[1].astype(np.int64)


def entropy_of(counts: npt.NDArray[np.floating] | npt.NDArray[np.integer]) -> float:
    """Plug-in entropy, nats, of a histogram."""
    positive = counts[counts > 0]
    total = positive.sum()
    return float(np.log(total) - (positive * np.log(positive)).sum() / total)


def bit_sets(expert_ids_NLK: npt.NDArray[np.integer], experts: int) -> npt.NDArray[np.uint64]:
    """Expert sets as bits, (N, L, words): overlaps become a few ANDs.

    Args:
        expert_ids_NLK: the chosen experts.
        experts: the largest number of experts of any depth.
    """
    ids = expert_ids_NLK.astype(np.uint64)
    bits = np.uint64(1) << (ids & np.uint64(63))
    masks = [
        np.bitwise_or.reduce(np.where(ids >> np.uint64(6) == word, bits, 0), axis=2)
        for word in range(-(-experts // 64))
    ]
    return np.stack(masks, axis=2).astype(np.uint64)


def jaccard(
    a_NW: npt.NDArray[np.uint64], b_NW: npt.NDArray[np.uint64], top_k: int
) -> npt.NDArray[np.float64]:
    """Jaccard index of each token's two sets of K experts: shared over all that either has.

    Args:
        a_NW: one depth of `bit_sets`, W words a token.
        b_NW: another.
        top_k: K.
    """
    common_N = np.bitwise_count(a_NW & b_NW).sum(axis=-1)
    index_N: npt.NDArray[np.float64] = common_N / (2.0 * top_k - common_N)
    return index_N


def agreement(
    masks_NGW: npt.NDArray[np.uint64], top_k: int, experts: int
) -> npt.NDArray[np.float64]:
    """How alike G depths with one bank choose, by token: 1 − (u − K) / (min(G·K, E) − K).

    u counts the distinct experts that a token uses over the depths: 1 when all choose the same K, 0
    when they choose as differently as they can.

    Args:
        masks_NGW: those depths of `bit_sets`.
        top_k: K, below E.
        experts: E, of the bank.
    """
    most = min(masks_NGW.shape[1] * top_k, experts)
    used_N = np.bitwise_count(np.bitwise_or.reduce(masks_NGW, axis=1)).sum(axis=-1)
    index_N: npt.NDArray[np.float64] = 1 - (used_N - top_k) / (most - top_k)
    return index_N


def shared_labels(*banks: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Whether expert i means the same at two depths, (L, L): where some part has one bank for both.

    Args:
        banks: of L routed depths, for each part that gives experts their labels: expert banks,
            routers and decisions.
    """
    parts = [np.asarray(of_part) for of_part in banks]
    same = [part[:, None] == part[None, :] for part in parts]
    shared_LL: npt.NDArray[np.bool_] = np.logical_or.reduce(same)
    return shared_LL
