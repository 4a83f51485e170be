"""A transformers MoE, watched through hooks."""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.config import RouterConfig
from plait.model import Routing
from plait.model.routing import choose, ranked
from plait.routing.trace import TraceInfo
from plait.routing.watched_model import Decide, Plain, evaluating

_ROUTER_CLASS = re.compile(r"(Router|Gate|Gating)$")
_ROUTER_NAME = re.compile(r"(^|\.)(gate|router|wg|router_gate|gating)$")
_DEPTH = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|decoder_layers)\.(\d+)\.")


class WatchedTransformers:
    """A transformers MoE, seen through forward hooks on its router modules.

    A router is recognised by what all current transformers MoE classes have in common: a module
    `layers.N.….gate` or `.router` whose class ends in Router or Gate and that returns the tuple
    (logits T×E, gates T×K, expert ids T×K). Its rule from logits to gates is found by trying, so
    that logits can be changed; where none fits, only that is refused.
    """

    def __init__(self, model: nn.Module, name: str, tokenizer: str) -> None:
        self.model = model
        config = cast(Any, model).config
        text = config.get_text_config() if hasattr(config, "get_text_config") else config
        candidates: dict[int, tuple[str, nn.Module]] = {}
        for path, module in model.named_modules():
            depth = _DEPTH.search(path)
            if depth and _ROUTER_NAME.search(path) and _ROUTER_CLASS.search(type(module).__name__):
                candidates[int(depth[1])] = (path, module)
        vocabulary = int(getattr(text, "vocab_size", 2))
        probe = torch.arange(16).remainder(vocabulary)[None]
        seen = self._forward(probe, candidates) if candidates else {}
        self._routers = {d: m for d, (_, m) in sorted(candidates.items()) if d in seen}
        if not self._routers:
            raise ValueError(_not_recognised(model, candidates))
        self._layers = _layers(model, candidates)
        self._rules = {d: _rule(self._routers[d], seen[d]) for d in self._routers}
        routings = [seen[d] for d in self._routers]
        top_ks = {routing.expert_ids_TK.shape[1] for routing in routings}
        if len(top_ks) > 1:
            raise ValueError(f"{name} has depths with different top-k {top_ks}: not supported")
        self.info = TraceInfo(
            model=name,
            tokenizer=tokenizer,
            depth=int(getattr(text, "num_hidden_layers", max(self._routers) + 1)),
            routed=tuple(self._routers),
            experts=tuple(routing.logits_TE.shape[1] for routing in routings),
            top_k=top_ks.pop(),
            context=int(getattr(text, "max_position_embeddings", 2048)),
        )
        if not self._goes_on(probe):
            self._layers = []

    def routings(self, tokens_BS: Tensor) -> tuple[Routing, ...]:
        """See `WatchedModel.routings`."""
        named = {depth: ("", module) for depth, module in self._routers.items()}
        seen = self._forward(tokens_BS, named)
        return tuple(ranked(self._routing(depth, seen[depth])) for depth in self._routers)

    def plain(self, tokens_BS: Tensor, targets_BS: Tensor) -> Plain:
        """See `WatchedModel.plain`; a stage is a depth and what the layer before it returned."""
        seen: dict[int, Routing] = {}
        outputs: dict[int, Any] = {}

        def keep(depth: int) -> Callable[..., None]:
            return lambda module, arguments, output: outputs.update({depth: output})

        def record(depth: int, routing: Routing) -> Routing:
            seen[depth] = routing
            return routing

        hooks = [m.register_forward_hook(keep(d)) for d, m in enumerate(self._layers)]
        try:
            loss = self.loss(tokens_BS, targets_BS, record)
        finally:
            for handle in hooks:
                handle.remove()
        stages = {d: (d, outputs[d - 1]) for d in self._routers if d - 1 in outputs}
        return Plain(loss, tuple(seen[depth] for depth in self._routers), stages)

    def loss(
        self,
        tokens_BS: Tensor,
        targets_BS: Tensor,
        decide: Decide | None = None,
        start: Any = None,
    ) -> float:
        """See `WatchedModel.loss`; `decide` replaces the gates and ids that a router returns."""

        def replacing(depth: int) -> Callable[..., Any]:
            def hook(module: nn.Module, arguments: Any, output: Any) -> Any:
                assert decide is not None
                seen = _as_routing(output)
                assert seen is not None
                routing = decide(depth, ranked(self._routing(depth, seen)))
                gates = routing.weights_TK.to(output[1].dtype)
                ids = routing.expert_ids_TK.to(output[2].dtype)
                shape = output[2].shape
                return (output[0], gates.view(shape), ids.view(shape), *output[3:])

            return hook

        hooks = []
        if decide is not None:
            hooks = [m.register_forward_hook(replacing(d)) for d, m in self._routers.items()]
        depth, output = (0, None) if start is None else start
        try:
            with evaluating(self.model), _returning(self._layers[:depth], output):
                logits = self.model(input_ids=self._place(tokens_BS), use_cache=False).logits
                targets = self._place(targets_BS).reshape(-1)
                total = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="sum")
        finally:
            for handle in hooks:
                handle.remove()
        return float(total)

    @property
    def can_reroute(self) -> bool:
        """See `WatchedModel.can_reroute`."""
        return None not in self._rules.values()

    def reroute(self, depth: int, logits_TE: Tensor) -> Routing:
        """See `WatchedModel.reroute`.

        Raises:
            ValueError: this router's rule from logits to gates is none of those known.
        """
        rule = self._rules[depth]
        if rule is None:
            router = type(self._routers[depth]).__name__
            raise ValueError(
                f"{router} turns logits into gates by a rule that is not known here, so its logits "
                "cannot be changed: leave out the noise perturbation"
            )
        top_k = self.info.top_k
        return ranked(choose(logits_TE, rule, top_k, _selection_bias(self._routers[depth])))

    def _goes_on(self, probe_BS: Tensor) -> bool:
        """Whether a forward is the same from its last stage: layers may hand on more than x."""
        plain = self.plain(probe_BS, probe_BS)
        again = [self.loss(probe_BS, probe_BS, start=stage) for stage in plain.stages.values()][-1:]
        return all(math.isclose(loss, plain.loss, rel_tol=1e-3) for loss in again)

    def _routing(self, depth: int, seen: Routing) -> Routing:
        rule = self._rules[depth]
        biased = _selection_bias(self._routers[depth]) is not None
        if (rule.gating == "sigmoid") if rule is not None else biased:
            scores_TE = seen.logits_TE.sigmoid()
            probs_TE = scores_TE / scores_TE.sum(-1, keepdim=True)
            return Routing(seen.logits_TE, probs_TE, seen.expert_ids_TK, seen.weights_TK)
        return seen

    def _forward(
        self, tokens_BS: Tensor, routers: dict[int, tuple[str, nn.Module]]
    ) -> dict[int, Routing]:
        seen: dict[int, Routing] = {}

        def recording(depth: int) -> Callable[..., None]:
            def hook(module: nn.Module, arguments: Any, output: Any) -> None:
                routing = _as_routing(output)
                if routing is not None:
                    seen[depth] = routing

            return hook

        hooks = [m.register_forward_hook(recording(d)) for d, (_, m) in routers.items()]
        options: dict[str, Any] = {"use_cache": False}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            options["logits_to_keep"] = 1
        try:
            with evaluating(self.model):
                self.model(input_ids=self._place(tokens_BS), **options)
        finally:
            for handle in hooks:
                handle.remove()
        return seen

    def _place(self, tokens_BS: Tensor) -> Tensor:
        return tokens_BS.to(next(self.model.parameters()).device)


