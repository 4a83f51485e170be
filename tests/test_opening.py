"""What is opened from disk, under which name, and what is refused."""

import pytest
from torch import nn

from plait import opening


def test_names_are_as_long_as_they_must_be(monkeypatch, tmp_path):
    def opened(folder, device, name):
        return opening.Opened(name, folder, nn.Identity())

    monkeypatch.setattr(opening, "open_model", opened)
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "a" / "run"]
    names = [found.name for found in opening.open_models(folders)]
    assert names == ["a/run (1)", "b/run", "a/run (2)"]
    hashed = [tmp_path / f"{variant}-s0-0123456789a{i}" for i, variant in enumerate("vw")]
    assert [found.name for found in opening.open_models(hashed)] == ["v-s0", "w-s0"]
    seeds = [tmp_path / f"v-s0-0123456789a{i}" for i in range(2)]
    names = [found.name for found in opening.open_models(seeds)]
    assert names == ["v-s0-0123456789a0", "v-s0-0123456789a1"]


def test_what_is_no_model_is_refused_with_the_fix(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither config\.yaml .* nor config\.json"):
        opening.open_models([tmp_path])
    with pytest.raises(ValueError, match="give the folder of a run"):
        opening.open_models([])


@pytest.mark.parametrize(
    "text",
    [
        "3",
        "[]",
        "[" * 10_000,
        '{"model_type": []}',
        '{"model_type": "olmoe"}',
        '{"model_type": "olmoe", "num_hidden_layers": 10000000}',
        "{",
    ],
)
def test_what_transformers_cannot_load_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"transformers cannot load it|damaged|is the most"
    ) as caught:
        opening.open_model(tmp_path, "cpu")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"there is no device 'cuda:7' here .*: try cpu"):
        opening.open_model(tmp_path, "cuda:7")
