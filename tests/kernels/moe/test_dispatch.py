"""The way to the experts and back: three steps of the reference, and their twins without loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.kernels.moe import dispatch as fast
from plait.kernels.moe import grouped, reference

sizes = given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 8, 32]))


def routed(tokens: int, experts: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens + experts)
    x_TD = torch.randn(tokens, 5, generator=generator)
    ids_TK = torch.rand(tokens, experts, generator=generator).topk(min(k, experts)).indices
    weights_TK = torch.rand(ids_TK.shape, generator=generator)
    return x_TD, ids_TK, weights_TK


@sizes
@settings(deadline=None)
def test_each_row_is_its_tokens_and_lies_with_its_expert(
    tokens: int, experts: int, k: int, multiple: int
) -> None:
    x_TD, ids_TK, weights_TK = routed(tokens, experts, k)
    sent = fast.dispatch(x_TD, ids_TK, weights_TK, experts, multiple)
    used = torch.zeros(len(sent.rows_ND), dtype=torch.bool)
    first = 0
    for expert, end in enumerate(sent.order.ends_E.tolist()):
        assert end % multiple == 0
        rows = sent.order.rows_TK[ids_TK == expert]
        assert ((rows >= first) & (rows < end)).all()
        used[rows], first = True, end
    for k_ in range(ids_TK.shape[1]):
        assert torch.equal(sent.rows_ND[sent.order.rows_TK[:, k_]], x_TD)
    assert used.sum() == ids_TK.numel(), "no row is used twice"
    assert not sent.rows_ND[~used].any()
    assert (sent.order.pairs_N[~used] == ids_TK.numel()).all()
    assert torch.equal(sent.order.pairs_N[sent.order.rows_TK.flatten()], torch.arange(used.sum()))


@sizes
@settings(deadline=None)
def test_the_steps_equal_those_of_the_reference(
    tokens: int, experts: int, k: int, multiple: int
) -> None:
    x_TD, ids_TK, weights_TK = routed(tokens, experts, k)
    exact = reference.dispatch(x_TD, ids_TK, weights_TK, experts)
    same = fast.dispatch(x_TD, ids_TK, weights_TK, experts)
    padded = fast.dispatch(x_TD, ids_TK, weights_TK, experts, multiple)
    assert torch.equal(same.rows_ND, exact.rows_ND)
    for name in ("pairs_N", "rows_TK", "ends_E"):
        assert torch.equal(getattr(same.order, name), getattr(exact.order, name)), name
    want = reference.combine(exact.rows_ND, exact)
    for sent in (same, padded):
        torch.testing.assert_close(fast.combine(sent.rows_ND, sent), want)
    torch.testing.assert_close(want, x_TD * weights_TK.sum(1, keepdim=True))


def test_the_grouped_product_is_the_references_and_lets_no_padding_through() -> None:
    x_TD, ids_TK, weights_TK = routed(50, experts=4, k=2)
    ids_TK[:] = ids_TK % 3  # the last expert has no rows
    x_TD = torch.cat((x_TD, x_TD[:, :3]), 1).bfloat16()
    up, down = torch.randn(4, 16, 8).bfloat16(), torch.randn(4, 8, 16).bfloat16()
    sent = fast.dispatch(x_TD, ids_TK, weights_TK, 4, grouped.ALIGNMENT)
    got = grouped.product(sent.rows_ND, sent.order.ends_E, up, down, "gelu")
    exact = reference.dispatch(x_TD.double(), ids_TK, weights_TK, 4)
    want = reference.product(exact.rows_ND, exact.order.ends_E, up.double(), down.double(), "gelu")
    got, want = fast.combine(got, sent).double(), fast.combine(want, exact)
    assert (got - want).norm() / want.norm() < 1e-2
    assert not got.isnan().any()


@pytest.mark.parametrize("dispatch", [reference.dispatch, fast.dispatch])
def test_gradients_come_back_to_the_tokens(dispatch) -> None:
    x_TD, ids_TK, weights_TK = routed(30, experts=5, k=3)
    x_TD.requires_grad_()
    dispatch(x_TD, ids_TK, weights_TK, 5).rows_ND.sum().backward()
    torch.testing.assert_close(x_TD.grad, torch.full_like(x_TD, 3))
