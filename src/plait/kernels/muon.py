"""Muon's step on plain matrices and banks of them, and the Newton–Schulz iteration in it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from plait.kernels.native import GRANULE

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients that make the slope at zero as steep as it may be (Jordan et al., 2024)."""
LARGEST = 1024
"""rows or columns of a matrix that stays in the cache of one thread"""


def orthogonalise(
    update: Tensor, *, steps: int = 5, dtype: torch.dtype = torch.bfloat16, eps: float = 1e-7
) -> Tensor:
    """Replace each matrix by U S' Vᵀ, S' near 1, with the quintic Newton–Schulz iteration.

    Args:
        update: (R, C) or (N, R, C): N matrices that do not see one another.
        steps: iterations; 5 bring singular values that are not tiny into about [0.7, 1.2].
        dtype: of the products. bfloat16 is as good here as float32, since S' is only near 1 anyway.
        eps: floor of the Frobenius norm, so that a zero gradient (an unused expert) stays zero.

    Returns:
        The same shape, in `dtype`.

    """
    a, b, c = QUINTIC
    multiply_add = torch.addmm if update.ndim == 2 else torch.baddbmm
    tall = update.size(-2) > update.size(-1)
    x = update.to(dtype, copy=True)
    if tall:
        x = x.mT
    x.div_(torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps))
    for _ in range(steps):
        gram = x @ x.mT
        x = multiply_add(x, multiply_add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def apart(update: Tensor, stacked: int) -> Tensor:
    """Take matrices apart that lie on top of one another: (…, stacked · R, C) to (N, R, C)."""
    if stacked == 1:
        return update
    return update.reshape(-1, update.shape[-2] // stacked, update.shape[-1])


def reference(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    rates: Sequence[float],
    momentum: float,
    kept: float,
    stacked: int,
    steps: int,
    dtype: torch.dtype,
    left_out: Tensor | None = None,
) -> None:
    """Move each parameter by −rate × its orthogonalised momentum; on a matrix as torch's Muon."""
    for parameter, gradient, buffer, rate in zip(
        parameters, gradients, momenta, rates, strict=True
    ):
        turned = buffer.lerp(gradient, 1 - momentum)
        direction = gradient.lerp(turned, momentum)
        update = orthogonalise(apart(direction, stacked), steps=steps, dtype=dtype)
        moved = (parameter * kept).add_(update.reshape(parameter.shape), alpha=-rate)
        become_(buffer, turned, left_out)
        become_(parameter, moved, left_out)


def become_(old: Tensor, new: Tensor, left_out: Tensor | None) -> None:
    """Write the new values over the old ones, unless the step is left out."""
    old.copy_(new if left_out is None else torch.where(left_out != 0, old, new))


def native_covers(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    rates: Sequence[float],
    momentum: float,
    kept: float,
    stacked: int,
    steps: int,
    dtype: torch.dtype,
    left_out: Tensor | None = None,
) -> bool:
    """Whether all are float32 in one piece, with sizes in multiples of 32 that fit a cache."""
    return dtype in (torch.float32, torch.bfloat16) and all(
        tensor.dtype == torch.float32
        and tensor.is_contiguous()
        and tensor.shape[-2] % (stacked * GRANULE) == 0
        and tensor.shape[-1] % GRANULE == 0
        and max(tensor.shape[-2] // stacked, tensor.shape[-1]) <= LARGEST
        for tensor in (*parameters, *gradients, *momenta)
    )


def native(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    momenta: Sequence[Tensor],
    rates: Sequence[float],
    momentum: float,
    kept: float,
    stacked: int,
    steps: int,
    dtype: torch.dtype,
    left_out: Tensor | None = None,
) -> None:
    """Do as `reference` does, each matrix in one task: equal up to rounding, on any threads."""
    if left_out is None or not left_out:
        how = momentum, kept, stacked, steps, dtype
        torch.ops.plait.muon_step_(parameters, gradients, momenta, rates, *how)
