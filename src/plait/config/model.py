"""The typed, frozen configuration of a model.

A configuration *is* the experiment: it is saved whole beside every run, and the run's folder is
named by its hash. What exists only at run time (device, mesh, tokenizer) is an argument elsewhere.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from plait.config.checks import check_sizes, check_structure
from plait.config.parts import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    RouterConfig,
)
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
    norm_eps: float = 1e-5
    """ε of the norms"""
    tied_head: bool = True
    """the output head is the embedding matrix"""
    dropout: float = 0.0
    """dropout probability on the embedding and on both residual branches"""
    init: Literal["normal", "xavier-depth"] = "normal"
    """normal with init_std, or Xavier-uniform with gain 1/√(3L) (Expert Tying)"""
    init_std: float = 0.02
    """standard deviation of the normal initialisation, in both modes used for embeddings"""

    def __post_init__(self) -> None:
        check_sizes(self)
        check_structure(self)

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
        if self.plans.experts.uses(bank)[0] < self.experts.dense_first:
            return 1
        count = self.experts.count
        return count if isinstance(count, int) else count[bank]

    def experts_at(self, depth: int) -> int:
        """Experts at a depth; 1 means a dense layer without a router."""
        return self.experts_in_bank(self.plans.experts.banks[depth])

    @property
    def routed_depths(self) -> tuple[int, ...]:
        """Depths that have a router in front of their experts."""
        return tuple(depth for depth in range(self.depth) if self.experts_at(depth) > 1)

    @property
    def deciding_depths(self) -> tuple[int, ...]:
        """Routed depths at which a routing decision is made, and not taken over from another."""
        return tuple(d for d in self.routed_depths if self.plans.decider(d) == d)

    def depths_of(self, kind: str) -> tuple[int, ...]:
        """Depths that have a part of a kind, see `plait.sharing.KINDS`."""
        where = KINDS[kind].where
        if where == "every":
            return tuple(range(self.depth))
        return self.routed_depths if where == "routed" else self.deciding_depths