def _layers(model: nn.Module, routers: Mapping[int, tuple[str, nn.Module]]) -> list[nn.Module]:
    """Return the layers that the routers are in, by depth; none where they are in no list."""
    paths = {
        path[: found.start(1) - 1] for path, _ in routers.values() if (found := _DEPTH.search(path))
    }
    modules = model.get_submodule(paths.pop()) if len(paths) == 1 else None
    return list(modules) if isinstance(modules, nn.ModuleList) else []


@contextmanager
def _returning(layers: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Let layers compute nothing and return `output` inside."""
    before = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        vars(layer)["forward"] = lambda *_, **__: output
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is None:
                del vars(layer)["forward"]
            else:
                vars(layer)["forward"] = forward


def _as_routing(output: Any) -> Routing | None:
    """Read (logits, gates, ids) of a transformers router; None if the output is not that."""
    if not isinstance(output, tuple) or len(output) < 3:
        return None
    logits, gates, ids = output[:3]
    if not all(isinstance(part, Tensor) for part in (logits, gates, ids)):
        return None
    if ids.dtype not in (torch.int64, torch.int32) or not logits.is_floating_point():
        return None
    experts, top_k = logits.shape[-1], ids.shape[-1]
    if (
        ids.shape != gates.shape
        or top_k > experts
        or logits.numel() // experts != ids[..., 0].numel()
    ):
        return None
    logits_TE = logits.reshape(-1, experts).float()
    return Routing(
        logits_TE,
        logits_TE.softmax(-1),
        ids.reshape(-1, top_k).long(),
        gates.reshape(-1, top_k).float(),
    )


def _selection_bias(router: nn.Module) -> Tensor | None:
    bias = getattr(router, "e_score_correction_bias", None)
    return bias.float() if isinstance(bias, Tensor) else None


def _rule(router: nn.Module, seen: Routing) -> RouterConfig | None:
    """Find the rule that gives what a router gave; None if no known one does.

    Group-limited choice of several groups is not known here, even where a short probe cannot
    tell it apart.
    """
    groups, allowed = getattr(router, "num_group", 1), getattr(router, "topk_group", 1)
    if groups and allowed and groups > allowed:
        return None
    scale = float(getattr(router, "routed_scaling_factor", None) or 1.0)
    seen = ranked(seen)
    for gating in ("softmax-topk", "sigmoid"):
        for renormalise in (False, True):
            rule = RouterConfig(gating=gating, renormalise=renormalise, scale=scale)
            top_k = seen.expert_ids_TK.shape[1]
            tried = ranked(choose(seen.logits_TE, rule, top_k, _selection_bias(router)))
            if torch.equal(tried.expert_ids_TK, seen.expert_ids_TK) and torch.allclose(
                tried.weights_TK, seen.weights_TK, rtol=2e-2, atol=1e-4
            ):
                return rule
    return None


def _not_recognised(model: nn.Module, candidates: dict[int, tuple[str, nn.Module]]) -> str:
    found = [f"{path} ({type(module).__name__})" for path, module in candidates.values()]
    if not found:
        found = [
            f"{path} ({type(module).__name__})"
            for path, module in model.named_modules()
            if _DEPTH.search(path)
            and re.search(r"^gate$|router|moe|expert", path.rsplit(".", 1)[-1])
        ]
    listing = ", ".join(found[:3]) + (" …" if len(found) > 3 else "") if found else "none like it"
    return (
        f"{type(model).__name__}: no router recognised; looked for modules layers.N.….gate or "
        ".router of a class …Router or …Gate that return (logits T×E, gates T×K, expert ids T×K); "
        f"found: {listing}. Use a MoE of transformers 5, or a run of plait"
    )
