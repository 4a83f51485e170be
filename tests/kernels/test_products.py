"""Float32 products in C++ are as accurate as float32 is, with matrix units and without them."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from plait import kernels
from plait.kernels.moe import reference
from plait.kernels.native import build

LARGEST_ERROR = 1e-6

pytestmark = pytest.mark.skipif(
    build.load() is not None, reason="there is no compiler for the C++ kernels"
)


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_KERNEL", "native")


def relative_errors() -> dict[str, float]:
    """Errors against float64, by Frobenius norm, of experts with their gradients, and of a loss."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        # of every size, so that small numbers beside large ones must keep their digits
        sizes = 10 ** torch.empty(shape).uniform_(-3, 1, generator=generator)
        return torch.randn(shape, generator=generator) * sizes

    x, up, down = normal(300, 512), normal(4, 256, 512) / 500, normal(4, 512, 128) / 100
    gates = torch.rand(300, 2, generator=generator)
    ids = torch.rand(300, 4, generator=generator).topk(2).indices
    results: list[list[Tensor]] = []
    for experts, dtype in ((kernels.experts, torch.float32), (reference.experts, torch.float64)):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, gates, up, down)]
        y = experts(leaves[0], ids, *leaves[1:], "swiglu")
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y))
        h, head = (t.detach().to(dtype).requires_grad_() for t in (x, up[0] * 10))
        targets = torch.arange(300) % 256
        if dtype == torch.float32:
            kernels.linear_cross_entropy(h, head, targets).backward()
        else:
            torch.nn.functional.cross_entropy(h @ head.T, targets).backward()
        gradients = [leaf.grad for leaf in (*leaves, h, head) if leaf.grad is not None]
        results.append([y.detach(), *gradients])
    names = ("y", "dx", "dgates", "dup", "ddown", "dh", "dhead")
    return {
        name: float((got.double() - want).norm() / want.norm())
        for name, got, want in zip(names, *results, strict=True)
    }


def test_float32_keeps_its_accuracy() -> None:
    errors = relative_errors()
    assert max(errors.values()) <= LARGEST_ERROR, errors


@pytest.mark.parametrize("limit", ["AVX512_CORE_BF16", "AVX2"])
def test_without_matrix_units_and_without_long_vectors_too(limit: str) -> None:
    """oneDNN's own variable imitates processors that have less: other kernels are compiled."""
    command = f"import {__name__.rpartition('.')[2]} as t; print(max(t.relative_errors().values()))"
    done = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": limit, "OMP_NUM_THREADS": "1"},
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= LARGEST_ERROR


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_visible(bad: float) -> None:
    x, up, down = torch.randn(40, 32), torch.randn(1, 32, 32), torch.randn(1, 32, 32)
    x[7, 3] = bad
    ids, gates = torch.zeros(40, 1, dtype=torch.long), torch.ones(40, 1)
    y = kernels.experts(x, ids, gates, up, down, "gelu")
    assert not y[7].isfinite().any()
    assert torch.cat((y[:7], y[8:])).isfinite().all()


def test_one_logit_that_is_no_number_stays_visible_in_the_loss() -> None:
    h, head = torch.randn(64, 32), torch.randn(512, 32)
    head[300, 5] = float("nan")
    assert kernels.linear_cross_entropy(h, head, torch.zeros(64, dtype=torch.long)).isnan()
