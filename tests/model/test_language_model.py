"""The walk over depth: what goes in, what comes out, and in which precision."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny_model import BASE, shaken, tiny, tokens, whole_loss
from torch.nn import functional as F

from plait.config import AttentionConfig, CollaborationConfig, ExpertConfig, RouterConfig
from plait.model.attending import attend

DENSE = {"count": 6, "width": 12, "top_k": 3, "dense_first": 2, "dense_width": 20}


def swiglu(layer, h):
    gate, up = (h @ layer.up.T).chunk(2, -1)
    return F.silu(gate) * up @ layer.down.T


@torch.no_grad()
def test_a_forward_is_the_residual_walk_over_its_parts():
    """Every part by its module, the routed sum token by token."""
    model = shaken(tiny(norm="layer", tied_head=False))
    x_SD = model.embedding(tokens(1))[0]
    positions, _ = model._positions(tokens(1), None, None, None)
    attending = partial(attend, positions=positions)
    for depth in "0123":
        normed = model.attention_norm[depth](x_SD)
        x_SD = x_SD + model.attention[depth](normed[None], attending, 0)[0]
        for t, h_D in enumerate(model.expert_norm[depth](x_SD)):
            probabilities = (model.router[depth].weight @ h_D).softmax(-1)
            bank = model.experts[depth]
            for expert in probabilities.argsort(descending=True)[:3]:
                gate, up = (bank.up[expert] @ h_D).chunk(2)
                x_SD[t] += probabilities[expert] * (bank.down[expert] @ (F.silu(gate) * up))
    expected = F.layer_norm(x_SD, (16,), model.final_norm.weight, model.final_norm.bias, 1e-5)
    logits = model(tokens(1)).logits[0]
    torch.testing.assert_close(logits, expected @ model.head.weight.T, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("place", ["before", "after"])
def test_norms_before_or_after_and_the_scales_of_the_stream(place):
    changes = {"norm_place": place, "embedding_scale": 3.0, "residual_scale": 0.3}
    experts = ExpertConfig(**DENSE | {"dense_first": 1, "dense_at": (2,)})
    model = shaken(tiny(**changes, logit_divisor=1.7, experts=experts, tied_head=False))
    text = tokens(1)
    x_BSD = 3.0 * model.embedding(text)
    positions, _ = model._positions(text, None, None, None)
    routings = model(text, routings=True).routings
    assert [routing is None for routing in routings] == [True, False, True, False]
    for depth, routing in enumerate(routings):
        part = model.parts_at(depth)

        def experts(h_BSD, part=part, routing=routing):
            if routing is None:
                return part.experts(h_BSD)
            return part.experts(h_BSD[0], routing.expert_ids_TK, routing.weights_TK)[None]

        def attention(h_BSD, part=part):
            return part.attention(h_BSD, partial(attend, positions=positions), 0)

        for norm, branch in ((part.attention_norm, attention), (part.expert_norm, experts)):
            added = branch(norm(x_BSD)) if place == "before" else norm(branch(x_BSD))
            x_BSD = x_BSD + 0.3 * added
    expected = model.head(model.final_norm(x_BSD)) / 1.7
    torch.testing.assert_close(model(text).logits, expected, rtol=1e-4, atol=1e-4)
    targets = tokens(1, seed=2)
    loss = F.cross_entropy(expected[0], targets[0])
    torch.testing.assert_close(model(text, targets).loss, loss, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_future_changes_nothing():
    model = shaken(BASE)
    changed = tokens()
    changed[:, 5:] = (changed[:, 5:] + 1) % BASE.vocab_size
    before, after = model(tokens()).logits, model(changed).logits
    torch.testing.assert_close(before[:, :5], after[:, :5], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before[:, 5], after[:, 5], atol=1e-2)


@torch.no_grad()
def test_the_loss_is_the_mean_over_real_targets():
    model = shaken(BASE)
    targets = tokens(seed=1)
    targets[0, :4] = -100
    out = model(tokens(), targets)
    assert out.logits is None
    logprobs = model(tokens()).logits.log_softmax(-1)
    kept = [
        -logprobs[b, s, targets[b, s]] for b in range(2) for s in range(9) if targets[b, s] >= 0
    ]
    torch.testing.assert_close(out.loss, sum(kept) / 14)


@torch.no_grad()
def test_last_logits():
    model = shaken(BASE)
    logits = model(tokens()).logits
    assert torch.equal(model(tokens(), logits_to_keep=2).logits, logits[:, -2:])


@torch.no_grad()
def test_routings_come_on_request_one_for_each_depth():
    model = shaken(tiny(experts=ExpertConfig(**DENSE)))
    assert model(tokens()).routings == ()
    routings = model(tokens(), routings=True).routings
    assert [routing is None for routing in routings] == [True, True, False, False]
    assert routings[2].expert_ids_TK.shape == (18, 3)
    assert routings[2].expert_ids_TK.dtype == torch.int64


@torch.no_grad()
def test_decide_sees_each_routing_and_its_answer_is_used():
    model = shaken(tiny(collaboration=CollaborationConfig()))
    seen = []

    def first_expert_only(depth, routing):
        seen.append((depth, routing))
        ids, gates = torch.zeros_like(routing.expert_ids_TK[:, :1]), torch.ones(18, 1)
        return replace(routing, expert_ids_TK=ids, weights_TK=gates)

    out = model(tokens(), routings=True, decide=first_expert_only)
    assert [depth for depth, _ in seen] == [0, 1, 2, 3]
    assert all((routing.expert_ids_TK == 0).all() for routing in out.routings)
    dense = shaken(tiny(experts=ExpertConfig(count=1, width=12)))
    state = model.state_dict()
    for name in dense.state_dict():
        bank = state[name][0] if name.startswith("experts") else state[name]
        dense.state_dict()[name].copy_(bank)
    torch.testing.assert_close(out.logits, dense(tokens()).logits, rtol=1e-4, atol=1e-4)


def test_a_dense_control_has_no_router():
    model = shaken(tiny(experts=ExpertConfig(count=1, width=12)))
    assert not [name for name in model.state_dict() if "router" in name]
    assert model(tokens(), routings=True).routings == (None,) * 4
    whole_loss(model, tokens()).backward()


@torch.no_grad()
@pytest.mark.parametrize("gated", [False, True])
def test_shared_experts_serve_every_token(gated):
    config = tiny(depth=1, experts=ExpertConfig(width=12, shared_width=20, shared_gate=gated))
    model, seen = shaken(config), {}
    bank = model.experts["0"]
    bank.register_forward_hook(lambda _, given, y: seen.update(given=given, h=given[0], y=y))
    model(tokens())
    y = seen["y"]
    shared, bank.shared = bank.shared, None
    alone = bank(*seen["given"])
    expected = swiglu(shared, seen["h"])
    if gated:
        expected = expected * (seen["h"] @ bank.shared_gate.weight.T).sigmoid()
    torch.testing.assert_close(y - alone, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_dense_first_layers_have_their_own_width_and_gelu_two_matrices():
    model = shaken(tiny(experts=ExpertConfig(**DENSE, activation="gelu")))
    shapes = {name: tuple(t.shape) for name, t in model.experts.named_parameters()}
    assert shapes["0.up"] == (20, 16)
    assert shapes["2.up"] == (6, 12, 16)
    assert shapes["2.down"] == (6, 16, 12)
    h = torch.randn(5, 16)
    layer = model.experts["0"]
    torch.testing.assert_close(layer(h), F.gelu(h @ layer.up.T) @ layer.down.T)


def test_dropout_only_in_training():
    model = shaken(tiny(dropout=0.5))
    torch.manual_seed(0)
    assert not torch.equal(model(tokens()).logits, model(tokens()).logits)
    model.eval()
    assert torch.equal(model(tokens()).logits, shaken(BASE)(tokens()).logits)


AUTOCAST = {
    "olmoe-like": {"attention": AttentionConfig(heads=4, qk_norm="width", clip_qkv=4.0)},
    "ct-moe-like": {
        "norm": "layer",
        "attention": AttentionConfig(heads=4, position="learned"),
        "experts": ExpertConfig(count=6, width=12, top_k=3, activation="gelu"),
        "collaboration": CollaborationConfig(),
    },
    "hidden messages": {"collaboration": CollaborationConfig(messages="hidden")},
    "sigmoid, shared": {
        "router": RouterConfig(gating="sigmoid", bias=True, renormalise=True),
        "experts": ExpertConfig(count=6, width=12, top_k=3, shared_width=8, shared_gate=True),
    },
}


@pytest.mark.parametrize("changes", AUTOCAST.values(), ids=AUTOCAST)
def test_autocast_computes_in_bfloat16_and_decides_in_fp32(changes):
    model = shaken(tiny(**changes, init_std=0.05))
    exact = whole_loss(model, tokens())
    with torch.autocast("cpu", torch.bfloat16):
        loss = whole_loss(model, tokens())
        out = model(tokens(), routings=True)
    loss.backward()
    assert out.logits.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    for routing in out.routings:
        floats = (routing.logits_TE, routing.probs_TE, routing.weights_TK)
        assert {each.dtype for each in floats} == {torch.float32}
    assert abs(loss - exact) < 0.02 * exact
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)


def test_eval_mode_never_mutates():
    model = shaken(tiny(router=RouterConfig(gating="sigmoid", bias=True))).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(tokens(), routings=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
