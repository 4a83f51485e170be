"""What a study takes is said before it begins, also where no step of it can be tried."""

import pytest

from plait import recipes
from plait.config.counts import count
from plait.studies import forecast as module
from plait.studies.forecast import ASSUMED_FLOPS, forecast


def test_a_step_that_would_take_minutes_is_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", lambda *_: pytest.fail("tried"))
    study = recipes.study("looped")
    found = forecast(study, tmp_path, cpu=True)
    assert found.assumed
    baseline = study.variants[study.baseline]
    flops = count(baseline.model).flops_training
    tokens = len(study.seeds) * sum(config.tokens for config in study.variants.values())
    assert found.seconds == pytest.approx(tokens * flops / ASSUMED_FLOPS)


def test_a_gpu_is_not_forecast(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", lambda *_: pytest.fail("tried"))
    found = forecast(recipes.study("looped"), tmp_path, cpu=False)
    assert (found.seconds, found.assumed) == (None, False)


def test_a_study_of_minutes_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "measure", lambda *_: module.Throughput(2, 4000.0, 8000.0))
    found = forecast(recipes.study("demo"), tmp_path, cpu=True)
    assert (found.jobs, found.assumed) == (2, False)
    assert found.seconds == pytest.approx(found.tokens / 8000)
