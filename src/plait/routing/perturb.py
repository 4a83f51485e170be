"""Perturbations of the routing: how much the loss rises when choices are changed.

Each changes the routing between router and experts, at every token of held-out text, in eval mode:

a. `one permutation`: expert indices are permuted, the same permutation at all depths (depths with
   another number of experts have one of their own); gates stay at their ranks.
b. `permutation per depth`: independently at each depth.
c. `noise`: the logits get Gaussian noise of σ × their standard deviation over the experts of the
   token, and experts and gates are chosen anew by the model's own rule; a shared decision gets one
   noise.
d. `random depth`: at one depth, K experts are drawn uniformly, gates stay at their ranks. Once for
   each depth this is the ablation that says which depth's routing matters.
e. `allowed paths`: only the n most frequent paths are allowed. Ours, as no source defines it: of
   the allowed paths (e_1 … e_L) a token takes the one with the highest Σ_l log p_l(e_l), p_l being
   the router's distributions in an unperturbed forward over the same text; ties go to the more
   frequent path. At each depth the path's expert becomes the top-1: it trades ranks with the old
   one if it was chosen anyway, and else takes its place; gates stay at their ranks, the other K − 1
   experts stay.

"Gates stay at their ranks" keeps their size as it was, so that only *which* experts compute
changes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import exp

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plait.model import Routing
from plait.routing.record import BATCH_TOKENS, LONGEST_WINDOW, Passage
from plait.routing.watched_model import Decide, WatchedModel

NOISE = (0.1, 0.3, 1.0)
ALLOWED = (1, 10, 100, 500, 1000)

Change = Callable[[Tensor], Decide]
"""What a perturbation does with a batch: tokens (B, S) to the function that changes each depth."""


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """The loss under one perturbation, by draw, beside the loss without it.

    `kind` is one of the names above; `setting` is σ, the depth or the number of allowed paths;
    losses are nats per token over `tokens` targets.
    """

    kind: str
    setting: float | None
    losses: tuple[float, ...]
    baseline: float
    tokens: int

    @property
    def rise(self) -> float:
        """Mean rise of the loss, nats per token."""
        return float(np.mean(self.losses)) - self.baseline

    @property
    def spread(self) -> float | None:
        """Standard deviation of the loss over draws; None for what is not drawn."""
        return float(np.std(self.losses, ddof=1)) if len(self.losses) > 1 else None

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity over the unperturbed one."""
        return exp(min(self.rise, 700.0))

    def to_dict(self) -> dict[str, object]:
        """Plain numbers for JSON."""
        return {
            **vars(self),
            "rise": self.rise,
            "spread": self.spread,
            "perplexity": exp(min(float(np.mean(self.losses)), 700.0)),
            "perplexity_rise_percent": 100 * (self.perplexity_ratio - 1),
        }


