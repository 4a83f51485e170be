"""RMSNorm as one pass forward and one backward: written in operations it is eight and more."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from plait import kernels
from plait.kernels.activation import compute_dtype


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide (…, D) by its root mean square, times weight (D): computed in float32 (1910.07467).

    What comes out is of autocast's type where that is on, for the products that it goes into.
    """
    weight, dtype = weight.float(), compute_dtype(x)
    if kernels.compiled(x) and dtype in (torch.float32, torch.bfloat16):
        if not torch.is_grad_enabled():  # decoding calls this often, and an autograd node costs
            y: Tensor = torch.ops.plait.rms_norm_forward(x.contiguous(), weight, eps, dtype)[0]
            return y
        return _RMSNorm.apply(x, weight, eps, dtype)  # type: ignore[no-any-return, no-untyped-call]
    return functional.rms_norm(x.float(), weight.shape, weight, eps).to(dtype)


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
