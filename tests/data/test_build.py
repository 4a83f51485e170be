import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from plait.data import Corpus, Specification, Tokenizer, build
from plait.data.documents import content_hash
from plait.data.sources import Files


def words(seed, count=90):
    return " ".join(f"word{(seed * 7919 + n * n) % 997}" for n in range(count))


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    for n in range(60):
        (folder / f"{n}.txt").write_text(words(n))
    return folder


def spec(folder, **options):
    defaults = {"name": "notes", "vocab_size": 300, "validation": 0.2, "test": 0.2}
    return Specification(sources=(Files(str(folder), domain="notes"),), **defaults | options)


def contents(corpus, split):
    tokenizer = corpus.tokenizer
    pieces, current = [], []
    for id_ in corpus.tokens(split, "notes")[:].tolist():
        if id_ == tokenizer.end_of_text:
            pieces.append(current)
            current = []
        current.append(id_)
    return [tokenizer.decode(ids) for ids in [*pieces[1:], current]]


def left_over(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "notes")


def test_every_document_is_in_one_split_and_duplicates_in_none(tmp_path, notes):
    for n in range(0, 60, 2):  # the same text under another name, and with other line ends
        (notes / f"again{n}.txt").write_text("\r\n" + words(n) + "\r\n")
    (notes / "short.txt").write_text("short")
    (notes / "binary.txt").write_bytes(b"\xff\0" * 500)
    corpus = build(spec(notes), tmp_path / "out")
    splits = [contents(corpus, split) for split in ("train", "validation", "test")]
    assert sorted(text for split in splits for text in split) == sorted(words(n) for n in range(60))
    assert all(splits)
    source = corpus.manifest["sources"][0]
    found = {key: source[key] for key in ("documents", "short", "duplicates", "not_text")}
    assert found == {"documents": 60, "short": 1, "duplicates": 30, "not_text": 1}
    assert left_over(tmp_path) == ["out"]


def test_the_tokenizer_sees_the_training_split_alone(tmp_path, notes):
    corpus = build(spec(notes), tmp_path / "out")
    alone = Tokenizer.train(contents(corpus, "train"), 300)
    both = Tokenizer.train(contents(corpus, "train") + contents(corpus, "test"), 300)
    assert corpus.tokenizer.fingerprint == alone.fingerprint != both.fingerprint


def test_held_out_documents_lie_in_the_order_of_their_hashes(tmp_path, notes):
    corpus = build(spec(notes), tmp_path / "out")
    for split in ("validation", "test"):
        found = contents(corpus, split)
        hashes = [content_hash(text.encode())[:8] for text in found]
        assert [int.from_bytes(h, "little") for h in hashes] == sorted(
            int.from_bytes(h, "little") for h in hashes
        )


def test_a_document_stays_in_its_split_when_others_come(tmp_path, notes):
    before = build(spec(notes), tmp_path / "a")
    for n in range(60, 70):
        (notes / f"{n}.txt").write_text(words(n))
    after = build(spec(notes), tmp_path / "b")
    for split in ("train", "validation", "test"):
        assert set(contents(before, split)) <= set(contents(after, split))


def test_the_same_specification_is_reused_and_another_refused(tmp_path, notes):
    out = tmp_path / "out"
    first = build(spec(notes), out)
    made = (out / "manifest.json").stat().st_mtime_ns
    assert build(spec(notes), out).fingerprint == first.fingerprint
    assert (out / "manifest.json").stat().st_mtime_ns == made
    with pytest.raises(ValueError, match="another specification"):
        build(spec(notes, vocab_size=310), out)
    (notes / "0.txt").write_text(words(1000))
    with pytest.raises(ValueError, match="changed since"):
        build(spec(notes), out)
    assert build(spec(notes), out, replace=True).fingerprint != first.fingerprint
    assert left_over(tmp_path) == ["out"]
    assert sorted(p.name for p in out.iterdir() if p.name.startswith(".")) == []


def test_building_twice_gives_the_same_fingerprint(tmp_path, notes):
    a, b = build(spec(notes), tmp_path / "a"), build(spec(notes), tmp_path / "b")
    assert a.fingerprint == b.fingerprint
    weighted = build(spec(notes, weights={"notes": 2}), tmp_path / "c")
    assert weighted.fingerprint != a.fingerprint


def test_a_tokenizer_can_be_given(tmp_path, notes):
    given = Tokenizer.train([words(0)], 280)
    given.save(tmp_path / "notes" / "given.json")
    loaded = spec(notes / "*.txt", vocab_size=None, tokenizer=str(notes / "given.json"))
    assert build(loaded, tmp_path / "out").tokenizer.fingerprint == given.fingerprint


def test_a_limit_stops_reading(tmp_path, notes):
    source = Files(str(notes), domain="notes", limit=20_000)
    limited = Specification(
        name="limited", sources=(source,), vocab_size=300, validation=0.2, test=0.2
    )
    read = build(limited, tmp_path / "out").manifest["sources"][0]
    assert 20_000 <= read["characters"] < 20_000 + len(words(0)) * 1.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda notes: [file.unlink() for file in notes.iterdir()], "holds no .txt"),
        (lambda notes: [file.write_text("x") for file in notes.iterdir()], "no usable document"),
        (lambda notes: [f.unlink() for f in notes.iterdir() if f.stem != "1"], "cut its files"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, notes, change, message):
    change(notes)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        build(spec(notes), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert left_over(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, notes, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="the disk is full") as caught:
        build(spec(notes), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert left_over(tmp_path) == []


def test_something_else_is_never_overwritten(tmp_path, notes):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="something else"):
        build(spec(notes), tmp_path / "out", replace=True)
    assert (tmp_path / "out" / "thesis.tex").exists()


BUILD = """
import json, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where we run in the background
from plait.data import Specification, build
from plait.data.tokenizer import Tokenizer
if "slowly" in sys.argv:
    import time
    encode = Tokenizer.encode_batch
    def slow(self, texts):
        print("encoding", flush=True)
        time.sleep(60)
        return encode(self, texts)
    Tokenizer.encode_batch = slow
print(build(Specification.from_dict(json.loads(sys.argv[1])), sys.argv[2]).fingerprint)
"""


def process(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, *arguments], stdout=subprocess.PIPE, text=True
    )


def test_a_killed_build_is_no_corpus_and_the_next_one_clears_up(tmp_path, notes):
    out = tmp_path / "out"
    arguments = json.dumps(spec(notes).to_dict()), str(out)
    killed = process(*arguments, "slowly")
    assert killed.stdout.readline() == "encoding\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert left_over(tmp_path) == [".out.partial"]
    with pytest.raises(FileNotFoundError, match="no corpus here"):
        Corpus.open(out)
    build(spec(notes), out)
    assert left_over(tmp_path) == ["out"]


def test_an_interrupted_build_leaves_nothing(tmp_path, notes):
    interrupted = process(json.dumps(spec(notes).to_dict()), str(tmp_path / "out"), "slowly")
    assert interrupted.stdout.readline() == "encoding\n"
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait() != 0
    assert left_over(tmp_path) == []


def test_two_processes_that_build_the_same_corpus_agree(tmp_path, notes):
    arguments = json.dumps(spec(notes).to_dict()), str(tmp_path / "out")
    both = [process(*arguments) for _ in range(2)]
    printed = {one.communicate()[0] for one in both}
    assert [one.returncode for one in both] == [0, 0]
    assert printed == {Corpus.open(tmp_path / "out").fingerprint + "\n"}
    assert left_over(tmp_path) == ["out"]
