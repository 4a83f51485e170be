"""RMSNorm and LayerNorm, computed in fp32 whatever the precision around them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait import kernels
from plait.kernels.activation import compute_dtype


class RMSNorm(nn.Module):
    """Divide by the root mean square over the last dimension, times a learned weight (1910.07467).

    Shapes: (…, D) → (…, D), in autocast's dtype where that is on, else the input's.
    """

    role = "norm"

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` over its last dimension."""
        return kernels.rms_norm(x, self.weight.float(), self.eps)


class LayerNorm(nn.Module):
    """Subtract the mean, divide by the standard deviation, times weight plus bias (1607.06450).

    Shapes: (…, D) → (…, D), in autocast's dtype where that is on, else the input's.
    """

    role = "norm"

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` over its last dimension."""
        weight, bias = self.weight.float(), self.bias.float()
        y = F.layer_norm(x.float(), weight.shape, weight, bias, self.eps)
        return y.to(compute_dtype(x))


def norm(kind: str, width: int, eps: float) -> RMSNorm | LayerNorm:
    """Return the norm that a configuration names: "rms" or "layer"."""
    return RMSNorm(width, eps) if kind == "rms" else LayerNorm(width, eps)
