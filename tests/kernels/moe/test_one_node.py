"""What the node for CUDA keeps, asks of the device and computes, counted; no GPU is needed."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from plait import kernels
from plait.kernels.moe import grouped, one_node
from plait.kernels.moe.products import Grouped, OneByOne
from plait.kernels.moe.sorting import sort_by_expert

T, D, E, K, F = 48, 32, 6, 3, 16
X = 2 * F


class Operations(TorchDispatchMode):
    """The names of all operations that torch computes meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: Any = (), named: Any = None
    ) -> Any:
        self.names.append(str(operation))
        return operation(*given, **(named or {}))


def arguments(device: str = "cpu", mix: bool = False) -> tuple[Any, ...]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device)

    ids_TK = torch.rand(T, E, device=device).topk(K).indices
    given = [normal(T, D).bfloat16(), normal(T, K), normal(E, X, D), normal(E, D, F)]
    given += [normal(T, K, K)] if mix else []
    x_TD, weights_TK, *bank = (t.requires_grad_() for t in given)
    return x_TD, ids_TK, weights_TK, *bank[:2], "swiglu", *bank[2:]


@pytest.mark.parametrize(("mix", "forward", "backward"), [(False, 35, 55), (True, 42, 80)])
def test_nothing_is_asked_of_the_device_and_nothing_added_by_index(
    mix: bool, forward: int, backward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tensors without data: a number read from one of them is an error.
    for module in (grouped, one_node):
        monkeypatch.setattr(module, "compute_dtype", lambda x_TD: x_TD.dtype)
    given = arguments("meta", mix)
    with Operations() as there:
        y_TD = grouped.experts(*given)
    with Operations() as back:
        y_TD.backward(torch.empty_like(y_TD))
    names = there.names + back.names
    bad = re.compile("local_scalar|nonzero|index_put|index_add|bincount|masked_select")
    assert not [name for name in names if bad.search(name)]
    assert names.count("aten._grouped_mm.default") == 6  # two, and for each two in backward
    # loops over experts or copies between would make them many more
    assert len(there.names) <= forward
    assert len(back.names) <= backward


@pytest.mark.parametrize("mix", [False, True])
def test_what_is_kept_is_the_input_the_pre_activations_and_the_order(mix: bool) -> None:
    given = arguments(mix=mix)
    kept: dict[int, int] = {}
    leaves = {t.untyped_storage().data_ptr() for t in given if isinstance(t, Tensor)}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in leaves:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        grouped.experts(*given)
    # the input is a leaf here, of whose storage nothing more is kept
    assert sum(kept.values()) == T * K * (X * 2 + 2 * 8)


def test_empty_experts_have_gradient_zero_whatever_the_product_leaves_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order = sort_by_expert(torch.tensor([[0], [2], [2]]), 4)
    d_NO, a_NI = torch.randn(3, 8).bfloat16(), torch.randn(3, 16).bfloat16()
    like = torch.empty(4, 8, 16)
    want = OneByOne.of(order).weight_gradient(d_NO, a_NI, like)
    product = torch.nn.functional.grouped_mm

    def careless(*given: Tensor, offs: Tensor) -> Tensor:
        out = product(*given, offs=offs)
        out[[1, 3]] = torch.nan
        return out

    monkeypatch.setattr(torch.nn.functional, "grouped_mm", careless)
    got = Grouped.of(order).weight_gradient(d_NO, a_NI, like)
    assert got.dtype == like.dtype
    torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("dtype", "width", "generation", "at_once"),
    [
        (torch.bfloat16, 32, 9, True),
        (torch.bfloat16, 32, 10, True),
        (torch.bfloat16, 32, 8, False),  # torch would ask the device in every product
        (torch.bfloat16, 32, 12, False),
        (torch.bfloat16, 36, 9, False),  # rows would begin at odd places
        (torch.float32, 32, 9, False),
    ],
)
def test_all_experts_are_one_product_where_torch_has_it(
    dtype: torch.dtype, width: int, generation: int, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bank:
        is_cuda, device, shape = True, "cuda", (4, width, 32)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (generation, 0))
    assert grouped.in_one_product(dtype, Bank()) == at_once  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "mix"),
    [(torch.bfloat16, False), (torch.bfloat16, True), (torch.float32, True)],
)
def test_it_compiles_into_one_graph(
    dtype: torch.dtype, mix: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32 each product is an operation that torch does not look into."""
    monkeypatch.setenv("PLAIT_KERNEL", "grouped")
    given = arguments(mix=mix)
    given = given[0].detach().to(dtype).requires_grad_(), *given[1:]
    leaves = [t for t in given if isinstance(t, Tensor) and t.requires_grad]
    compiled = torch.compile(kernels.experts, fullgraph=True, backend="aot_eager")
    found = []
    for compute in (kernels.experts, compiled):
        y_TD = compute(*given)
        found.append([y_TD, *torch.autograd.grad(y_TD.float().square().sum(), leaves)])
    for eager, whole in zip(*found, strict=True):
        torch.testing.assert_close(whole, eager)


def test_what_torch_compile_looks_not_into_tells_the_truth_of_its_results() -> None:
    """Sizes, types and strides as announced, nothing changed, one expert without rows."""
    ends_E = torch.tensor([2, 2, 7])
    a_NI, up_EXI = torch.randn(7, 5), torch.randn(3, 4, 5)
    d_NX = torch.randn(7, 4)
    torch.library.opcheck(torch.ops.plait.rows_by_expert.default, (a_NI, up_EXI.mT, ends_E))
    given = d_NX, a_NI, up_EXI, ends_E
    torch.library.opcheck(torch.ops.plait.weight_gradient_by_expert.default, given)
