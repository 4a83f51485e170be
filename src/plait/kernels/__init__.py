"""Operations that models spend their time in; `table.py` says which backends compute them.

Shapes: T tokens, D width, F expert width, E experts, K experts per token, X rows of the
up-projection (2F for SwiGLU: the gate's rows first, then up's; F for GELU), B batch, S sequence,
H query heads, G key heads, d head width, V vocabulary. `PLAIT_KERNEL` overrides the choice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from plait.kernels.activation import check, compute_dtype
from plait.kernels.cross_entropy import IGNORED
from plait.kernels.table import backend_name, call, choose

__all__ = [
    "attend_one",
    "backend_name",
    "causal_attention",
    "experts",
    "linear",
    "linear_cross_entropy",
    "muon_step",
    "rms_norm",
    "scale",
    "total_norm",
]


def experts(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    up_EXD: Tensor,
    down_EDF: Tensor,
    activation: str,
    mix_TKK: Tensor | None = None,
) -> Tensor:
    """Return y_TD, the sum over each token's chosen experts, weighted by `weights_TK`.

    Products run in autocast's type where that is on. `mix_TKK` mixes the hidden vectors of one
    token's experts before the down-projection: a_i + Σ_j mix_ij a_j. Raises ValueError if the
    activation is not "swiglu" or "gelu".
    """
    check(activation)
    arguments = x_TD, expert_ids_TK, weights_TK, up_EXD, down_EDF, activation
    if mix_TKK is not None:
        return call("mixing_experts", x_TD.device, *arguments, mix_TKK)
    return call("experts", x_TD.device, *arguments)


def causal_attention(
    q_BSHd: Tensor,
    k_BSGd: Tensor,
    v_BSGd: Tensor,
    cos_BSd: Tensor | None = None,
    sin_BSd: Tensor | None = None,
) -> Tensor:
    """Return softmax(q kᵀ / √d) v over the keys up to each query: (B, S, H, d).

    G key heads serve H query heads, H a multiple of G. With angles (B or 1, S, d), queries and
    keys are turned by them first.
    """
    return call("causal_attention", q_BSHd.device, q_BSHd, k_BSGd, v_BSGd, cos_BSd, sin_BSd)


def attend_one(
    q_B1Hd: Tensor,
    k_B1Gd: Tensor,
    v_B1Gd: Tensor,
    cos_B1d: Tensor | None,
    sin_B1d: Tensor | None,
    keys_BGRd: Tensor,
    values_BGRd: Tensor,
    held: int,
) -> Tensor:
    """Append one key and value to buffers with room for R, and attend to all: (B, 1, H, d).

    Query and key are turned by the angles first; key and value are written at place `held`.
    """
    angles = cos_B1d, sin_B1d
    buffers = keys_BGRd, values_BGRd, held
    return call("attend_one", q_B1Hd.device, q_B1Hd, k_B1Gd, v_B1Gd, *angles, *buffers)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide (…, D) by its root mean square, times weight (D): computed in float32 (1910.07467).

    What comes out is of autocast's type where that is on, for the products that it goes into.
    """
    return call("rms_norm", x.device, x, weight.float(), eps, compute_dtype(x))


def linear(x: Tensor, weight_NK: Tensor) -> Tensor:
    """Map (…, K) to (…, N) as `torch.nn.functional.linear` does, few rows faster."""
    return call("linear", x.device, x, weight_NK)


def linear_cross_entropy(h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """Return the mean cross-entropy of softmax(h Wᵀ) in nats over targets other than −100.

    Products run in autocast's type where that is on, the softmax in float32. Raises ValueError for
    a target on a CPU that is neither −100 nor an entry of the vocabulary.
    """
    if targets_T.is_cpu and not torch.compiler.is_compiling() and len(targets_T):
        low, high = (int(end) for end in targets_T.aminmax())
        if low < 0:
            low = int(targets_T.where(targets_T != IGNORED, 0).min())
        if low < 0 or high >= len(weight_VD):
            raise ValueError(
                f"target {low if low < 0 else high}: targets are −100 or at most "
                f"{len(weight_VD) - 1}, the last of the vocabulary"
            )
    return call("linear_cross_entropy", h_TD.device, h_TD, weight_VD, targets_T)


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the root of the sum of squares over all gradients, as torch's `get_total_norm`.

    Sharded gradients (DTensor) give a DTensor.
    """
    device = gradients[0].device if gradients else torch.device("cpu")
    return call("total_norm", device, gradients)


def scale(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply all gradients by a factor (), in place."""
    if gradients:
        choose("scale", gradients[0].device, gradients, factor).run(gradients, factor)


def muon_step(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    rates: Sequence[float],
    *,
    momentum: float,
    kept: float,
    stacked: int,
    steps: int,
    dtype: torch.dtype,
    left_out: Tensor | None = None,
) -> None:
    """Move matrices (R, C) and banks (E, R, C) by their momentum, orthogonalised, in place.

    A parameter p becomes kept · p − its rate · the update. `stacked` matrices lie in the rows of
    each; products of the Newton–Schulz `steps` are in `dtype`. Where `left_out` (), which a GPU is
    not asked for, is not 0, nothing changes. See `plait.optim.muon`.
    """
    how = momentum, kept, stacked, steps, dtype, left_out
    arguments = parameters, gradients, momenta, rates, *how
    choose("muon_step", parameters[0].device, *arguments).run(*arguments)
