"""What experts and paths are for: domains and tokens that they receive more than others do.

The log-odds ratio with an informative Dirichlet prior is that of Monroe, Colaresi and Quinn (2008).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from plait.evaluation.choices import entropy_of, label
from plait.routing.metrics.load import count_by_block
from plait.routing.trace import Trace
from plait.statistics import Estimate, Resampler

SHUFFLES = 50


@dataclass(frozen=True)
class DomainSpecialisation:
    """How far the choice of experts follows the domain, by routed depth.

    `share_LDE` is the share of a domain's choices that an expert gets. `index_LE` is
    s_e = (f_a − f_b) / (f_a + f_b) and `mean_index` its mean |s_e| weighted by load; both only with
    exactly two domains. `information` is I(expert; domain) / H(domain), plug-in; `corrected` is
    (I − chance) / (H − chance): 0 = as chance, 1 = the expert gives the domain away. Chance keeps
    documents whole and shuffles their domains, since the tokens of one document are alike.
    """

    share_LDE: npt.NDArray[np.float64]
    index_LE: npt.NDArray[np.float64] | None
    mean_index: tuple[Estimate, ...] | None
    information: tuple[Estimate, ...]
    corrected: tuple[Estimate, ...]


@dataclass(frozen=True)
class Distinctive:
    """The tokens that a group (an expert or a path) receives more than the rest, best first.

    `log_odds` says by how much (δ), `z_scores` how sure that is; the order is that of the latter.
    """

    token_ids: tuple[int, ...]
    log_odds: tuple[float, ...]
    z_scores: tuple[float, ...]
    counts: tuple[int, ...]
    tokens: int


def by_domain(trace: Trace, resampler: Resampler) -> DomainSpecialisation | None:
    """Specialisation of experts (all K choices) by domain; None with fewer than two domains."""
    domains = np.unique(resampler.domain_G)
    if len(domains) < 2:
        return None
    generator = np.random.default_rng(0)
    shuffled_SG = [generator.permutation(resampler.domain_G) for _ in range(SHUFFLES)]
    two = len(domains) == 2
    routed, widest = len(trace.info.routed), max(trace.info.experts)
    share_LDE = np.full((routed, len(trace.info.domains), widest), np.nan)
    index_LE = np.full((routed, widest), np.nan)
    mean_index, information, corrected = [], [], []
    for row, experts in enumerate(trace.info.experts):
        counts_GE = count_by_block(trace, resampler, row)
        by_domain_RDE = _split(resampler, counts_GE, resampler.domain_G, domains)
        shuffled_SDE = np.stack(
            [
                np.stack([counts_GE[domain_G == d].sum(axis=0) for d in domains])
                for domain_G in shuffled_SG
            ]
        ).astype(np.float64)
        shares_RDE = _shares(by_domain_RDE)
        share_LDE[row, domains, :experts] = shares_RDE[0]
        known_R, entropy_R = _information(by_domain_RDE)
        expected = float(_information(shuffled_SDE)[0].mean())
        information.append(
            resampler.measure(known_R / entropy_R, chance=expected / float(entropy_R[0]), ceiling=1)
        )
        corrected.append(
            resampler.measure(
                (known_R - expected) / (entropy_R - expected), chance=0.0, ceiling=1, floor=-np.inf
            )
        )
        if two:
            index_LE[row, :experts] = _index(shares_RDE)[0]
            chance_index = float(_mean_index(shuffled_SDE).mean())
            mean_index.append(
                resampler.measure(_mean_index(by_domain_RDE), chance=chance_index, ceiling=1)
            )
    return DomainSpecialisation(
        share_LDE=share_LDE,
        index_LE=index_LE if two else None,
        mean_index=tuple(mean_index) if two else None,
        information=tuple(information),
        corrected=tuple(corrected),
    )


def by_token(trace: Trace, resampler: Resampler, row: int) -> Estimate:
    """I(top-1 expert; token) / H(expert) at a routed depth: how much the token alone decides.

    Chance is simulated by shuffling the experts over tokens: with many different tokens the plug-in
    figure is far above 0 even then.
    """
    experts = trace.info.experts[row]
    token_N = np.unique(trace.token_ids_N, return_inverse=True)[1]
    vocabulary = int(token_N.max()) + 1
    expert_N = trace.expert_ids_NLK[:, row, 0].astype(np.int64)
    joint_N = label(np.stack([token_N, expert_N], axis=1), (vocabulary, experts))

    def share(experts_E: npt.NDArray[np.float64], *others: npt.NDArray[np.float64]) -> float:
        entropy = entropy_of(experts_E)
        known = entropy + entropy_of(others[0]) - entropy_of(others[1])
        return max(known, 0.0) / entropy if entropy > 1e-12 else 0.0

    streams = (
        resampler.histograms(expert_N, experts),
        resampler.histograms(token_N, vocabulary),
        resampler.histograms(joint_N, int(joint_N.max()) + 1),
    )
    values = [share(*histograms) for histograms in zip(*streams, strict=True)]
    shuffled_N = np.random.default_rng(0).permutation(expert_N)
    by_chance = share(
        np.bincount(expert_N).astype(float),
        np.bincount(token_N).astype(float),
        np.unique(token_N * experts + shuffled_N, return_counts=True)[1].astype(float),
    )
    return resampler.measure(np.asarray(values), chance=by_chance, ceiling=1.0)


def distinctive_tokens(
    token_ids_N: npt.NDArray[np.integer],
    group_N: npt.NDArray[np.integer],
    groups: Sequence[int],
    top: int = 10,
    prior: float = 100.0,
) -> dict[int, Distinctive]:
    """Tokens with the highest log-odds of being in a group, against the rest, in z-scores.

    δ = log((y_g + α) / (n_g + α₀ − y_g − α)) − the same of the rest r, and
    z = δ / √(1/(y_g + α) + 1/(y_r + α)), where α is the token's share of the whole text times
    `prior` (α₀, in tokens), so that rare tokens need evidence before they stand out.

    Args:
        token_ids_N: token ids.
        group_N: group of each token (an expert, a path); negative: in no group, but in the rest.
        groups: the groups that are asked for.
        top: tokens to return for each.
        prior: strength of the prior, in tokens.
    """
    vocabulary_V, token_N = np.unique(token_ids_N, return_inverse=True)
    all_V = np.bincount(token_N, minlength=len(vocabulary_V))
    result = {}
    for group in groups:
        inside_V = np.bincount(token_N[group_N == group], minlength=len(vocabulary_V))
        delta_V, z_V = log_odds(inside_V, all_V, prior)
        best = np.argsort(-z_V, kind="stable")[:top]
        best = best[(z_V[best] > 0) & (inside_V[best] > 0)]
        result[group] = Distinctive(
            token_ids=tuple(int(t) for t in vocabulary_V[best]),
            log_odds=tuple(float(delta) for delta in delta_V[best]),
            z_scores=tuple(float(z) for z in z_V[best]),
            counts=tuple(int(c) for c in inside_V[best]),
            tokens=int(inside_V.sum()),
        )
    return result


def log_odds(
    inside_V: npt.NDArray[np.integer], all_V: npt.NDArray[np.integer], prior: float = 100.0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Log-odds of each kind inside a group against the rest, δ, and their z-scores.

    The formulas are those of `distinctive_tokens`.

    Args:
        inside_V: tokens of each kind in the group.
        all_V: in the whole text.
        prior: strength of the prior, in tokens.
    """
    outside_V, alpha_V = all_V - inside_V, all_V / all_V.sum() * prior
    y_g, y_r = inside_V + alpha_V, outside_V + alpha_V
    # A vocabulary of one token has odds of infinity on both sides: no difference.
    odds_g = np.log(y_g) - np.log(np.maximum(inside_V.sum() + prior - y_g, 1e-12))
    odds_r = np.log(y_r) - np.log(np.maximum(outside_V.sum() + prior - y_r, 1e-12))
    delta_V = odds_g - odds_r
    return delta_V, delta_V / np.sqrt(1 / y_g + 1 / y_r)


