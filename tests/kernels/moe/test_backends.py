"""Every backend equals the reference loop, in outputs and in gradients by name."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait import kernels
from plait.kernels.moe import torch_cpu
from plait.kernels.table import TABLE

FAST = [row.name for row in TABLE["experts"] if row.name != "reference"]
MIXING = [row.name for row in TABLE["mixing_experts"] if row.name != "reference"]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


def problem(
    tokens: int,
    experts: int,
    k: int,
    activation: str = "swiglu",
    dtype: torch.dtype = torch.float32,
    width: int = 32,
    expert_width: int = 64,
    seed: int = 0,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows = expert_width * (2 if activation == "swiglu" else 1)
    scores_TE = normal(tokens, experts)
    return {
        "x": normal(tokens, width).to(dtype).requires_grad_(),
        "ids": scores_TE.topk(k, dim=-1).indices,
        "weights": normal(tokens, k).softmax(-1).requires_grad_(),
        "up": (normal(experts, rows, width) / width**0.5).requires_grad_(),
        "down": (normal(experts, width, expert_width) / expert_width**0.5).requires_grad_(),
    }


def experts(kernel: str, *arguments: Any) -> Tensor:
    """What `PLAIT_KERNEL` makes of it: the backend of that name where it covers, else the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAIT_KERNEL", kernel)
        return kernels.experts(*arguments)


def run(kernel: str, p: dict[str, Tensor], activation: str) -> dict[str, Tensor]:
    """Output and gradients by name, of a loss whose gradient differs at every element."""
    mix = [p["mix"]] if "mix" in p else []
    bank = p["up"], p["down"]
    y_TD = experts(kernel, p["x"], p["ids"], p["weights"], *bank, activation, *mix)
    names = [name for name in p if p[name].requires_grad]
    loss = (y_TD.float() * torch.arange(y_TD.numel()).view(y_TD.shape).sin()).sum()
    gradients = torch.autograd.grad(loss, [p[name] for name in names], materialize_grads=True)
    return {"y": y_TD, **dict(zip(names, gradients, strict=True))}


def assert_equal(got: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == wanted.keys()
    for name, want in wanted.items():
        assert got[name].dtype == want.dtype, name
        error = (got[name].double() - want.double()).norm() / want.double().norm().clamp(min=1)
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 2, 3, 8])
@pytest.mark.parametrize("tokens", [1, 37, 700])
def test_equals_reference(
    name: str, activation: str, dtype: torch.dtype, k: int, tokens: int
) -> None:
    p = problem(tokens, experts=8, k=k, activation=activation, dtype=dtype)
    assert_equal(run(name, p, activation), run("reference", p, activation), TOLERANCE[dtype])


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "k"), [(1, 8), (37, 1), (37, 3), (700, 8)])
def test_experts_that_talk_equal_the_reference(
    name: str, activation: str, dtype: torch.dtype, tokens: int, k: int
) -> None:
    p = problem(tokens, experts=8, k=k, activation=activation, dtype=dtype)
    p["mix"] = (torch.randn(tokens, k, k) / k).requires_grad_()
    assert_equal(run(name, p, activation), run("reference", p, activation), TOLERANCE[dtype])
    without = {key: value for key, value in p.items() if key != "mix"}
    assert not torch.equal(run(name, p, activation)["y"], run(name, without, activation)["y"])


@pytest.mark.parametrize("name", MIXING)
@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize("k", [1, 3])
def test_gradients_are_those_of_finite_differences(
    name: str, activation: str, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_cpu, "MULTIPLE", 2)  # so few rows are padded, too
    p = problem(13, experts=3, k=k, activation=activation, width=3, expert_width=4)
    p["ids"].clamp_(max=1)  # the last expert has no tokens
    p["mix"] = torch.randn(13, k, k) / k
    exact = {n: t.detach().double() if t.is_floating_point() else t for n, t in p.items()}
    leaves = [t.requires_grad_() for t in exact.values() if t.is_floating_point()]

    def compute(x: Tensor, weights: Tensor, *bank: Tensor) -> Tensor:
        *bank, mix = bank
        return experts(name, x, exact["ids"], weights, *bank, activation, mix)

    assert torch.autograd.gradcheck(compute, leaves, fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda *given: compute(*given, None), leaves[:-1], fast_mode=True
    )


