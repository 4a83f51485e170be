"""A training step asks the device for no value, and its figures may be read a step later.

Asking shows on a CPU as well: every operation that hands a value to Python, or whose size depends
on values, is refused while the step runs on the backends that CUDA takes.
"""

import sys
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from plait.config import (
    BalanceConfig,
    CheckpointConfig,
    CollaborationConfig,
    EvaluationConfig,
    ExpertConfig,
    OptimizerConfig,
    RouterConfig,
)
from plait.data.corpus import Corpus
from plait.model.experts import kernel_name
from plait.parallel import World
from plait.sharing import Sharing
from plait.storage.metrics_file import read_rows
from plait.storage.places import place_of
from plait.training import loop, step, train
from plait.training.step import begin_step

MUON = OptimizerConfig(name="muon", learning_rate=0.01)
ASKING = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "unique_consecutive",
}
ON_CPUS_ALONE = {"linear_cross_entropy": "looks at the targets where they lie on a CPU"}
"""functions that may ask, and when"""


class AskedError(AssertionError):
    pass


class NeverAsked(TorchDispatchMode):
    """Refuses operations for which a GPU would be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        by_mask = name in ("index", "index_put", "index_put_", "_unsafe_index") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        by_counts = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if (name in ASKING or by_mask or by_counts) and not self._allowed():
            raise AskedError(name)
        return func(*args, **(kwargs or {}))

    def _allowed(self):
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code.co_name in ON_CPUS_ALONE:
                return True
            frame = frame.f_back
        return False


@pytest.fixture
def never_asked(monkeypatch):
    def asked(self, *arguments):
        raise AskedError("a tensor was read")

    for name in ("tolist", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, asked)
    return NeverAsked()


@pytest.fixture
def plain(config):
    """A step of two micro-batches in bf16, with clipping, and nothing shared."""
    model = replace(
        config.model,
        sharing=Sharing(),
        collaboration=None,
        router=RouterConfig(),
        balance=BalanceConfig(z=1e-3),
    )
    return replace(
        config,
        model=model,
        precision="bf16",
        tokens=6 * config.tokens_per_step,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        clip=0.1,
        evaluation=EvaluationConfig(tokens=100, final_tokens=100),
        checkpoint=CheckpointConfig(every=3),
    )


STRUCTURES = {
    "own": {},
    "tied": {"sharing": Sharing(experts="all")},
    "shared decision": {"sharing": Sharing(router="all", decision="all")},
    "collaborating": {"collaboration": CollaborationConfig()},
    "bias": {"router": RouterConfig(bias=True), "balance": BalanceConfig(z=1e-3, bias_rate=1e-3)},
    "experts choose": {
        "router": RouterConfig(choice="experts", renormalise=False),
        "balance": BalanceConfig(switch=0.0),
    },
    "shared expert": {"experts": ExpertConfig(count=4, width=16, top_k=3, shared_width=16)},
}


def begun(config, folder):
    corpus = Corpus.open(config.data.corpus)
    world, place = World(torch.device("cpu")), place_of(folder)
    return loop._Run(config, corpus, folder, world, lambda: False, None, (), place, False)


@pytest.mark.parametrize(
    "optimizer", [OptimizerConfig(learning_rate=3e-3), MUON], ids=lambda of: of.name
)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_step_asks_the_device_for_nothing(
    plain, tmp_path, monkeypatch, never_asked, structure, optimizer
):
    monkeypatch.setenv("PLAIT_KERNEL", "grouped")
    monkeypatch.setattr("plait.kernels.processor.multiplies_bf16", lambda: True)
    model = replace(plain.model, **STRUCTURES[structure])
    run = begun(replace(plain, model=model, optimizer=optimizer), tmp_path)
    assert kernel_name(model, run.world.device, torch.bfloat16) == "grouped"
    before = [p.detach().clone() for p in run.state.model.parameters()]
    with never_asked:
        figures = [begin_step(run.state), begin_step(run.state)]
    monkeypatch.undo()
    assert [one.step for one in figures] == [1, 2]
    assert all(one.read(model).loss < 7 for one in figures)
    after = run.state.model.parameters()
    moved = [not torch.equal(old, now) for old, now in zip(before, after, strict=True)]
    assert sum(moved) > len(moved) // 2
    run.close()


def test_what_would_be_waited_for_is_found(never_asked):
    x = torch.arange(4)
    for ask in (
        lambda: int(x.sum()),
        lambda: bool(x[0] > 1),
        lambda: x[x > 1],
        lambda: x.tolist(),
        lambda: x.bincount(),
        lambda: torch.where(x > 1),
        lambda: x.repeat_interleave(x),
    ):
        with pytest.raises(AskedError), never_asked:
            ask()


def figures(folder):
    clock = ("tokens_per_second",)
    return [
        {name: value for name, value in row.items() if name not in clock}
        for row in read_rows(folder / "metrics.jsonl")
    ]


def test_read_a_step_later_a_run_tells_and_learns_the_same(
    config, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "steps_ahead", lambda device: 1)
    config = replace(config, checkpoint=replace(config.checkpoint, every=5), log_every=2)
    ahead = []
    real = loop._Run._note
    monkeypatch.setattr(
        loop._Run,
        "_note",
        lambda run, one: (ahead.append(run.state.counters.step - one.step), real(run, one)),
    )
    train(config, tmp_path, device="cpu")
    assert set(ahead) == {0, 1}
    assert figures(tmp_path) == [row for row in figures(undisturbed) if row["step"] % 2 == 0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kernel", ["native", "reference"])
def test_a_step_that_is_left_out_changes_nothing(plain, tmp_path, monkeypatch, optimizer, kernel):
    """Neither weights nor what optimizers keep, whatever the gradients were; the bias neither."""
    if kernel == "reference":
        monkeypatch.setenv("PLAIT_KERNEL", kernel)
    structure = STRUCTURES["bias"] | STRUCTURES["collaborating"]
    config = replace(
        plain,
        model=replace(plain.model, **structure),
        optimizer=replace(plain.optimizer, name=optimizer),
        precision="fp32",
    )
    run = begun(config, tmp_path)
    run.advance()

    def everything():
        state = run.state
        held = dict(state.model.state_dict()) | dict(state._optimizer_state())
        return {name: tensor.clone() for name, tensor in held.items()}

    real = step.forward_and_backward

    def poisoned(state, meter):
        losses = real(state, meter)
        state.model.embedding.weight.grad[0, 0] = torch.nan
        return losses

    before = everything()
    with monkeypatch.context() as patch:
        patch.setattr(step, "forward_and_backward", poisoned)
        run.advance()
    after = everything()
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert run.state.counters.skipped_steps == 1
    run.advance()
    assert any(not torch.equal(after[name], now) for name, now in everything().items())
    run.close()
