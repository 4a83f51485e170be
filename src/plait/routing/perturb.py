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

Each draw has its own share of the text and is compared with the unperturbed loss of that share, so
that more draws cost no more. All depths of (d) are tried on the first share, and each goes on from
where the unperturbed forward stood before it.

Processes take the batches in turn. What is drawn for a batch has a random stream of its own, and
losses are added in the order of the batches, so that their number changes nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import exp

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plait.evaluation.heldout import LONGEST_WINDOW
from plait.model import Routing
from plait.parallel import World
from plait.routing.record import Passage
from plait.routing.trace import TraceInfo
from plait.routing.watched_model import Decide, Plain, WatchedModel

NOISE = (0.1, 0.3, 1.0)
ALLOWED = (1, 10, 100, 500, 1000)
BATCH_TOKENS = 2048
"""of a batch, whose stream at every depth is kept while its depths are perturbed"""

Change = Callable[[Tensor, Plain], Decide]
"""What a perturbation does with a batch: its tokens (B, S) and its unperturbed forward to the
function that changes each depth."""
Drawn = Callable[[int, int], Change]
"""What a perturbation does, for a share of the text and the number of a batch in it."""


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """The loss under one perturbation, by draw, beside the loss without it.

    `kind` is one of the names above; `setting` is σ, the depth or the number of allowed paths.
    `baseline` is in nats per token over `tokens` targets; a loss is the baseline and the rise over
    that draw's share of them.
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
    world: World | None = None,
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
        world: the processes that call it together, each with the whole model and the same
            passages; each returns all results. None: this one alone.

    Raises:
        ValueError: no text of two tokens or more; or noise on a router whose rule is not known.
    """
    window = min(context or LONGEST_WINDOW, watched.info.context)
    shares = _shares(passages, window, draws)
    if not shares:
        raise ValueError("perturbations need documents of at least two tokens: give more text")
    trials = _trials(watched, len(shares), noise, frequent_paths, allowed, seed)
    batches = [
        (share, number, *batch)
        for share, windows in enumerate(shares)
        for number, batch in enumerate(_batches(windows))
    ]

    def losses(place: int) -> tuple[int, float, dict[int, float]]:
        """Tokens of a batch, its loss, and its loss under each trial that is made with it."""
        share, number, tokens_BS, targets_BS = batches[place]
        plain = watched.plain(tokens_BS, targets_BS)
        perturbed = {}
        for which, trial in enumerate(trials):
            if share in trial.shares:
                progress(f"{trial.name}, batch {place + 1} of {len(batches)}")
                decide = trial.change(share, number)(tokens_BS, plain)
                start = None if trial.depth is None else plain.stages.get(trial.depth)
                perturbed[which] = watched.loss(tokens_BS, targets_BS, decide, start)
        return int((targets_BS != -100).sum()), plain.loss, perturbed

    found = (world or World(torch.device("cpu"))).in_turn(range(len(batches)), losses)
    for (share, *_), (tokens, plain, perturbed) in zip(batches, found, strict=True):
        for which, loss in perturbed.items():
            trials[which].sums.setdefault(share, _Sum()).add(loss, plain, tokens)
    return [trial.result() for trial in trials]


def forwards(
    info: TraceInfo,
    *,
    frequent_paths: npt.NDArray[np.integer] | None = None,
    noise: Sequence[float] = NOISE,
    allowed: Sequence[int] = ALLOWED,
    draws: int = 3,
) -> float:
    """Return how many forwards over the whole text `robustness` takes."""
    depths = sum(1 - depth / info.depth for depth in info.routed) / draws
    return 3 + len(noise) + depths + len(_sizes(frequent_paths, allowed))


@dataclass
class _Sum:
    """Losses over a share of the text, nats."""

    perturbed: float = 0.0
    plain: float = 0.0
    tokens: int = 0

    def add(self, perturbed: float, plain: float, tokens: int) -> None:
        self.perturbed += perturbed
        self.plain += plain
        self.tokens += tokens