@pytest.mark.parametrize("name", FAST)
def test_bf16_compute_over_fp32_weights(name: str) -> None:
    p = problem(300, experts=4, k=2)
    with torch.autocast("cpu", torch.bfloat16):
        got, wanted = (run(kernel, p, "swiglu") for kernel in (name, "reference"))
    assert_equal(got, wanted, TOLERANCE[torch.bfloat16])
    exact = run("reference", p, "swiglu")
    assert not torch.equal(got["y"], exact["y"])  # it did run in bf16
    assert_equal(got, exact, 2e-2)


@pytest.mark.parametrize("name", FAST)
def test_all_tokens_on_one_expert(name: str) -> None:
    p = problem(1100, experts=4, k=1)
    p["ids"] = torch.full_like(p["ids"], 2)
    got = run(name, p, "swiglu")
    assert_equal(got, run("reference", p, "swiglu"), TOLERANCE[torch.float32])
    assert not got["up"][[0, 1, 3]].any(), "an expert without tokens has gradient zero"


@pytest.mark.parametrize("name", FAST)
@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 90),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([1, 24, 32, 96]),
    st.sampled_from([1, 32, 50, 64, 160]),
)
def test_any_sizes(name: str, tokens: int, experts: int, k: int, width: int, hidden: int) -> None:
    p = problem(tokens, experts, min(k, experts), width=width, expert_width=hidden)
    got = run(name, p, "swiglu")
    assert_equal(got, run("reference", p, "swiglu"), TOLERANCE[torch.float32])


@pytest.mark.parametrize("name", FAST)
def test_non_contiguous_input_weights_and_gradient(name: str) -> None:
    p = problem(64, experts=4, k=2)
    q = {
        "x": p["x"].detach().T.contiguous().T.requires_grad_(),
        "ids": p["ids"].T.contiguous().T,
        "weights": p["weights"].detach().T.contiguous().T.requires_grad_(),
        "up": p["up"].detach().mT.contiguous().mT.requires_grad_(),
        "down": p["down"].detach().mT.contiguous().mT.requires_grad_(),
    }
    got = run(name, q, "swiglu")
    assert_equal(got, run("reference", p, "swiglu"), TOLERANCE[torch.float32])
    y_TD = experts(name, *q.values(), "swiglu")
    y_TD.sum().backward()  # an expanded gradient: every stride is zero


@pytest.mark.parametrize("name", FAST)
def test_repeats_bit_for_bit(name: str) -> None:
    p = problem(500, experts=8, k=3)
    first, second = (run(name, p, "swiglu") for _ in range(2))
    for key in first:
        assert torch.equal(first[key], second[key]), key


def test_native_is_the_same_on_one_thread_and_on_two() -> None:
    p, before = problem(900, experts=8, k=3), torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(run("native", p, "swiglu"))
    torch.set_num_threads(before)
    for key in results[0]:
        assert torch.equal(results[0][key], results[1][key]), key


@pytest.mark.parametrize("name", FAST)
def test_a_bank_used_twice_sums_its_gradients(name: str) -> None:
    p = problem(80, experts=4, k=2)

    def twice(kernel: str) -> dict[str, Tensor]:
        rest = (p["ids"], p["weights"], p["up"], p["down"], "swiglu")
        y_TD = experts(kernel, experts(kernel, p["x"], *rest), *rest)
        names = ["x", "weights", "up", "down"]
        gradients = torch.autograd.grad(y_TD.square().sum(), [p[name] for name in names])
        return {"y": y_TD, **dict(zip(names, gradients, strict=True))}

    assert_equal(twice(name), twice("reference"), TOLERANCE[torch.float32])


def test_an_unknown_activation_is_refused_by_name() -> None:
    p = problem(3, experts=2, k=1)
    with pytest.raises(ValueError, match="no activation 'relu'; choose one of swiglu, gelu"):
        kernels.experts(*p.values(), "relu")
