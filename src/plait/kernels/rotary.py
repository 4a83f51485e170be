"""Rotary position embedding (RoPE, arXiv 2104.09864): the turn; the angles are the model's."""

import torch
from torch import Tensor


def rotate(x_BHSd: Tensor, cos_BSd: Tensor, sin_BSd: Tensor) -> Tensor:
    """Turn each head's pairs (i, i + d/2) by their position's angle."""
    first, second = x_BHSd.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BHSd * cos_BSd[:, None] + turned * sin_BSd[:, None]).to(x_BHSd.dtype)
