"""Ctrl-C at a real process: exit code 130, one line that says how to go on, no traceback."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plait.config.files import save_yaml
from plait.data.tokenizer import Tokenizer
from plait.recipes import train_config
from plait.studies.changes import changed
from tiny_corpus import tiny

STUDY = Path(__file__).parents[1] / "studies" / "before_the_move"

LONG = """
from pathlib import Path
from plait.config import TrainConfig
from plait.config.files import load_yaml
from plait.studies.study import Study

def long():
    config = load_yaml(TrainConfig, Path("run.yaml"))
    return Study(name="long", baseline="plain", variants={"plain": config}, seeds=(0,))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run that would take hours, a study of it, and a finished run."""
    folder = tmp_path_factory.mktemp("place")
    tiny(folder / "corpus")
    options = {
        "data.corpus": str(folder / "corpus"),
        "tokens": 10**9,
        "model.depth": 2,
        "model.width": 32,
        "model.experts.width": 32,
        "evaluation.every": 0,
    }
    save_yaml(changed(train_config("nano"), options, "it"), folder / "run.yaml")
    (folder / "long.py").write_text(LONG)
    shutil.copytree(STUDY, folder / "old")
    (finished,) = (folder / "old").glob("tied-*")
    Tokenizer.train(["a text to trace"], 300).save(finished / "tokenizer.json")
    finished.rename(folder / "finished")
    return folder


QUIET = "^(plait: interrupted\n)?$"
"""a signal may come before the command has a way of its own to end"""


def ctrl_c(place, words, moment):
    """Run a command, and interrupt it at the first line that matches: its code, lines, errors."""
    process = subprocess.Popen(
        [sys.executable, "-m", "plait", *words],
        cwd=place,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PLAIT_KERNEL": "cpu", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # as in a terminal
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if re.search(moment, line):
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=120)
    return process.returncode, "".join(said) + rest, errors


@pytest.mark.parametrize(
    ("words", "moment", "out", "errors"),
    [
        (["train", "run.yaml"], "step 1 of", "", "plait: stopped after step .* the same command"),
        (["study", "run", "long.py:long"], "1 runs of", "", QUIET),
        (["bench", "--shapes", "tiny", "--rounds", "1000000"], "", "", "^plait: interrupted\n$"),
        (["explore", "finished", "--port", "0"], "http://", "", QUIET),
    ],
)
def test_ctrl_c_ends_with_130(place, words, moment, out, errors):
    code, printed, complained = ctrl_c(place, words, moment)
    assert code == 130, complained
    assert re.search(out, printed)
    assert re.search(errors, complained)
    assert "Traceback" not in printed + complained
