"""Tasks that two real processes score together, against one process."""

import json

import pytest
import torch

pytest.importorskip("lm_eval", reason="needs the extra `eval`")
from scoring_processes import be_rank, score, small_batches

from gloo import start


def test_two_processes_score_as_one(processes, wide, tmp_path, monkeypatch):
    small_batches(monkeypatch.setattr)
    alone = score(wide, tmp_path / "cache", tmp_path / "alone.json")
    start(processes, 2, be_rank, wide, tmp_path / "other cache", tmp_path)
    each = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    for found in each:
        assert found["scores"] == alone["scores"]
        assert found["few"]["tasks"]["boolq"]["documents"] == 1
        assert found["few"] == alone["few"]
        assert found["written"] == alone["written"]
    for kind in ("scoring", "writing"):  # each a share, and nothing twice
        run = [found[kind] for found in each]
        assert sum(run) == alone[kind]
        assert min(run) > alone[kind] / 4
    assert json.loads((tmp_path / "0.json").read_text()) == alone["few"]
    assert not list(tmp_path.glob("1.json*"))
    once = (tmp_path / "cache" / "unpacked.txt").read_text()
    assert (tmp_path / "other cache" / "unpacked.txt").read_text() == once
