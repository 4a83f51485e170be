"""The typed, frozen configuration of a model, and what would make it impossible.

What is impossible is said in one line with the way out; a setting that would be ignored is an
error, and one that cannot do what it is for is a warning.
"""

import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from plait.config.limits import MODEL_LIMITS, MOST_ELEMENTS, check_limits
from plait.config.parts import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    RouterConfig,
    check_rope_scaling,
)
from plait.notebook.tables import note, titled
from plait.reading import quoted
from plait.sharing import KINDS, Plans, Sharing


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A mixture-of-experts language model: sizes, parts, and what is shared over depth."""

    vocab_size: int
    """entries of the vocabulary"""
    depth: int
    """positions in the stack, L"""
    width: int
    """model width, D"""
    context: int = 512
    """longest sequence, in tokens"""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    experts: ExpertConfig = field(default_factory=ExpertConfig)
    router: RouterConfig = field(default_factory=RouterConfig)
    collaboration: CollaborationConfig | None = None
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    sharing: Sharing = field(default_factory=Sharing)
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm, or LayerNorm with bias"""
    norm_place: Literal["before", "after"] = field(default="before", metadata={"added": True})
    """norms stand before attention and experts, or behind them, before the stream is added to
    (OLMo 2, FlexOlmo)"""
    norm_eps: float = 1e-5
    """ε of the norms"""
    embedding_scale: float = field(default=1.0, metadata={"added": True})
    """the embedding is multiplied by it (Granite)"""
    residual_scale: float = field(default=1.0, metadata={"added": True})
    """what attention and experts add to the stream is multiplied by it (Granite)"""
    logit_divisor: float = field(default=1.0, metadata={"added": True})
    """the logits are divided by it (Granite)"""
    tied_head: bool = True
    """the output head is the embedding matrix"""
    dropout: float = 0.0
    """dropout probability on the embedding and on both residual branches"""
    init: Literal["normal", "xavier-depth"] = "normal"
    """normal with init_std, or Xavier-uniform with gain 1/√(3L) (Expert Tying)"""
    init_std: float = 0.02
    """standard deviation of the normal initialisation, in both modes used for embeddings"""

    def __post_init__(self) -> None:
        check_limits(self, MODEL_LIMITS)
        _check_sizes(self)
        _check_sharing(self)
        _check_router(self)
        _check_collaboration(self)

    @cached_property
    def plans(self) -> Plans:
        """The parsed plans of `sharing`."""
        return self.sharing.plans(self.depth)

    @property
    def heads(self) -> tuple[int, int, int]:
        """Query heads, key/value heads and width of a head."""
        a = self.attention
        return a.heads, a.kv_heads or a.heads, a.head_width or self.width // a.heads

    def experts_in_bank(self, bank: int) -> int:
        """Experts in an expert bank; 1 means a dense layer without a router."""
        if self.plans.experts.uses(bank)[0] in self.dense_depths:
            return 1
        count = self.experts.count
        if not isinstance(count, int):
            return count[bank]
        tied = count > 1 and len(self.plans.experts.uses(bank)) > 1
        return count * self.experts.expand if tied else count

    @cached_property
    def dense_depths(self) -> frozenset[int]:
        """Depths that have a dense layer of `experts.dense_width` instead of experts."""
        return frozenset((*range(self.experts.dense_first), *self.experts.dense_at))

    @property
    def experts_by_bank(self) -> ExpertConfig:
        """`experts` with the count of every bank written out, and nothing to expand."""
        counts = tuple(map(self.experts_in_bank, range(self.plans.experts.count)))
        return replace(self.experts, count=counts, expand=1)

    def experts_at(self, depth: int) -> int:
        """Experts at a depth; 1 means a dense layer without a router."""
        return self._experts[depth]

    @cached_property
    def _experts(self) -> tuple[int, ...]:
        return tuple(map(self.experts_in_bank, self.plans.experts.banks))

    @cached_property
    def routed_depths(self) -> tuple[int, ...]:
        """Depths that have a router in front of their experts."""
        return tuple(depth for depth in range(self.depth) if self.experts_at(depth) > 1)

    @cached_property
    def deciding_depths(self) -> tuple[int, ...]:
        """Routed depths at which a routing decision is made, and not taken over from another."""
        return tuple(d for d in self.routed_depths if self.plans.decider(d) == d)

    def depths_of(self, kind: str) -> tuple[int, ...]:
        """Depths that have a part of a kind, see `plait.sharing.KINDS`."""
        where = KINDS[kind].where
        if where == "every":
            return tuple(range(self.depth))
        return self.routed_depths if where == "routed" else self.deciding_depths

    def _repr_html_(self) -> str:
        kinds = [kind for kind in KINDS if kind != "collaboration" or self.collaboration]
        counts = sorted(set(self._experts))
        routed = f"{' to '.join(map(str, counts[:: len(counts) - 1 or 1]))} experts of width "
        routed += f"{self.experts.width}, top {self.experts.top_k}, {self.router.kind} router"
        return titled(
            f"Model of depth {self.depth}, width {self.width}",
            note(
                f"{routed if self.routed_depths else 'dense'} · {self.heads[0]} heads · context "
                f"{self.context:,} · vocabulary {self.vocab_size:,}"
            ),
            self.sharing.drawn(self.depth, kinds),
        )


