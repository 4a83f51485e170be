"""The obvious loop over experts, in plain autograd: what every other backend is compared with."""

import torch
from torch import Tensor
from torch.nn import functional

from plait.kernels.activation import activate, compute_dtype


def experts(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    up_EXD: Tensor,
    down_EDF: Tensor,
    activation: str,
    mix_TKK: Tensor | None = None,
) -> Tensor:
    """Return y_TD = Σ_k weights_tk · down(a_tk), a_tk the hidden vector of token t's k-th expert.

    `mix_TKK` lets the experts of one token talk before the down-projection: a_i + Σ_j mix_ij a_j
    takes the place of a_i. No gate re-weighting says the same, so only this backend offers it.
    """
    dtype = compute_dtype(x_TD)
    chosen = [torch.where(expert_ids_TK == expert) for expert in range(up_EXD.shape[0])]
    a_TKF = x_TD.new_zeros((*expert_ids_TK.shape, down_EDF.shape[-1]), dtype=dtype)
    for (token, slot), up_XD in zip(chosen, up_EXD, strict=True):
        h_NX = functional.linear(x_TD[token].to(dtype), up_XD.to(dtype))
        a_TKF[token, slot] = activate(h_NX, activation)
    if mix_TKK is not None:
        a_TKF = a_TKF + mix_TKK.to(dtype) @ a_TKF
    y_TD = torch.zeros_like(x_TD)
    for (token, slot), down_DF in zip(chosen, down_EDF, strict=True):
        o_ND = functional.linear(a_TKF[token, slot], down_DF.to(dtype))
        y_TD = y_TD.index_add(0, token, (o_ND * weights_TK[token, slot, None]).to(x_TD.dtype))
    return y_TD
