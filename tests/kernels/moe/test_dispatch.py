"""The way to the experts and back: three steps of the reference, and their twins without loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from plait.kernels.moe import dispatch as fast
from plait.kernels.moe import reference
from plait.kernels.moe.sorting import sort_by_expert


def routed(tokens: int, experts: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(tokens + experts)
    x_TD = torch.randn(tokens, 5, generator=generator)
    ids_TK = torch.rand(tokens, experts, generator=generator).topk(min(k, experts)).indices
    weights_TK = torch.rand(ids_TK.shape, generator=generator)
    return x_TD, ids_TK, weights_TK


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 4), st.sampled_from([1, 8, 32]))
@settings(deadline=None)
def test_each_row_lies_with_its_expert_and_padding_is_told_apart(
    tokens: int, experts: int, k: int, multiple: int
) -> None:
    _, ids_TK, _ = routed(tokens, experts, k)
    order = sort_by_expert(ids_TK, experts, multiple)
    used = torch.zeros(len(order.pairs_N), dtype=torch.bool)
    first = 0
    for expert, end in enumerate(order.ends_E.tolist()):
        assert end % multiple == 0
        rows = order.rows_TK[ids_TK == expert]
        assert ((rows >= first) & (rows < end)).all()
        used[rows], first = True, end
    assert first == len(used)
    assert used.sum() == ids_TK.numel(), "no row is used twice"
    assert (order.pairs_N[~used] == ids_TK.numel()).all()
    assert torch.equal(order.pairs_N[order.rows_TK.flatten()], torch.arange(used.sum()))


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 4))
@settings(deadline=None)
def test_the_steps_equal_those_of_the_reference(tokens: int, experts: int, k: int) -> None:
    x_TD, ids_TK, weights_TK = routed(tokens, experts, k)
    exact = reference.dispatch(x_TD, ids_TK, weights_TK, experts)
    sent = fast.dispatch(x_TD, ids_TK, weights_TK, experts)
    assert torch.equal(sent.rows_ND, exact.rows_ND)
    for name in ("pairs_N", "rows_TK", "ends_E"):
        assert torch.equal(getattr(sent.order, name), getattr(exact.order, name)), name
    want = reference.combine(exact.rows_ND, exact)
    torch.testing.assert_close(fast.combine(sent.rows_ND, sent), want)
    torch.testing.assert_close(want, x_TD * weights_TK.sum(1, keepdim=True))


@given(
    st.integers(0, 40),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(deadline=None)
def test_gradients_are_those_of_plain_indexing(
    tokens: int, experts: int, k: int, dtype: torch.dtype
) -> None:
    """Rows meet something nonlinear between the two steps, and weigh differently after them."""
    given_x, ids_TK, given_weights = routed(tokens, experts, k)
    order = sort_by_expert(ids_TK, experts)
    found = []
    for plain in (False, True):
        x_TD = given_x.to(dtype, copy=True).requires_grad_()
        weights_TK = given_weights.clone().requires_grad_()
        sent = fast.dispatch(x_TD, ids_TK, weights_TK, experts)
        rows_ND = x_TD[order.pairs_N // ids_TK.shape[1]] if plain else sent.rows_ND
        rows_ND = rows_ND.sin() * torch.arange(1, len(rows_ND) + 1).to(dtype)[:, None].sqrt()
        if plain:
            rows_TKD = rows_ND[order.rows_TK]
            y_TD = torch.bmm(weights_TK[:, None].to(dtype), rows_TKD).squeeze(1)
        else:
            y_TD = fast.combine(rows_ND, sent)
        y_TD.float().square().sum().backward()
        found.append((y_TD, x_TD.grad, weights_TK.grad))
    (y, dx, dweights), (plain_y, plain_dx, plain_dweights) = found
    assert torch.equal(y, plain_y)
    assert torch.equal(dweights, plain_dweights)
    if tokens:
        error = (dx - plain_dx).abs().max() / plain_dx.abs().max()
        assert error < (2**-7 if dtype == torch.bfloat16 else 1e-6)


@pytest.mark.parametrize("dispatch", [reference.dispatch, fast.dispatch])
def test_gradients_come_back_to_the_tokens(dispatch) -> None:
    x_TD, ids_TK, weights_TK = routed(30, experts=5, k=3)
    x_TD.requires_grad_()
    dispatch(x_TD, ids_TK, weights_TK, 5).rows_ND.sum().backward()
    torch.testing.assert_close(x_TD.grad, torch.full_like(x_TD, 3))
