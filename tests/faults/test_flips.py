"""Damaged files of every kind: found where a hash covers them, and never a traceback anywhere."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from attacks import assert_in_words, cases, outcome
from plait.verification import verify


def damage(path: Path, chance) -> str:
    """Flip a bit, cut the end off, empty it, or put other bytes into a file."""
    data = bytearray(path.read_bytes())
    kind = chance.choice(("flip", "flip", "cut", "empty", "noise"))
    if kind == "flip":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[chance.randrange(len(data)) :]
    elif kind == "empty":
        data.clear()
    else:
        start = chance.randrange(len(data))
        data[start : start + 40] = chance.randbytes(40)
    path.write_bytes(data)
    return kind


def files_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


READERS = {
    "corpus": [["data", "inspect", "corpus"], ["train", "run.yaml", "--seed", "9"]],
    "runs/study": [
        ["verify", "runs/study"],
        ["runs"],
        ["study", "show", "study"],
        ["verify", "RUN"],
        ["generate", "RUN", "--prompt", "a", "--tokens", "2"],
        ["tie", "RUN", "tied", "--experts", "all", "--merge", "mean"],
    ],
    "olmoe": [["import", "olmoe", "imported"], ["verify", "olmoe"]],
}
COVERED = {"corpus": ("inspect", 1.0), "runs/study": ("verify", 0.8)}


@pytest.mark.parametrize("place", READERS)
def test_damage_is_told_in_one_line(place, whole, chance, tmp_path):
    tried = found = 0
    for _ in range(cases(30)):
        victim = chance.choice(files_of(whole.root / place))
        kept = victim.read_bytes()
        kind = damage(victim, chance)
        changed = victim.read_bytes() != kept
        for words in READERS[place]:
            for made in ("imported", "tied"):
                shutil.rmtree(whole.root / made, ignore_errors=True)
            words = [str(whole.run) if word == "RUN" else word for word in words]
            try:
                code, said = outcome(*words)
                assert_in_words(code, said)
            except BaseException as error:
                error.add_note(f"{' '.join(words)}, {kind} in {victim.relative_to(whole.root)}")
                raise
            if (changed and words[:1] == ["verify"]) or words[1:2] == ["inspect"]:
                tried += 1
                found += code != 0
        for run in (whole.root / "runs" / "single", whole.root / "imported"):
            shutil.rmtree(run, ignore_errors=True)
        victim.write_bytes(kept)
        shutil.rmtree(whole.corpus / ".verified.json", ignore_errors=True)
    print(f"{place}: {tried} damages, {found} found")
    assert outcome("verify", str(whole.root / place))[0] == 0, "the damage was mended after each"


def test_what_a_hash_covers_is_found_every_time(whole, chance):
    covered = [
        path
        for path in files_of(whole.run / "checkpoints")
        + [whole.run / name for name in ("tokenizer.json", "result.json")]
        + [path for path in files_of(whole.corpus) if path.suffix == ".bin"]
    ]
    for number in range(cases(40)):
        victim = chance.choice(covered)
        kept = bytearray(victim.read_bytes())
        data = bytearray(kept)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        victim.write_bytes(data)
        whose = whole.corpus if victim.parent == whole.corpus else whole.run
        problems = [check for check in verify(whose) if check.problem]
        same_json = victim.name == "result.json" and _same_json(kept, data)
        assert problems or same_json, (number, victim)
        victim.write_bytes(kept)


def _same_json(kept: bytearray, data: bytearray) -> bool:
    try:
        return bool(json.loads(kept) == json.loads(data))
    except ValueError:
        return False


class Evil:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


def test_hostile_pickles_run_no_code(whole, capfd):
    marker = whole.root / "executed"
    bodies = [pickle.dumps(Evil(f"touch {marker}"), protocol) for protocol in range(6)]
    for body in bodies:
        for name in (".metadata", "__0_0.distcp"):
            victim = next(whole.run.glob("checkpoints/step-*")) / "state" / name
            kept = victim.read_bytes()
            victim.write_bytes(body)
            code, said = outcome("verify", str(whole.run))
            assert code == 1
            assert "Traceback" not in said
            victim.write_bytes(kept)
    assert not marker.exists()


def test_a_lock_that_nobody_holds_stops_nobody(whole):
    (whole.run / ".lock").write_text("12345")
    assert outcome("clean", "--yes")[0] == 0
    assert outcome("train", "run.yaml", "--name", "plain", "--study", "study")[0] == 0
