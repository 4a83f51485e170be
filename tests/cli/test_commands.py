"""The command line as a process: exit codes, one-line errors, the main job on a tiny corpus."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from plait import __version__ as plait_version
from plait import recipes
from plait.cli.commands import COMMANDS
from plait.config import ModelConfig, TrainConfig
from plait.config.counts import count
from plait.config.files import load_yaml, save_yaml
from plait.data.tokenizer import Tokenizer
from plait.sharing import Sharing
from tiny_corpus import tiny

STUDY = Path(__file__).parents[1] / "studies" / "before_the_move"

TINY = [
    "--model.vocab-size=512",
    "--model.depth=4",
    "--model.width=32",
    "--model.experts.width=16",
    "--data.batch=4",
    "--data.sequence-length=64",
    "--tokens=1024",
    "--schedule.warmup=256",
    "--evaluation.every=2",
    "--evaluation.tokens=512",
    "--evaluation.final-tokens=512",
]


@pytest.fixture(scope="module")
def plait(warm):
    environment = os.environ | {"COLUMNS": "160", "OMP_NUM_THREADS": "1"}
    return partial(warm.run, "-m", "plait", env=environment)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "tiny"
    tiny(path)
    return path


def test_plan_prints_what_expert_tying_stores(plait, tmp_path):
    done = plait("plan", "olmoe", "--sharing.experts", "groups(2, skip=2)", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stored parameters" in done.stdout
    assert "4.71 B" in done.stdout
    assert "2 + (1x2)*6 + 2" in done.stdout


def test_match_writes_the_run_with_its_new_model_or_the_model(plait, tmp_path):
    nano = recipes.train_config("nano")
    few = replace(nano.model, experts=replace(nano.model.experts, count=10))
    tied = replace(nano.model, sharing=Sharing(experts="groups(4, skip=2)"))
    save_yaml(tied, tmp_path / "tied.yaml")
    done = plait("match", "nano", "--to", "tied.yaml", "--out", "new/few.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wanted, found = (f"{count(model).stored:,}" for model in (tied, few))
    assert re.search(rf"stored +stored parameters +{wanted} +{found} +−0.22 %", done.stdout)
    assert re.search(r"active +active parameters per token \(not held\) .* −0.44 %", done.stdout)
    assert re.search(r"experts.count +16 +10 *\n", done.stdout)
    written = load_yaml(TrainConfig, tmp_path / "new" / "few.yaml")
    assert written == replace(nano, model=few)

    again = ["match", "new/few.yaml", "--to", "nano", "--vary", "experts", "--out", "again.yaml"]
    done = plait(*again, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_yaml(TrainConfig, tmp_path / "again.yaml") == nano, "a run stays the run"

    wide = ["match", "tied.yaml", "--to", "nano", "--tolerance", "0.02", "--out", "wide.yaml"]
    assert plait(*wide, cwd=tmp_path).returncode == 0
    assert load_yaml(ModelConfig, tmp_path / "wide.yaml").sharing == tied.sharing
    options = ["--sharing.experts", "groups(4, skip=2)", "--tolerance", "0.02"]
    done = plait("match", "nano", *options, "--to", "nano", "--out", "same.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    widened = load_yaml(TrainConfig, tmp_path / "same.yaml").model
    assert widened == load_yaml(ModelConfig, tmp_path / "wide.yaml")

    before = (tmp_path / "same.yaml").read_bytes()
    for refused, says in (
        (["--out", "same.yaml"], "same.yaml is there already: choose another file"),
        (["--vary", "width", "--out", "no.yaml"], "no width makes stored equal to within 0.50%"),
    ):
        done = plait("match", "nano", "--to", "tied.yaml", *refused, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("plait: ")
        assert done.stderr.count("\n") == 1
        assert says in done.stderr
    assert (tmp_path / "same.yaml").read_bytes() == before
    assert not (tmp_path / "no.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["match", "nano", "--to", "olmo"], 1, "no model is called 'olmo': did you mean olmoe?"),
        (["match", "nano", "--to", "nano", "--equal", "size"], 1, "no budget is called 'size'"),
        (["match", "nano"], 2, "--to"),
        (["plan", "olmo"], 1, "no model is called 'olmo': did you mean olmoe?"),
        (["plan", "olmoe", "--sharing.experts", "2y7"], 2, "found 'y' at character 2"),
        (["plan", "olmoe", "--dept", "3"], 2, "did you mean --depth?"),
        (["trian", "nano"], 2, "no command 'trian': did you mean `plait train`?"),
        (["data", "biuld"], 2, "did you mean `plait data build`?"),
        (["study"], 2, "did you mean `plait study run`?"),
        (["train", "nano", "--data.corpus", "nowhere"], 1, "build one with `plait data build`"),
        (["runs"], 1, "runs: no such folder"),
        (["plan", "nano", "--depth", "x"], 2, "--depth: not a whole number: 'x'"),
        (["train", "nano", "--bogus", "3"], 2, "no option --bogus: --help lists all"),
        (["plan", "nano", "--depth", "99999999999999999999"], 2, "depth is 99999999999999999999"),
        (["generate", "a", "--prompt", "x", "--seed", "9" * 30], 2, "--seed is 9999"),
        (["explore", "a", "--port", "-9" + "9" * 30], 2, "--port is -999"),
        (["plan", "missing.yaml"], 1, "no configuration file at missing.yaml"),
        (["data", "build", "starte"], 1, "no corpus named 'starte'"),
        (["study", "run", "dem"], 1, "no study is called 'dem'"),
        (["study", "run", "mine.py"], 1, "mine.py: name the function in it"),
        (["study", "report", "demo"], 1, "demo"),
        (["verify", "nowhere"], 1, "nowhere: not there"),
        (["generate", "nowhere", "--prompt", "x"], 1, "nowhere"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(plait, tmp_path, arguments, code, says):
    done = plait(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith("plait: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not any(tmp_path.iterdir()), "nothing is left behind"


def test_a_dry_run_does_nothing(plait, tmp_path):
    environment = os.environ | {"PLAIT_CACHE": str(tmp_path / "cache"), "PLAIT_KERNEL": "reference"}
    done = plait("study", "run", "nano", "--dry-run", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "the corpus starter-2k would be built first" in done.stdout
    assert "study nano: 30 runs" in done.stdout
    assert not any(tmp_path.iterdir())


def test_power_knows_a_study_by_its_folder(plait, tmp_path):
    shutil.copytree(STUDY, tmp_path / "runs" / STUDY.name)
    done = plait("study", "power", STUDY.name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "tied − plain: study before-the-move has no two pairs to judge by" in done.stdout


def test_bad_usage_is_2(plait, tmp_path):
    assert plait("no-such-command", cwd=tmp_path).returncode == 2
    assert plait(cwd=tmp_path).returncode == 2


def test_help_and_version_import_almost_nothing(tmp_path):
    for words in (["--help"], ["--version"]):
        command = [sys.executable, "-X", "importtime", "-m", "plait", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0
        loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert not loaded & {"torch", "numpy", "tyro", "yaml", "rich", "plait.config"}
    assert done.stdout == f"plait {plait_version}\n"


@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [
        ("altair", "report", ["study", "report", "before-the-move"]),
        ("pyarrow", "report", ["trace", "RUN", "--text", "README"]),
        ("uvicorn", "explore", ["explore", "RUN"]),
        ("transformers", "hf", ["export", "RUN", "out"]),
        ("lm_eval", "eval", ["eval", "RUN", "--tasks", "arc_easy"]),
        ("trackio", "track", ["train", "nano", "--track", "trackio", "--data.corpus", "CORPUS"]),
    ],
)
def test_a_missing_extra_names_itself(plait, module, extra, words, tmp_path, corpus):
    shutil.copytree(STUDY, tmp_path / "runs" / "before-the-move")
    (tied,) = (tmp_path / "runs").glob("*/tied-*")
    Tokenizer.train(["a text to trace"], 300).save(tied / "tokenizer.json")
    (tmp_path / "README").write_text("a text to trace\n" * 20)
    names = {"RUN": str(tied), "CORPUS": str(corpus)}
    done = plait(*[names.get(word, word) for word in words], cwd=tmp_path, missing=[module])
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"plait: this needs {module}")
    assert f'pip install "plait[{extra}]"' in done.stderr
    assert f'pip install -e ".[{extra}]"' in done.stderr


def test_a_tokenizer_of_another_model_is_one_line(plait, tmp_path):
    shutil.copytree(STUDY, tmp_path / "runs" / "before-the-move")
    (tied,) = (tmp_path / "runs").glob("*/tied-*")
    words = [f"{first}{second} " for first in "abcdefghij" for second in "klmnopqrst"]
    Tokenizer.train(words, 400).save(tied / "tokenizer.json")
    (tmp_path / "text.txt").write_text("".join(words) * 20)
    run = str(tied)
    for command in (
        ["trace", run, "--text", "text.txt", "--perturb-tokens", "0"],
        ["generate", run, "--prompt", words[-1]],
        ["tie", run, "out", "--router", "all", "--merge", "mean", "--text", "text.txt"],
        ["explore", run, "--static", "page.html", "--text", words[-1]],
    ):
        done = plait(*command, cwd=tmp_path)
        assert done.returncode == 1, command
        assert done.stderr.count("\n") == 1, done.stderr
        assert "put the tokenizer back that it was trained with" in done.stderr, command


def complete(script, words):
    """What bash offers for the last of `words` once it has read our script."""
    offer = "_plait; printf '%s\\n' \"${COMPREPLY[@]}\""
    line = " ".join(f"'{word}'" for word in words)
    code = f"{script}\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; {offer}"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=_with_plait())
    return done.stdout.split()


def _with_plait():
    """The environment where `plait` is on the path."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def test_bash_completes_commands_options_and_names(plait, tmp_path):
    script = plait("completion", "bash", cwd=tmp_path).stdout
    assert {"train", "trace"} <= set(complete(script, ["plait", "tra"]))
    assert {"build", "inspect"} <= set(complete(script, ["plait", "data", ""]))
    assert "olmoe-tiny" in complete(script, ["plait", "train", "olm"])
    assert "--model.sharing.router" in complete(script, ["plait", "train", "nano", "--model.sh"])
    assert complete(script, ["plait", "data", "inspect", "--hel"]) == ["--help"]
    assert "validation" in complete(script, ["plait", "eval", "run", "--split", "val"])
    for name in COMMANDS:
        asked = plait("--complete", *name.split(), "--hel", cwd=tmp_path)  # as the script does
        assert "--help" in asked.stdout.splitlines(), name


