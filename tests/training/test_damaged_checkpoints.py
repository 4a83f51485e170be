"""A checkpoint whose hashes fit and whose content does not: one line, and no step taken with it."""

import json
import pickle
import random
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from plait.data.corpus import Corpus
from plait.parallel import World
from plait.storage.manifest import MANIFEST, STATE, fingerprints, verify
from plait.storage.sharded_state import CheckpointError, load_shards, save_shards, shard_shapes
from plait.storage.tensor_files import WEIGHTS
from plait.training.state import TrainState

HERE = World(torch.device("cpu"))


@pytest.fixture
def checkpoint(undisturbed, tmp_path):
    [newest] = (undisturbed / "checkpoints").iterdir()
    return shutil.copytree(newest, tmp_path / newest.name)


@pytest.fixture(scope="module")
def state(config):
    return TrainState(config, Corpus.open(config.data.corpus), HERE)


def fit(checkpoint):
    """Give a checkpoint a manifest that fits whatever is in it."""
    (checkpoint / MANIFEST).unlink()
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    (checkpoint / MANIFEST).write_text(json.dumps({"files": fingerprints(checkpoint, files)}))
    verify(checkpoint)


def refusal(state, checkpoint):
    fit(checkpoint)
    with pytest.raises(ValueError, match=r"\w") as caught:
        state.restore(checkpoint)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


def tensors_of(checkpoint):
    into = {
        name: torch.zeros(size, dtype=dtype)
        for name, (size, dtype) in shard_shapes(checkpoint / STATE).items()
    }
    load_shards(checkpoint / STATE, into, HERE)
    return into


def test_a_whole_checkpoint_comes_back(state, checkpoint):
    fit(checkpoint)
    state.restore(checkpoint)
    assert state.counters.step == 24


def progress(**changes):
    def change(checkpoint):
        file = checkpoint / "progress.json"
        whole = json.loads(file.read_text())
        for name, value in changes.items():
            *path, last = name.split("__")
            inner = whole
            for part in path:
                inner = inner[part]
            inner[last] = value
        file.write_text(json.dumps(whole))

    return change


def text(name, content):
    return lambda checkpoint: (checkpoint / name).write_bytes(content)


def weights(change):
    def changed(checkpoint):
        file = checkpoint / WEIGHTS
        save_file(change(load_file(file)), file)

    return changed


def optimizer(change):
    def changed(checkpoint):
        tensors = change(tensors_of(checkpoint))
        shutil.rmtree(checkpoint / STATE)
        save_shards(tensors, checkpoint / STATE, HERE)

    return changed


def without(*ends):
    return lambda tensors: {n: t for n, t in tensors.items() if not n.endswith(ends)}


def all_as(make):
    return lambda tensors: {name: make(tensor) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (progress(loader=None), "loader.seed' is missing"),
        (progress(loader=[1]), "loader: expected options"),
        (progress(loader__tokens_seen="1"), "loader.tokens_seen: expected int"),
        (progress(loader__tokens_seen=-32), "do not fit"),
        (progress(loader__seed=None), "loader.seed"),
        (progress(loader__tokens_seen=0), "do not fit|the data stands at 0"),
        (progress(step=-1), "step is -1"),
        (progress(step="3"), "step: expected int"),
        (progress(step=None), "step: expected int"),
        (progress(step=10**30), "step is 1"),
        (progress(step=25), "beyond the run's end"),
        (progress(tokens=0), "the data stands at"),
        (progress(seconds="long"), "seconds: expected float"),
        (progress(seconds=float("nan")), "seconds is nan"),
        (progress(optimizer_tensors=3), "optimizer tensors: not all"),
        (text("progress.json", b"3"), "progress.json: damaged"),
        (text("progress.json", b"{}"), "loader"),
        (text("progress.json", b"[" * 10_000), "progress.json: damaged"),
        (text(WEIGHTS, b""), "cannot read weights"),
        (text(WEIGHTS, b"\xff" * 1000), "cannot read weights"),
        (text(WEIGHTS, (8).to_bytes(8, "little") + b"{}      "), "lacks"),
        (weights(without("final_norm.weight")), "lacks final_norm.weight"),
        (weights(lambda w: w | {"more": torch.ones(3)}), "has more, which"),
        (weights(all_as(lambda t: t.flatten())), "as"),
        (text(f"{STATE}/.metadata", b""), "cannot read"),
        (text(f"{STATE}/.metadata", b"garbage"), "cannot read"),
        (text(f"{STATE}/.metadata", pickle.dumps({"a": 1})), "no checkpoint metadata"),
        (text(f"{STATE}/__0_0.distcp", b""), "does not hold the state"),
        (text(f"{STATE}/__0_0.distcp", b"garbage" * 99_999), "does not hold the state"),
        (optimizer(without("momentum_buffer")), "optimizer tensors: not all"),
        (optimizer(without("exp_avg_sq")), "optimizer tensors: not all"),
        (optimizer(without("final_norm.weight.step")), "optimizer tensors: not all"),
        (optimizer(lambda t: t | {"optimizer.no.exp_avg": torch.ones(1)}), "not all"),
        (optimizer(all_as(lambda t: t[:1] if t.ndim else t)), "another shape|no generator"),
        (optimizer(all_as(lambda t: t.to(torch.int64))), "another shape|no generator"),
        (optimizer(all_as(lambda t: t[None])), "another shape"),
    ],
)
def test_content_that_is_not_the_runs_is_refused(state, checkpoint, change, says):
    change(checkpoint)
    message = refusal(state, checkpoint)
    assert re.search(says, message), message


@pytest.mark.parametrize("content", [without("momentum_buffer"), without("exp_avg", "exp_avg_sq")])
def test_missing_tensors_are_found_in_checkpoints_that_do_not_count_them(
    state, checkpoint, content
):
    optimizer(content)(checkpoint)
    progress(optimizer_tensors=None)(checkpoint)
    fit(checkpoint)
    if any(name.endswith("exp_avg") for name in tensors_of(checkpoint)):
        state.restore(checkpoint)  # Muon's are all away, as before a first step
    else:
        assert "a tensor is missing" in refusal(state, checkpoint)


def test_flipped_bits_behind_fitting_hashes_end_in_success_or_one_line(state, checkpoint, tmp_path):
    """80 of 80: what is flipped in numbers goes unnoticed, in structure it is one line."""
    chance = random.Random(0)
    files = sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())
    files = [name for name in files if name.name != MANIFEST]
    refusals = []
    for number in range(80):
        broken = shutil.copytree(checkpoint, tmp_path / f"broken-{number}")
        victim = broken / files[number % len(files)]
        content = bytearray(victim.read_bytes())
        for _ in range(chance.randint(1, 30)):
            content[chance.randrange(min(len(content), 3000))] = chance.randrange(256)
        victim.write_bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
        fit(broken)
        try:
            state.restore(broken)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > 40
    assert not [said for said in refusals if "\n" in said or len(said) > 1000]


@pytest.mark.parametrize(
    "manifest",
    [
        "3",
        "[]",
        "{}",
        '{"files": {}}',
        '{"files": []}',
        '{"files": {"progress.json": 3}}',
        '{"files": {"../x": {"bytes": 1, "sha256": ""}}}',
        '{"files": {"model.safetensors": {"bytes": "1", "sha256": []}}}',
        "[" * 10_000,
    ],
)
def test_a_manifest_of_another_shape_is_refused(checkpoint, manifest):
    (checkpoint / MANIFEST).write_text(manifest)
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        verify(checkpoint)
    assert "\n" not in str(caught.value)
