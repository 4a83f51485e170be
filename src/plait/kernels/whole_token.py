"""One more token of one sequence through a whole model, in one operation of C++.

There is no second version of it here: what it equals is the model's own forward, and where it does
not run that is what runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from plait.kernels.native import GRANULE, TYPES
from plait.kernels.table import backend_name


class Depth(NamedTuple):
    """What one depth reads of its banks; `native/decoding.cpp` has the same order."""

    attention_norm_D: Tensor
    query_ND: Tensor
    key_ND: Tensor
    value_ND: Tensor
    output_DN: Tensor
    query_norm: Tensor | None
    """over a head or over all of them"""
    key_norm: Tensor | None
    expert_norm_D: Tensor
    router_ED: Tensor | None
    """None: a dense layer, the only one of its bank"""
    bias_E: Tensor | None
    """counts for choosing alone"""
    up_EXD: Tensor
    down_EDF: Tensor


@dataclass(frozen=True)
class Stack:
    """A model of RMSNorm, attention without biases, and experts that a linear router chooses."""

    embedding_VD: Tensor
    depths: tuple[Depth, ...]
    final_norm_D: Tensor
    head_VD: Tensor
    eps: float
    activation: str
    top_k: int
    sigmoid: bool
    """of the logits, in place of their softmax"""
    renormalise: bool
    scale: float


def covers(stack: Stack, head_width: int) -> bool:
    """Whether weights are plain, of one type and on a CPU, sizes multiples of 16, heads of 32."""
    of_depths = [t for depth in stack.depths for t in depth if t is not None]
    tensors = [stack.embedding_VD, stack.final_norm_D, stack.head_VD, *of_depths]
    width = stack.embedding_VD.shape[1]
    return (
        backend_name("attend_one", stack.embedding_VD.device) == "native"
        and not torch.is_autocast_enabled("cpu")
        and all(
            type(t) in (Tensor, torch.nn.Parameter)
            and t.is_cpu
            and t.is_contiguous()
            and t.dtype in TYPES
            and t.dtype == stack.embedding_VD.dtype
            for t in tensors
        )
        and head_width % GRANULE == 0
        and width % 16 == len(stack.head_VD) % 16 == 0
        and all(depth.down_EDF.shape[2] % 16 == 0 for depth in stack.depths)
    )


def logits_after(
    token: int,
    stack: Stack,
    angles_Rd: tuple[Tensor, Tensor],
    keys_1GRd: Sequence[Tensor],
    values_1GRd: Sequence[Tensor],
    held: int,
) -> Tensor:
    """Return the logits (V), float32, that follow a token, which is appended to the buffers.

    Args:
        token: its id.
        stack: what it passes through.
        angles_Rd: cosines and sines of all places that there is room for.
        keys_1GRd: of each depth, extended in place.
        values_1GRd: of each depth, too.
        held: tokens that are there.
    """
    s = stack
    logits_V: Tensor = torch.ops.plait.decode_token(
        token,
        s.embedding_VD,
        [part for depth in s.depths for part in depth],
        s.final_norm_D,
        s.head_VD,
        *angles_Rd,
        *(keys_1GRd, values_1GRd, held),
        *(s.eps, s.activation == "swiglu", s.top_k, s.sigmoid, s.renormalise, s.scale),
    )
    return logits_V
