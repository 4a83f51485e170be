"""All gradients together: their norm, and scaling them."""

from collections.abc import Sequence

import torch
from torch import Tensor


def norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the root of the sum of squares over all gradients; of DTensors, a DTensor."""
    return torch.nn.utils.get_total_norm(gradients)


def scale(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply all by a factor (), in place."""
    torch._foreach_mul_(list(gradients), factor.to(gradients[0].dtype))


def native_covers(gradients: Sequence[Tensor], factor: Tensor | None = None) -> bool:
    """Whether all are plain tensors of float32 on a CPU, without strides of their own."""
    return bool(gradients) and all(
        type(gradient) in (Tensor, torch.nn.Parameter)
        and gradient.is_cpu
        and gradient.dtype == torch.float32
        and gradient.is_contiguous()
        for gradient in gradients
    )


def native_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Do as `norm` does, each gradient read once; the number of threads changes no bit."""
    found: Tensor = torch.ops.plait.total_norm(gradients)
    return found


def native_scale(gradients: Sequence[Tensor], factor: Tensor) -> None:
    """Do as `scale` does, in one operation for all; by 1 nothing is read or written."""
    if factor != 1:
        torch.ops.plait.scale_(gradients, float(factor))
