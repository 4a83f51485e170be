"""The walk over depth, which picks each part from the bank that its plan names."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.nn import functional as F

from plait.config import ModelConfig
from plait.model.attention import Attend, Attention, QueryKeyLora
from plait.model.balance import bias_key
from plait.model.collaboration import Collaboration, messages, reweight, routing_bias
from plait.model.experts import expert_bank
from plait.model.norms import norm
from plait.model.router import LoadBias, common_part, router_bank
from plait.model.routing import Routing, choose, choose_tokens
from plait.sharing import Plan

Decide = Callable[[int, Routing], Routing]


class Parts(NamedTuple):
    """The banks that one depth uses."""

    attention_norm: nn.Module
    attention: nn.Module
    lora: nn.Module | None
    expert_norm: nn.Module
    router: nn.Module | None
    load_bias: LoadBias | None
    collaboration: nn.Module | None
    experts: nn.Module


class _Names(NamedTuple):
    """What `Walk.parts_at` looks up: each bank by its name, None where there is none."""

    norms: str
    attention: str
    lora: str | None
    router: str | None
    load_bias: str | None
    collaboration: str | None
    experts: str


class Stage(NamedTuple):
    """Where a walk stands before a depth: what another one over the same tokens goes on from."""

    depth: int
    x_BSD: Tensor
    decided: dict[int, Routing]
    memory_TM: Tensor | None


class Step(NamedTuple):
    """What one depth hands on: the stream, its decision, the routing used, the router's memory."""

    x_BSD: Tensor
    decision: Routing | None
    routing: Routing | None
    memory_TM: Tensor | None


Run = Callable[[Callable[..., Step], Tensor, Tensor | None], Step]
"""How a depth is run, as (depth, x_BSD, memory_TM) → Step: at once, or to be recomputed"""


def at_once(depth: Callable[..., Step], x_BSD: Tensor, memory_TM: Tensor | None) -> Step:
    """Run a depth, its activations kept."""
    return depth(x_BSD, memory_TM)


