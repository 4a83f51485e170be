"""Corpora built by several processes: equal to the bit, and whole or absent however they end."""

import fcntl
import gzip
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from plait.data import Specification, build, parts, shards
from plait.data.documents import SHORTEST, clean, content_hash
from plait.data.sources import Files, PythonFunction
from plait.data.spool import place_of, split_of
from plait.data.workers import Workers


def words(seed, count=90):
    return " ".join(f"word{(seed * 7919 + n * n) % 997}" for n in range(count))


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Sources of all kinds, with documents that come twice, also in another part and source."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for n in range(40):
        (folder / f"{n}.txt").write_text(words(n % 30))
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"text": words(n)}) + "\n" for n in range(20, 80))
    )
    with gzip.open(folder / "more.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"text": words(n)}) + "\n" for n in range(60, 100))
    (folder / "short.txt").write_text("short")
    (folder / "binary.txt").write_bytes(b"\xff\0" * 500)
    (tmp_path / "own.py").write_text(
        "def texts():\n    return (f'own text {n} ' * 40 for n in range(90))\n"
    )
    monkeypatch.setattr(parts, "PART_BYTES", 4000)
    monkeypatch.setattr(shards, "BATCH_CHARACTERS", 3000)
    return folder


def spec(folder, limit=None, **options):
    own = PythonFunction(f"{folder.parent / 'own.py'}:texts", domain="own")
    sources = (Files(str(folder), domain="texts", limit=limit), own)
    defaults = {"name": "mixed", "vocab_size": 400, "validation": 0.2, "test": 0.2}
    return Specification(sources=sources, **defaults | options)


def content(corpus):
    """All bytes of a corpus but where the manifest names it."""
    return {path.name: path.read_bytes() for path in sorted(corpus.path.iterdir())}


def started(monkeypatch):
    found = []
    process = Workers._process

    def spying(self):
        found.append(process(self))
        return found[-1]

    monkeypatch.setattr(Workers, "_process", spying)
    return found


@pytest.mark.parametrize("limit", [None, 30_000, 3000])
def test_several_processes_build_what_one_does(texts, tmp_path, monkeypatch, limit):
    calls = started(monkeypatch)
    one = build(spec(texts, limit), tmp_path / "one", processes=1)
    assert not calls
    three = build(spec(texts, limit), tmp_path / "three", processes=3)
    assert len({process.pid for process in calls}) == 3
    assert all(process.returncode is not None for process in calls)
    assert content(one) == content(three)
    assert sorted(os.listdir(tmp_path)) == ["one", "own.py", "texts", "three"]


@pytest.mark.parametrize("limit", [None, 30_000])
def test_what_is_built_is_what_a_plain_loop_gives(texts, tmp_path, limit):
    corpus = build(spec(texts, limit), tmp_path / "out", processes=2)
    end, encode = corpus.tokenizer.end_of_text, corpus.tokenizer.encode
    seen, kept = (
        set(),
        {(split, d): [] for split in corpus.manifest["splits"] for d in ("texts", "own")},
    )
    for source in spec(texts, limit).sources:
        read = 0
        for document in source.documents(tmp_path):
            try:
                text = clean(document.text)
            except UnicodeError:
                continue
            digest = content_hash(text.encode())
            if len(text) >= SHORTEST and digest not in seen:
                seen.add(digest)
                kept[split_of(digest, 0.2, 0.2), document.domain].append((place_of(digest), text))
                read += len(text)
            if read >= (source.limit or 1e9):
                break
    for (split, domain), found in kept.items():
        in_order = found if split == "train" else sorted(found)
        tokens = [id_ for _, text in in_order for id_ in (end, *encode(text))]
        assert np.asarray(corpus.tokens(split, domain)).tolist() == tokens, (split, domain)


@pytest.mark.parametrize("processes", [1, 3])
def test_what_is_wrong_is_said_when_reading_reaches_it(texts, tmp_path, processes):
    files = [path for _, path in Files(str(texts), domain="texts")._files()]
    files[-1].unlink()
    files[-1].with_suffix(".jsonl").write_text("no json\n")
    last = Files(str(texts), domain="texts")._files()[-1][1]
    if last.suffix == ".jsonl" and last.name != "rows.jsonl":  # beyond the limit nobody meets it
        build(spec(texts, 3000), tmp_path / "limited", processes=processes)
    with pytest.raises(ValueError, match="line 1: damaged, not JSON"):
        build(spec(texts), tmp_path / "out", processes=processes)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


def test_numbers_below_one_are_refused(texts, tmp_path):
    for options in ({"processes": 0}, {"shard_tokens": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            build(spec(texts), tmp_path / "out", **options)


BUILD = """
import json, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from plait.data import Specification, build, shards, workers
shards.BATCH_CHARACTERS = 3000
def slow(self, tokens):
    print(*(process.pid for process in started), flush=True)
    time.sleep(60)
shards.ShardWriter.write = slow
started = []
start = workers.Workers._process
workers.Workers._process = lambda self: started.append(start(self)) or started[-1]
build(Specification.from_dict(json.loads(sys.argv[1])), sys.argv[2], processes=2)
"""


@pytest.fixture
def building(texts, tmp_path):
    """A build that has come to its first shard, and the numbers of its processes."""
    command = [sys.executable, "-c", BUILD, json.dumps(spec(texts).to_dict()), tmp_path / "out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process, {int(word) for word in process.stdout.readline().split()}
        process.kill()


def gone(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{process}/stat") as file:  # a zombie whose parent nobody is
        return file.read().rpartition(")")[2].split()[0] == "Z"


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_workers_of_a_killed_build_end_and_the_next_waits_for_them(texts, tmp_path, building):
    process, workers = building
    assert len(workers) == 2
    asleep = min(workers)
    os.kill(asleep, signal.SIGSTOP)
    process.kill()
    process.wait()
    wait_for(lambda: gone(max(workers)))
    folder = os.open(tmp_path / ".out.partial", os.O_RDONLY)
    with pytest.raises(BlockingIOError):  # it may still write in there
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)
    os.kill(asleep, signal.SIGCONT)
    built = build(spec(texts), tmp_path / "out", processes=2)
    assert gone(asleep)
    assert content(built) == content(build(spec(texts), tmp_path / "one", processes=1))
    assert not (tmp_path / ".out.partial").exists()


def test_an_interrupted_build_leaves_nothing(tmp_path, building):
    process, workers = building
    process.send_signal(signal.SIGINT)
    process.wait()
    assert all(map(gone, workers))
    assert sorted(os.listdir(tmp_path)) == ["own.py", "texts"]


def test_a_killed_worker_is_one_line(texts, tmp_path, monkeypatch):
    process = Workers._process

    def killing(self):
        found = process(self)
        found.kill()
        return found

    monkeypatch.setattr(Workers, "_process", killing)
    with pytest.raises(ValueError, match=r"exit status -9.*--processes") as caught:
        build(spec(texts), tmp_path / "out", processes=2)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["own.py", "texts"]
