"""Sharing is construction: tied banks equal copied ones, and a decision is made once."""

import pytest
import torch
from tiny_model import bank_name, shaken, tiny, tokens, untied, whole_loss

from plait.config import AttentionConfig, CollaborationConfig, ExpertConfig, RouterConfig
from plait.model import LanguageModel
from plait.sharing import Sharing

COLLABORATION = CollaborationConfig(routing_strength=0.7)


def gradients(model, tokens_BS):
    whole_loss(model, tokens_BS).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_plans_that_mean_own_equal_the_plain_model_bit_for_bit():
    otherwise = Sharing(
        experts="4",
        router="1x1 + 3",
        decision="(1)*4",
        attention="blocks(1)",
        norms="groups(1, skip=1)",
        collaboration="2x1 + 2",
    )
    plain = shaken(tiny(collaboration=COLLABORATION))
    same = shaken(tiny(collaboration=COLLABORATION, sharing=otherwise))
    batch = tokens()
    assert torch.equal(plain(batch).logits, same(batch).logits)
    expected, found = gradients(plain, batch), gradients(same, batch)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


TIED = (
    Sharing(experts="2x2"),
    Sharing(experts="groups(2, skip=1)"),
    Sharing(router="blocks(4)"),
    Sharing(attention="1x2 + 2"),
    Sharing(norms="all"),
    Sharing(collaboration="2x2"),
    Sharing(experts="2x2", router="2x2", attention="all", norms="1 + 1x3", collaboration="1x3 + 1"),
)


@pytest.mark.parametrize(
    ("sharing", "kind"),
    [(sharing, "linear") for sharing in TIED]
    + [(TIED[-1], kind) for kind in ("cosine", "recurrent", "low-rank")],
    ids=lambda value: (
        value
        if isinstance(value, str)
        else ", ".join(f"{part} {text}" for part, text in vars(value).items() if text != "own")
    ),
)
def test_a_tied_model_equals_an_untied_one_with_copied_banks(sharing, kind):
    kinds = [part for part, text in vars(sharing).items() if text != "own"]
    config = tiny(sharing=sharing, router=RouterConfig(kind=kind), collaboration=COLLABORATION)
    tied = shaken(config)
    twin = untied(tied, *kinds)
    assert_equals_copies(tied, twin, kinds)


def test_banks_that_compiled_kernels_take_are_tied_as_well():
    config = tiny(
        width=32,
        attention=AttentionConfig(heads=2, head_width=32),
        experts=ExpertConfig(count=6, width=32, top_k=3),
        sharing=TIED[-1],
        collaboration=COLLABORATION,
    )
    tied, kinds = shaken(config), ["experts", "router", "attention", "norms", "collaboration"]
    assert_equals_copies(tied, untied(tied, *kinds), kinds)


def assert_equals_copies(tied, twin, kinds):
    """Outputs bit for bit; each bank's gradient is the sum of its copies' gradients."""
    batch = tokens()
    assert torch.equal(tied(batch).logits, twin(batch).logits)
    found = gradients(tied, batch)
    summed = {name: torch.zeros_like(gradient) for name, gradient in found.items()}
    for name, gradient in gradients(twin, batch).items():
        summed[bank_name(name, tied.config, tuple(kinds))] += gradient
    torch.testing.assert_close(found, summed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("collaboration", [None, COLLABORATION], ids=["plain", "collaboration"])
def test_a_shared_decision_is_made_once_and_used_at_every_depth_of_its_bank(collaboration):
    sharing = Sharing(router="1x3 + 1", decision="1x3 + 1")
    model = shaken(tiny(sharing=sharing, collaboration=collaboration))
    calls = []
    for bank, router in model.router.items():
        router.register_forward_hook(lambda *_, bank=bank: calls.append(bank))
    first, second, third, last = model(tokens(), routings=True).routings
    assert calls == ["0", "1"]
    assert first.expert_ids_TK is second.expert_ids_TK is third.expert_ids_TK
    assert first.logits_TE is third.logits_TE
    assert not torch.equal(first.logits_TE, last.logits_TE)
    if collaboration is None:
        assert first is second is third
    else:  # each depth re-weights the shared gates by its own topology
        assert not torch.equal(first.weights_TK, second.weights_TK)


def test_a_shared_router_routes_each_depth_by_its_own_hidden_state():
    model = shaken(tiny(sharing=Sharing(router="all")))
    assert list(model.router) == ["0"]
    first, *_, last = model(tokens(), routings=True).routings
    assert not torch.equal(first.expert_ids_TK, last.expert_ids_TK)


def test_widened_banks_have_their_own_number_of_experts():
    config = tiny(
        sharing=Sharing(experts="1 + 1x2 + 1", router="1 + 1x2 + 1"),
        experts=ExpertConfig(count=(4, 12, 4), width=12, top_k=3),
    )
    model = shaken(config)
    assert [len(bank.up) for bank in model.experts.values()] == [4, 12, 4]
    routings = model(tokens(), routings=True).routings
    assert [routing.logits_TE.shape[-1] for routing in routings] == [4, 12, 12, 4]
    whole_loss(model, tokens()).backward()


def test_lora_begins_as_the_identity_and_then_tells_depths_apart():
    looped = Sharing(attention="2x2")
    attention = {"heads": 4, "kv_heads": 2}
    plain = tiny(sharing=looped, attention=AttentionConfig(**attention))
    adapted = tiny(sharing=looped, attention=AttentionConfig(**attention, lora_rank=2))
    model = LanguageModel(adapted)
    assert torch.equal(model(tokens()).logits, LanguageModel(plain)(tokens()).logits)
    whole_loss(model, tokens()).backward()
    for depth in range(4):
        for projection in (model.lora[str(depth)].query, model.lora[str(depth)].key):
            assert projection.up.grad.abs().max() > 0
            assert projection.down.grad.abs().max() == 0  # its B is still zero
    with torch.no_grad():
        model.lora["2"].query.up.normal_()
    before, after = LanguageModel(plain)(tokens(), routings=True), model(tokens(), routings=True)
    equal = [
        torch.equal(a.logits_TE, b.logits_TE)
        for a, b in zip(before.routings, after.routings, strict=True)
    ]
    assert equal == [True, True, False, False]
