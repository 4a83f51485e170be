"""Collaboration equals the literal message passing between experts, and its controls control."""

from dataclasses import replace

import pytest
import torch
from tiny_model import random_routing, shaken, tiny, tokens, whole_loss
from torch.nn import functional as F

from plait.config import CollaborationConfig, ExpertConfig
from plait.model import LanguageModel
from plait.model.collaboration import reweight, routing_bias, topology

pytestmark = pytest.mark.filterwarnings("ignore:collaboration with row-normalised")

OPTIONS = {
    "paper": {},
    "tempered": {"temperature": 0.3},
    "not normalised": {"row_normalise": False},
    "self-loop": {"self_loop": True},
    "self-loop, not normalised": {"self_loop": True, "row_normalise": False},
    "signed": {"signed": True, "row_normalise": False},
    "signed self-loop": {"signed": True, "row_normalise": False, "self_loop": True},
}
by_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def literal_topology(raw, config):
    """S one entry at a time, as docs/methods.md writes it."""
    experts = len(raw)
    s = torch.zeros(experts, experts)
    for i in range(experts):
        neighbours = [j for j in range(experts) if config.self_loop or j != i]
        logits = [((raw[i, j] + raw[j, i]) / 2 / config.temperature).item() for j in neighbours]
        row = torch.tensor(logits)
        s[i, neighbours] = row.tanh() if config.signed else row.exp() / row.exp().sum()
    return s


def literal_messages(s, chosen, config):
    """Ŝ of one token: rows and columns of its chosen experts, rows renormalised."""
    rows = s[chosen][:, chosen]
    if config.row_normalise and rows.sum() > 0:
        rows = rows / rows.sum(1, keepdim=True)
    return rows


def literal_layer(bank, raw, h_TD, ids_TK, gates_TK, config):
    """y with messages passed between outputs (or hidden vectors), expert by expert."""
    s = literal_topology(raw, config)
    y_TD = torch.zeros_like(h_TD)
    for t, (h_D, chosen, gates) in enumerate(zip(h_TD, ids_TK, gates_TK, strict=True)):
        hats = literal_messages(s, chosen, config)
        gate_up = [(bank.up[e] @ h_D).chunk(2) for e in chosen]
        hidden = torch.stack([F.silu(gate) * up for gate, up in gate_up])
        if config.messages == "hidden":
            hidden = hidden + config.strength * hats @ hidden
        outputs = torch.stack([bank.down[e] @ a for e, a in zip(chosen, hidden, strict=True)])
        if config.messages == "outputs":
            outputs = outputs + config.strength * hats @ outputs
        y_TD[t] = gates @ outputs
    return y_TD


def first_layer(config):
    """What one routed layer of a real model sees, decides and returns."""
    model = shaken(config)
    seen = {}

    def see(_module, inputs, output):
        seen["h"], seen["y"] = inputs[0], output

    model.experts["0"].register_forward_hook(see)
    with torch.no_grad():
        routing = model(tokens(), routings=True).routings[0]
    return model, seen["h"], routing, seen["y"]


@torch.no_grad()
@by_option
@pytest.mark.parametrize("messages", ["outputs", "hidden"])
@pytest.mark.parametrize("top_k", [1, 2, 3, 8])
def test_a_layer_equals_literal_message_passing(top_k, messages, options):
    collaboration = CollaborationConfig(
        strength=0.8, routing_strength=0.6, messages=messages, **options
    )
    experts = ExpertConfig(count=9, width=12, top_k=top_k)
    config = tiny(depth=1, experts=experts, collaboration=collaboration)
    model, h_TD, routing, y_TD = first_layer(config)
    raw = model.collaboration["0"].raw
    s = literal_topology(raw, collaboration)

    logits = h_TD @ model.router["0"].weight.T + 0.6 * s.sum(0)
    torch.testing.assert_close(routing.logits_TE, logits)
    gates, ids = logits.softmax(-1).topk(top_k)
    assert torch.equal(routing.expert_ids_TK, ids)
    expected = literal_layer(model.experts["0"], raw, h_TD, ids, gates, collaboration)
    torch.testing.assert_close(y_TD, expected, rtol=1e-4, atol=1e-5)


