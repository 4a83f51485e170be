"""What trackers get of a row."""

import sys
from types import SimpleNamespace

import pytest

from plait.training.trackers import open_trackers, scalars


def test_nested_rows_become_paths_and_what_is_absent_is_left_out():
    row = {"step": 3, "evaluation": {"code": {"loss": 2.0}}, "loss": None, "tokens": 7}
    assert dict(scalars(row)) == {"evaluation/code/loss": 2.0, "tokens": 7}


def test_a_list_over_depths_has_three_names_however_deep_the_model():
    row = {"step": 3, "routing": {"dead_experts": [None, 1, 0, 5], "consistency": 0.25}}
    assert dict(scalars(row)) == {
        "routing/dead_experts/mean": 2.0,
        "routing/dead_experts/min": 0,
        "routing/dead_experts/max": 5,
        "routing/consistency": 0.25,
    }
    assert not dict(scalars({"step": 3, "load": [None, None]}))


@pytest.fixture
def begun(monkeypatch):
    """What was asked of each tracker, in place of the trackers."""
    asked = []
    for name in ("wandb", "trackio"):
        fake = SimpleNamespace(init=lambda name=name, **given: asked.append(given))
        monkeypatch.setitem(sys.modules, name, fake)
    writer = SimpleNamespace(SummaryWriter=lambda folder, **given: asked.append(given))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", writer)
    return asked


def test_a_resumed_run_stays_one_run(tmp_path, begun):
    for folder, after in (("a", 0), ("a", 20), ("b", 0)):
        (tmp_path / folder).mkdir(exist_ok=True)
        open_trackers(("wandb", "trackio", "tensorboard"), tmp_path / folder, {}, after)
    first, again, other = begun[::3]
    assert first == again | {"resume": "allow"}
    assert first["id"] != other["id"]
    assert [given["resume"] for given in begun[1::3]] == ["never", "allow", "never"]
    assert [given["purge_step"] for given in begun[2::3]] == [None, 21, None]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("import a_part_of_it", "No module named 'a_part_of_it'"),
        ("from wandb import nothing", "cannot import name 'nothing'"),
        ("raise TypeError('protobuf\\nis too old')", "protobuf is too old"),
    ],
)
def test_an_installed_tracker_that_lacks_a_part_says_so(tmp_path, monkeypatch, source, why):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ValueError, match=f"wandb is installed, but cannot be imported: {why}"):
        open_trackers(("wandb",), tmp_path, {})


def test_one_that_is_not_there_or_refuses_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError) as missing:
        open_trackers(("wandb",), tmp_path, {})
    assert missing.value.name == "wandb"

    def init(**given):
        raise RuntimeError("api_key not configured\nlog in first")

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=init))
    with pytest.raises(ValueError, match=r"^trackio: .*api_key not configured log in first$"):
        open_trackers(("trackio",), tmp_path, {})
