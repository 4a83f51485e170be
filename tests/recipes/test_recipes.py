"""Recipes are whole: every name gives a model, a run and studies whose variants differ."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from plait import recipes
from plait.config.files import config_hash


@pytest.mark.filterwarnings("ignore:collaboration with row-normalised")
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_gives_a_run(name):
    config = recipes.train_config(name)
    assert config.model == recipes.model_config(name)
    assert config.steps >= 100


@pytest.mark.filterwarnings("ignore:collaboration with row-normalised")
@pytest.mark.parametrize("name", recipes.STUDIES)
def test_variants_of_a_study_differ_in_their_model_and_at_most_in_the_divisor(name):
    study = recipes.study(name)
    assert study.name == name
    configs = list(study.variants.values())
    assert len({config_hash(config) for config in configs}) == len(configs)
    if study.ladder is not None:  # whose sizes differ in their tokens, and what follows from them
        largest = tuple(study.ladder.sizes)[-1]
        configs = [c for name, c in study.variants.items() if name.endswith(f".{largest}")]
    for config in configs:
        assert rules(config) == rules(configs[0])


def rules(config):
    optimizer = replace(config.optimizer, tied_divisor="none")
    return config.data, config.tokens, optimizer, config.schedule


def test_the_demo_can_decide_and_has_three_experts_per_token():
    study = recipes.study("demo")
    assert len(study.seeds) >= 3
    assert study.variants["all-three"].model.experts.top_k == 3


def test_a_study_from_a_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from plait.recipes.nano_studies import demo_study\nmine = demo_study\nother = lambda: 3\n"
    )
    assert recipes.study(f"{file}:mine").name == "demo"
    with pytest.raises(ValueError, match="returns a Study"):
        recipes.study(f"{file}:other")
    with pytest.raises(ValueError, match="returns a Study"):
        recipes.study(f"{file}:absent")
    with pytest.raises(FileNotFoundError, match="no file"):
        recipes.study(f"{tmp_path}/none.py:mine")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def mine(:\n", "mine.py, line 1: SyntaxError: invalid syntax"),
        ("x = 1\n\nraise KeyError('no')\n", "mine.py, line 3: KeyError: 'no'"),
        ("import no_such_module\n", "mine.py, line 1: ModuleNotFoundError: No module named"),
        ("import sys\nsys.exit(3)\n", "mine.py, line 2: SystemExit: 3"),
        ("def mine():\n    return 1 / 0\n", "mine.py, line 2: ZeroDivisionError"),
        ("def mine():\n    raise ValueError('a\\nb')\n", "mine.py, line 2: a b"),
        ("def mine(needed):\n    pass\n", "mine.py: TypeError: mine.. missing 1 required"),
        ("def mine():\n    return mine()\n", "mine.py, line 2: RecursionError"),
        ("mine = 3\n", "mine.py: TypeError: 'int' object is not callable"),
        ("\0", "mine.py"),
        ("(" * 300 + ")" * 300, "mine.py"),
    ],
)
def test_a_mistake_in_a_studys_file_is_one_line(tmp_path, text, says):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        recipes.study(f"{file}:mine")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_model_from_a_run_configuration(tmp_path):
    from plait.config.files import save_yaml

    config = recipes.train_config("nano")
    save_yaml(config, tmp_path / "config.yaml")
    assert recipes.train_config(str(tmp_path / "config.yaml")) == config
    assert recipes.model_config(str(tmp_path / "config.yaml")) == config.model


@pytest.mark.filterwarnings("ignore:collaboration with row-normalised")
def test_hashes_stay_so_that_runs_on_disk_are_found_again():
    expected = json.loads((Path(__file__).parent / "hashes.json").read_text())
    found = {
        "models": {name: config_hash(recipes.model_config(name)) for name in expected["models"]},
        "runs": {name: config_hash(recipes.train_config(name)) for name in expected["runs"]},
        "studies": {
            name: {v: config_hash(config) for v, config in recipes.study(name).variants.items()}
            for name in expected["studies"]
        },
    }
    assert found == expected
