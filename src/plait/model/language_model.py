"""The language model: a walk over depth that picks each part from the bank its plan names."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from plait import kernels
from plait.config import ModelConfig
from plait.model import parameters, router
from plait.model.attention import Attention, Cache, Positions, QueryKeyLora, rotary
from plait.model.balance import bias_key
from plait.model.collaboration import Collaboration, messages, reweight, routing_bias
from plait.model.experts import ExpertBank, expert_bank
from plait.model.norms import norm
from plait.model.routing import Routing, choose, choose_tokens
from plait.sharing import KIND_OF_MODULE, Plan

Decide = Callable[[int, Routing], Routing]


@dataclass(frozen=True)
class Output:
    """What a forward returns."""

    logits: Tensor | None
    """(B, S, V), or None when targets were given"""
    loss: Tensor | None
    """mean cross-entropy in nats per target, or None without targets"""
    routings: tuple[Routing | None, ...] = ()
    """one routing for each depth as its experts used it, None at dense ones; empty unless asked"""


class Parts(NamedTuple):
    """The banks that one depth uses."""

    attention_norm: nn.Module
    attention: nn.Module
    lora: nn.Module | None
    expert_norm: nn.Module
    router: nn.Module | None
    load_bias: router.LoadBias | None
    collaboration: nn.Module | None
    experts: nn.Module


class _Names(NamedTuple):
    """What `LanguageModel.parts_at` looks up: each bank by its name, None where there is none."""

    norms: str
    attention: str
    lora: str | None
    router: str | None
    load_bias: str | None
    collaboration: str | None
    experts: str


class _Step(NamedTuple):
    """What one depth hands on: the stream, its decision, the routing used, the router's memory."""

    x_BSD: Tensor
    decision: Routing | None
    routing: Routing | None
    memory_TM: Tensor | None


