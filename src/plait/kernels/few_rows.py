"""A linear map of few rows without gradients, as in decoding: it takes as long as reading W."""

import torch
from torch import Tensor
from torch.nn import functional

from plait.kernels.activation import compute_dtype
from plait.kernels.native import TYPES

FEW_ROWS = 32
"""tokens below which packing weights would cost more than it brings"""


def reference(x: Tensor, weight_NK: Tensor) -> Tensor:
    """Map (…, K) to (…, N)."""
    return functional.linear(x, weight_NK)


def native_covers(x: Tensor, weight_NK: Tensor) -> bool:
    """Whether rows are few, sizes multiples of 16, types one, and no gradient is wanted.

    The C++ version pays where W is large; small ones wait for threads longer than for memory.
    """
    rows, columns = weight_NK.shape
    return (
        not torch.is_grad_enabled()
        and x.numel() < FEW_ROWS * columns
        and compute_dtype(x) == x.dtype == weight_NK.dtype
        and x.dtype in TYPES
        and rows % 16 == columns % 16 == 0
        and weight_NK.is_contiguous()
    )


def native(x: Tensor, weight_NK: Tensor) -> Tensor:
    """Do as `reference` does, to the same type."""
    y: Tensor = torch.ops.plait.few_rows_linear(x.contiguous(), weight_NK)
    return y