class Walk(nn.Module):
    """All banks of a model, from the embedding to the final norm, and the walk over them.

    What stands around it (a head and a loss, another library's classes) inherits from it.
    """

    structure: ModelConfig

    def build(self, structure: ModelConfig) -> None:
        """Make the banks, their weights not set yet."""
        self.structure = config = structure
        width, plans = config.width, config.plans
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.embedding.role = "embedding"  # type: ignore[assignment]
        self.position_embedding: nn.Embedding | None = None
        if config.attention.position == "learned":
            self.position_embedding = nn.Embedding(config.context, width)
            self.position_embedding.role = "embedding"  # type: ignore[assignment]
        self.attention_norm = _banks(
            plans.norms, lambda _: norm(config.norm, width, config.norm_eps)
        )
        self.attention = _banks(plans.attention, lambda _: Attention(config))
        self.expert_norm = _banks(plans.norms, lambda _: norm(config.norm, width, config.norm_eps))
        self.experts = _banks(plans.experts, lambda bank: expert_bank(config, bank))
        self.router, self.collaboration = nn.ModuleDict(), nn.ModuleDict()
        self.load_bias, self.lora = nn.ModuleDict(), nn.ModuleDict()
        self.router_common = common_part(config)
        for depth in config.deciding_depths:
            experts = config.experts_at(depth)
            bank, key = str(plans.router.banks[depth]), bias_key(config, depth)
            if bank not in self.router:
                self.router[bank] = router_bank(config, experts)
            if config.router.bias and key not in self.load_bias:
                self.load_bias[key] = LoadBias(experts)
        c = config.collaboration
        if c is not None and c.control != "gate-scale":
            for depth in config.routed_depths:
                bank = str(plans.collaboration.banks[depth])
                if bank not in self.collaboration:
                    self.collaboration[bank] = Collaboration(c, config.experts_at(depth))
        if config.attention.lora_rank:
            for depth in range(config.depth):
                self.lora[str(depth)] = QueryKeyLora(config)
        self._names = tuple(self._names_at(depth) for depth in range(config.depth))
        self.final_norm = norm(config.norm, width, config.norm_eps)

    def parts_at(self, depth: int) -> Parts:
        """Return the banks that the plans name for this depth."""
        names = self._names[depth]
        return Parts(
            attention_norm=self.attention_norm[names.norms],
            attention=self.attention[names.attention],
            lora=_optional(self.lora, names.lora),
            expert_norm=self.expert_norm[names.norms],
            router=_optional(self.router, names.router),
            load_bias=cast(LoadBias | None, _optional(self.load_bias, names.load_bias)),
            collaboration=_optional(self.collaboration, names.collaboration),
            experts=self.experts[names.experts],
        )

    def _names_at(self, depth: int) -> _Names:
        plans = self.structure.plans
        routed = self.structure.experts_at(depth) > 1
        decides = routed and plans.decider(depth) == depth
        key = bias_key(self.structure, depth)
        topology = str(plans.collaboration.banks[depth])
        return _Names(
            norms=str(plans.norms.banks[depth]),
            attention=str(plans.attention.banks[depth]),
            lora=str(depth) if self.structure.attention.lora_rank else None,
            router=str(plans.router.banks[depth]) if decides else None,
            load_bias=key if key in self.load_bias else None,
            collaboration=topology if routed and topology in self.collaboration else None,
            experts=str(plans.experts.banks[depth]),
        )

    def walk(
        self,
        x_BSD: Tensor,
        positions_BS: Tensor,
        attend: Attend,
        *,
        run: Run = at_once,
        decide: Decide | None = None,
        stages: list[Stage] | None = None,
        start: Stage | None = None,
    ) -> Iterator[Step]:
        """Yield what each depth hands on, the first one's input being embedded tokens.

        Args:
            x_BSD: the tokens' vectors.
            positions_BS: (B or 1, S) their places, for learned positions.
            attend: how queries meet keys.
            run: how each depth is run.
            decide: called as decide(depth, routing) before the experts; what it returns is used.
            stages: gets where this walk stood before each depth.
            start: a stage of an earlier walk over these tokens, to leave out what was before it.
        """
        if self.position_embedding is not None:
            x_BSD = x_BSD + self.position_embedding(positions_BS)
        if self.structure.embedding_scale != 1.0:
            x_BSD = x_BSD * self.structure.embedding_scale
        x_BSD = self._dropout(x_BSD)
        decided: dict[int, Routing] = {}
        memory_TM: Tensor | None = None
        first = 0
        if start is not None:
            first, x_BSD, decided, memory_TM = start
            decided = dict(decided)
        for depth in range(first, self.structure.depth):
            if stages is not None:
                stages.append(Stage(depth, x_BSD, dict(decided), memory_TM))
            key = self.structure.plans.decision.banks[depth]
            routed = self.structure.experts_at(depth) > 1
            step = partial(
                self._step,
                depth=depth,
                attend=attend,
                decision=decided.get(key) if routed else None,
                decide=decide,
                chosen=[],
            )
            done = run(step, x_BSD, memory_TM)
            x_BSD, memory_TM = done.x_BSD, done.memory_TM
            if done.decision is not None:
                decided[key] = done.decision
            yield done

    def _step(
        self,
        x_BSD: Tensor,
        memory_TM: Tensor | None,
        *,
        depth: int,
        decision: Routing | None,
        chosen: list[Tensor],
        **how: Any,
    ) -> Step:
        """Run one depth. `chosen` keeps what was chosen, so that a recomputation reads it back."""
        how |= {"depth": depth, "decision": decision, "again": chosen[0] if chosen else None}
        done = self.one_depth(self.parts_at(depth), x_BSD, memory_TM, **how)
        made = done.decision
        if decision is None and made is not None and not chosen:
            chosen.append(made.expert_ids_TK if made.tokens_N is None else made.tokens_N)
        return done

    def one_depth(
        self,
        part: Parts,
        x_BSD: Tensor,
        memory_TM: Tensor | None,
        *,
        depth: int,
        attend: Attend,
        decision: Routing | None,
        decide: Decide | None,
        again: Tensor | None,
    ) -> Step:
        """Compute what one depth does, of its banks. Equal structures are equal code to a compiler.

        Banks may lie on several devices: the stream goes where the last bank was.

        Args:
            part: the banks.
            x_BSD: the stream.
            memory_TM: of the router of the depth before.
            depth: for what looks at it: a cache, and `decide`.
            attend: how queries meet keys.
            decision: of an earlier depth, where it is shared; without it and a router it is dense.
            decide: called before the experts; what it returns is used.
            again: what was chosen when this depth was first computed, kept now.
        """
        config = self.structure
        before = config.norm_place == "before"
        h_BSD = part.attention_norm(x_BSD) if before else x_BSD
        lora = part.lora(h_BSD) if part.lora is not None else None
        attended = part.attention(h_BSD, attend, depth, lora)
        x_BSD = self._added(x_BSD, attended if before else part.attention_norm(attended))
        h_BSD = part.expert_norm(x_BSD) if before else x_BSD
        if decision is None and part.router is None:
            y_BSD = part.experts(h_BSD)
            y_BSD = y_BSD if before else part.expert_norm(y_BSD)
            return Step(self._added(x_BSD, y_BSD), None, None, memory_TM)
        h_TD, device = h_BSD.flatten(0, 1), x_BSD.device
        s_EE = part.collaboration().to(device) if part.collaboration is not None else None
        c = config.collaboration
        if decision is None:
            assert part.router is not None
            logits_TE, memory_TM = part.router(h_TD, common=self.router_common, memory_TM=memory_TM)
            logits_TE = logits_TE.to(device)
            if s_EE is not None and c is not None and c.routing_strength:
                logits_TE = logits_TE + routing_bias(s_EE, c)
            bias_E = part.load_bias().to(device) if part.load_bias is not None else None
            top_k = config.experts.top_k
            if config.router.choice == "experts":
                decision = choose_tokens(logits_TE, config.router, top_k, len(x_BSD), again)
            else:
                decision = choose(logits_TE, config.router, top_k, bias_E, again)
        routing, mix_TKK = decision.to(device), None
        if c is not None and c.strength:
            if c.messages == "outputs":
                routing = reweight(routing, s_EE, c)
            elif s_EE is not None:
                mix_TKK = c.strength * messages(s_EE, routing.expert_ids_TK, c)
        if decide is not None:
            routing = decide(depth, routing)
        given = [h_TD, routing.expert_ids_TK, routing.weights_TK]  # all that transformers' take
        if routing.tokens_N is not None or mix_TKK is not None:
            given += [routing.tokens_N, mix_TKK]
        y_BSD = part.experts(*given).view_as(x_BSD)
        y_BSD = y_BSD if before else part.expert_norm(y_BSD)
        return Step(self._added(x_BSD, y_BSD), decision, routing, memory_TM)

    def _added(self, x_BSD: Tensor, y_BSD: Tensor) -> Tensor:
        """Add a branch to the stream, where the branch was."""
        if self.structure.residual_scale != 1.0:
            y_BSD = y_BSD * self.structure.residual_scale
        return x_BSD.to(y_BSD.device) + self._dropout(y_BSD)

    def _dropout(self, x: Tensor) -> Tensor:
        dropout = self.structure.dropout
        return F.dropout(x, dropout, self.training) if dropout else x


def refuse_longer(config: ModelConfig, tokens: int) -> None:
    """Learned positions end with the context."""
    if config.attention.position == "learned" and tokens > config.context:
        raise ValueError(
            f"{tokens} tokens do not fit the {config.context} learned positions of this model: "
            "shorten the text or train with a larger context"
        )


def refuse_parts(config: ModelConfig, mask_BS: Tensor | None, cached: bool) -> None:
    """Experts that choose their tokens need sequences that are whole, and nothing beside them."""
    if config.router.choice != "experts":
        return
    if cached:
        raise ValueError(
            "experts that choose their tokens look at a whole sequence, so this model neither "
            "generates nor scores with a cache: train one with router.choice tokens"
        )
    if mask_BS is not None and not bool(mask_BS.all()):
        raise ValueError(
            "experts that choose their tokens would choose padding as well: give this model "
            "sequences of one length"
        )


def _optional(banks: nn.ModuleDict, name: str | None) -> nn.Module | None:
    return None if name is None else banks[name]


def _banks(plan: Plan, build: Callable[[int], nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({str(bank): build(bank) for bank in range(plan.count)})
