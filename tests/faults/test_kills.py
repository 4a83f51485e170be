"""Every writer killed at random moments: what it left is whole or absent, and then done again."""

import hashlib
import os
import signal
from pathlib import Path

import pytest

from attacks import cases
from plait.storage.result import Result
from plait.verification import verify

KILL_AT = Path(__file__).parent / "kill_at.py"
SPECIFICATION = """
name: notes
sources: [{kind: files, path: notes/*.txt, domain: notes}]
vocab_size: 300
validation: 0.2
test: 0.2
"""


def tree(folder):
    """Hashes of what a person sees in a folder or a file, and hidden names left in it."""
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def run_of(root):
    return next((root / "runs" / "single").iterdir())


WRITERS = {
    "data build": (["data", "build", "notes.yaml", "--out", "built"], "built"),
    "train": (["train", "run.yaml", "--threads", "1", "--seed", "3"], None),
    "import": (["import", "olmoe", "imported"], "imported"),
    "export": (["export", "RUN", "exported"], "exported"),
    "tie": (["tie", "RUN", "tied", "--experts", "all", "--merge", "mean"], "tied"),
    "trace": (
        ["trace", "RUN", "--text", "text.txt", "--out", "traced", "--figures", "--tokens", "500"],
        "traced",
    ),
    "study report": (["study", "report", "study", "--routing-tokens", "0"], "runs/study"),
    "explore": (["explore", "RUN", "--static", "page.html", "--text", "a plait"], "page.html"),
}
REFUSE = ("import", "export", "tie")
"""these write no folder that is there already"""
VARIES = ("metrics.jsonl", "log.txt", ".verified.json", "progress.json", "manifest.json")


@pytest.fixture
def call(whole, warm, tmp_path):
    """Run a command, killed at one of its changes of the disk or, at 0, not."""
    counted = tmp_path / "calls"

    def run(words, at):
        words = [str(whole.run) if word == "RUN" else word for word in words]
        env = os.environ | {"OMP_NUM_THREADS": "1", "PLAIT_KERNEL": "reference"}
        return warm.run(str(KILL_AT), str(at), str(counted), *words, cwd=whole.root, env=env)

    run.counted = counted
    return run


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_killed_at_any_change_of_the_disk(writer, whole, chance, call):
    (whole.root / "notes.yaml").write_text(SPECIFICATION)
    (whole.root / "notes").mkdir()
    for number in range(60):
        words = [f"word{(number * k) % 37}" for k in range(1, 60)]
        (whole.root / "notes" / f"{number}.txt").write_text(" ".join(words))
    words, name = WRITERS[writer]
    done = call(words, 0)
    assert done.returncode == 0, done.stderr
    changes = int(call.counted.read_text())
    assert changes > 0
    expected = outcome(whole, name)
    for _ in range(cases(1)):
        forget(whole, name)
        at = chance.randint(1, changes)
        killed = call(words, at)
        assert killed.returncode == -signal.SIGKILL, (at, killed.stderr)
        assert_whole_or_absent(whole, name, at)
        if writer in REFUSE and place_of(whole, name).exists():
            # killed after the last rename: the work was done, and would be refused a second time
            assert outcome(whole, name) == expected, f"killed at {at} of {changes}"
            continue
        again = call(words, 0)
        assert again.returncode == 0, (at, again.stderr)
        assert outcome(whole, name) == expected, f"killed at {at} of {changes}"
        assert not left_overs(whole, name), f"killed at {at} of {changes}"


def place_of(whole, name):
    return run_of(whole.root) if name is None else whole.root / name


def outcome(whole, name):
    """What the command is for, leaving out clocks."""
    place = place_of(whole, name)
    if name is None:
        result = Result.load_from(place)
        weights = next(place.glob(f"checkpoints/step-{result.steps}/model.safetensors"))
        return result.evaluation, hashlib.sha256(weights.read_bytes()).hexdigest()
    found = tree(place)
    return {path: digest for path, digest in found.items() if Path(path).name not in VARIES}


def forget(whole, name):
    """Put the disk back to before the command."""
    import shutil

    if name == "runs/study":
        for file in whole.study.glob("report.*"):
            file.unlink()
    elif name is None:
        shutil.rmtree(whole.root / "runs" / "single")
        for known in whole.root.rglob(".verified.json"):  # so that every run makes the same changes
            known.unlink()
    else:
        place = whole.root / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()


def assert_whole_or_absent(whole, name, at):
    place = whole.root / (name or "runs/single")
    if not place.exists() or name is None or place.is_file():
        return
    if name == "traced":
        assert {"trace.parquet", "routing.json", "routing.html"} <= set(os.listdir(place)), at
        return
    problems = [check for check in verify(place) if check.problem]
    assert not problems, (at, problems)


def left_overs(whole, name):
    """Hidden names that a killed process left and the next one did not take away."""
    parent = whole.root if name else whole.root / "runs" / "single"
    found = [path for path in parent.rglob(".*") if path.name not in (".lock", ".verified.json")]
    return [path for path in found if "partial" in path.name or "removed" in path.name]
