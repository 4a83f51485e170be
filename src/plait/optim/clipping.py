"""The norm of all gradients, and scaling them to a largest one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from plait import kernels


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the root of the sum of squares over all gradients, as torch's `get_total_norm`.

    Sharded gradients (DTensor) give a DTensor.
    """
    if gradients and all(_covered(gradient) for gradient in gradients):
        norm: Tensor = torch.ops.plait.total_norm(gradients)
        return norm
    return torch.nn.utils.get_total_norm(gradients)


def clip_(gradients: Sequence[Tensor], norm: float, largest: float) -> None:
    """Scale the gradients in place so that their norm is at most `largest`.

    The factor is torch's, largest / (norm + 1e-6). Where that is 1 or more nothing is done, which
    saves reading and writing every gradient. A norm that is no number makes every gradient so.
    """
    factor = largest / (norm + 1e-6)
    if not factor >= 1:
        torch._foreach_mul_(list(gradients), factor)


def _covered(gradient: Tensor) -> bool:
    plain = type(gradient) in (Tensor, torch.nn.Parameter)
    return (
        plain
        and gradient.dtype == torch.float32
        and gradient.is_contiguous()
        and kernels.compiled(gradient)
    )