def robustness(
    watched: WatchedModel,
    passages: Iterable[Passage],
    *,
    context: int | None = None,
    frequent_paths: npt.NDArray[np.integer] | None = None,
    noise: Sequence[float] = NOISE,
    allowed: Sequence[int] = ALLOWED,
    draws: int = 3,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[Robustness]:
    """Measure all perturbations on the same held-out text.

    Args:
        watched: the model.
        passages: held-out documents.
        context: window that documents are cut into, tokens; None: the model's, at most 2048.
        frequent_paths: (n, L), most frequent first, counted on *other* text; None leaves (e) out.
        noise: σ values; those that a model's routers do not allow raise.
        allowed: numbers of allowed paths; those above n are left out.
        draws: of each random perturbation.
        seed: of the draws.
        progress: called with the name of what comes next.

    Raises:
        ValueError: no text of two tokens or more; or noise on a router whose rule is not known.
    """
    window = min(context or LONGEST_WINDOW, watched.info.context)
    text = list(_batches(passages, window))
    tokens = sum(int((targets != -100).sum()) for _, targets in text)
    if not tokens:
        raise ValueError("perturbations need documents of at least two tokens: give more text")

    def loss(change: Change | None) -> float:
        return (
            sum(watched.loss(x, y, None if change is None else change(x)) for x, y in text) / tokens
        )

    progress("no perturbation")
    baseline = loss(None)

    def drawn(
        kind: str, setting: float | None, make: Callable[[torch.Generator], Change]
    ) -> Robustness:
        progress(kind if setting is None else f"{kind} {setting:g}")
        losses = []
        for draw in range(draws):
            losses.append(loss(make(torch.Generator().manual_seed(seed * 1000 + draw))))
        return Robustness(
            kind=kind, setting=setting, losses=tuple(losses), baseline=baseline, tokens=tokens
        )

    results = [
        drawn("one permutation", None, partial(permutation, watched, per_depth=False)),
        drawn("permutation per depth", None, partial(permutation, watched, per_depth=True)),
    ]
    for sigma in noise:
        results.append(drawn("noise", sigma, partial(logit_noise, watched, sigma=sigma)))
    for depth in watched.info.routed:
        results.append(drawn("random depth", depth, partial(random_depth, depth)))
    if frequent_paths is not None:
        sizes = [n for n in allowed if n <= len(frequent_paths)]
        if not sizes or sizes[-1] < min(len(frequent_paths), max(allowed)):
            sizes.append(min(len(frequent_paths), max(allowed)))
        for n in sizes:
            progress(f"allowed paths {n}")
            value = loss(allowed_paths(watched, frequent_paths[:n]))
            results.append(
                Robustness(
                    kind="allowed paths",
                    setting=n,
                    losses=(value,),
                    baseline=baseline,
                    tokens=tokens,
                )
            )
    return results


def permutation(watched: WatchedModel, generator: torch.Generator, *, per_depth: bool) -> Change:
    """Perturbations (a) and (b)."""
    permutations: dict[int, Tensor] = {}
    for depth, experts in zip(watched.info.routed, watched.info.experts, strict=True):
        key = depth if per_depth else -experts
        if key not in permutations:
            permutations[key] = torch.randperm(experts, generator=generator)
        permutations[depth] = permutations[key]

    def decide(depth: int, routing: Routing) -> Routing:
        ids_TK = routing.expert_ids_TK
        return replace(routing, expert_ids_TK=permutations[depth].to(ids_TK.device)[ids_TK])

    return lambda tokens_BS: decide


def logit_noise(watched: WatchedModel, generator: torch.Generator, sigma: float) -> Change:
    """Perturbation (c)."""
    decisions = dict(zip(watched.info.routed, watched.info.banks("decision"), strict=True))

    def begin(tokens_BS: Tensor) -> Decide:
        noise_by_decision: dict[int, Tensor] = {}

        def decide(depth: int, routing: Routing) -> Routing:
            logits_TE = routing.logits_TE
            key = decisions[depth]
            if key not in noise_by_decision:
                noise_by_decision[key] = torch.randn(logits_TE.shape, generator=generator)
            noise_TE = noise_by_decision[key].to(logits_TE.device)
            scale_T1 = sigma * logits_TE.std(dim=-1, keepdim=True)
            return watched.reroute(depth, logits_TE + scale_T1 * noise_TE)

        return decide

    return begin


def random_depth(chosen: int, generator: torch.Generator) -> Change:
    """Perturbation (d) at the depth `chosen`."""

    def decide(depth: int, routing: Routing) -> Routing:
        if depth != chosen:
            return routing
        ids_TK = routing.expert_ids_TK
        scores_TE = torch.rand(routing.logits_TE.shape, generator=generator)
        drawn_TK = scores_TE.topk(ids_TK.shape[1], dim=-1).indices
        return replace(routing, expert_ids_TK=drawn_TK.to(ids_TK.device))

    return lambda tokens_BS: decide


def allowed_paths(watched: WatchedModel, paths_PL: npt.NDArray[np.integer]) -> Change:
    """Perturbation (e): only `paths_PL` are allowed, the more frequent first."""
    paths = torch.from_numpy(paths_PL.astype(np.int64))
    column = {depth: number for number, depth in enumerate(watched.info.routed)}

    def begin(tokens_BS: Tensor) -> Decide:
        chosen_TL = _best_paths(watched.routings(tokens_BS), paths)

        def decide(depth: int, routing: Routing) -> Routing:
            wanted_T = chosen_TL[:, column[depth]].to(routing.expert_ids_TK.device)
            return replace(routing, expert_ids_TK=put_first(routing.expert_ids_TK, wanted_T))

        return decide

    return begin


def put_first(expert_ids_TK: Tensor, wanted_T: Tensor) -> Tensor:
    """Make `wanted` the top-1: it trades ranks with the old one, or takes its place."""
    top_T = expert_ids_TK[:, 0]
    traded_TK = torch.where(expert_ids_TK == wanted_T[:, None], top_T[:, None], expert_ids_TK)
    return torch.cat([wanted_T[:, None], traded_TK[:, 1:]], dim=1)


def _best_paths(routings: Sequence[Routing], paths_PL: Tensor) -> Tensor:
    """Experts (T, L) of each token's most probable allowed path; ties to the first of them."""
    logs = [routing.probs_TE.clamp_min(1e-30).log() for routing in routings]
    tokens = logs[0].shape[0]
    chosen = []
    for start in range(0, tokens, 1024):
        rows = slice(start, start + 1024)
        score_TP = sum(
            log[rows][:, path.to(log.device)] for log, path in zip(logs, paths_PL.T, strict=True)
        )
        assert isinstance(score_TP, Tensor)
        chosen.append(score_TP.argmax(dim=-1))
    best_T = torch.cat(chosen).cpu()
    return paths_PL[best_T]


def _batches(passages: Iterable[Passage], context: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Right-padded (tokens, next tokens) of documents' windows; −100 where there is no next one."""
    windows: list[list[int]] = []
    for passage in passages:
        ids = passage.token_ids
        windows.extend(ids[start : start + context] for start in range(0, len(ids), context))
    windows = sorted((w for w in windows if len(w) > 1), key=len, reverse=True)
    start = 0
    while start < len(windows):
        rows = windows[start : start + max(1, BATCH_TOKENS // len(windows[start]))]
        tokens_BS = torch.zeros(len(rows), len(rows[0]), dtype=torch.int64)
        targets_BS = torch.full_like(tokens_BS, -100)
        for number, window in enumerate(rows):
            tokens_BS[number, : len(window)] = torch.tensor(window)
            targets_BS[number, : len(window) - 1] = torch.tensor(window[1:])
        yield tokens_BS, targets_BS
        start += len(rows)