def _check_sizes(config: ModelConfig) -> None:
    attention, experts = config.attention, config.experts
    at_least_zero = {
        "balance.switch": config.balance.switch,
        "balance.z": config.balance.z,
        "balance.bias_rate": config.balance.bias_rate,
        "norm_eps": config.norm_eps,
        "residual_scale": config.residual_scale,
        "init_std": config.init_std,
    }
    for name, amount in at_least_zero.items():
        if not amount >= 0:
            raise ValueError(f"{name} is {amount}: it must be 0 or more")
    above_zero = {
        "attention.clip_qkv": attention.clip_qkv,
        "attention.scale": attention.scale,
        "attention.rope_theta": attention.rope_theta,
        "embedding_scale": config.embedding_scale,
        "logit_divisor": config.logit_divisor,
    }
    for name, number in above_zero.items():
        if number is not None and not number > 0:
            raise ValueError(f"{name} is {number}: it must be above 0, or unset")
    check_rope_scaling(attention)
    heads, kv_heads, head_width = config.heads
    if attention.head_width is None and config.width % heads:
        raise ValueError(
            f"width {config.width} is not divisible by {heads} heads: change one of them, or set "
            "attention.head_width"
        )
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads cannot share {kv_heads} key/value heads evenly")
    if config.attention.position == "rope" and head_width % 2:
        raise ValueError(f"rotary embedding needs an even head width, not {head_width}")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout is {config.dropout}: it must be in [0, 1)")
    if experts.dense_first > config.depth:
        raise ValueError(f"experts.dense_first is {experts.dense_first}, depth is {config.depth}")
    if any(depth >= config.depth for depth in experts.dense_at):
        raise ValueError(
            f"experts.dense_at is {quoted(experts.dense_at)}, depth is {config.depth}: depths are "
            "counted from 0"
        )
    if bool(config.dense_depths) != (experts.dense_width is not None):
        raise ValueError(
            "experts.dense_first or dense_at, and experts.dense_width go together: set both or none"
        )
    if experts.shared_gate and not experts.shared_width:
        raise ValueError("experts.shared_gate needs a shared expert: set experts.shared_width")
    each = experts.expand * max(
        (experts.count,) if isinstance(experts.count, int) else experts.count
    )
    inner = each * experts.width + experts.shared_width + (experts.dense_width or 0)
    attending = (2 * heads + 2 * kv_heads) * head_width + attention.lora_rank
    elements = config.width * (3 * inner + attending) * config.depth
    elements += config.width * (2 * config.vocab_size + config.context) + each**2 * config.depth
    if elements > MOST_ELEMENTS:
        raise ValueError(
            f"this model would store up to {elements:.1e} numbers, and no machine holds more than "
            f"{MOST_ELEMENTS:.1e}: make it smaller"
        )


