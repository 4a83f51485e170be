"""What an expert does between its two projections, and how wide its hidden vector is."""

import torch
from torch import Tensor
from torch.nn import functional

ACTIVATIONS = ("swiglu", "gelu")


def activate(h_TX: Tensor, activation: str) -> Tensor:
    """Return the hidden vectors a_TF of pre-activations h_TX (X = 2F for swiglu, F for gelu).

    "swiglu" is silu(gate) · up (arXiv 2002.05202), the gate in the first F columns; "gelu" is the
    exact form, with erf.
    """
    check(activation)
    if activation == "gelu":
        return functional.gelu(h_TX)
    gate_TF, up_TF = h_TX.chunk(2, dim=-1)
    return functional.silu(gate_TF) * up_TF


def activate_backward(da_TF: Tensor, h_TX: Tensor, activation: str) -> Tensor:
    """Return dh_TX, the gradient of the pre-activations, from that of the hidden vectors."""
    if activation == "gelu":
        dh: Tensor = torch.ops.aten.gelu_backward(da_TF, h_TX)
        return dh
    gate_TF, up_TF = h_TX.chunk(2, dim=-1)
    if torch.compiler.is_compiling():  # which makes one pass of it, and knows no parts as `out`
        dgate_TF = torch.ops.aten.silu_backward(da_TF * up_TF, gate_TF)
        return torch.cat((dgate_TF, da_TF * functional.silu(gate_TF)), dim=-1)
    dh_TX = torch.empty_like(h_TX)
    dgate_TF, dup_TF = dh_TX.chunk(2, dim=-1)
    torch.mul(da_TF, functional.silu(gate_TF), out=dup_TF)
    torch.ops.aten.silu_backward(da_TF * up_TF, gate_TF, grad_input=dgate_TF)
    return dh_TX


def check(activation: str) -> None:
    """Raise ValueError if `activation` is not one that experts know."""
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"experts know no activation {activation!r}; choose one of {', '.join(ACTIVATIONS)}"
        )


def compute_dtype(x_TD: Tensor) -> torch.dtype:
    """Return the type that products run in: autocast's where it is on, else that of the input."""
    if torch.is_autocast_enabled(x_TD.device.type):
        return torch.get_autocast_dtype(x_TD.device.type)
    return x_TD.dtype
