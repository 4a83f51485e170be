"""Plait's kernels for any mixture-of-experts model of transformers.

After `import plait.interop`, `model.set_experts_implementation("plait")` makes a model of
transformers train with them.
"""

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.integrations.moe import (
    ALL_EXPERTS_FUNCTIONS,
    _default_apply_gate,
    grouped_mm_experts_forward,
)

from plait import kernels

NAME = "plait"


def experts_forward(
    self: nn.Module, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Compute an experts module of transformers: (T, D), (T, K), (T, K) → (T, D).

    What Plait's kernels do not know (biases, transposed or interleaved weights, other activations,
    expert parallelism, a norm after the experts) goes to transformers' grouped_mm.
    """
    activation = _activation(self)
    if activation is None:
        return grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)
    up = self.gate_up_proj if self.has_gate else self.up_proj
    assert isinstance(up, Tensor)
    assert isinstance(self.down_proj, Tensor)
    return kernels.experts(
        hidden_states, top_k_index, top_k_weights, up, self.down_proj, activation
    )


def _activation(experts: nn.Module) -> str | None:
    """Return our name of the module's activation; None if the kernels do not cover the module."""
    act_fn = getattr(experts, "act_fn", None)
    own_gate = getattr(type(experts), "_apply_gate", None) is not _default_apply_gate
    if (
        experts.has_bias
        or experts.is_transposed
        or experts.has_post_expert_norm
        or experts._is_expert_parallel
        or (experts.has_gate and (own_gate or not experts.is_concatenated))
    ):
        return None
    if experts.has_gate and isinstance(act_fn, (nn.SiLU, type(ACT2FN["silu"]))):
        return "swiglu"
    if not experts.has_gate and isinstance(act_fn, (nn.GELU, type(ACT2FN["gelu"]))):
        approximate = getattr(act_fn, "approximate", "none")
        return "gelu" if approximate == "none" else None
    return None


def register() -> None:
    """Make transformers know the implementation "plait" of experts."""
    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