class LanguageModel(nn.Module):
    """A decoder-only mixture-of-experts language model, its parts owned in banks.

    Args:
        config: the structure.
        seed: of the initial weights. A parameter's beginning depends on the seed and its own name
            only, so that two variants begin equal in what they have in common.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = config
        self.checkpointing = False
        """recompute each depth in the backward pass instead of keeping its activations"""
        self.recompute: Callable[..., object] = partial(checkpoint, use_reentrant=False)
        """what then runs a depth"""
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
        self.router_common = router.common_part(config)
        for depth in config.deciding_depths:
            experts = config.experts_at(depth)
            bank, key = str(plans.router.banks[depth]), bias_key(config, depth)
            if bank not in self.router:
                self.router[bank] = router.router(config, experts)
            if config.router.bias and key not in self.load_bias:
                self.load_bias[key] = router.LoadBias(experts)
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
        self.head: nn.Linear | None = None
        if not config.tied_head:
            self.head = parameters.linear(width, config.vocab_size, "head")
        if self.embedding.weight.device.type != "meta":
            parameters.initialise(self, seed, config.init, config.init_std, config.depth)

    def parts_at(self, depth: int) -> Parts:
        """Return the banks that the plans name for this depth."""
        names = self._names[depth]
        return Parts(
            attention_norm=self.attention_norm[names.norms],
            attention=self.attention[names.attention],
            lora=_optional(self.lora, names.lora),
            expert_norm=self.expert_norm[names.norms],
            router=_optional(self.router, names.router),
            load_bias=cast(router.LoadBias | None, _optional(self.load_bias, names.load_bias)),
            collaboration=_optional(self.collaboration, names.collaboration),
            experts=self.experts[names.experts],
        )

    def _names_at(self, depth: int) -> _Names:
        plans = self.config.plans
        routed = self.config.experts_at(depth) > 1
        decides = routed and plans.decider(depth) == depth
        key = bias_key(self.config, depth)
        topology = str(plans.collaboration.banks[depth])
        return _Names(
            norms=str(plans.norms.banks[depth]),
            attention=str(plans.attention.banks[depth]),
            lora=str(depth) if self.config.attention.lora_rank else None,
            router=str(plans.router.banks[depth]) if decides else None,
            load_bias=key if key in self.load_bias else None,
            collaboration=topology if routed and topology in self.collaboration else None,
            experts=str(plans.experts.banks[depth]),
        )

    def forward(
        self,
        tokens_BS: Tensor,
        targets_BS: Tensor | None = None,
        *,
        positions_BS: Tensor | None = None,
        mask_BS: Tensor | None = None,
        cache: Cache | None = None,
        routings: bool = False,
        decide: Decide | None = None,
        logits_to_keep: int = 0,
        embeddings_BSD: Tensor | None = None,
    ) -> Output:
        """Run the model.

        Args:
            tokens_BS: token ids.
            targets_BS: next tokens; −100 is ignored. With them the loss comes back, not the logits.
            positions_BS: place of each token in its sequence; None: counted, padding left out.
            mask_BS: True at real tokens, over the cached ones too; None: all are real.
            cache: keys and values of earlier tokens, extended in place.
            routings: return each depth's routing.
            decide: called as decide(depth, routing) before the experts; what it returns is used.
            logits_to_keep: logits of the last n positions only; 0: of all.
            embeddings_BSD: input vectors in place of the tokens' own; tokens_BS gives the shape.
        """
        if self.config.router.choice == "experts":
            _refuse_parts(mask_BS, cache)
        positions, positions_BS = self._positions(tokens_BS, positions_BS, mask_BS, cache)
        x_BSD = self.embedding(tokens_BS) if embeddings_BSD is None else embeddings_BSD
        if self.position_embedding is not None:
            x_BSD = x_BSD + self.position_embedding(positions_BS)
        x_BSD = self._dropout(x_BSD)
        decided: dict[int, Routing] = {}
        used: list[Routing | None] = []
        memory_TM: Tensor | None = None
        for depth in range(self.config.depth):
            key = self.config.plans.decision.banks[depth]
            step = partial(
                self._step,
                depth=depth,
                positions=positions,
                cache=cache,
                decision=decided.get(key),
                decide=decide,
                chosen=[],
            )
            if self.checkpointing and torch.is_grad_enabled():
                assert decide is None, "recomputation would call it twice"
                assert cache is None, "recomputation would extend it twice"
                done = cast(_Step, self.recompute(step, x_BSD, memory_TM))
            else:
                done = step(x_BSD, memory_TM)
            x_BSD, memory_TM = done.x_BSD, done.memory_TM
            if done.decision is not None:
                decided[key] = done.decision
            if routings:
                used.append(done.routing)
        h_BSD = self.final_norm(x_BSD)
        weight = self.embedding.weight if self.head is None else self.head.weight
        if targets_BS is None:
            logits = kernels.linear(h_BSD[:, -logits_to_keep:], weight)
            return Output(logits, None, tuple(used))
        loss = kernels.linear_cross_entropy(h_BSD.flatten(0, 1), weight, targets_BS.reshape(-1))
        return Output(None, loss, tuple(used))

    def _step(
        self,
        x_BSD: Tensor,
        memory_TM: Tensor | None,
        *,
        depth: int,
        positions: Positions,
        cache: Cache | None,
        decision: Routing | None,
        decide: Decide | None,
        chosen: list[Tensor],
    ) -> _Step:
        """Run one depth. `chosen` keeps what was chosen, so that a recomputation reads it back."""
        part, config = self.parts_at(depth), self.config
        h_BSD = part.attention_norm(x_BSD)
        lora = part.lora(h_BSD) if part.lora is not None else None
        attended = part.attention(h_BSD, positions, depth, cache, lora)
        x_BSD = x_BSD + self._dropout(attended)
        h_BSD = part.expert_norm(x_BSD)
        if config.experts_at(depth) == 1:
            return _Step(x_BSD + self._dropout(part.experts(h_BSD)), None, None, memory_TM)
        h_TD = h_BSD.flatten(0, 1)
        s_EE = part.collaboration() if part.collaboration is not None else None
        c = config.collaboration
        if decision is None:
            assert part.router is not None
            logits_TE, memory_TM = part.router(h_TD, self.router_common, memory_TM)
            if s_EE is not None and c is not None and c.routing_strength:
                logits_TE = logits_TE + routing_bias(s_EE, c)
            bias_E = part.load_bias.bias_E if part.load_bias is not None else None
            before, top_k = chosen[0] if chosen else None, config.experts.top_k
            if config.router.choice == "experts":
                sequences = len(x_BSD)
                decision = choose_tokens(logits_TE, config.router, top_k, sequences, before)
            else:
                decision = choose(logits_TE, config.router, top_k, bias_E, before)
            if not chosen:
                chosen.append(
                    decision.expert_ids_TK if decision.tokens_N is None else decision.tokens_N
                )
        routing, mix_TKK = decision, None
        if c is not None and c.strength:
            if c.messages == "outputs":
                routing = reweight(routing, s_EE, c)
            elif s_EE is not None:
                mix_TKK = c.strength * messages(s_EE, routing.expert_ids_TK, c)
        if decide is not None:
            routing = decide(depth, routing)
        y_TD = part.experts(h_TD, routing, mix_TKK)
        x_BSD = x_BSD + self._dropout(y_TD.view_as(x_BSD))
        return _Step(x_BSD, decision, routing, memory_TM)

    def _positions(
        self,
        tokens_BS: Tensor,
        positions_BS: Tensor | None,
        mask_BS: Tensor | None,
        cache: Cache | None,
    ) -> tuple[Positions, Tensor]:
        length = tokens_BS.shape[1]
        past = cache.get_seq_length() if cache is not None else 0
        if positions_BS is None and mask_BS is not None:
            positions_BS = (mask_BS.long().cumsum(-1) - 1).clamp_min(0)[:, past:]
        elif positions_BS is None:
            positions_BS = torch.arange(past, past + length, device=tokens_BS.device)[None]
        a, config = self.config.attention, self.config
        if a.position == "learned" and past + length > config.context:
            raise ValueError(
                f"{past + length} tokens do not fit the {config.context} learned positions of this "
                "model: shorten the text or train with a larger context"
            )
        mask = None
        if mask_BS is not None or (past and length > 1):
            keys = torch.arange(past + length, device=tokens_BS.device)
            queries = keys[past:, None]
            mask = (keys <= queries)[None, None]
            if mask_BS is not None:
                # a padding query sees itself, so that no row is empty and gives NaN
                seen = mask_BS.bool()[:, None, None, :] | (keys == queries)
                mask = mask & seen
        cos, sin = None, None
        if a.position == "rope":
            cos, sin = rotary(positions_BS, config.heads[2], a.rope_theta)
        return Positions(cos, sin, mask), positions_BS

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.dropout, self.training) if self.config.dropout else x

    def parameters_by_role(self) -> list[parameters.OwnedParameter]:
        """Return every parameter with its role and the number of depths that use its bank."""
        owned = []
        for path, module in self.named_modules():
            part, _, rest = path.partition(".")
            uses = 1
            if part in KIND_OF_MODULE and rest:
                kind = KIND_OF_MODULE[part]
                banks = getattr(self.config.plans, kind).banks
                bank = int(rest.partition(".")[0])
                uses = sum(banks[depth] == bank for depth in self.config.depths_of(kind))
            elif part == "router_common":
                uses = len(self.config.deciding_depths)
            for name, parameter in module.named_parameters(recurse=False):
                role, stack = parameters.role_of(module, name), parameters.stacked(module, name)
                full = f"{path}.{name}"
                owned.append(parameters.OwnedParameter(full, parameter, role, uses, stack))
        return owned

    def units(self) -> list[list[nn.Module]]:
        """Return what processes gather together: each depth's own parts, then each shared bank.

        What is left is small, or is used all along: norms, routers and topologies of several
        depths, or beside no matrices of their own depth, low-rank parts, embedding and head.
        """
        parts = [self.parts_at(depth) for depth in range(self.config.depth)]
        uses = Counter(module for part in parts for module in part if module is not None)
        units: list[list[nn.Module]] = []
        for p in parts:
            in_order = (p.attention_norm, p.attention, p.expert_norm, p.router, p.experts)
            own = [one for one in in_order if one is not None and uses[one] == 1 and _trained(one)]
            if p.attention_norm not in own and p.attention not in own:
                own = [one for one in own if one is p.experts]  # all must come after the first
            if p.attention in own or p.experts in own:
                units.append(own)
        banks = (*self.attention.values(), *self.experts.values())
        return units + [[bank] for bank in banks if uses[bank] > 1]

    def expert_banks(self) -> list[ExpertBank]:
        """Return the banks of several experts."""
        return [bank for bank in self.experts.values() if isinstance(bank, ExpertBank)]

    def load_biases(self) -> dict[str, Tensor]:
        """Return the loss-free balancing biases by key; empty where there are none."""
        return {key: cast(Tensor, module.bias_E) for key, module in self.load_bias.items()}


def _refuse_parts(mask_BS: Tensor | None, cache: Cache | None) -> None:
    """Experts that choose their tokens need sequences that are whole, and nothing beside them."""
    if cache is not None:
        raise ValueError(
            "experts that choose their tokens look at a whole sequence, so this model neither "
            "generates nor scores with a cache: train one with router.choice tokens"
        )
    if mask_BS is not None and not bool(mask_BS.all()):
        raise ValueError(
            "experts that choose their tokens would choose padding as well: give this model "
            "sequences of one length"
        )


def _trained(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _optional(banks: nn.ModuleDict, name: str | None) -> nn.Module | None:
    return None if name is None else banks[name]


def _banks(plan: Plan, build: Callable[[int], nn.Module]) -> nn.ModuleDict:
    return nn.ModuleDict({str(bank): build(bank) for bank in range(plan.count)})
