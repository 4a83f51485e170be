"""How evenly experts are used, how sure the router is, and which experts are used together."""

from dataclasses import dataclass
from math import comb, log

import numpy as np
import numpy.typing as npt

from plait.evaluation.choices import entropy_of
from plait.routing import chance
from plait.routing.trace import Trace
from plait.statistics import Estimate, Resampler


@dataclass(frozen=True)
class Load:
    """Load by routed depth; a token that chooses K experts counts K times.

    `share_LE` sums to 1 at each depth and is NaN beyond a depth's experts. `max_over_mean` is
    MaxVio (1 = even, E/K = all on the same K). `entropy` is that of the shares, nats. `dead` counts
    experts that no token chose; resampling never brings one to life, so read its interval so.
    """

    share_LE: npt.NDArray[np.float64]
    max_over_mean: tuple[Estimate, ...]
    dead: tuple[Estimate, ...]
    entropy: tuple[Estimate, ...]


@dataclass(frozen=True)
class CoActivation:
    """Which experts are chosen together by a token at one depth.

    `joint_EE` is the share of tokens that chose both (diagonal: that chose the one), `lift_EE` the
    joint share over what the two shares give when choices are independent, times the correction
    K−1 over K for drawing without repetition with equal loads: 1 = as chance. `pair_entropy` is the
    plug-in entropy over unordered pairs, nats; low when the same pairs return.
    """

    depth: int
    joint_EE: npt.NDArray[np.float64]
    lift_EE: npt.NDArray[np.float64]
    pair_entropy: Estimate | None


def count_by_block(trace: Trace, resampler: Resampler, row: int) -> npt.NDArray[np.int64]:
    """Choices of each expert at one routed depth within blocks of documents, (G, E)."""
    experts = trace.info.experts[row]
    counts = np.zeros(resampler.blocks * experts, dtype=np.int64)
    base_N = resampler.block_N.astype(np.int64) * experts
    for k in range(trace.info.top_k):
        counts += np.bincount(
            base_N + trace.expert_ids_NLK[:, row, k], minlength=resampler.blocks * experts
        )
    return counts.reshape(resampler.blocks, experts)


def load(trace: Trace, resampler: Resampler) -> Load:
    """Load of every depth; chance is simulated for max/mean, exact for the rest."""
    tokens, top_k = len(trace), trace.info.top_k
    share_LE = np.full((len(trace.info.routed), max(trace.info.experts)), np.nan)
    max_over_mean, dead, entropies = [], [], []
    for row, experts in enumerate(trace.info.experts):
        totals_RE = resampler.totals(count_by_block(trace, resampler, row))
        share_RE = totals_RE / totals_RE.sum(axis=1, keepdims=True)
        share_LE[row, :experts] = share_RE[0]
        max_over_mean.append(
            resampler.measure(
                share_RE.max(axis=1) * experts,
                chance=chance.max_over_mean(tokens, experts, top_k),
                ceiling=experts / top_k,
                floor=1.0,
            )
        )
        dead.append(
            resampler.measure(
                (totals_RE == 0).sum(axis=1).astype(float),
                chance=chance.dead_experts(tokens, experts, top_k),
                ceiling=float(experts - top_k),
            )
        )
        entropies.append(
            resampler.measure(
                np.array([entropy_of(share_E) for share_E in share_RE]),
                chance=chance.plug_in_entropy(tokens * top_k, log(experts)),
                ceiling=log(experts),
            )
        )
    return Load(share_LE, tuple(max_over_mean), tuple(dead), tuple(entropies))


def router_entropy(trace: Trace, resampler: Resampler) -> tuple[Estimate, ...]:
    """Mean entropy of the router's distribution over all experts, by depth, nats.

    There is no choice in it, hence no chance value; the ceiling is log E.

    Raises:
        ValueError: the trace was recorded or read without it.
    """
    if trace.router_entropy_NL is None:
        raise ValueError("the trace has no router entropies: read it with columns=('entropy',)")
    return tuple(
        resampler.mean(trace.router_entropy_NL[:, row].astype(np.float64), ceiling=log(experts))
        for row, experts in enumerate(trace.info.experts)
    )


def coactivation(trace: Trace, resampler: Resampler, row: int) -> CoActivation:
    """Co-activation at the routed depth number `row`; without pairs (K = 1) there is no entropy."""
    experts, top_k, tokens = trace.info.experts[row], trace.info.top_k, len(trace)
    ids_NK = trace.expert_ids_NLK[:, row].astype(np.int64)
    pair_GX = np.zeros((resampler.blocks * experts * experts), dtype=np.int64)
    base_N = resampler.block_N.astype(np.int64) * experts * experts
    for a in range(top_k):
        for b in range(a + 1, top_k):
            low = np.minimum(ids_NK[:, a], ids_NK[:, b])
            high = np.maximum(ids_NK[:, a], ids_NK[:, b])
            pair_GX += np.bincount(base_N + low * experts + high, minlength=len(pair_GX))
    totals_RX = resampler.totals(pair_GX.reshape(resampler.blocks, -1))
    chosen_E = count_by_block(trace, resampler, row).sum(axis=0) / tokens
    joint = totals_RX[0].reshape(experts, experts) / tokens
    joint = joint + joint.T
    # Equal loads and no repetition: P(both) = K(K−1)/(E(E−1)), while P(one)² = K²/E².
    correction = top_k * (experts - 1) / ((top_k - 1) * experts) if top_k > 1 else np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = joint / np.outer(chosen_E, chosen_E) * correction
    np.fill_diagonal(lift, np.nan)
    np.fill_diagonal(joint, chosen_E)
    pair_entropy = None
    if top_k > 1:
        log_pairs = log(comb(experts, 2))
        pairs_per_token = comb(top_k, 2)
        pair_entropy = resampler.measure(
            np.array([entropy_of(counts) for counts in totals_RX]),
            chance=chance.plug_in_entropy(tokens * pairs_per_token, log_pairs),
            ceiling=log_pairs,
        )
    return CoActivation(trace.info.routed[row], joint, lift, pair_entropy)