def _check_sharing(config: ModelConfig) -> None:
    plans, experts = config.plans, config.experts
    for bank in range(plans.experts.count):
        dense = {depth in config.dense_depths for depth in plans.experts.uses(bank)}
        if len(dense) > 1:
            raise ValueError(
                f"expert bank {bank} is used at depths {quoted(plans.experts.uses(bank))}, but "
                f"depths {quoted(sorted(config.dense_depths))} are dense: let sharing.experts keep "
                "them apart"
            )
    if experts.expand > 1:
        if not isinstance(experts.count, int):
            raise ValueError(
                "experts.expand multiplies one experts.count: write the count of each bank, or one "
                "count and expand"
            )
        if not any(len(plans.experts.uses(bank)) > 1 for bank in range(plans.experts.count)):
            raise ValueError(
                f"experts.expand is {experts.expand}, but sharing.experts ties no bank: set it to "
                "1, or tie experts"
            )
    if not isinstance(experts.count, int):
        if len(experts.count) != plans.experts.count:
            raise ValueError(
                f"experts.count names {len(experts.count)} banks, but the plan "
                f"{quoted(config.sharing.experts)} has {plans.experts.count}: give one for each"
            )
        for bank, count in enumerate(experts.count):
            if config.experts_in_bank(bank) != count:
                raise ValueError(f"experts.count: bank {bank} is dense, write 1 in its place")
    for depth in range(config.depth):
        meant = depth in config.dense_depths
        if experts.shared_width and not meant and config.experts_at(depth) == 1:
            raise ValueError(
                f"experts.shared_width: depth {depth} is dense and has no shared expert beside it; "
                "set shared_width to 0, or give that depth more experts"
            )
    for depth in config.routed_depths:
        if config.experts_at(depth) < experts.top_k:
            raise ValueError(
                f"experts.top_k is {experts.top_k}, but depth {depth} has only "
                f"{config.experts_at(depth)} experts"
            )
    kinds = {"router": plans.router, "decision": plans.decision}
    if config.collaboration is not None:
        kinds["collaboration"] = plans.collaboration
    routed = set(config.routed_depths)
    for kind, plan in kinds.items():
        for bank in range(plan.count):
            counts = {d: config.experts_at(d) for d in plan.uses(bank) if d in routed}
            if len(set(counts.values())) > 1:
                raise ValueError(
                    f"sharing.{kind}: bank {bank} serves depths with different expert counts "
                    f"{quoted(counts)} (depth: experts); give those depths banks of their own"
                )
            if counts and plan.uses(bank)[0] not in counts:
                raise ValueError(
                    f"sharing.{kind}: bank {bank} begins at depth {plan.uses(bank)[0]}, which is "
                    f"dense, and serves depth {min(counts)}, which is routed: begin it there"
                )
    for bank in range(plans.decision.count):
        routers = {plans.router.banks[depth] for depth in plans.decision.uses(bank)}
        if len(routers) > 1:
            raise ValueError(
                f"sharing.decision: bank {bank} is decided once for depths "
                f"{quoted(plans.decision.uses(bank))}, which name {len(routers)} routers, so all "
                "but one would be ignored: set sharing.router to "
                f"{quoted(config.sharing.decision)} as well"
            )
    unshared = plans.attention.count == plans.attention.depth
    if config.attention.lora_rank and unshared:
        raise ValueError(
            "attention.lora_rank adapts shared attention to each depth, but sharing.attention "
            "shares nothing: set lora_rank to 0 or share attention"
        )


