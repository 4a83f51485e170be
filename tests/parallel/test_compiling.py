"""Depths by torch.compile: how many graphs they are, where they break, and what they lose.

All but the last test stop before code is generated: graphs and breaks are found by then, and the
operations that run are those of the graphs. On a CPU torch's compiler takes half a minute.
"""

import shutil
import warnings
from dataclasses import replace
from functools import partial
from itertools import count

import pytest
import torch
from ranks import counted, steps, toy, write_compiled

from gloo import start
from plait.config import (
    BalanceConfig,
    CollaborationConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    RouterConfig,
    TrainConfig,
)
from plait.parallel import require_compiler
from plait.sharing import Sharing
from plait.storage.metrics_file import read_rows
from plait.training import Interrupted, train
from tiny_corpus import tiny

CPU = torch.device("cpu")
GPU = pytest.param(
    "cuda",
    marks=[
        pytest.mark.cuda,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    ],
)
EXPERTS = ExpertConfig(count=4, width=32, top_k=3)
BASE = toy(depth=3, experts=EXPERTS)
MODELS = {
    "own": replace(BASE, depth=10),  # more than torch would compile one function for
    "tied": replace(
        BASE,
        experts=replace(EXPERTS, width=7, shared_width=9, shared_gate=True),
        sharing=Sharing(experts="all"),
    ),
    "routers": replace(
        BASE,
        experts=replace(EXPERTS, dense_at=(1,), dense_width=64),
        sharing=Sharing(router="all", decision="all"),
    ),
    "outputs": replace(BASE, collaboration=CollaborationConfig()),
    "hidden": replace(BASE, collaboration=CollaborationConfig(messages="hidden")),
    "experts choose": replace(
        BASE, router=RouterConfig(choice="experts"), balance=BalanceConfig(switch=0.0)
    ),
}
KINDS = {"routers": 3}
"""of depths that differ in what they do: one that decides, a dense one, one that follows"""
RECOMPUTED = ("own",)


@pytest.fixture
def traced(monkeypatch):
    """Without code of torch's compiler, and with nothing compiled before."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()


@pytest.mark.parametrize("name", MODELS)
def test_depths_are_a_graph_for_each_kind_and_lose_what_eager_loses(name, traced):
    expected = steps(MODELS[name])
    for recomputed in (False, True)[: 1 + (name in RECOMPUTED)]:
        torch._dynamo.reset()
        with counted() as found, warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*lru_cache")
            losses = steps(MODELS[name], checkpointing=recomputed, compile=True)
        assert losses == pytest.approx(expected, rel=1e-5)
        assert found == {"graphs": KINDS.get(name, 1), "breaks": 0}


def test_two_processes_gather_around_a_depth_and_parted_experts_break_it_once(processes, tmp_path):
    """A break is counted once for each kind of depth: it is at the call of the parted bank."""
    cases = [
        ("own", BASE, "shard=2", False),
        ("tied", MODELS["tied"], "shard=2", True),
        ("tied", MODELS["tied"], "expert=2", False),
    ]
    start(processes, 2, write_compiled, cases, tmp_path)
    expected = {"own, shard=2": (1, 0), "tied, shard=2": (1, 0), "tied, expert=2": (2, 1)}
    for case, (graphs, breaks) in expected.items():
        found = torch.load(tmp_path / f"{case}.pt")
        assert found["compiled"] == pytest.approx(found["eager"], rel=1e-5), case
        assert found["counted"] == {"graphs": graphs, "breaks": breaks}, case


def test_no_compiler_and_no_graph_are_one_line(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    require_compiler(CPU)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"finds none \(no-such-compiler\): install one, name it"):
        require_compiler(CPU)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"finds none \(gcc or clang\).*in CC, or train without"):
        require_compiler(torch.device("cuda"))
    monkeypatch.setenv("PLAIT_KERNEL", "chunked")
    with pytest.raises(ValueError, match="leaves the experts to their reference"):
        require_compiler(CPU)


def run(corpus, **changes):
    model = replace(BASE, depth=2, vocab_size=corpus.vocab_size, context=32)
    config = TrainConfig(
        model=model,
        data=DataConfig(corpus=str(corpus.path), sequence_length=32, batch=4),
        tokens=6 * 4 * 32,
        evaluation=EvaluationConfig(every=3, tokens=300, final_tokens=300, batch=3),
    )
    return replace(config, **changes)


def losses(folder):
    return [row["loss"] for row in read_rows(folder / "metrics.jsonl") if "loss" in row]


def test_a_run_goes_on_compiled_and_says_so_and_scores_without(tmp_path, traced):
    """Four steps and evaluations in batches of another size are one graph and no other."""
    config, rows, asked = run(tiny(tmp_path / "tiny")), [], count()
    eager = train(config, tmp_path / "eager", device="cpu")
    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", device="cpu", stop=lambda: next(asked) == 2)
    with counted() as found:
        result = train(config, tmp_path / "run", device="cpu", compile=True, progress=rows.append)
    assert found == {"graphs": 1, "breaks": 0}
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "eager"), rel=1e-5)
    assert result.config_hash == eager.config_hash
    assert result.environment["compile"] is True
    assert result.environment["kernel"] == "grouped"
    assert "compile" not in eager.environment
    assert rows[0] == {"step": 2, "compiling": "cpu"}
    assert result.environment["first_step_seconds"] == round(rows[1]["first_step_seconds"], 1) > 0


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_code_of_torchs_compiler_loses_what_eager_loses(device, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "code"))
    torch._dynamo.reset()
    config = run(tiny(tmp_path / "tiny"))
    train(config, tmp_path / "eager", device=device)
    train(config, tmp_path / "run", device=device, compile=True)
    assert losses(tmp_path / "run") == pytest.approx(losses(tmp_path / "eager"), rel=1e-5)
    assert any((tmp_path / "code").iterdir())
