"""Experts on a CPU in torch's operations: a product for each expert and projection."""

from torch import Tensor

from plait.kernels.moe import one_node
from plait.kernels.moe.products import OneByOne
from plait.kernels.moe.sorting import sort_by_expert

MULTIPLE = 32


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

    With many rows, each expert's are padded to a multiple of 32: oneDNN compiles a product for
    every new shape, and rows per expert change at every step.
    """
    many = expert_ids_TK.numel() >= 2 * MULTIPLE * len(up_EXD)
    order = sort_by_expert(expert_ids_TK, len(up_EXD), MULTIPLE if many else 1)
    given = x_TD, weights_TK, up_EXD, down_EDF, mix_TKK, activation
    return one_node.experts(*given, order, OneByOne.of(order))
