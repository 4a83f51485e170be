"""The head and its loss in chunks of tokens: the T × V logits never exist at once.

The gradients are computed with the loss, while a chunk's logits are there, and scaled in the
backward pass (the idea of Liger, arXiv 2410.10989).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plait import kernels
from plait.kernels.activation import compute_dtype

IGNORED = -100
CHUNK_LOGITS = 2**24


def linear_cross_entropy(
    h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, chunk: int | None = None
) -> Tensor:
    """Return the mean cross-entropy of softmax(h Wᵀ) in nats over targets other than −100.

    Products run in autocast's type where that is on, the softmax in float32. `chunk` is in tokens;
    by default as many as make 16M logits.
    """
    chunk = chunk or max(256, CHUNK_LOGITS // weight_VD.shape[0])
    # asked here, since inside an autograd function it looks the same with and without no_grad
    gradient = torch.is_grad_enabled() and (h_TD.requires_grad or weight_VD.requires_grad)
    return _LinearCrossEntropy.apply(  # type: ignore[no-any-return, no-untyped-call]
        h_TD, weight_VD, targets_T, chunk, compute_dtype(h_TD), gradient
    )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        chunk: int,
        dtype: torch.dtype,
        gradient: bool,
    ) -> Tensor:
        count = (targets_T != IGNORED).sum()
        scale = 1 / max(int(count), 1)
        ctx.input_dtype = h_TD.dtype
        if _covered(h_TD, weight_VD, dtype):
            h, targets = h_TD.to(dtype).contiguous(), targets_T.contiguous()
            losses_T, dh_TD, dweight_VD = torch.ops.plait.linear_cross_entropy(
                h, weight_VD, targets, scale, gradient
            )
            ctx.save_for_backward(dh_TD, dweight_VD)
            return losses_T.sum() / count  # type: ignore[no-any-return]
        weight = weight_VD.to(dtype)
        dh_TD = torch.empty_like(h_TD) if gradient else None
        dweight_VD = torch.zeros_like(weight_VD) if gradient else None
        loss = torch.zeros((), dtype=torch.float32, device=h_TD.device)
        for first in range(0, h_TD.shape[0], chunk):
            rows = slice(first, first + chunk)
            h_CD = h_TD[rows].to(dtype)
            logits_CV = h_CD @ weight.T
            loss += _losses_(logits_CV, targets_T[rows], scale, gradient).sum()
            if dh_TD is not None and dweight_VD is not None:
                dh_TD[rows] = logits_CV @ weight
                if dweight_VD.dtype == dtype:
                    dweight_VD.addmm_(logits_CV.T, h_CD)
                else:
                    dweight_VD += logits_CV.T @ h_CD
        ctx.save_for_backward(dh_TD, dweight_VD)
        ctx.input_dtype = h_TD.dtype
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        dh_TD, dweight_VD = ctx.saved_tensors
        dh_TD = dh_TD.to(ctx.input_dtype) * dloss.to(ctx.input_dtype)
        return dh_TD, dweight_VD * dloss.to(dweight_VD), None, None, None, None


def _covered(h_TD: Tensor, weight_VD: Tensor, dtype: torch.dtype) -> bool:
    """Whether the C++ version, which takes widths and vocabularies in multiples of 32, applies."""
    return (
        kernels.compiled(h_TD)
        and len(h_TD) > 0
        and (dtype == torch.bfloat16 or weight_VD.dtype == torch.float32)
        and weight_VD.dtype in (torch.float32, torch.bfloat16)
        and weight_VD.shape[0] % 32 == 0
        and weight_VD.shape[1] % 32 == 0
        and weight_VD.is_contiguous()
    )


def _losses_(logits_CV: Tensor, targets_C: Tensor, scale: float, gradient: bool) -> Tensor:
    """Return each token's loss; turn the logits into `scale` times the gradient of their sum."""
    if kernels.compiled(logits_CV):
        targets_C = targets_C.contiguous()
        return torch.ops.plait.cross_entropy_(logits_CV, targets_C, scale, gradient)  # type: ignore[no-any-return]
    x_CV = logits_CV.float()
    ignored_C1 = (targets_C == IGNORED)[:, None]
    targets_C1 = targets_C[:, None].masked_fill(ignored_C1, 0)
    lse_C1 = x_CV.logsumexp(-1, keepdim=True)
    losses_C1 = (lse_C1 - x_CV.gather(1, targets_C1)).masked_fill(ignored_C1, 0)
    if gradient:
        p_CV = (x_CV - lse_C1).exp_()
        p_CV.scatter_add_(1, targets_C1, p_CV.new_full((), -1).expand_as(targets_C1))
        logits_CV.copy_(p_CV.mul_(scale).masked_fill_(ignored_C1, 0))
    return losses_C1.squeeze(1)
