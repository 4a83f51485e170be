"""Experts on CUDA in torch's operations: one product for all experts where torch has one."""

import torch
from torch import Tensor

from plait.kernels.activation import compute_dtype
from plait.kernels.moe import one_node
from plait.kernels.moe.products import Grouped, OneByOne, Opaque
from plait.kernels.moe.sorting import sort_by_expert

ALIGNMENT = 8
"""numbers in bfloat16 where a row of the grouped product may begin: 16 bytes"""
GENERATIONS = (9, 10)
"""of GPUs for which torch has the grouped product: Hopper and Blackwell of data centres. On others
it loops over experts and asks the device in each product where their rows end."""


def experts(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    up_EXD: Tensor,
    down_EDF: Tensor,
    activation: str,
    mix_TKK: Tensor | None = None,
) -> Tensor:
    """Return y_TD as `reference.experts` does.

    In bfloat16, with widths in multiples of 8, nothing waits for the device; else it is asked once
    where each expert's rows lie.
    """
    order = sort_by_expert(expert_ids_TK, len(up_EXD))
    given = x_TD, weights_TK, up_EXD, down_EDF, mix_TKK, activation
    at_once = len(x_TD) > 0 and in_one_product(compute_dtype(x_TD), down_EDF)
    one_by_one = Opaque if torch.compiler.is_compiling() else OneByOne
    return one_node.experts(*given, order, (Grouped if at_once else one_by_one).of(order))


def in_one_product(dtype: torch.dtype, down_EDF: Tensor) -> bool:
    """Whether torch computes all experts in one product of this type."""
    return (
        dtype == torch.bfloat16
        and down_EDF.shape[1] % ALIGNMENT == down_EDF.shape[2] % ALIGNMENT == 0
        and (
            not (down_EDF.is_cuda and torch.cuda.is_available())
            or torch.cuda.get_device_capability(down_EDF.device)[0] in GENERATIONS
        )
    )