def _check_router(config: ModelConfig) -> None:
    router = config.router
    if router.kind in ("linear", "random-fixed") and router.inner_width is not None:
        raise ValueError(f"router.inner_width has no meaning for a {router.kind} router: unset it")
    if router.gating == "topk-softmax" and router.renormalise:
        raise ValueError("router.renormalise: topk-softmax gates sum to 1 already; set it to False")
    if router.choice == "experts":
        _check_expert_choice(config)
    if router.top_groups > router.groups:
        raise ValueError(
            f"router.top_groups is {router.top_groups}, but there are {router.groups} router.groups"
        )
    for depth in config.routed_depths if router.groups > 1 else ():
        within = config.experts_at(depth) // router.groups
        if config.experts_at(depth) % router.groups or within < 2:
            raise ValueError(
                f"router.groups: {config.experts_at(depth)} experts at depth {depth} do not make "
                f"{router.groups} equal groups of two or more"
            )
        if config.experts.top_k > router.top_groups * within:
            raise ValueError(
                f"experts.top_k is {config.experts.top_k}, but router.top_groups leaves "
                f"{router.top_groups * within} experts to choose from"
            )
    if config.balance.bias_rate and not router.bias:
        raise ValueError("balance.bias_rate moves the router's bias: set router.bias to True")
    if router.kind in ("low-rank", "recurrent"):
        counts = {config.experts_at(depth) for depth in config.routed_depths}
        if router.kind == "low-rank" and len(counts) > 1:
            raise ValueError(
                f"a low-rank router has one base for all depths, but they have "
                f"{quoted(sorted(counts))} "
                "experts: give every bank the same experts.count"
            )


def _check_expert_choice(config: ModelConfig) -> None:
    router = config.router
    of_tokens = {
        "router.gating topk-softmax": router.gating == "topk-softmax",
        "router.renormalise": router.renormalise,
        "router.bias": router.bias,
        "router.groups": router.groups > 1,
        "collaboration": config.collaboration is not None,
    }
    for name, found in of_tokens.items():
        if found:
            raise ValueError(
                f"{name} needs the experts that a token chose, and with router.choice experts it "
                "chooses none: leave it out, or set router.choice to tokens"
            )
    if config.balance.switch:
        raise ValueError(
            "balance.switch has no effect where experts choose equally many tokens: set it to 0"
        )
    if not config.routed_depths:
        raise ValueError("router.choice needs more than one expert: set experts.count, or unset it")


def _check_collaboration(config: ModelConfig) -> None:
    c = config.collaboration
    if c is None:
        if config.plans.collaboration.count < config.depth:
            raise ValueError(
                "sharing.collaboration is set, but there is no collaboration: set collaboration, "
                "or leave its plan at 'own'"
            )
        return
    if not config.routed_depths:
        raise ValueError("collaboration needs more than one expert: set experts.count, or unset it")
    if not c.strength and not c.routing_strength:
        raise ValueError("collaboration has no effect: set its strength or its routing_strength")
    if not c.temperature > 0:
        raise ValueError(f"collaboration.temperature is {c.temperature}: it must be positive")
    if c.signed and c.row_normalise:
        raise ValueError(
            "collaboration.signed: signed rows have no sum to divide by; set row_normalise False"
        )
    if c.control == "gate-scale":
        neutral = CollaborationConfig(
            strength=c.strength, routing_strength=0.0, control="gate-scale"
        )
        if c != neutral or config.plans.collaboration.count < config.depth:
            raise ValueError(
                "collaboration.control gate-scale has no topology: set routing_strength to 0 and "
                "leave every other option but strength, and sharing.collaboration, at its default"
            )
        return
    deciding = {config.plans.collaboration.banks[depth] for depth in config.deciding_depths}
    serving = {config.plans.collaboration.banks[depth] for depth in config.routed_depths}
    if not c.strength and serving != deciding:
        raise ValueError(
            "collaboration without messages acts only where a decision is made, so some topologies "
            f"would be ignored: set sharing.collaboration to {quoted(config.sharing.decision)} as "
            "well"
        )
    least = 2 if c.self_loop else 3
    if c.strength and c.row_normalise and config.experts.top_k < least:
        remedy = "" if c.self_loop else " or self_loop True"
        warnings.warn(
            f"collaboration with row-normalised messages and top_k={config.experts.top_k}: the "
            f"renormalised topology over fewer than {least} chosen experts is constant, so S gets "
            "no gradient from messages and cannot be learned by them; use top_k ≥ 3, row_normalise "
            f"False{remedy}",
            stacklevel=4,
        )
