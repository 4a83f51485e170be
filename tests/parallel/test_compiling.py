"""Depths by torch.compile: how many graphs they are, where they break, and what they lose.

Most of it stops before code is generated: graphs and breaks are found by then, and the operations
are those of the graph. Code of torch's own compiler is slow to make on a CPU, so one test makes it.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from ranks import counted, start, steps, toy, write_compiled

from plait.config import (
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    RouterConfig,
)
from plait.sharing import Sharing

DEPTHS = 10
"""more than torch would compile one function for"""
EXPERTS = ExpertConfig(count=4, width=32, top_k=3)
BASE = toy(depth=DEPTHS, experts=EXPERTS, init_std=0.1)
MODELS = {
    "own": BASE,
    "tied": replace(BASE, sharing=Sharing(experts="all")),
    "routers": replace(BASE, sharing=Sharing(router="blocks(5)", decision="blocks(5)")),
    "outputs": replace(BASE, collaboration=CollaborationConfig()),
    "hidden": replace(BASE, collaboration=CollaborationConfig(messages="hidden")),
    "experts choose": replace(
        BASE, router=RouterConfig(choice="experts"), balance=BalanceConfig(switch=0.0)
    ),
    "recurrent": replace(BASE, router=RouterConfig(kind="recurrent", inner_width=8)),
    "dense first": replace(BASE, experts=replace(EXPERTS, dense_first=1, dense_width=64)),
    "widths": replace(BASE, experts=replace(EXPERTS, width=7, shared_width=9, shared_gate=True)),
}
KINDS = {"routers": 2, "recurrent": 2, "dense first": 2}
"""of depths that differ in what they do; else all are alike"""


@pytest.fixture
def traced(monkeypatch):
    """Without code of torch's compiler, and with nothing compiled before."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_ten_depths_are_a_graph_for_each_kind_and_lose_what_eager_loses(name, recomputed, traced):
    if recomputed and name not in ("own", "experts choose"):
        pytest.skip("of two kinds of choice")
    expected = steps(MODELS[name], checkpointing=recomputed)
    with counted() as found:
        losses = steps(MODELS[name], checkpointing=recomputed, compile=True)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0]
    assert found == {"graphs": KINDS.get(name, 1), "breaks": 0}


def test_two_processes_gather_around_a_depth_and_parted_experts_break_it_once(
    processes, tmp_path
):
    cases = [
        (name, MODELS[name], mesh, again)
        for name in ("own", "tied", "routers")
        for mesh, again in (("shard=2", False), ("shard=2", True), ("expert=2", False))
    ]
    start(processes, 2, write_compiled, cases, tmp_path)
    for case in cases:
        found = torch.load(tmp_path / f"{case[0]}, {case[2]}, {case[3]}.pt")
        print(case[0],case[2:],found["counted"], found["compiled"][-1]/found["eager"][-1]-1)
