"""Experts that other processes hold: rows go there, are computed, and come back.

Gates stay at home and are applied when the outputs are back, so all that re-weights them, such as
collaboration, sends nothing. What is sent in a forward is how many rows come for each expert, and
each row once there and once back; the rows again in the backward.
"""

from typing import cast

import torch
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single, all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from plait import kernels
from plait.kernels.activation import compute_dtype
from plait.kernels.moe.dispatch import combine, dispatch


def experts_over_ranks(
    x_TD: Tensor,
    expert_ids_TK: Tensor,
    weights_TK: Tensor,
    up_EXD: Tensor,
    down_EDF: Tensor,
    activation: str,
    mix_TKK: Tensor | None = None,
    *,
    mesh: DeviceMesh,
) -> Tensor:
    """Return y_TD as `kernels.experts` does, of experts sharded over the processes of `mesh`.

    All of them call it at once, each with its own tokens. The tensors of experts are `DTensor`s
    over `mesh`, sharded along their first dimension: E counts the experts of all processes.
    """
    assert mix_TKK is None, "hidden vectors of one token's experts are on different processes"
    up_eXD, down_eDF = (cast(DTensor, tensor).to_local() for tensor in (up_EXD, down_EDF))
    sent = dispatch(x_TD.to(compute_dtype(x_TD)), expert_ids_TK, weights_TK, len(up_EXD))
    counts_RE = _exchanged_counts(sent.order.ends_E, mesh)  # of this process' experts, by sender
    # the only answer that is waited for: how many rows go to each process, and come
    leaving, arriving = torch.stack((_per_rank(sent.order.ends_E, mesh), counts_RE.sum(1))).tolist()
    rows_MD = all_to_all_single_autograd(sent.rows_ND, arriving, leaving, mesh)
    ids_M = torch.arange(counts_RE.shape[1], device=rows_MD.device).repeat(mesh.size())
    ids_M1 = ids_M.repeat_interleave(counts_RE.flatten(), output_size=sum(arriving))[:, None]
    ones_M1 = torch.ones_like(ids_M1, dtype=weights_TK.dtype)
    y_MD = kernels.experts(rows_MD, ids_M1, ones_M1, up_eXD, down_eDF, activation)
    back_ND = all_to_all_single_autograd(y_MD, leaving, arriving, mesh)
    return combine(back_ND, sent).to(x_TD.dtype)


def _exchanged_counts(ends_E: Tensor, mesh: DeviceMesh) -> Tensor:
    """Tell each process how many rows its experts get: (senders, experts here)."""
    counts_E = ends_E.diff(prepend=ends_E.new_zeros(1))
    arrived = all_to_all_single(counts_E, None, None, mesh)
    return arrived.view(mesh.size(), -1)


def _per_rank(ends_E: Tensor, mesh: DeviceMesh) -> Tensor:
    """Count the rows that go to each process."""
    ends_R = ends_E.view(mesh.size(), -1)[:, -1]
    return ends_R.diff(prepend=ends_R.new_zeros(1))
