"""Muon's step in C++ equals the obvious one, whatever the shapes, types and threads."""

import pytest
import torch
from torch import Tensor

from plait.kernels import muon
from plait.kernels.native import build

pytestmark = pytest.mark.skipif(
    build.load() is not None, reason="the C++ kernels cannot be compiled or run here"
)

SHAPES = ((32, 32), (32, 96), (96, 32), (128, 64), (160, 192), (3, 64, 32), (5, 64, 128))


def state(seed: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return tuple([torch.randn(s, generator=generator) for s in SHAPES] for _ in range(3))  # type: ignore[return-value]


def after(run, dtype: torch.dtype, stacked: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    parameters, gradients, momenta = state(0)
    gradients[5][1] = momenta[5][1] = 0  # an expert that never had a token
    rates = [0.1 * (i + 1) for i in range(len(SHAPES))]
    for _ in range(2):
        run(parameters, gradients, momenta, rates, 0.95, 0.99, stacked, 5, dtype)
    return parameters, momenta


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 3e-2)])
def test_it_is_the_obvious_step(dtype: torch.dtype, tolerance: float) -> None:
    got, got_momenta = after(muon.native, dtype)
    want, want_momenta = after(muon.reference, dtype)
    start = state(0)[0]
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        error = (a - b).norm() / (b - start[i]).norm()
        assert error <= tolerance, (SHAPES[i], error)
    for a, b in zip(got_momenta, want_momenta, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(got[5][1], start[5][1] * 0.99 * 0.99)


def test_stacked_matrices_are_taken_apart() -> None:
    together, gradient = torch.randn(2, 64, 96), torch.randn(2, 64, 96)
    alone = together.reshape(4, 32, 96).clone()
    parts = gradient.reshape(4, 32, 96)
    for parameter, slope, stacked in ((together, gradient, 2), (alone, parts, 1)):
        momentum = torch.zeros_like(slope)
        how = 0.9, 1.0, stacked, 5, torch.float32
        muon.native([parameter], [slope], [momentum], [0.1], *how)
    assert torch.equal(together.reshape(4, 32, 96), alone)


def test_threads_change_no_bit() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, _ = after(muon.native, torch.float32)
        torch.set_num_threads(2)
        two, _ = after(muon.native, torch.float32)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_small_singular_values_survive_the_products_of_gram_matrices() -> None:
    generator = torch.Generator().manual_seed(1)
    u, _ = torch.linalg.qr(torch.randn(64, 64, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(128, 64, generator=generator))
    gradient = ((u * torch.logspace(0, -4, 64)) @ v.T).contiguous()
    updates = []
    for run in (muon.native, muon.reference):
        parameter, momentum = torch.zeros(64, 128), torch.zeros(64, 128)
        run([parameter], [gradient], [momentum], [1.0], 0.95, 1.0, 1, 5, torch.float32)
        updates.append(torch.linalg.svdvals(parameter))
    torch.testing.assert_close(*updates, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("shape", "stacked", "covered"),
    [
        ((64, 128), 1, True),
        ((3, 64, 32), 2, True),
        ((3, 64, 32), 4, False),
        ((48, 64), 1, False),
        ((64, 2048), 1, False),
    ],
)
def test_what_it_does_not_cover_goes_to_the_obvious_step(
    shape: tuple[int, ...], stacked: int, covered: bool
) -> None:
    tensors = [torch.zeros(shape)]
    arguments = tensors, tensors, tensors, [0.1], 0.9, 1.0, stacked, 5, torch.float32
    assert muon.native_covers(*arguments) is covered
