"""Rotary position embedding (RoPE, arXiv 2104.09864): the angles, and the turn."""

import torch
from torch import Tensor


def rotary(positions_BS: Tensor, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (B, S, head_width), the two halves equal."""
    steps = torch.arange(0, head_width, 2, device=positions_BS.device, dtype=torch.float32)
    angles = positions_BS[..., None].float() * theta ** (-steps / head_width)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BHSd: Tensor, cos_BSd: Tensor, sin_BSd: Tensor) -> Tensor:
    """Turn each head's pairs (i, i + d/2) by their position's angle."""
    first, second = x_BHSd.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BHSd * cos_BSd[:, None] + turned * sin_BSd[:, None]).to(x_BHSd.dtype)