@dataclass
class _Trial:
    """One perturbation: what it does with which shares of the text, and what came of it."""

    kind: str
    setting: float | None
    shares: range
    change: Drawn
    drawn: bool = True
    """each share is a draw of its own"""
    depth: int | None = None
    """the first that changes, where it is not the first of all"""
    sums: dict[int, _Sum] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.kind if self.setting is None else f"{self.kind} {self.setting:g}"

    def result(self) -> Robustness:
        every = _Sum()
        for one in self.sums.values():
            every.add(one.perturbed, one.plain, one.tokens)
        baseline = every.plain / every.tokens
        draws = list(self.sums.values()) if self.drawn else [every]
        return Robustness(
            kind=self.kind,
            setting=self.setting,
            losses=tuple(baseline + (one.perturbed - one.plain) / one.tokens for one in draws),
            baseline=baseline,
            tokens=every.tokens,
        )


def _trials(
    watched: WatchedModel,
    shares: int,
    noise: Sequence[float],
    frequent_paths: npt.NDArray[np.integer] | None,
    allowed: Sequence[int],
    seed: int,
) -> list[_Trial]:
    def drawn(make: Callable[[torch.Generator], Change], anew: bool) -> Drawn:
        """Draw once for a share, or anew for every batch."""

        def change(share: int, batch: int) -> Change:
            stream = seed + (batch * 1_000_000 if anew else 0)
            return make(torch.Generator().manual_seed(stream * 1000 + share))

        return change

    every, first = range(shares), range(1)
    trials = []
    for kind, per_depth in (("one permutation", False), ("permutation per depth", True)):
        change = drawn(partial(permutation, watched, per_depth=per_depth), anew=False)
        trials.append(_Trial(kind, None, every, change))
    for sigma in noise:
        change = drawn(partial(logit_noise, watched, sigma=sigma), anew=True)
        trials.append(_Trial("noise", sigma, every, change))
    for depth in watched.info.routed:
        change = drawn(partial(random_depth, depth), anew=True)
        trials.append(_Trial("random depth", depth, first, change, depth=depth))
    for n in _sizes(frequent_paths, allowed):
        assert frequent_paths is not None
        only = allowed_paths(watched, frequent_paths[:n])
        trials.append(_Trial("allowed paths", n, every, lambda *_, it=only: it, drawn=False))
    return trials


def _sizes(paths_PL: npt.NDArray[np.integer] | None, allowed: Sequence[int]) -> list[int]:
    """Return the numbers of allowed paths: those that there are, and the most that there are."""
    if paths_PL is None:
        return []
    most = min(len(paths_PL), max(allowed))
    return [n for n in allowed if n < most] + [most]


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

    return lambda tokens_BS, plain: decide


def logit_noise(watched: WatchedModel, generator: torch.Generator, sigma: float) -> Change:
    """Perturbation (c)."""
    decisions = dict(zip(watched.info.routed, watched.info.banks("decision"), strict=True))

    def begin(tokens_BS: Tensor, plain: Plain) -> Decide:
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

    return lambda tokens_BS, plain: decide


def allowed_paths(watched: WatchedModel, paths_PL: npt.NDArray[np.integer]) -> Change:
    """Perturbation (e): only `paths_PL` are allowed, the more frequent first."""
    paths = torch.from_numpy(paths_PL.astype(np.int64))
    column = {depth: number for number, depth in enumerate(watched.info.routed)}

    def begin(tokens_BS: Tensor, plain: Plain) -> Decide:
        chosen_TL = _best_paths(plain.routings, paths)

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


def _shares(passages: Iterable[Passage], context: int, draws: int) -> list[list[list[int]]]:
    """Deal windows of two tokens or more, the longest first; fewer shares than draws if need be."""
    windows: list[list[int]] = []
    for passage in passages:
        ids = passage.token_ids
        windows.extend(ids[start : start + context] for start in range(0, len(ids), context))
    windows = sorted((w for w in windows if len(w) > 1), key=len, reverse=True)
    return [windows[share::draws] for share in range(min(draws, len(windows)))]


def _batches(windows: Sequence[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Right-padded (tokens, next tokens) of windows; −100 where there is no next one."""
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