def test_names_are_whole_where_a_terminal_is_narrow(plait, tmp_path):
    narrow = os.environ | {"COLUMNS": "80"}
    shutil.copytree(STUDY, tmp_path / "runs" / "a-study-whose-name-takes-its-place")
    listed = plait("runs", cwd=tmp_path, env=narrow)
    assert listed.returncode == 0, listed.stderr
    for run in (tmp_path / "runs").glob("*/*-s0-*"):
        assert f" {run.parent.name}/{run.name} " in listed.stdout
    recipes_listed = plait("recipes", cwd=tmp_path, env=narrow).stdout
    assert max(map(len, recipes_listed.splitlines())) <= 80
    assert "shared: router blocks(4)" in recipes_listed
    assert "…" not in recipes_listed


def test_what_finished_runs_do_not_need_is_shown_and_removed_on_request(plait, tmp_path):
    shutil.copytree(STUDY, tmp_path / "runs" / "before-the-move")
    listed = plait("runs", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "finished" in listed.stdout
    assert "interrupted" in listed.stdout
    assert "nothing to remove" in plait("clean", cwd=tmp_path).stdout
    (tied,) = (tmp_path / "runs").glob("*/tied-*")
    old = tied / "checkpoints" / "step-10"
    shutil.copytree(tied / "checkpoints" / "step-20", old)
    asked = plait("clean", cwd=tmp_path, input="n\n")
    assert "step-10" in asked.stdout
    assert old.exists()
    assert plait("clean", "--yes", cwd=tmp_path).returncode == 0
    assert not old.exists()
    assert (tied / "checkpoints" / "step-20").exists()


def test_train_resume_eval_generate(plait, tmp_path, corpus):
    command = ["train", "nano", f"--data.corpus={corpus}", *TINY]
    first = plait(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    (folder,) = (tmp_path / "runs" / "single").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["tokens"] == 1024
    assert set(result["evaluation"]["domains"]) == {"code", "prose", "all"}
    again = plait(*command, cwd=tmp_path)
    assert again.returncode == 0
    assert json.loads((folder / "result.json").read_text()) == result, "a finished run is skipped"
    scored = plait("eval", str(folder), "--tokens", "512", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    assert f"{result['evaluation']['domains']['all']['loss']:.4f}" in scored.stdout
    options = ["--sequence-length", "32", "--batch", "1"]
    shorter = plait("eval", str(folder), "--tokens", "512", *options, cwd=tmp_path)
    assert "in sequences of 32 tokens" in shorter.stdout
    assert "in sequences of 64 tokens" in scored.stdout
    longer = plait("eval", str(folder), "--sequence-length", "4096", cwd=tmp_path)
    assert longer.returncode == 1
    assert "the model's context is 128 tokens" in longer.stderr
    said = plait("generate", str(folder), "--prompt", "def main", "--tokens", "5", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("def main")
    assert len(list((folder / "checkpoints").iterdir())) == 1, "a finished run keeps the last"
    other = plait(*command, "--model.sharing.router=all", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert len(list((tmp_path / "runs" / "single").iterdir())) == 2, "configurations never meet"


def test_eval_refuses_a_corpus_of_another_tokenizer(plait, tmp_path, corpus):
    trained = plait("train", "nano", f"--data.corpus={corpus}", *TINY, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    (folder,) = (tmp_path / "runs" / "single").iterdir()
    (tmp_path / "other.txt").write_text("\n\n".join(f"a plait of {n} strands" for n in range(2000)))
    (tmp_path / "other.yaml").write_text(
        "name: other\nvocab_size: 300\nsources: "
        "[{kind: files, path: other.txt, domain: prose, cut: 1000}]\nvalidation: 0.2\ntest: 0.2\n"
    )
    built = plait("data", "build", "other.yaml", "--out", "other", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    scored = plait("eval", str(folder), "--corpus", "other", cwd=tmp_path)
    assert scored.returncode == 1
    assert "corpus other was encoded with another tokenizer" in scored.stderr


def test_a_run_is_whole_where_its_corpus_is_not(plait, tmp_path):
    tiny(tmp_path / "tiny")
    trained = plait("train", "nano", "--data.corpus", "tiny", *TINY, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    (folder,) = (tmp_path / "runs" / "single").iterdir()
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    shutil.rmtree(tmp_path / "tiny")
    (tmp_path / "text.txt").write_text("def walk(depth):\n    return depth + 1\n" * 20)
    for words in (
        ["generate", "elsewhere", "--prompt", "def", "--tokens", "3"],
        ["trace", "elsewhere", "--text", "text.txt", "--tokens", "200", "--perturb-tokens", "0"],
        ["export", "elsewhere", "exported"],
        ["tie", "elsewhere", "tied", "--experts", "all", "--text", "text.txt"],
        ["explore", "elsewhere", "--static", "page.html", "--text", "a plait"],
    ):
        done = plait(*words, cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    assert (tmp_path / "exported" / "tokenizer.json").is_file()
    assert (tmp_path / "tied" / "tokenizer.json").is_file()
    assert json.loads((moved / "corpus.json").read_text())["sources"]
