"""A linear map of few rows without gradients, as in decoding: it takes as long as reading W."""

import torch
from torch import Tensor
from torch.nn import functional

from plait import kernels
from plait.kernels.activation import compute_dtype

FEW_ROWS = 32
"""tokens below which packing weights would cost more than it brings"""


def linear(x: Tensor, weight_NK: Tensor) -> Tensor:
    """Map (…, K) to (…, N) as `torch.nn.functional.linear` does, to the same type.

    The C++ version pays where W is large; small ones wait for threads longer than for memory.
    """
    rows, columns = weight_NK.shape
    covered = (
        not torch.is_grad_enabled()
        and x.numel() < FEW_ROWS * columns
        and compute_dtype(x) == x.dtype == weight_NK.dtype
        and rows % 16 == columns % 16 == 0
        and weight_NK.is_contiguous()
        and kernels.compiled(x)
    )
    if not covered:
        return functional.linear(x, weight_NK)
    y: Tensor = torch.ops.plait.few_rows_linear(x.contiguous(), weight_NK)
    return y
