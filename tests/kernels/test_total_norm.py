"""The norm of all gradients is torch's, whatever they are and however many threads there are."""

import pytest
import torch

from plait.kernels import total_norm


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