def expert_tokens(trace: Trace, row: int, top: int = 10) -> dict[int, Distinctive]:
    """Distinctive tokens of each top-1 expert at a routed depth."""
    experts = range(trace.info.experts[row])
    return distinctive_tokens(trace.token_ids_N, trace.top1_NL[:, row], experts, top)


def path_tokens(
    trace: Trace, paths: int = 10, top: int = 10
) -> list[tuple[tuple[int, ...], Distinctive, npt.NDArray[np.float64]]]:
    """Return the most frequent paths, their distinctive tokens and share in each domain."""
    labels_N = label(trace.top1_NL, trace.info.experts)
    _, first_P, counts_P = np.unique(labels_N, return_index=True, return_counts=True)
    best = np.argsort(-counts_P, kind="stable")[:paths]
    tokens = distinctive_tokens(trace.token_ids_N, labels_N, [int(p) for p in best], top)
    domain_D = np.bincount(trace.domain_N, minlength=len(trace.info.domains))
    result = []
    for path in best:
        inside_D = np.bincount(trace.domain_N[labels_N == path], minlength=len(trace.info.domains))
        share_D = inside_D / np.maximum(domain_D, 1)
        experts = tuple(int(e) for e in trace.top1_NL[first_P[path]])
        result.append((experts, tokens[int(path)], share_D))
    return result


