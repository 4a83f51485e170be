"""Token files of bounded size: the same corpus, and one of 10¹² tokens that opens at once."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.data import Batches, Corpus, corpora, evaluation_batches, inspect
from plait.data.build import build
from plait.data.shards import ShardWriter, Tokens


@pytest.fixture(scope="module")
def cut(tiny, tmp_path_factory):
    """The tiny corpus in files of 5,000 tokens."""
    spec = corpora.Specification.from_dict(tiny.manifest["specification"])
    return build(spec, tmp_path_factory.mktemp("cut") / "cut", shard_tokens=5000)


def test_several_files_are_the_same_corpus(tiny, cut):
    assert cut.fingerprint == tiny.fingerprint
    assert (tiny.manifest["format"], cut.manifest["format"]) == (1, 2)
    for split, domains in tiny.manifest["splits"].items():
        for domain, alone in domains.items():
            files = cut.manifest["splits"][split][domain]["files"]
            assert len(files) == -(-alone["tokens"] // 5000) > 1
            assert {one["tokens"] for one in files[:-1]} == {5000}
            assert np.array_equal(tiny.tokens(split, domain), cut.tokens(split, domain))
    assert inspect(cut.path).rows == inspect(tiny.path).rows
    assert inspect(cut.path).samples == inspect(tiny.path).samples
    a, b = (Batches(corpus, "train", 96, 16, seed=1) for corpus in (tiny, cut))
    for _ in range(30):
        assert all(map(np.array_equal, next(a), next(b)))
    assert b.state() == a.state()
    scored = [list(evaluation_batches(corpus, "test", 64, 8)) for corpus in (tiny, cut)]
    for (_, tokens, targets, size), (_, tokens2, targets2, size2) in zip(*scored, strict=True):
        assert np.array_equal(tokens, tokens2)
        assert np.array_equal(targets, targets2)
        assert size == size2


def test_a_damaged_file_is_named(cut, tmp_path):
    copy = shutil.copytree(cut.path, tmp_path / "copy")
    file = copy / "train-code-00001.bin"
    whole = file.read_bytes()
    file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(ValueError, match=r"train-code-00001\.bin: its bytes differ"):
        inspect(copy)
    file.write_bytes(whole[:-2])
    with pytest.raises(ValueError, match=r"train-code-00001\.bin: 9,998 bytes, not 10000"):
        Corpus.open(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda shard: shard.update(file="train-code-00000.bin"), "in one `file` or in several"),
        (lambda shard: shard.update(files=[]), "in one `file` or in several"),
        (lambda shard: shard["files"].pop(), "other tokens than its files"),
        (lambda shard: shard["files"][0].update(file="../cut/train-code-00000.bin"), "leads out"),
        (lambda shard: shard["files"][0].update(tokens="many"), "expected int"),
    ],
)
def test_a_list_of_files_that_makes_no_sense_is_refused(cut, tmp_path, change, message):
    copy = shutil.copytree(cut.path, tmp_path / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest["splits"]["train"]["code"])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=message) as caught:
        Corpus.open(copy)
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 7), st.data())
def test_files_read_as_one_array(tmp_path_factory, pieces, most, data):
    folder = tmp_path_factory.mktemp("shards")
    whole = np.arange(sum(pieces), dtype="<u2")
    with ShardWriter(folder, "a", most) as writer:
        for piece in np.split(whole, np.cumsum(pieces)[:-1]):
            writer.write(piece)
        entry = writer.finish()
    files = entry.get("files", [entry])
    assert sum(one["tokens"] for one in files) == entry["tokens"] == len(whole)
    assert sorted(p.name for p in folder.iterdir()) == sorted(one["file"] for one in files)
    tokens = Tokens([(folder / one["file"], one["tokens"]) for one in files], "<u2")
    assert len(tokens) == len(whole)
    limits = st.none() | st.integers(-len(whole) - 2, len(whole) + 2)
    where = slice(data.draw(limits), data.draw(limits))
    assert tokens[where].tolist() == whole[where].tolist()
    place = data.draw(st.integers(-len(whole), len(whole) - 1))
    assert tokens[place] == whole[place]
    assert list(tokens) == whole.tolist()
    with pytest.raises(IndexError):
        tokens[len(whole)]
    with pytest.raises(ValueError, match="step"):
        tokens[::2]


OPEN = r"""
import re, sys, time
from pathlib import Path
from plait.data.corpus import Corpus
start = time.process_time()
corpus = Corpus.open(sys.argv[1])
tokens = corpus.tokens("train", "code")
assert len(tokens) == 10**12
assert tokens[10**12 - 3 :].tolist() == [0, 7, 8]
assert tokens[2**30 - 1 : 2**30 + 1].tolist() == [0, 5]
seconds = time.process_time() - start
print(seconds, re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def test_a_corpus_of_a_trillion_tokens_opens_in_little_time_and_memory(tiny, tmp_path):
    path = shutil.copytree(tiny.path, tmp_path / "large")
    manifest = json.loads((path / "manifest.json").read_text())
    files, left = [], 10**12
    while left:
        name, tokens = f"train-code-{len(files):05}.bin", min(left, 1 << 30)
        with (path / name).open("wb") as file:  # sparse: it takes no room
            file.truncate(2 * tokens)
        files.append({"file": name, "tokens": tokens, "sha256": "0" * 64})
        left -= tokens
    for name, place, tokens in ((files[1]["file"], 0, [5]), (files[-1]["file"], -4, [7, 8])):
        with (path / name).open("r+b") as file:
            file.seek(place, 2 if place else 0)
            file.write(np.array(tokens, "<u2").tobytes())
    entry = manifest["splits"]["train"]["code"]
    del entry["file"]
    entry |= {"tokens": 10**12, "files": files}
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    done = subprocess.run(
        [sys.executable, "-c", OPEN, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seconds, largest = map(float, done.stdout.split())
    assert seconds < 1  # of processor time
    assert largest * 1024 < 200e6  # bytes, at the most at any time, all libraries included
