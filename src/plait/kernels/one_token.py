"""Attention of one token while decoding: its key and value are appended, and it sees them all."""

import torch
from torch import Tensor
from torch.nn import functional

from plait.kernels.native import GRANULE, TYPES
from plait.kernels.rotary import rotate


def reference(
    q_B1Hd: Tensor,
    k_B1Gd: Tensor,
    v_B1Gd: Tensor,
    cos_B1d: Tensor | None,
    sin_B1d: Tensor | None,
    keys_BGRd: Tensor,
    values_BGRd: Tensor,
    held: int,
) -> Tensor:
    """Turn query and key, write at place `held` of the buffers, attend to held + 1 places."""
    q, k, v = (t.transpose(1, 2) for t in (q_B1Hd, k_B1Gd, v_B1Gd))
    if cos_B1d is not None and sin_B1d is not None:
        q, k = rotate(q, cos_B1d, sin_B1d), rotate(k, cos_B1d, sin_B1d)
    keys_BGRd[:, :, held : held + 1] = k
    values_BGRd[:, :, held : held + 1] = v
    keys, values = keys_BGRd[:, :, : held + 1], values_BGRd[:, :, : held + 1]
    grouped = q.shape[1] != k.shape[1]
    y = functional.scaled_dot_product_attention(q, keys, values, enable_gqa=grouped)
    return y.transpose(1, 2)


def native_covers(
    q_B1Hd: Tensor,
    k_B1Gd: Tensor,
    v_B1Gd: Tensor,
    cos_B1d: Tensor | None,
    sin_B1d: Tensor | None,
    keys_BGRd: Tensor,
    values_BGRd: Tensor,
    held: int,
) -> bool:
    """Whether heads are multiples of 32 wide, all of one type, and no gradient is wanted."""
    return (
        not torch.is_grad_enabled()
        and q_B1Hd.dtype in TYPES
        and q_B1Hd.dtype == k_B1Gd.dtype == v_B1Gd.dtype
        and q_B1Hd.shape[-1] % GRANULE == 0
    )


def native(
    q_B1Hd: Tensor,
    k_B1Gd: Tensor,
    v_B1Gd: Tensor,
    cos_B1d: Tensor | None,
    sin_B1d: Tensor | None,
    keys_BGRd: Tensor,
    values_BGRd: Tensor,
    held: int,
) -> Tensor:
    """Do as `reference` does."""
    q, k, v = q_B1Hd.contiguous(), k_B1Gd.contiguous(), v_B1Gd.contiguous()
    y_B1Hd: Tensor = torch.ops.plait.attend_one(
        q, k, v, cos_B1d, sin_B1d, keys_BGRd, values_BGRd, held
    )
    return y_B1Hd
