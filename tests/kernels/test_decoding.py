"""Few rows without gradients: the C++ that reads weights as they lie, against plain operations."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from plait import kernels
from plait.kernels.moe import reference
from plait.kernels.native.build import load
from plait.kernels.rotary import rotate

pytestmark = pytest.mark.skipif(load() is not None, reason="the C++ kernels cannot run here")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
by_type = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.fixture(autouse=True)
def without_gradients(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PLAIT_KERNEL", "native")
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def assert_near(got: Tensor, want: Tensor) -> None:
    assert got.shape == want.shape
    error = (got.double() - want.double()).norm() / want.double().norm()
    assert error <= TOLERANCE[got.dtype], f"relative error {error:.1e}"


@by_type
@pytest.mark.parametrize("rows", [(1, 1), (3,), (2, 15)], ids=str)
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 16), (48, 272), (4096, 512)])
def test_a_linear_map_of_few_rows(rows, outputs, inputs, dtype):
    x = torch.randn(*rows, 2 * inputs).to(dtype)[..., ::2]
    weight = torch.randn(outputs, inputs).to(dtype)
    want = F.linear(x.double(), weight.double())
    got = kernels.linear(x, weight)
    assert got.dtype == dtype
    assert_near(got, want)


def test_a_row_is_the_same_alone_and_among_others_on_any_number_of_threads():
    x, weight = torch.randn(7, 512), torch.randn(1024, 512)
    whole, threads = kernels.linear(x, weight), torch.get_num_threads()
    torch.set_num_threads(3)
    alone = torch.cat([kernels.linear(row[None], weight) for row in x])
    torch.set_num_threads(threads)
    assert torch.equal(whole, alone)


@by_type
@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize(("tokens", "top_k"), [(1, 1), (1, 3), (5, 2), (31, 8), (0, 2)])
def test_experts_of_few_rows(tokens, top_k, activation, dtype):
    experts, width, inner = 9, 64, 32
    up = (torch.randn(experts, inner * (2 if activation == "swiglu" else 1), width) / 8).to(dtype)
    down = (torch.randn(experts, width, inner) / 6).to(dtype)
    x, gates = torch.randn(tokens, width).to(dtype), torch.rand(tokens, top_k)
    ids = torch.rand(tokens, experts).topk(top_k).indices
    got = kernels.experts(x, ids, gates, up, down, activation)
    exact = (t.double() for t in (gates, up, down))
    want = reference.experts(x.double(), ids, *exact, activation)
    assert got.dtype == dtype
    if tokens:
        assert_near(got, want)
        with pytest.raises(IndexError):
            kernels.experts(x, ids + experts, gates, up, down, activation)


@by_type
@pytest.mark.parametrize("angles", [0, 1, 2])
@pytest.mark.parametrize("held", [0, 1, 15, 16, 70])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 32), (6, 2, 64)])
def test_one_token_attends_as_turning_appending_and_attending_do(
    heads, kv_heads, width, held, angles, dtype
):
    batch, room = 2, 80
    q = torch.randn(batch, 1, heads, width).to(dtype)
    k, v = (torch.randn(batch, 1, kv_heads, width).to(dtype) for _ in range(2))
    keys, values = (torch.full((batch, kv_heads, room, width), torch.nan).to(dtype) for _ in "kv")
    for buffer in (keys, values):
        buffer[:, :, :held] = torch.randn(batch, kv_heads, held, width).to(dtype)
    cos, sin = None, None
    turned_q, turned_k, appended_v = (t.transpose(1, 2).double() for t in (q, k, v))
    if angles:
        half = torch.rand(angles, 1, width // 2) * 6
        cos, sin = (f(torch.cat((half, half), -1)) for f in (torch.cos, torch.sin))
        turned_q = rotate(turned_q, cos.double(), sin.double())
        turned_k = rotate(turned_k, cos.double(), sin.double())
    all_keys = torch.cat((keys[:, :, :held].double(), turned_k), 2)
    all_values = torch.cat((values[:, :, :held].double(), appended_v), 2)
    want = F.scaled_dot_product_attention(turned_q, all_keys, all_values, enable_gqa=True)

    arguments = q, k, v, cos, sin, keys, values, held
    assert kernels.backend_name("attend_one", q.device, *arguments) == "native"
    got = kernels.attend_one(*arguments)
    assert_near(got, want.transpose(1, 2))
    assert_near(keys[:, :, : held + 1], all_keys)
    assert_near(values[:, :, : held + 1], all_values)
    assert keys[:, :, held + 1 :].isnan().all()
