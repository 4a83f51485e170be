"""The norm of all gradients together."""

from collections.abc import Sequence

import torch
from torch import Tensor


def reference(gradients: Sequence[Tensor]) -> Tensor:
    """Return the root of the sum of squares over all gradients; of DTensors, a DTensor."""
    return torch.nn.utils.get_total_norm(gradients)


def native_covers(gradients: Sequence[Tensor]) -> bool:
    """Whether all are plain tensors of float32 on a CPU, without strides of their own."""
    return bool(gradients) and all(
        type(gradient) in (Tensor, torch.nn.Parameter)
        and gradient.is_cpu
        and gradient.dtype == torch.float32
        and gradient.is_contiguous()
        for gradient in gradients
    )


def native(gradients: Sequence[Tensor]) -> Tensor:
    """Do as `reference` does, each gradient read once; the number of threads changes no bit."""
    norm: Tensor = torch.ops.plait.total_norm(gradients)
    return norm
