"""A run whose checkpoints are at an address ends as one that keeps them, whatever happens to it."""

import json
import shutil
import signal
from dataclasses import replace
from itertools import count

import pytest
import torch
from test_meshes import losses, together
from test_resume import rows
from training_process import run_away

from plait.config import CheckpointConfig
from plait.interop.exporting import export_model
from plait.opening import open_model
from plait.storage.places import place_of
from plait.storage.run_folder import AWAY
from plait.storage.run_listing import found_runs
from plait.training import Interrupted, train
from plait.verification import verify


@pytest.fixture
def brief(config):
    return replace(config, tokens=8 * config.tokens_per_step)


def stopped(config, folder, address, steps):
    asked = count()
    with pytest.raises(Interrupted, match=rf"stopped .* a checkpoint is in {address}/single/run"):
        train(
            config,
            folder,
            device="cpu",
            checkpoints=address,
            stop=lambda: next(asked) == steps,
        )


def broken(run):
    return [check for check in verify(run) if check.problem]


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_resumed_elsewhere_it_ends_as_if_never_stopped(brief, tmp_path, scheme):
    """Stopped, gone on with on a machine that has nothing of it, stopped, and gone on with."""
    address = f"{scheme}://{tmp_path}/away"
    first, second = (tmp_path / name / "single" / "run" for name in ("first", "second"))
    stayed = tmp_path / "stayed"
    train(brief, stayed, device="cpu")
    stopped(brief, first, address, 3)
    assert [run.state for run in found_runs(tmp_path / "first")] == ["interrupted"]
    stopped(brief, second, address, 2)
    assert len(rows(second)) == 2
    before = rows(first)
    train(brief, second, device="cpu")  # it knows where they are
    assert place_of(second).names() == ["step-8"]
    assert names(second / "checkpoints") == set()
    assert before + rows(second) == rows(stayed)
    here, there = (open_model(run).ours.state_dict() for run in (stayed, second))
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert not broken(second)
    if scheme == "file":  # a checkpoint there is the folder that it is here
        there = tmp_path / "away" / "single" / "run" / "step-8"
        shutil.copytree(there, second / "checkpoints" / "step-8")
        (second / AWAY).unlink()
        assert not broken(second)


def test_what_changed_there_is_found(brief, tmp_path):
    run = tmp_path / "single" / "run"
    train(brief, run, device="cpu", checkpoints=f"file://{tmp_path}/away")
    checkpoint = tmp_path / "away" / "single" / "run" / "step-8"
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(content)
    problems = [check.problem for check in verify(run) if check.problem]
    assert f"checkpoint file://{checkpoint} is damaged: model.safetensors has changed" in problems
    with pytest.raises(ValueError, match=r"every checkpoint in file://.* is damaged"):
        export_model(run, tmp_path / "exported")
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"]["../../stolen"] = manifest["files"]["progress.json"]
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    assert any("stolen leads out of it" in check.problem for check in broken(run))
    (run / AWAY).write_text('{"address": "nowhere://x"}')
    assert [check.problem for check in broken(run)] == [
        "checkpoints at nowhere://x: Protocol not known: nowhere"
    ]


def test_a_run_has_its_checkpoints_in_one_place(brief, tmp_path):
    home, away = tmp_path / "single" / "home", tmp_path / "single" / "run"
    for address, message in (
        ("nowhere://x", r"nowhere://x/single/run: Protocol not known: nowhere"),
        ("s3://x", r"s3://x/single/run: Install s3fs to access S3"),
    ):
        with pytest.raises(ValueError, match=message):
            train(brief, away, device="cpu", checkpoints=address)
    assert not away.exists()
    asked = count()
    with pytest.raises(Interrupted):
        train(brief, home, device="cpu", stop=lambda: next(asked) == 2)
    with pytest.raises(ValueError, match=r"has its checkpoints in .*: go on without --checkpoints"):
        train(brief, home, device="cpu", checkpoints="memory://x")
    stopped(brief, away, f"memory://{tmp_path}", 2)
    with pytest.raises(ValueError, match=r"has its checkpoints at memory://.* go on without"):
        train(brief, away, device="cpu", checkpoints="memory://x")


def test_killed_while_it_sends_the_one_before_is_gone_on_from(brief, processes, tmp_path):
    """All of its second checkpoint has arrived but the manifest."""
    config = replace(brief, checkpoint=CheckpointConfig(every=2, keep=1))
    run, address = tmp_path / "runs" / "single" / "run", f"file://{tmp_path}/away"
    there = tmp_path / "away" / "single" / "run"
    dies, ends = (0, 2 * 5), [-signal.SIGKILL]
    together(processes, 1, config, run, address, dies, target=run_away, ends=ends)
    assert place_of(run).names() == ["step-2"]
    assert names(there) == {"step-2", "step-4"}
    assert not broken(run)
    train(config, run, device="cpu")
    assert names(there) == {"step-8"}
    train(config, tmp_path / "stayed", device="cpu")
    assert rows(run) == rows(tmp_path / "stayed")


@pytest.mark.slow
def test_two_ranks_that_share_no_disk_and_one_that_goes_on(brief, processes, tmp_path):
    """Each sends its parts and fetches the whole; one dies while it sends its second time."""
    model = replace(brief.model, dropout=0.0)
    config = replace(brief, model=model, checkpoint=CheckpointConfig(every=2, keep=1))
    run, address = tmp_path / "machine-0" / "single" / "run", f"file://{tmp_path}/away"
    train(config, tmp_path / "stayed", device="cpu")
    ends = [1, -signal.SIGKILL]
    dies = (1, 3)  # its shards and its weights, twice
    together(processes, 2, config, run, address, dies, False, target=run_away, ends=ends)
    assert place_of(run).names() == ["step-2"]
    together(processes, 2, config, run, address, None, False, target=run_away)
    assert losses(run) == pytest.approx(losses(tmp_path / "stayed"), rel=1e-4)
    assert place_of(run).names() == ["step-8"]
    assert not broken(run)
    for machine in range(2):
        assert names(tmp_path / f"machine-{machine}" / "single" / "run" / "checkpoints") == set()
    there = tmp_path / "away" / "single" / "run" / "step-8"
    assert len(list(there.glob("model-*-of-00002.safetensors"))) == 2
    assert len(list((there / "state").glob("*.distcp"))) == 2
