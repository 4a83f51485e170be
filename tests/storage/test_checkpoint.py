import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from safetensors.torch import save_file

from plait.parallel import World
from plait.storage.checkpoint import Checkpoints
from plait.storage.manifest import STATE, read_progress, verify
from plait.storage.places import place_of
from plait.storage.run_folder import CHECKPOINTS
from plait.storage.sharded_state import CheckpointError, load_shards, shard_shapes
from plait.storage.weights import read_weights

HERE = World(torch.device("cpu"))


def state_at(step):
    return {
        "optimizer.a.exp_avg": torch.full((3, 5), float(step)),
        "optimizer.a.step": torch.tensor(float(step)),
    }


def made(root, kind="folder", keep=1):
    """Make the checkpoints of a run that are kept in its folder or at an address."""
    run = root / "study" / "run"
    run.mkdir(parents=True, exist_ok=True)
    address = {"folder": None, "file": f"file://{root}/away", "memory": f"memory://{root}"}[kind]
    place = place_of(run, address)
    return Checkpoints(run / CHECKPOINTS, keep=keep, world=HERE, place=place)


def where(checkpoints):
    """Return the folder of this disk that they are kept in."""
    return Path(str(checkpoints.place).removeprefix("file://"))


def save(checkpoints, step):
    weights = {"a": torch.full((3, 5), float(-step))}
    checkpoints.save(step, weights, state_at(step), {"step": step})
    checkpoints.wait()
    return where(checkpoints) / checkpoints.place.names()[-1]


def loaded_step(path):
    shapes = shard_shapes(path / STATE)
    into = {name: torch.zeros(size, dtype=dtype) for name, (size, dtype) in shapes.items()}
    load_shards(path / STATE, into, HERE)
    assert (into["optimizer.a.exp_avg"] == into["optimizer.a.step"]).all()
    assert read_progress(path) == {"step": int(into["optimizer.a.step"])}
    assert (read_weights(path)["a"] == -into["optimizer.a.step"]).all()
    return int(into["optimizer.a.step"])


def newest_step(checkpoints):
    with checkpoints.newest() as path:
        return path and loaded_step(path)


@pytest.mark.parametrize("kind", ["folder", "file", "memory"])
def test_the_newest_are_kept_and_come_back(tmp_path, kind):
    checkpoints = made(tmp_path, kind, keep=2)
    assert newest_step(checkpoints) is None
    for step in (5, 10, 15):
        save(checkpoints, step)
    assert made(tmp_path, kind).place.names() == ["step-10", "step-15"]
    assert newest_step(made(tmp_path, kind)) == 15
    assert (read_weights(checkpoints.folder.parent)["a"] == -15).all()
    kept = {path.name for path in checkpoints.folder.iterdir()}
    assert kept == ({"step-10", "step-15"} if kind == "folder" else set())
    if kind == "file":
        assert {path.name for path in where(checkpoints).iterdir()} == {"step-10", "step-15"}


class Killed(BaseException):
    pass


CHANGES = {
    "folder": [(os, "fsync"), (os, "rename"), (os, "replace"), (shutil, "rmtree")],
    "memory": [(MemoryFileSystem, name) for name in ("put_file", "rm", "rm_file", "mv")],
}


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("second", [1, 2])
def test_whatever_moment_saving_is_cut_off_a_whole_checkpoint_remains(
    tmp_path, monkeypatch, kind, second
):
    """Cut before each change of names, sync or change of an object, one after the other.

    The second is another step, or the same one written anew as a run does that went back to it.
    """
    reached = 0
    for moment in range(1, 100):
        checkpoints = made(tmp_path / str(moment), kind)
        save(checkpoints, 1)
        calls = 0

        def cut(real, moment=moment):
            def call(*args, **kwargs):
                nonlocal calls
                calls += 1
                if calls == moment:
                    raise Killed
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for owner, name in CHANGES[kind]:
                patch.setattr(owner, name, cut(getattr(owner, name)))
            try:
                save(checkpoints, second)
            except (Killed, CheckpointError):  # torch catches even this in its own writes
                reached += 1
            else:
                break
        again = made(tmp_path / str(moment), kind)
        assert newest_step(again) in (1, second)
        assert not list(again.folder.glob(".*"))
        assert list(again.place._sizes() if kind == "memory" else again.place.names()) == (
            again.place.names()
        )
    assert reached > 6


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("damage", ["flip", "shorten", "remove"])
def test_any_damaged_file_of_the_newest_is_found_and_the_one_before_is_used(
    tmp_path, caplog, damage, kind
):
    checkpoints = made(tmp_path, kind, keep=5)
    newest = save(checkpoints, 1)
    files = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    assert len(files) == 5
    for step, name in enumerate(files, start=2):
        victim = save(checkpoints, step) / name
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        if damage == "flip":
            victim.write_bytes(content)
        elif damage == "shorten":
            victim.write_bytes(content[:-1] if victim.name != "manifest.json" else content[:-5])
        else:
            victim.unlink()
        assert newest_step(checkpoints) == 1
        without = kind == "file" and damage == "remove" and victim.name == "manifest.json"
        assert without or f"step-{step} is damaged" in caplog.text
        assert checkpoints.place.names() == ["step-1"]
    save(checkpoints, 2)
    assert newest_step(checkpoints) == 2


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_when_all_are_damaged_it_does_not_silently_begin_again(tmp_path, kind):
    checkpoints = made(tmp_path, kind, keep=5)
    (save(checkpoints, 1) / "progress.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"every checkpoint .* damaged: delete this folder"):
        newest_step(checkpoints)


class Evil:
    def __reduce__(self):
        return os.system, ("echo executed",)


def test_no_code_is_run_from_a_checkpoint(tmp_path, capfd):
    path = save(made(tmp_path), 1)
    (path / "state" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="system: refused"):
        shard_shapes(path / STATE)
    assert "executed" not in capfd.readouterr().out
    with pytest.raises(CheckpointError, match=r"metadata has changed"):
        verify(path)


def test_the_weights_of_one_process_are_the_file_that_safetensors_writes(tmp_path):
    weights = {"b.c": torch.rand(3, 5), "a": torch.rand(7), "b": torch.rand(2, 3, 4)}
    checkpoints = made(tmp_path)
    checkpoints.save(1, weights, state_at(1), {})
    checkpoints.wait()
    save_file(weights, tmp_path / "theirs", metadata={"format": "pt"})
    assert (where(checkpoints) / "step-1" / "model.safetensors").read_bytes() == (
        tmp_path / "theirs"
    ).read_bytes()
