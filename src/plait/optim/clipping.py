"""Scaling gradients to a largest norm."""

from collections.abc import Sequence

import torch
from torch import Tensor

from plait import kernels


def clip_(gradients: Sequence[Tensor], norm: Tensor, largest: float) -> None:
    """Scale the gradients in place so that their norm () is at most `largest`.

    The factor is torch's, largest / (norm + 1e-6), and 1 where that is more. It stays a tensor, so
    that no GPU is waited for. A norm that is no number makes every gradient so.
    """
    norm = norm.double()
    factor = torch.full_like(norm, largest) / (norm + 1e-6)
    kernels.scale(gradients, factor.clamp_max(1))
