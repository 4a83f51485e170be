"""Every kind of router computes its formula, in fp32, and can be shared by plan."""

import pytest
import torch
from tiny_model import shaken, tiny, tokens, whole_loss
from torch.nn import functional as F

from plait.config import ExpertConfig, RouterConfig
from plait.model import LanguageModel
from plait.model.router import ROUTERS
from plait.sharing import Sharing

H_TD = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


def gru(memory, common, x):
    """A GRU cell, gate by gate."""
    from_x = x @ common.weight_ih.T + common.bias_ih
    from_memory = memory @ common.weight_hh.T + common.bias_hh
    reset_x, update_x, new_x = from_x.chunk(3, -1)
    reset_m, update_m, new_m = from_memory.chunk(3, -1)
    update = torch.sigmoid(update_x + update_m)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_m) * new_m)
    return (1 - update) * new + update * memory


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("kind", ROUTERS)
def test_logits_are_the_formula(kind, autocast):
    model = shaken(tiny(router=RouterConfig(kind=kind)))
    bank, common = model.router["1"], model.router_common
    memory = torch.randn(5, 128) if kind == "recurrent" else None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits, handed_on = bank(H_TD, common, memory)
    if kind in ("linear", "random-fixed"):
        expected = H_TD @ bank.weight.T
    elif kind == "cosine":
        projected = H_TD @ bank.projection.T
        scale = projected.norm(dim=-1, keepdim=True) * bank.embeddings.norm(dim=-1)
        expected = projected @ bank.embeddings.T / scale / bank.temperature.clamp_min(0.01)
    elif kind == "low-rank":
        expected = H_TD @ (common.weight + bank.up @ bank.down).T
    else:
        memory = gru(memory, common, H_TD @ bank.projection.T)
        torch.testing.assert_close(handed_on, memory)
        expected = memory @ bank.weight.T
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("router", ["own", "blocks(2)", "all"])
@pytest.mark.parametrize("kind", ROUTERS)
def test_every_kind_is_shared_by_plan_and_trained_where_it_is_to_be(kind, router):
    model = shaken(tiny(router=RouterConfig(kind=kind), sharing=Sharing(router=router)))
    assert len(model.router) == {"own": 4, "blocks(2)": 2, "all": 1}[router]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole_loss(model, tokens()).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    moved = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    routers = {name for name in before if name.startswith("router")}
    assert routers
    assert moved == (set(before) - routers if kind == "random-fixed" else set(before))


def test_a_low_rank_router_begins_as_its_base():
    model = LanguageModel(tiny(router=RouterConfig(kind="low-rank")))
    logits, _ = model.router["3"](H_TD, model.router_common, None)
    torch.testing.assert_close(logits, F.linear(H_TD, model.router_common.weight))


def test_a_recurrent_router_remembers_the_depth_before():
    """Its memory begins at zero, runs over routed depths only, and is no part of a KV cache."""
    experts = ExpertConfig(count=(6, 6, 1, 6), width=12, top_k=2)
    model = shaken(tiny(router=RouterConfig(kind="recurrent", inner_width=8), experts=experts))
    seen = []
    for bank in model.router.values():
        bank.register_forward_hook(
            lambda _, __, given, output: seen.append((given["memory_TM"], output[1])),
            with_kwargs=True,
        )
    model(tokens())
    assert len(seen) == 3
    assert seen[0][0] is None
    assert seen[1][0] is seen[0][1]
    assert seen[2][0] is seen[1][1]


@pytest.mark.parametrize("kind", ROUTERS)
def test_a_model_in_bfloat16_routes_in_fp32(kind):
    model = shaken(tiny(router=RouterConfig(kind=kind), norm="layer")).bfloat16()
    out = model(tokens(), routings=True)
    assert out.logits.dtype == torch.bfloat16
    assert {routing.logits_TE.dtype for routing in out.routings} == {torch.float32}
    whole_loss(model, tokens()).backward()
