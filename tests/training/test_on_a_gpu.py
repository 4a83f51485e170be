"""The same promises on a GPU: `pytest -m cuda`. On a CPU the tests run as well."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from plait import kernels
from plait.bench.measuring import product
from plait.config import OptimizerConfig
from plait.storage.metrics_file import read_rows
from plait.training import Interrupted, train

GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.cuda,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    ],
)
EVERYWHERE = pytest.mark.parametrize("device", ["cpu", GPU])


@EVERYWHERE
@pytest.mark.parametrize("mix", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
def test_experts_equal_the_reference(device, dtype, tolerance, mix, monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    ids = torch.rand(300, 8, generator=generator).topk(3).indices.clamp(max=6).to(device)
    given = [normal(300, 64).to(dtype), normal(300, 3), normal(8, 64, 64) / 8, normal(8, 64, 32)]
    given += [normal(300, 3, 3)] if mix else []
    found = []
    for name in ("grouped", "reference"):
        monkeypatch.setenv("PLAIT_KERNEL", name)
        x, gates, up, down, *rest = (t.detach().requires_grad_() for t in given)
        y = kernels.experts(x, ids, gates, up, down, "swiglu", *rest)
        y.float().square().sum().backward()
        found.append([y, *(t.grad for t in (x, gates, up, down, *rest))])
    for got, want in zip(*found, strict=True):
        error = (got.double() - want.double()).norm() / want.double().norm()
        assert error <= tolerance
    assert not found[0][3][7].any(), "an expert without tokens has gradient zero"


@EVERYWHERE
def test_the_chunked_loss_equals_the_reference(device, monkeypatch):
    h = torch.randn(500, 32, device=device).requires_grad_()
    weight = torch.randn(1000, 32, device=device).requires_grad_()
    targets = torch.randint(1000, (500,), device=device)
    targets[::5] = -100
    found = []
    for name in ("chunked", "reference"):
        monkeypatch.setenv("PLAIT_KERNEL", name)
        loss = kernels.linear_cross_entropy(h, weight, targets)
        found.append([loss, *torch.autograd.grad(loss, [h, weight])])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


@EVERYWHERE
def test_a_run_that_is_stopped_goes_on_to_the_same_losses(device, config, tmp_path):
    # AdamW in fp32: what is asked here is the state, and not how exact Muon's products are
    config = replace(config, optimizer=OptimizerConfig(learning_rate=0.01), precision="fp32")

    def losses(folder):
        return [row["loss"] for row in read_rows(folder / "metrics.jsonl") if "loss" in row]

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config, whole, device=device)
    asked = iter([False] * 5)
    with pytest.raises(Interrupted):
        train(config, parts, device=device, stop=lambda: next(asked, True))
    assert len(losses(parts)) < len(losses(whole))
    train(copy.deepcopy(config), parts, device=device)
    # attention's backward adds in any order on a GPU, so there the last bits may differ
    tolerance = {"abs": 0, "rel": 0} if device == "cpu" else {"abs": 1e-3}
    assert losses(parts) == pytest.approx(losses(whole), **tolerance)


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
def test_two_ranks_equal_one(config, processes, tmp_path):
    from test_distributed import figures, together

    config = replace(config, model=replace(config.model, dropout=0.0), precision="fp32")
    together(processes, 2, config, tmp_path / "two", device="cuda")
    train(config, tmp_path / "one", device="cuda")
    two, one = figures(tmp_path / "two"), figures(tmp_path / "one")
    assert len(two) == len(one) > 0
    for of_two, of_one in zip(two, one, strict=True):
        assert of_two == pytest.approx(of_one, rel=1e-2)


@EVERYWHERE
def test_the_ceiling_is_measured_where_the_steps_run(device):
    assert product(torch.bfloat16, torch.device(device), size=64)() > 0
