"""RMSNorm as one pass forward and one backward: written in operations it is eight and more."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from plait.kernels.native import TYPES


def reference(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Divide (…, D) by its root mean square, times weight (D, float32), and round to `dtype`."""
    return functional.rms_norm(x.float(), weight.shape, weight, eps).to(dtype)


def native_covers(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> bool:
    """Whether `native` applies."""
    return x.dtype in TYPES and dtype in TYPES


def native(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Do as `reference` does."""
    if not torch.is_grad_enabled():  # decoding calls this often, and an autograd node costs
        y: Tensor = torch.ops.plait.rms_norm_forward(x.contiguous(), weight, eps, dtype)[0]
        return y
    return _RMSNorm.apply(x, weight, eps, dtype)  # type: ignore[no-any-return, no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        y, scales = torch.ops.plait.rms_norm_forward(x, weight, eps, dtype)
        ctx.save_for_backward(x, weight, scales)
        return y  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dx, dweight = torch.ops.plait.rms_norm_backward(dy.contiguous(), *ctx.saved_tensors)
        return dx, dweight, None, None
