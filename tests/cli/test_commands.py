"""The command line as a process: exit codes, one-line errors, the main job on a tiny corpus."""

import json
import os
import subprocess
import sys

import pytest

from plait.data import corpora

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


def plait(*arguments, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-m", "plait", *arguments],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "160", "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "tiny"
    corpora.tiny(path)
    return path


def test_plan_prints_what_expert_tying_stores(tmp_path):
    done = plait("plan", "olmoe", "--sharing.experts", "groups(2, skip=2)", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "stored parameters" in done.stdout
    assert "4.71 B" in done.stdout
    assert "2 + (1x2)*6 + 2" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["plan", "olmo"], 1, "no model is called 'olmo': did you mean olmoe?"),
        (["plan", "olmoe", "--sharing.experts", "2y7"], 2, "found 'y' at character 2"),
        (["plan", "olmoe", "--dept", "3"], 2, "did you mean 'depth'?"),
        (["plan", "missing.yaml"], 1, "no configuration file at missing.yaml"),
        (["data", "build", "starte"], 1, "no corpus named 'starte'"),
        (["study", "run", "dem"], 1, "no study is called 'dem'"),
        (["study", "report", "demo"], 1, "demo"),
        (["generate", "nowhere", "--prompt", "x"], 1, "nowhere"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(tmp_path, arguments, code, says):
    done = plait(*arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith("plait: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not any(tmp_path.iterdir()), "nothing is left behind"


def test_bad_usage_is_2(tmp_path):
    assert plait("no-such-command", cwd=tmp_path).returncode == 2
    assert plait(cwd=tmp_path).returncode == 2


def test_train_resume_eval_generate(tmp_path, corpus):
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
    said = plait("generate", str(folder), "--prompt", "def main", "--tokens", "5", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("def main")
    other = plait(*command, "--model.sharing.router=all", cwd=tmp_path)
    assert other.returncode == 0, other.stderr
    assert len(list((tmp_path / "runs" / "single").iterdir())) == 2, "configurations never meet"
