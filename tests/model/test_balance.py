"""Balancing losses and the loss-free bias: values known in advance, padding never counted."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import random_routing, shaken, tiny, tokens, whole_loss

from plait.config import BalanceConfig, ExpertConfig, RouterConfig
from plait.model import Routing
from plait.model.balance import balance_losses, bias_key, load, switch_loss, update_bias, z_loss
from plait.sharing import Sharing


def onto(ids_TK, experts=6):
    """A routing in which every token is sure of its experts."""
    ids_TK = torch.tensor(ids_TK)
    probs = torch.zeros(len(ids_TK), experts).scatter(1, ids_TK, 1 / ids_TK.shape[1])
    return Routing(probs.clamp_min(1e-9).log(), probs, ids_TK, probs.gather(1, ids_TK))


@pytest.mark.parametrize("top_k", [1, 2, 3, 6])
def test_perfect_balance_is_one_whatever_k(top_k):
    ids = [[(t + k) % 6 for k in range(top_k)] for t in range(6)]
    losses = balance_losses(tiny(depth=1), [onto(ids)])
    assert losses.switch.item() == pytest.approx(1.0, abs=1e-6)
    collapsed = balance_losses(tiny(depth=1), [onto([list(range(top_k))] * 6)])
    assert collapsed.switch.item() == pytest.approx(6 / top_k, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 10_000))
def test_switch_and_z_are_their_formulas(top_k, count, seed):
    routing = random_routing(count, 6, top_k, seed)
    share = [(routing.expert_ids_TK == e).sum().item() / (count * top_k) for e in range(6)]
    switch = 6 * sum(f * p.item() for f, p in zip(share, routing.probs_TE.mean(0), strict=True))
    assert switch_loss(load(routing), routing.probs_TE.mean(0)).item() == pytest.approx(switch)
    z = sum(torch.log(row.exp().sum()).item() ** 2 for row in routing.logits_TE) / count
    assert z_loss(routing.logits_TE).item() == pytest.approx(z, rel=1e-5)


def test_a_bank_is_balanced_over_its_uses_and_a_layer_by_itself():
    low, high = onto([[0], [1], [2]]), onto([[3], [4], [5]])
    tied = tiny(depth=2, sharing=Sharing(experts="all"))
    assert balance_losses(tied, [low, high]).switch.item() == pytest.approx(2.0)
    bank = replace(tied, balance=BalanceConfig(scope="bank"))
    assert balance_losses(bank, [low, high]).switch.item() == pytest.approx(1.0)


def test_a_shared_decision_counts_once():
    shared = tiny(depth=3, sharing=Sharing(router="1x2 + 1", decision="1x2 + 1"))
    first, last = random_routing(8, 6, 2, 0), random_routing(8, 6, 2, 1)
    losses = balance_losses(shared, [first, first, last])
    alone = [balance_losses(tiny(depth=1), [routing]) for routing in (first, last)]
    torch.testing.assert_close(losses.switch, sum(each.switch for each in alone) / 2)
    torch.testing.assert_close(losses.z, sum(each.z for each in alone) / 2)


@pytest.mark.parametrize("scope", ["layer", "bank"])
def test_padding_is_no_load(scope):
    config = tiny(
        depth=2,
        sharing=Sharing(experts="all"),
        balance=BalanceConfig(switch=1.0, z=1.0, scope=scope),
    )
    keep = torch.tensor([True, False, True, True, False, True])
    whole = [random_routing(6, 6, 3, seed) for seed in (0, 1)]
    of_tokens = ("logits_TE", "probs_TE", "expert_ids_TK", "weights_TK")
    kept = [Routing(*(getattr(r, field)[keep] for field in of_tokens)) for r in whole]
    expected, found = balance_losses(config, kept), balance_losses(config, whole, keep)
    torch.testing.assert_close((found.switch, found.z), (expected.switch, expected.z))
    assert load(whole[0], keep).sum() == 4 * 3


def test_dense_models_have_nothing_to_balance():
    model = shaken(tiny(experts=ExpertConfig(count=1, width=12)))
    assert balance_losses(model.config, model(tokens(), routings=True).routings) is None


def test_the_losses_reach_the_router():
    model = shaken(tiny())
    losses = balance_losses(model.config, model(tokens(), routings=True).routings)
    for loss in (losses.switch, losses.z):
        model.zero_grad()
        loss.backward(retain_graph=True)
        assert model.router["0"].weight.grad.abs().max() > 1e-6


BIASED = tiny(
    router=RouterConfig(gating="sigmoid", bias=True),
    balance=BalanceConfig(bias_rate=0.01, switch=0.0),
)


def test_a_loss_free_bias_moves_only_when_told():
    model = shaken(BIASED)
    for mode in (model.train, model.eval):
        mode()
        whole_loss(model, tokens()).backward()
        assert all(bias.abs().max() == 0 for bias in model.load_biases().values())
    loads = [torch.tensor([9.0, 3, 5, 3, 5, 5])] * 4  # mean 5
    update_bias(model.config, model.load_biases(), enumerate(loads))
    expected = torch.tensor([-0.01, 0.01, 0, 0.01, 0, 0])
    for bias in model.load_biases().values():
        torch.testing.assert_close(bias, expected)


def test_a_loss_free_bias_balances():
    """Sixty updates on one batch bring a collapsed router near even load; weights never move."""
    model = shaken(replace(BIASED, balance=BalanceConfig(bias_rate=0.02, switch=0.0)))
    before = [parameter.clone() for parameter in model.parameters()]

    def worst():
        routings = model(tokens(8, 16), routings=True).routings
        loads = [load(routing) for routing in routings]
        return loads, max((each.max() / each.mean()).item() for each in loads)

    with torch.no_grad():
        _, at_first = worst()
        for _ in range(60):
            loads, now = worst()
            update_bias(model.config, model.load_biases(), enumerate(loads))
    assert now < 1.2 < 1.5 < at_first
    assert all(map(torch.equal, before, model.parameters()))


def test_a_tied_bank_has_one_bias_that_sees_all_its_load():
    sharing = Sharing(experts="1x3 + 1", router="1x2 + 2", decision="1x2 + 2")
    config = replace(BIASED, sharing=sharing)
    config = replace(config, balance=replace(config.balance, scope="bank"))
    model = shaken(config)
    assert set(model.load_biases()) == {"bank0", "bank1"}
    assert [bias_key(config, depth) for depth in range(4)] == ["bank0"] * 3 + ["bank1"]
    one, other = torch.tensor([3.0, 0, 0, 0, 0, 0]), torch.tensor([0, 3.0, 0, 0, 0, 0])
    update_bias(config, model.load_biases(), [(0, one), (2, other), (3, one)])
    signs = {key: bias.sign().tolist() for key, bias in model.load_biases().items()}
    assert signs == {"bank0": [-1, -1, 1, 1, 1, 1], "bank1": [-1, 1, 1, 1, 1, 1]}