@by_option
def test_the_topology_is_the_literal_one(options):
    config = CollaborationConfig(**options)
    raw = torch.randn(7, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(topology(raw, config), literal_topology(raw, config))
    expected = config.routing_strength * literal_topology(raw, config).sum(0)
    torch.testing.assert_close(routing_bias(topology(raw, config), config), expected)


@pytest.mark.parametrize("top_k", [2, 3, 8])
def test_normalised_messages_grow_the_gate_mass_by_one_plus_lambda(top_k):
    config = CollaborationConfig(strength=0.8)
    routing = random_routing(50, 9, top_k)
    s = topology(torch.randn(9, 9), config)
    mass = reweight(routing, s, config).weights_TK.sum(-1)
    torch.testing.assert_close(mass, 1.8 * routing.weights_TK.sum(-1))


def gradient_of_topology(top_k, **options):
    collaboration = CollaborationConfig(routing_strength=0.0, **options)
    config = tiny(experts=ExpertConfig(count=6, width=12, top_k=top_k), collaboration=collaboration)
    model = shaken(config)
    whole_loss(model, tokens()).backward()
    return max(bank.raw.grad.abs().max().item() for bank in model.collaboration.values())


@pytest.mark.parametrize("messages", ["outputs", "hidden"])
def test_messages_teach_the_topology_only_from_three_experts_on(messages):
    assert gradient_of_topology(1, messages=messages) == 0
    assert gradient_of_topology(2, messages=messages) < 1e-7
    assert gradient_of_topology(3, messages=messages) > 1e-4
    assert gradient_of_topology(2, messages=messages, row_normalise=False) > 1e-4
    assert gradient_of_topology(2, messages=messages, self_loop=True) > 1e-4


def test_gate_scale_multiplies_the_gates_and_owns_nothing():
    scale = CollaborationConfig(strength=0.8, routing_strength=0.0, control="gate-scale")
    model, h_TD, routing, _ = first_layer(tiny(depth=1, collaboration=scale))
    _, plain_h_TD, plain, _ = first_layer(tiny(depth=1))
    assert torch.equal(h_TD, plain_h_TD)
    torch.testing.assert_close(routing.weights_TK, 1.8 * plain.weights_TK)
    assert not [name for name in model.state_dict() if name.startswith("collaboration")]


def test_frozen_topologies_are_stored_and_never_trained():
    batch = tokens()
    untrained = LanguageModel(tiny(collaboration=CollaborationConfig()))
    for control in ("frozen-uniform", "frozen-random"):
        model = LanguageModel(tiny(collaboration=CollaborationConfig(control=control)))
        assert not [name for name, _ in model.named_parameters() if "collaboration" in name]
        before = model.state_dict()["collaboration.0.raw"].clone()
        whole_loss(model, batch).backward()
        torch.optim.SGD(model.parameters(), lr=1.0).step()
        assert torch.equal(model.state_dict()["collaboration.0.raw"], before)
        if control == "frozen-uniform":
            assert before.abs().max() == 0
        else:
            assert 0.5 < before.std() < 1.5
            assert not torch.equal(before, model.state_dict()["collaboration.1.raw"])
    uniform = LanguageModel(tiny(collaboration=CollaborationConfig(control="frozen-uniform")))
    assert torch.equal(uniform(batch).logits, untrained(batch).logits)


def test_gates_keep_full_precision_under_autocast():
    collaboration = CollaborationConfig(routing_strength=0.0, strength=0.8)
    model = shaken(tiny(depth=1, collaboration=collaboration))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (routing,) = model(tokens(), routings=True).routings
    base = replace(routing, weights_TK=routing.probs_TE.gather(-1, routing.expert_ids_TK))
    expected = reweight(base, topology(model.collaboration["0"].raw, collaboration), collaboration)
    torch.testing.assert_close(routing.weights_TK, expected.weights_TK, rtol=1e-6, atol=1e-7)
