"""Our own model, watched."""

from typing import Any, cast

from torch import Tensor

from plait.model import LanguageModel, Routing
from plait.model.collaboration import reweight
from plait.model.routing import choose, ranked
from plait.model.walk import Stage
from plait.routing.trace import TraceInfo
from plait.routing.watched_model import Decide, Plain, evaluating


class WatchedPlait:
    """Our own model. Sequences are padded on the right: causal attention never looks there."""

    def __init__(self, model: LanguageModel, name: str, tokenizer: str) -> None:
        config = model.config
        if config.router.choice == "experts":
            raise ValueError(
                f"in {name} experts choose their tokens, and a token has no path to trace: its "
                "load and entropy are in the run's metrics"
            )
        self.model = model
        self.info = TraceInfo(
            model=name,
            tokenizer=tokenizer,
            depth=config.depth,
            routed=config.routed_depths,
            experts=tuple(config.experts_at(depth) for depth in config.routed_depths),
            top_k=config.experts.top_k,
            context=config.context,
            expert_plan=str(config.plans.experts),
            router_plan=str(config.plans.router),
            decision_plan=str(config.plans.decision),
        )

    def routings(self, tokens_BS: Tensor) -> tuple[Routing, ...]:
        """See `WatchedModel.routings`."""
        with evaluating(self.model):
            output = self.model(self._place(tokens_BS), routings=True, logits_to_keep=1)
        return tuple(ranked(routing) for routing in output.routings if routing is not None)

    def plain(self, tokens_BS: Tensor, targets_BS: Tensor) -> Plain:
        """See `WatchedModel.plain`."""
        stages: list[Stage] = []
        tokens_BS, targets_BS = self._place(tokens_BS), self._place(targets_BS)
        with evaluating(self.model):
            output = self.model(tokens_BS, targets_BS, routings=True, stages=stages)
        return Plain(
            loss=float(output.loss) * int((targets_BS != -100).sum()),
            routings=tuple(ranked(routing) for routing in output.routings if routing is not None),
            stages=dict(enumerate(stages)),
        )

    def loss(
        self,
        tokens_BS: Tensor,
        targets_BS: Tensor,
        decide: Decide | None = None,
        start: Any = None,
    ) -> float:
        """See `WatchedModel.loss`."""
        hook = None
        if decide is not None:
            hook = cast(Decide, lambda depth, routing: decide(depth, ranked(routing)))
        with evaluating(self.model):
            output = self.model(
                self._place(tokens_BS), self._place(targets_BS), decide=hook, start=start
            )
        return float(output.loss) * int((targets_BS != -100).sum())

    can_reroute = True

    def reroute(self, depth: int, logits_TE: Tensor) -> Routing:
        """See `WatchedModel.reroute`; a collaboration re-weights the gates anew."""
        config = self.model.config
        part = self.model.parts_at(config.plans.decider(depth))
        bias_E = part.load_bias.bias_E if part.load_bias is not None else None
        routing = choose(logits_TE, config.router, config.experts.top_k, bias_E)
        c = config.collaboration
        if c is not None and c.strength and c.messages == "outputs":
            own = self.model.parts_at(depth).collaboration
            routing = reweight(routing, own() if own is not None else None, c)
        return ranked(routing)

    def _place(self, tokens_BS: Tensor) -> Tensor:
        return tokens_BS.to(self.model.embedding.weight.device)
