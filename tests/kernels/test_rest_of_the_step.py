"""Loss, attention and norm against what they say in plain operations, in C++ and without."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from plait import kernels
from plait.kernels import cross_entropy
from plait.kernels.rotary import rotate

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(params=["native", "cpu", "reference"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PLAIT_KERNEL", request.param)
    return str(request.param)


def compare(
    fast: Callable[..., Tensor], slow: Callable[..., Tensor], inputs: dict[str, Tensor]
) -> None:
    """Equal outputs and gradients by name; the slow twin computes in float64."""
    exact = {n: t.detach().double().requires_grad_() for n, t in inputs.items()}
    got, want = fast(**inputs), slow(**exact)
    tolerance = TOLERANCE[next(iter(inputs.values())).dtype]
    gradient = torch.randn(want.shape, dtype=torch.float64)
    got_gradients = torch.autograd.grad(got, list(inputs.values()), gradient.to(got.dtype))
    want_gradients = torch.autograd.grad(want, list(exact.values()), gradient)
    named = zip(inputs, got_gradients, want_gradients, strict=True)
    for name, a, b in [("output", got, want), *named]:
        error = (a.double() - b).norm() / b.norm().clamp(min=1)
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [1, 50, 64, 200])
@pytest.mark.parametrize("key_heads", [1, 4])
@pytest.mark.parametrize("rotary", [False, True])
def test_causal_attention(dtype: torch.dtype, length: int, key_heads: int, rotary: bool) -> None:
    torch.manual_seed(0)
    angles = torch.rand(1, length, 32).repeat(1, 1, 2) * 6 if rotary else None
    inputs = {"q": normal(2, length, 4, 64, dtype=dtype)}
    inputs |= {n: normal(2, length, key_heads, 64, dtype=dtype) for n in ("k", "v")}
    cos, sin = (None, None) if angles is None else (angles.cos(), angles.sin())

    def slow(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        if cos is not None and sin is not None:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (t.repeat_interleave(4 // key_heads, dim=1) for t in (k, v))
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = (q @ k.mT / 8).masked_fill(hidden, -torch.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2)

    compare(lambda q, k, v: kernels.causal_attention(q, k, v, cos, sin), slow, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    torch.manual_seed(0)

    def slow(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * weight

    inputs = {"x": normal(3, 70, 36, dtype=dtype), "weight": normal(36)}
    compare(lambda x, weight: kernels.rms_norm(x, weight, 1e-3), slow, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("width", "vocabulary"), [(40, 300), (96, 1376)])
def test_linear_cross_entropy(
    dtype: torch.dtype, width: int, vocabulary: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", 1)  # chunks of 256 tokens
    targets = torch.randint(0, vocabulary, (700,))
    targets[::7] = -100

    def fast(h: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=dtype == torch.bfloat16):
            return kernels.linear_cross_entropy(h, weight, targets)

    inputs = {"h": normal(700, width, dtype=dtype), "weight": normal(vocabulary, width)}
    compare(fast, lambda h, weight: F.cross_entropy(h @ weight.T, targets), inputs)
    with torch.no_grad():
        assert fast(**inputs).isfinite()


@pytest.mark.parametrize("target", [-1, -99, 8, 2**40])
def test_a_target_outside_the_vocabulary_is_refused(kernel: str, target: int) -> None:
    targets = torch.tensor([0, -100, target, 7])
    with pytest.raises(ValueError, match=f"target {target}: targets are −100 or at most 7"):
        kernels.linear_cross_entropy(torch.zeros(4, 32), torch.zeros(8, 32), targets)
