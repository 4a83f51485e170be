"""The head and its loss: except in the reference, the T × V logits never exist at once.

The gradients are computed with the loss, while a chunk's logits are there, and scaled in the
backward pass (the idea of Liger, arXiv 2410.10989).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from plait.kernels.activation import compute_dtype
from plait.kernels.native import GRANULE, TYPES

IGNORED = -100
CHUNK_LOGITS = 2**24
"""logits that exist at once on a CPU, where few stay in cache"""
CHUNK_BYTES = 2**28
"""of the logits that exist at once on other devices: each chunk reads the weights and adds to their
gradient anew, so the more tokens it has, the better"""
FEWEST = 256
"""tokens of a chunk, however large the vocabulary"""

Summed = tuple[Tensor, Tensor | None, Tensor | None]
"""the sum of the losses, and the gradients of their mean if they are wanted"""


def reference(h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """Return the mean cross-entropy of softmax(h Wᵀ) in nats over targets other than −100."""
    dtype = compute_dtype(h_TD)
    logits_TV = h_TD.to(dtype) @ weight_VD.to(dtype).T
    return functional.cross_entropy(logits_TV.float(), targets_T, ignore_index=IGNORED)


def chunked(h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """Do as `reference` does, some tokens at a time.

    Beside the gradients, memory holds a chunk's logits in the products' type and their softmax in
    float32 at least, whatever T is. On CUDA the former are at most `CHUNK_BYTES`, 256 MiB, or those
    of `FEWEST` tokens: with the softmax 768 MiB in bfloat16 and 512 MiB in float32. Nothing waits
    for the device.
    """
    return _mean(h_TD, weight_VD, targets_T, partial(_chunk_sum, _losses_))


def native_rows_covers(h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> bool:
    """Whether products are in float32 or bfloat16, of any size."""
    return h_TD.dtype in TYPES and compute_dtype(h_TD) in TYPES


def native_rows(h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """Do as `chunked` does, with torch's products and the softmax in C++."""
    return _mean(h_TD, weight_VD, targets_T, partial(_chunk_sum, _native_losses_))


def native_covers(h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> bool:
    """Whether width and vocabulary are multiples of 32, too."""
    dtype = compute_dtype(h_TD)
    return (
        h_TD.dtype in TYPES
        and dtype in TYPES
        and len(h_TD) > 0
        and (dtype == torch.bfloat16 or weight_VD.dtype == torch.float32)
        and weight_VD.dtype in TYPES
        and weight_VD.shape[0] % GRANULE == 0
        and weight_VD.shape[1] % GRANULE == 0
        and weight_VD.is_contiguous()
    )


def native(h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor) -> Tensor:
    """Do as `reference` does, in one pass over the vocabulary."""
    return _mean(h_TD, weight_VD, targets_T, _native_sum)


def _mean(
    h_TD: Tensor, weight_VD: Tensor, targets_T: Tensor, summed: Callable[..., Summed]
) -> Tensor:
    # asked here, since inside an autograd function it looks the same with and without no_grad
    gradient = torch.is_grad_enabled() and (h_TD.requires_grad or weight_VD.requires_grad)
    return _LinearCrossEntropy.apply(  # type: ignore[no-any-return, no-untyped-call]
        h_TD, weight_VD, targets_T, summed, compute_dtype(h_TD), gradient
    )


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        summed: Callable[..., Summed],
        dtype: torch.dtype,
        gradient: bool,
    ) -> Tensor:
        count = (targets_T != IGNORED).sum()
        loss, dh_TD, dweight_VD = summed(h_TD, weight_VD, targets_T, dtype, count, gradient)
        ctx.save_for_backward(dh_TD, dweight_VD)
        ctx.input_dtype = h_TD.dtype
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        dh_TD, dweight_VD = ctx.saved_tensors
        dh_TD = dh_TD.to(ctx.input_dtype) * dloss.to(ctx.input_dtype)
        return dh_TD, dweight_VD * dloss.to(dweight_VD), None, None, None, None


def _native_sum(
    h_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    dtype: torch.dtype,
    count: Tensor,
    gradient: bool,
) -> Summed:
    scale = 1 / max(int(count), 1)
    losses_T, dh_TD, dweight_VD = torch.ops.plait.linear_cross_entropy(
        h_TD.to(dtype).contiguous(), weight_VD, targets_T.contiguous(), float(scale), gradient
    )
    return losses_T.sum(), dh_TD, dweight_VD


def _chunk_sum(
    losses_: Callable[[Tensor, Tensor, Tensor, bool], Tensor],
    h_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    dtype: torch.dtype,
    count: Tensor,
    gradient: bool,
) -> Summed:
    weight = weight_VD.to(dtype)
    dh_TD = torch.empty_like(h_TD) if gradient else None
    dweight_VD = torch.zeros_like(weight_VD) if gradient else None
    loss = torch.zeros((), dtype=torch.float32, device=h_TD.device)
    chunk = _tokens_at_once(len(h_TD), weight)
    for first in range(0, len(h_TD), chunk):
        rows = slice(first, first + chunk)
        h_CD = h_TD[rows].to(dtype)
        logits_CV = h_CD @ weight.T
        loss += losses_(logits_CV, targets_T[rows], count, gradient).sum()
        if dh_TD is not None and dweight_VD is not None:
            dh_TD[rows] = logits_CV @ weight
            if dweight_VD.dtype == dtype:
                dweight_VD.addmm_(logits_CV.T, h_CD)
            else:
                dweight_VD += logits_CV.T @ h_CD
    return loss, dh_TD, dweight_VD


def _tokens_at_once(tokens: int, weight_VD: Tensor) -> int:
    """Return how many tokens a chunk has: equal parts of all, within the bounds."""
    logits = CHUNK_LOGITS if weight_VD.is_cpu else CHUNK_BYTES // weight_VD.element_size()
    most = max(FEWEST, logits // len(weight_VD))
    chunks = max(1, math.ceil(tokens / most))
    return max(1, math.ceil(tokens / chunks))


def _losses_(logits_CV: Tensor, targets_C: Tensor, count: Tensor, gradient: bool) -> Tensor:
    """Return each token's loss; turn the logits into the gradient of their sum over `count`."""
    ignored_C1 = (targets_C == IGNORED).unsqueeze(1)
    targets_C1 = targets_C.unsqueeze(1).masked_fill(ignored_C1, 0)
    exact = torch.promote_types(torch.float32, logits_CV.dtype)
    max_C1 = logits_CV.amax(1, keepdim=True).to(exact)
    aim_C1 = logits_CV.gather(1, targets_C1).to(exact) - max_C1
    exp_CV = (logits_CV - max_C1).exp_()  # in float32 at least, in one pass
    sum_C1 = exp_CV.sum(1, keepdim=True)
    losses_C1 = (sum_C1.log() - aim_C1).masked_fill(ignored_C1, 0)
    if gradient:
        exp_CV.scatter_add_(1, targets_C1, -sum_C1)
        factor_C1 = (sum_C1 * count.clamp(min=1)).reciprocal().masked_fill(ignored_C1, 0)
        torch.mul(exp_CV, factor_C1, out=logits_CV)
    return losses_C1.squeeze(1)


def _native_losses_(logits_CV: Tensor, targets_C: Tensor, count: Tensor, gradient: bool) -> Tensor:
    given = logits_CV, targets_C.contiguous(), 1 / max(int(count), 1), gradient
    return torch.ops.plait.cross_entropy_(*given)  # type: ignore[no-any-return]
