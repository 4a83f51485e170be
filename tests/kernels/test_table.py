"""The table of backends: each row equals the last one where it covers, and the right one runs."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from plait import kernels
from plait.kernels import table
from plait.kernels.native import build
from plait.kernels.table import TABLE, Backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NATIVE = build.load() is None
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
ROWS = [(name, row) for name, rows in TABLE.items() for row in rows[:-1]]
without_native = pytest.mark.skipif(not NATIVE, reason="the C++ kernels cannot run here")


@pytest.fixture(autouse=True)
def chosen_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLAIT_KERNEL", raising=False)


def arguments(
    operation: str, dtype: torch.dtype = torch.float32, width: int = 32, device: str = "cpu"
) -> tuple[Any, ...]:
    """What the operation is called with, small; leaves that want gradients where it has some."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        x = torch.randn(*shape, generator=generator).to(dtype)
        return x.to(device).requires_grad_(operation not in ("attend_one", "linear"))

    if "experts" in operation:
        ids = torch.rand(20, 4, generator=generator).topk(2).indices
        gates = normal(20, 2)
        mix = [normal(20, 2, 2)] if operation == "mixing_experts" else []
        bank = normal(4, 64, width), normal(4, width, 32)
        return normal(20, width), ids, gates, *bank, "swiglu", *mix
    angles = torch.rand(1, 9, width // 2, generator=generator).repeat(1, 1, 2)
    cos, sin = angles.cos(), angles.sin()
    match operation:
        case "causal_attention":
            return *(normal(2, 9, heads, width) for heads in (4, 2, 2)), cos, sin
        case "attend_one":
            token = (normal(2, 1, heads, width) for heads in (4, 2, 2))
            buffers = normal(2, 2, 16, width), normal(2, 2, 16, width)
            return *token, cos[:, :1], sin[:, :1], *buffers, 7
        case "rms_norm":
            return normal(3, 5, width), normal(width).detach().float(), 1e-5, dtype
        case "linear":
            return normal(2, 3, width), normal(64, width)
        case "linear_cross_entropy":
            targets = torch.randint(64, (300,), generator=generator)
            targets[::7] = -100
            return normal(300, width), normal(64, width), targets
        case "total_norm":
            return ([normal(3, width).detach(), normal(7).detach()],)
        case "scale":
            return [normal(3, width).detach(), normal(7).detach()], torch.tensor(0.3)
        case "muon_step":
            of = [[normal(2, 64, width).detach().float()] for _ in range(3)]
            return *of, [0.1], 0.9, 0.99, 2, 5, dtype
    raise AssertionError(f"{operation} is new in the table: say here what it is called with")


def results(row: Backend, given: tuple[Any, ...], gradients: bool) -> list[Tensor]:
    """The output, what was written into, and the gradients of a loss that weighs each element."""
    with torch.set_grad_enabled(gradients):
        y = row.run(*given)
    tensors = [t for t in given if isinstance(t, Tensor)]
    lists = [t for many in given if isinstance(many, list) for t in many if isinstance(t, Tensor)]
    leaves = [t for t in tensors if t.requires_grad]
    if y is None:  # it works in place
        return [*tensors, *lists]
    if not gradients or not leaves:
        return [y, *tensors, *lists]
    loss = (y.float() * torch.arange(y.numel()).view(y.shape).cos()).sum()
    return [y, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize(("operation", "row"), ROWS, ids=lambda x: getattr(x, "name", x))
def test_every_row_equals_the_reference_where_it_covers(operation: str, row: Backend) -> None:
    if row.name == "native" and not NATIVE:
        pytest.skip("the C++ kernels cannot run here")
    covered = 0
    for dtype, gradients in product(TOLERANCE, (True, False)):
        with torch.set_grad_enabled(gradients):
            if not row.covers(*arguments(operation, dtype)):
                continue
        covered += 1
        got = results(row, arguments(operation, dtype), gradients)
        want = results(TABLE[operation][-1], arguments(operation, dtype), gradients)
        for index, (a, b) in enumerate(zip(got, want, strict=True)):
            assert a.dtype == b.dtype
            error = (a.double() - b.double()).norm() / b.double().norm().clamp(min=1)
            assert error <= TOLERANCE[dtype], f"{index}: relative error {error:.1e}"
    assert covered, "no arguments above try this row"


@pytest.mark.parametrize("operation", TABLE)
def test_rows_are_in_the_order_of_names_and_the_last_covers_everything(operation: str) -> None:
    rows = TABLE[operation]
    places = [table.NAMES.index(row.name) for row in rows]
    assert places == sorted(places)
    last = rows[-1]
    assert (last.name, last.covers, last.device) == ("reference", table.anything, None)


@pytest.mark.parametrize(
    ("wanted", "operation", "device", "name"),
    [
        (None, "experts", CUDA, "grouped"),
        ("native", "experts", CUDA, "grouped"),
        ("cpu", "experts", CUDA, "grouped"),
        ("grouped", "experts", CUDA, "grouped"),
        ("grouped", "experts", CPU, "grouped"),
        ("cpu", "experts", CPU, "cpu"),
        ("reference", "experts", CPU, "reference"),
        ("reference", "experts", CUDA, "reference"),
        (None, "mixing_experts", CUDA, "grouped"),
        (None, "mixing_experts", CPU, "cpu"),
        (None, "rms_norm", CUDA, "reference"),
        ("cpu", "rms_norm", CPU, "reference"),
        (None, "linear_cross_entropy", CUDA, "chunked"),
        ("cpu", "linear_cross_entropy", CPU, "chunked"),
        ("grouped", "linear_cross_entropy", CUDA, "chunked"),
        ("reference", "linear_cross_entropy", CUDA, "reference"),
        (None, "experts", CPU, "native" if NATIVE else "cpu"),
        ("", "experts", CPU, "native" if NATIVE else "cpu"),
    ],
)
def test_what_is_preferred_where(
    wanted: str | None,
    operation: str,
    device: torch.device,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if wanted == "native" and not NATIVE:
        pytest.skip("the C++ kernels cannot run here")
    if wanted is not None:
        monkeypatch.setenv("PLAIT_KERNEL", wanted)
    assert kernels.backend_name(operation, device) == name


@without_native
@pytest.mark.parametrize("wanted", [None, "native"])
@pytest.mark.parametrize(
    ("operation", "dtype", "width", "row"),
    [
        ("experts", torch.float32, 32, 0),
        ("experts", torch.float32, 24, 1),
        ("experts", torch.float64, 32, 1),
        ("causal_attention", torch.float32, 24, 1),
        ("causal_attention", torch.float64, 32, 1),
        ("attend_one", torch.float32, 24, 1),
        ("rms_norm", torch.float32, 24, 0),
        ("rms_norm", torch.float64, 32, 1),
        ("linear", torch.float32, 16, 0),
        ("linear", torch.float32, 24, 1),
        ("linear_cross_entropy", torch.float32, 24, 1),
        ("linear_cross_entropy", torch.float64, 32, 2),
        ("total_norm", torch.bfloat16, 32, 1),
    ],
)
@torch.no_grad()
def test_what_native_does_not_cover_falls_to_the_next(
    operation: str,
    dtype: torch.dtype,
    width: int,
    row: int,
    wanted: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if wanted is not None:
        monkeypatch.setenv("PLAIT_KERNEL", wanted)
    given = arguments(operation, dtype, width)
    assert table.choose(operation, CPU, *given) is TABLE[operation][row]
    assert table.call(operation, CPU, *given).isfinite().all()


@without_native
def test_a_gradient_a_stride_and_a_compiler_need_what_cpp_does_not_offer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, weight = arguments("linear")
    assert kernels.backend_name("linear", CPU, x, weight) == "reference"  # with gradients on
    assert kernels.linear(x, weight.requires_grad_()).requires_grad
    assert kernels.backend_name("attend_one", CPU, *arguments("attend_one")) == "reference"
    x, ids, gates, up, down, activation = arguments("experts")
    strided = x, ids, gates, up.mT.contiguous().mT, down, activation
    assert kernels.backend_name("experts", CPU, *strided) == "cpu"
    assert kernels.backend_name("total_norm", CPU, [torch.ones(6, 4).T]) == "reference"
    assert kernels.backend_name("total_norm", CPU, []) == "reference"
    assert kernels.backend_name("experts", CPU, compiling=True) == "grouped"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert kernels.backend_name("experts", CPU) == "grouped"
    assert kernels.backend_name("rms_norm", CPU) == "reference"
    monkeypatch.setenv("PLAIT_KERNEL", "reference")
    assert kernels.backend_name("experts", CPU) == "reference"


def test_an_unknown_kernel_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_KERNEL", "gpu")
    with pytest.raises(ValueError, match="no kernel is called 'gpu'; choose one of native, cpu"):
        kernels.rms_norm(torch.ones(3), torch.ones(3), 1e-5)