def path_domain_information(trace: Trace, resampler: Resampler) -> Estimate | None:
    """I(path; domain) / H(domain), plug-in, over whole paths; None with fewer than two domains.

    Chance shuffles the domains of whole documents. With as many paths as tokens both are near 1,
    and the figure says nothing: read it beside its chance.
    """
    domains = np.unique(resampler.domain_G)
    if len(domains) < 2:
        return None
    labels_N = label(trace.top1_NL, trace.info.experts)
    paths = int(labels_N.max()) + 1

    def share(counts_DP: npt.NDArray[np.float64]) -> float:
        domain = entropy_of(counts_DP.sum(axis=1))
        known = domain + entropy_of(counts_DP.sum(axis=0)) - entropy_of(counts_DP.reshape(-1))
        return max(known, 0.0) / domain if domain > 1e-12 else float("nan")

    position_G = np.searchsorted(domains, resampler.domain_G)
    joint_N = position_G[resampler.block_N] * paths + labels_N
    values = [
        share(counts.reshape(len(domains), paths))
        for counts in resampler.histograms(joint_N, len(domains) * paths)
    ]
    generator = np.random.default_rng(0)
    shuffled = []
    for _ in range(10):
        domain_N = generator.permutation(position_G)[resampler.block_N]
        counts = np.bincount(domain_N * paths + labels_N, minlength=len(domains) * paths)
        shuffled.append(share(counts.reshape(len(domains), paths).astype(np.float64)))
    return resampler.measure(np.asarray(values), chance=float(np.nanmean(shuffled)), ceiling=1.0)


def _split(
    resampler: Resampler,
    counts_GE: npt.NDArray[np.integer],
    domain_G: npt.NDArray[np.integer],
    domains: npt.NDArray[np.integer],
) -> npt.NDArray[np.float64]:
    """Totals by domain over the sample and its resamples, (1+R, D, E)."""
    parts = [resampler.totals(counts_GE * (domain_G == d)[:, None]) for d in domains]
    return np.stack(parts, axis=1)


def _shares(counts_RDE: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        shares: npt.NDArray[np.float64] = counts_RDE / counts_RDE.sum(axis=2, keepdims=True)
    return shares


def _index(shares_RDE: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    a, b = shares_RDE[:, 0], shares_RDE[:, 1]
    return np.divide(a - b, a + b, out=np.full_like(a, np.nan), where=(a + b) > 0)


def _mean_index(counts_RDE: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean |s_e|, experts weighted by f_a + f_b (which is Σ|f_a − f_b| / 2); dead ones drop out."""
    shares = _shares(counts_RDE)
    value: npt.NDArray[np.float64] = np.abs(shares[:, 0] - shares[:, 1]).sum(axis=1) / 2
    return value


def _information(
    counts_RDE: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """I(domain; expert) and H(domain), nats, of each joint histogram."""
    known, entropy = [], []
    for counts_DE in counts_RDE:
        domain = entropy_of(counts_DE.sum(axis=1))
        joint = entropy_of(counts_DE.reshape(-1))
        known.append(max(domain + entropy_of(counts_DE.sum(axis=0)) - joint, 0.0))
        entropy.append(domain if domain > 1e-12 else np.nan)
    return np.asarray(known), np.asarray(entropy)
