"""Clipping equals torch's own, and touches nothing where there is nothing to clip."""

import math

import pytest
import torch

from plait.kernels import total_norm
from plait.optim.clipping import clip_


@pytest.mark.parametrize("largest", [0.5, 1.0, 1e6])
def test_clipping_is_torchs(largest: float) -> None:
    gradients = [torch.randn(33, 7), torch.randn(5)]
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(parameters, largest)
    before = [g.clone() for g in gradients]
    clip_(gradients, total_norm(gradients), largest)
    for parameter, gradient, old in zip(parameters, gradients, before, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=0)
        assert torch.equal(gradient, old) == (largest == 1e6)


def test_a_norm_that_is_no_number_shows() -> None:
    gradients = [torch.ones(3), torch.full((2,), math.nan)]
    norm = total_norm(gradients)
    assert norm.isnan()
    clip_(gradients, norm, 1.0)
    assert torch.stack([g.isnan().all() for g in gradients]).all()
