"""One grammar: what help shows is what is read, and a mistake is one line with the way out."""

import dataclasses
import re
from pathlib import Path

import pytest

from plait import recipes
from plait.cli import models, train
from plait.cli.commands import COMMANDS
from plait.cli.options import shape_of
from plait.cli.parsing import UsageError, parse
from plait.config import CollaborationConfig
from plait.config.files import config_hash, from_dict, save_yaml, to_dict
from plait.studies.changes import with_tokens


def read(function, *words):
    """What a command's function is called with."""
    call = parse(function, list(words), "plait")
    bound = next(c.cell_contents for c in call.__closure__ if hasattr(c.cell_contents, "arguments"))
    return bound.arguments


def planned(*words, recipe="nano"):
    return read(train.plan, recipe, *words)["model"]


def trained(*words, recipe="nano"):
    return read(train.train, recipe, *words)["experiment"]


def changed(recipe="nano", **changes):
    """The hash of a recipe with changes, made without any command line."""
    data = to_dict(recipes.train_config(recipe))
    for path, value in changes.items():
        *parts, last = path.split("__")
        inner = data
        for part in parts:
            inner[part] = inner[part] or {}
            inner = inner[part]
        inner[last] = value
    return config_hash(from_dict(type(recipes.train_config(recipe)), data))


@pytest.mark.parametrize(
    ("words", "get", "expected"),
    [
        (["--experts.top-k", "4"], lambda c: c.experts.top_k, 4),
        (["--experts.top_k=4"], lambda c: c.experts.top_k, 4),
        (["--experts.count", *"88888884"], lambda c: c.experts.count, (8,) * 7 + (4,)),
        (["--experts.count", "8"], lambda c: c.experts.count, 8),
        (["--norm_eps", "1e-6"], lambda c: c.norm_eps, 1e-6),
        (["--no-tied-head"], lambda c: c.tied_head, False),
        (["--attention.qkv-bias"], lambda c: c.attention.qkv_bias, True),
        (["--attention.clip-qkv", "8"], lambda c: c.attention.clip_qkv, 8.0),
        (["--attention.kv-heads", "null"], lambda c: c.attention.kv_heads, None),
        (["--sharing.experts", "2 + 1x4 + 2"], lambda c: str(c.plans.experts), "2 + 1x4 + 2"),
        (["--depth", "4", "--sharing.router", "all"], lambda c: c.plans.router.banks, (0,) * 4),
        (
            ["--collaboration.strength", "1"],
            lambda c: c.collaboration,
            CollaborationConfig(strength=1.0),
        ),
        (["--collaboration.strength", "0.5"], lambda c: c.collaboration, CollaborationConfig()),
    ],
)
def test_an_option_reaches_the_configuration(words, get, expected):
    assert get(planned(*words)) == expected


@pytest.mark.filterwarnings("ignore:collaboration with row-normalised")
def test_a_part_is_changed_or_removed_where_a_recipe_has_it():
    less = trained("--model.collaboration.strength", "0.3", recipe="ct-moe-65m")
    assert config_hash(less) == changed("ct-moe-65m", model__collaboration__strength=0.3)
    for nothing in ("None", "null"):
        without = trained("--model.collaboration", nothing, recipe="ct-moe-65m")
        assert config_hash(without) == changed("ct-moe-65m", model__collaboration=None)


def test_options_stand_before_and_after_the_name_and_lists_take_several_words():
    for words in (["--threads", "1", "nano"], ["nano", "--threads", "1"]):
        assert read(train.train, *words)["launch"].threads == 1
    launch = read(train.train, "nano", "--track", "tensorboard", "wandb")["launch"]
    assert launch.track == ("tensorboard", "wandb")
    assert read(train.train, "nano", "--runs", "there")["launch"].runs == Path("there")
    found = read(models.trace, "run", "--text", "a", "b")
    assert (found["models"], found["text"]) == (("run",), ("a", "b"))
    assert read(train.train, "nano", "--from", "runs/x")["experiment"].initial_weights == "runs/x"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model.dpeth", "3"], "no option --model.dpeth: did you mean --model.depth?"),
        (["--depth", "3"], "no option --depth: did you mean --model.depth?"),
        (["--model.sharing.expert", "own"], "did you mean --model.sharing.experts?"),
        (["--model.depth", "many"], "--model.depth"),
        (["--model.norm", "batch"], "Expected one of ('rms', 'layer')"),
        (["--model.experts.count", "8", "x"], "--model.experts.count"),
        (["--clip", "big"], "--clip"),
        (["--model.depth"], "--model.depth"),
        (["more"], "more"),
        (["--model.sharing.experts", "2 + 1x5"], "reaches depth 7, but the model has depth 8"),
        (["--model.experts.top_k", "17"], "top_k is 17"),
        (["--model.depth", "0"], "depth is 0: it must be 1 or more"),
        (["--track", "wandb", "--track", "trackio"], "--track is given twice"),
        (["--model.depth", "4", "--model.depth=6"], "--model.depth is given twice"),
        (["--model.tied_head", "--model.no-tied-head"], "given twice"),
        (["--from", "a", "--initial-weights", "b"], "given twice"),
        (["--model.tied-head=false"], "takes no value"),
        (
            ["--model.collaboration", "None", "--model.collaboration.signed"],
            "--model.collaboration.signed exclude each other",
        ),
    ],
)
def test_a_mistake_is_refused_in_one_line(words, says):
    with pytest.raises(UsageError) as caught:
        read(train.train, "nano", *words)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_depends_on_the_length_keeps_its_share_of_it_unless_given():
    whole, short = trained(), trained("--tokens", "40000")
    assert short == with_tokens(whole, 40_000)
    assert short.schedule.warmup == whole.schedule.warmup // 100 == 2_000
    assert (short.evaluation.every, short.checkpoint.every) == (7, 7)
    stated = trained("--tokens", "40000", "--schedule.warmup", "7", "--evaluation.every", "0")
    assert (stated.schedule.warmup, stated.evaluation.every, stated.checkpoint.every) == (7, 0, 7)
    assert trained("--tokens", "8000000", "--schedule.warmup", "5000000").tokens == 8_000_000
    tiny = trained("--tokens", "64", "--data.batch", "1", "--data.sequence-length", "64")
    assert (tiny.steps, tiny.schedule.warmup) == (1, 3), "less than a step of the recipe's own"
    for wrong in ("0", "-5", "9" * 400):
        with pytest.raises(UsageError, match="tokens is"):
            trained("--tokens", wrong)
    with pytest.raises(UsageError, match=r"schedule.warmup .* of the run: shorten them"):
        trained("--tokens", "40000", "--schedule.warmup", "50000")


