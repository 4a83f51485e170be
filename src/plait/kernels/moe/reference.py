"""The obvious loop over experts, in plain autograd: what every other backend is compared with."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from plait.kernels.activation import activate, compute_dtype
from plait.kernels.moe.dispatch import Dispatched
from plait.kernels.moe.sorting import Order


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
    sent = dispatch(x_TD, expert_ids_TK, weights_TK, len(up_EXD))
    ends_E = sent.order.ends_E
    if mix_TKK is None:
        return combine(product(sent.rows_ND, ends_E, up_EXD, down_EDF, activation), sent)
    a_NF = hidden(sent.rows_ND, ends_E, up_EXD, activation)
    a_TKF = a_NF[sent.order.rows_TK]
    a_TKF = a_TKF + mix_TKK.to(a_TKF.dtype) @ a_TKF
    a_NF = a_TKF.flatten(0, 1)[sent.order.pairs_N]
    return combine(project(a_NF, ends_E, down_EDF), sent)


def dispatch(x_TD: Tensor, expert_ids_TK: Tensor, weights_TK: Tensor, experts: int) -> Dispatched:
    """Copy each token once for each of its experts, and put the copies of each expert together."""
    k = expert_ids_TK.shape[1]
    pairs = [torch.where(expert_ids_TK.flatten() == e)[0] for e in range(experts)]
    rows_ND = torch.cat([x_TD[pairs_of_one // k] for pairs_of_one in pairs])
    pairs_N = torch.cat(pairs)
    ends_E = torch.tensor([len(p) for p in pairs], device=pairs_N.device).cumsum(0)
    return Dispatched(
        rows_ND, Order(pairs_N, pairs_N.argsort().view_as(expert_ids_TK), ends_E), weights_TK
    )


def product(
    rows_ND: Tensor, ends_E: Tensor, up_EXD: Tensor, down_EDF: Tensor, activation: str
) -> Tensor:
    """Return what each row's expert makes of it."""
    return project(hidden(rows_ND, ends_E, up_EXD, activation), ends_E, down_EDF)


def hidden(rows_ND: Tensor, ends_E: Tensor, up_EXD: Tensor, activation: str) -> Tensor:
    """Return the hidden vectors a_NF, which are activate(up · row)."""
    dtype = compute_dtype(rows_ND)
    parts = zip(_split(rows_ND.to(dtype), ends_E), up_EXD.to(dtype), strict=True)
    return torch.cat([activate(functional.linear(rows, up), activation) for rows, up in parts])


def project(a_NF: Tensor, ends_E: Tensor, down_EDF: Tensor) -> Tensor:
    """Return down · a for each row."""
    parts = zip(_split(a_NF, ends_E), down_EDF.to(a_NF.dtype), strict=True)
    return torch.cat([functional.linear(a, down) for a, down in parts])


def combine(rows_ND: Tensor, sent: Dispatched) -> Tensor:
    """Return y_TD, the sum of each token's rows by its gates, in the type of the tokens."""
    tokens, k = sent.weights_TK.shape
    weights_N1 = sent.weights_TK.flatten()[sent.order.pairs_N, None]
    weighted_ND = (rows_ND * weights_N1).to(sent.rows_ND.dtype)
    y_TD = weighted_ND.new_zeros(tokens, rows_ND.shape[1])
    # by expert, whose rows are of different tokens: so bits repeat on every device
    parts = (_split(rows, sent.order.ends_E) for rows in (sent.order.pairs_N // k, weighted_ND))
    for tokens_n, weighted_nD in zip(*parts, strict=True):
        y_TD = y_TD.index_add(0, tokens_n, weighted_nD)
    return y_TD


def _split(rows_NI: Tensor, ends_E: Tensor) -> Iterator[Tensor]:
    first = 0
    for end in ends_E.tolist():
        yield rows_NI[first:end]
        first = end
