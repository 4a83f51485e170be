"""Plait's kernels in torch's plainest operations: for the code that goes with an exported model.

There this class stands in the place of `plait.kernels` (`plait.interop.remote_code`), whose
operations of the same names it equals. On whatever device, and in one graph under torch.compile.
"""

# mypy: allow-untyped-calls

import torch
from torch import Tensor
from torch.nn import functional as F

from plait.kernels.activation import activate, compute_dtype


class kernels:
    """The operations that a forward needs."""

    @staticmethod
    def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Divide (…, D) by its root mean square, times weight (D): computed in float32."""
        return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(compute_dtype(x))

    @staticmethod
    def experts(
        x_TD: Tensor,
        expert_ids_TK: Tensor,
        weights_TK: Tensor,
        up_EXD: Tensor,
        down_EDF: Tensor,
        activation: str,
        mix_TKK: Tensor | None = None,
    ) -> Tensor:
        """Return y_TD, the sum over each token's chosen experts, weighted by `weights_TK`.

        `mix_TKK` mixes the hidden vectors of one token's experts before the down-projection.
        """
        top_k, ids_N = expert_ids_TK.shape[1], expert_ids_TK.flatten()
        rows_ND = x_TD.to(compute_dtype(x_TD)).repeat_interleave(top_k, 0)
        a_NF = activate(product(rows_ND, ids_N, up_EXD), activation)
        if mix_TKK is not None:
            a_TKF = a_NF.unflatten(0, (-1, top_k))
            a_NF = (a_TKF + mix_TKK.to(a_TKF.dtype) @ a_TKF).flatten(0, 1)
        o_TKD = product(a_NF, ids_N, down_EDF).unflatten(0, (-1, top_k))
        y_TD: Tensor = (o_TKD * weights_TK[..., None]).sum(1)
        return y_TD.to(x_TD.dtype)


def product(rows_NI: Tensor, ids_N: Tensor, weight_EOI: Tensor) -> Tensor:
    """Return each row times its expert's matrix: (N, O).

    Of few rows, as in decoding, each brings its matrix; else the rows of each expert are put
    together. torch.compile can have no sizes that depend on the routing, so there every expert
    sees all rows.
    """
    weight_EOI = weight_EOI.to(rows_NI.dtype)
    if len(rows_NI) <= len(weight_EOI):
        return torch.bmm(weight_EOI[ids_N], rows_NI[..., None])[..., 0]
    if torch.compiler.is_compiling():
        out_NO = rows_NI.new_zeros(len(rows_NI), weight_EOI.shape[1])
        for expert, weight_OI in enumerate(weight_EOI):
            out_NO = torch.where((ids_N == expert)[:, None], F.linear(rows_NI, weight_OI), out_NO)
        return out_NO
    order_N = ids_N.argsort(stable=True)
    counts: list[int] = torch.bincount(ids_N, minlength=len(weight_EOI)).tolist()
    parts = zip(rows_NI[order_N].split(counts), weight_EOI, strict=True)
    sorted_NO = torch.cat([F.linear(rows, weight_OI) for rows, weight_OI in parts])
    return sorted_NO[order_N.argsort()]