@pytest.mark.parametrize(("words", "warned"), [([], 1), (["--experts.top-k", "3"], 0)])
def test_a_warning_is_of_what_was_asked_for(words, warned, recwarn, capsys):
    with pytest.raises(SystemExit):
        parse(train.train, ["ct-moe-65m", "--help"], "plait train")
    assert not recwarn, "help is asked for, and nothing is trained"
    planned(*words, recipe="ct-moe-65m")
    assert len(recwarn) == warned


def test_what_is_missing_is_named():
    with pytest.raises(UsageError, match="CONFIG"):
        read(train.train)
    with pytest.raises(UsageError, match="--prompt"):
        read(models.generate, "run")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_option_and_no_other(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = ["nano"] if name in ("plan", "train") else []
    with pytest.raises(SystemExit):
        parse(COMMANDS[name].function(), [*words, "--help"], f"plait {name}")
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "(default: )" not in printed
    about = printed.split("\n\n")[1]
    assert not re.search("^ ", about, re.MULTILINE)
    lines = [line for line in printed.splitlines() if re.match(r"(│ |  )-", line)]
    shown = set(re.findall(r"--[a-z][a-z0-9.-]*", "\n".join(lines)))
    assert shown == {*shape_of(COMMANDS[name].function()).names, "--help"}


def test_help_shows_what_an_argument_may_be(capsys):
    for name, choices in (
        ("completion", "bash,zsh"),
        ("reproduce", "ct-moe,pathmoe,expert-tying,combinations"),
    ):
        with pytest.raises(SystemExit):
            parse(COMMANDS[name].function(), ["--help"], f"plait {name}")
        assert f"{{{choices}}}" in capsys.readouterr().out


def test_help_has_units_defaults_and_parts_that_are_none(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse(train.train, ["nano", "--help"], "plait train")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for line in (
        "--tokens INT tokens to train on; rounded down to whole optimizer steps (default: 4000000)",
        "--clip None|FLOAT largest norm of the whole gradient; None: as it comes (default: 1.0)",
        "--threads None|INT threads of torch; None: its own choice (default: None)",
        "--model.collaboration.strength FLOAT",
        "None, unless one of its options is given.",
    ):
        assert line in text
    assert ".plans" not in text


@pytest.mark.filterwarnings("ignore:collaboration with row-normalised")
@pytest.mark.parametrize("recipe", ["nano", "ct-moe-65m", "deepseek-moe-tiny"])
def test_every_option_is_accepted_with_the_value_that_it_has(recipe):
    words = []

    def add(config, path):
        for field in dataclasses.fields(config):
            value, option = getattr(config, field.name), f"{path}{field.name}"
            if dataclasses.is_dataclass(value):
                add(value, f"{option}.")
            elif isinstance(value, bool):
                head, _, last = option.rpartition(".")
                no = f"{head}.no-{last}" if head else f"--no-{last[2:]}"
                words.append(option if value else no)
            elif isinstance(value, tuple):
                words.extend([option, *map(str, value)])
            else:
                words.extend([option, str(value)])

    add(recipes.train_config(recipe), "--")
    assert len(words) > 120
    assert config_hash(trained(*words, recipe=recipe)) == changed(recipe)


@pytest.mark.filterwarnings("ignore:collaboration with row-normalised")
@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_a_yaml_file_gives_the_same_hash(recipe, tmp_path):
    path = tmp_path / "run.yaml"
    save_yaml(recipes.train_config(recipe), path)
    assert config_hash(trained(recipe=str(path))) == changed(recipe)
    assert config_hash(trained("--seed", "7", recipe=str(path))) == changed(recipe, seed=7)
