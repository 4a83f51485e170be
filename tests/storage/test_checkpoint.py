import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import save_file

from plait.parallel import World
from plait.storage.checkpoint import STATE, Checkpoints, read_progress, verify
from plait.storage.sharded_state import CheckpointError, load_shards, shard_shapes

HERE = World(torch.device("cpu"))


def state_at(step):
    return {
        "optimizer.a.exp_avg": torch.full((3, 5), float(step)),
        "optimizer.a.step": torch.tensor(float(step)),
    }


def save(checkpoints, step):
    weights = {"a": torch.full((3, 5), float(-step))}
    path = checkpoints.save(step, weights, state_at(step), {"step": step})
    checkpoints.wait()
    return path


def loaded_step(path):
    shapes = shard_shapes(path / STATE)
    into = {name: torch.zeros(size, dtype=dtype) for name, (size, dtype) in shapes.items()}
    load_shards(path / STATE, into, HERE)
    assert (into["optimizer.a.exp_avg"] == into["optimizer.a.step"]).all()
    assert read_progress(path) == {"step": int(into["optimizer.a.step"])}
    return int(into["optimizer.a.step"])


def test_the_newest_are_kept_and_come_back(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, world=HERE)
    assert checkpoints.newest() is None
    for step in (5, 10, 15):
        save(checkpoints, step)
    assert {path.name for path in tmp_path.iterdir()} == {"step-10", "step-15"}
    assert loaded_step(checkpoints.newest()) == 15


class Killed(BaseException):
    pass


def test_whatever_moment_saving_is_cut_off_a_whole_checkpoint_remains(tmp_path, monkeypatch):
    """Cut before each change of the disk's names and each sync, one after the other."""
    reached = 0
    for moment in range(1, 100):
        folder = tmp_path / str(moment)
        checkpoints = Checkpoints(folder, keep=1, world=HERE)
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
            for name in ("fsync", "rename", "replace"):
                patch.setattr(os, name, cut(getattr(os, name)))
            patch.setattr(shutil, "rmtree", cut(shutil.rmtree))
            try:
                save(checkpoints, 2)
            except (Killed, CheckpointError):  # torch catches even this in its own writes
                reached += 1
            else:
                break
        assert loaded_step(checkpoints.newest()) in (1, 2)
        assert not list(folder.glob(".*"))
    assert reached > 8


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove"])
def test_any_damaged_file_of_the_newest_is_found_and_the_one_before_is_used(
    tmp_path, caplog, damage
):
    checkpoints = Checkpoints(tmp_path, keep=5, world=HERE)
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
        assert loaded_step(checkpoints.newest()) == 1
        assert f"step-{step} is damaged" in caplog.text
    assert save(checkpoints, 2).name == "step-2"


def test_when_all_are_damaged_it_does_not_silently_begin_again(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=5, world=HERE)
    (save(checkpoints, 1) / "progress.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"every checkpoint .* damaged: delete this folder"):
        checkpoints.newest()


class Evil:
    def __reduce__(self):
        return os.system, ("echo executed",)


def test_no_code_is_run_from_a_checkpoint(tmp_path, capfd):
    path = save(Checkpoints(tmp_path, keep=1, world=HERE), 1)
    (path / "state" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="system: refused"):
        shard_shapes(path / STATE)
    assert "executed" not in capfd.readouterr().out
    with pytest.raises(CheckpointError, match=r"metadata has changed"):
        verify(path)


def test_the_weights_of_one_process_are_the_file_that_safetensors_writes(tmp_path):
    weights = {"b.c": torch.rand(3, 5), "a": torch.rand(7), "b": torch.rand(2, 3, 4)}
    checkpoints = Checkpoints(tmp_path, keep=1, world=HERE)
    path = checkpoints.save(1, weights, state_at(1), {})
    checkpoints.wait()
    save_file(weights, tmp_path / "theirs", metadata={"format": "pt"})
    assert (path / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()
