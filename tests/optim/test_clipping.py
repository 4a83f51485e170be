"""Clipping equals torch's own, and touches nothing where there is nothing to clip."""

import math

import pytest
import torch

from plait.optim.clipping import clip_, total_norm


@pytest.mark.parametrize(
    "sizes", [[(1,)], [(3, 5), (16384,), (7, 64)], [(40000,), (0,), (2, 2, 33)]]
)
def test_norm_is_torchs(sizes: list[tuple[int, ...]]) -> None:
    gradients = [torch.randn(size) * 10**i for i, size in enumerate(sizes)]
    want = torch.cat([g.double().flatten() for g in gradients]).norm()
    assert total_norm(gradients).double().item() == pytest.approx(want.item(), rel=1e-6)
    assert total_norm([g.to(torch.float64) for g in gradients]).dtype == torch.float64


def test_norm_of_a_strided_gradient_and_of_none() -> None:
    gradient = torch.randn(6, 4)
    assert total_norm([gradient.T]).item() == pytest.approx(gradient.norm().item(), rel=1e-6)
    assert total_norm([]).item() == 0


def test_the_norm_does_not_depend_on_threads() -> None:
    gradients = [torch.randn(100_003), torch.randn(17, 5)]
    threads, norms = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        norms.append(total_norm(gradients))
    torch.set_num_threads(threads)
    assert torch.equal(*norms)


@pytest.mark.parametrize("largest", [0.5, 1.0, 1e6])
def test_clipping_is_torchs(largest: float) -> None:
    gradients = [torch.randn(33, 7), torch.randn(5)]
    parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    torch.nn.utils.clip_grad_norm_(parameters, largest)
    before = [g.clone() for g in gradients]
    clip_(gradients, float(total_norm(gradients)), largest)
    for parameter, gradient, old in zip(parameters, gradients, before, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=0)
        assert torch.equal(gradient, old) == (largest == 1e6)


def test_a_norm_that_is_no_number_shows() -> None:
    gradients = [torch.ones(3), torch.full((2,), math.nan)]
    norm = float(total_norm(gradients))
    assert math.isnan(norm)
    clip_(gradients, norm, 1.0)
    assert torch.stack([g.isnan().all() for g in gradients]).all()
