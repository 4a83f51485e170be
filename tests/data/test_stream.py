import gzip
import hashlib
import itertools
import json
import os
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.data import Batches, Corpus, Specification, Stream, Tokenizer, build, training_batches
from plait.data.permutation import mix, permute
from plait.data.sources import Files, HubDataset, PythonFunction
from plait.data.specification import Streaming

LENGTH = 32
WEIGHTS = {"web": 75, "notes": 25}


def text(seed):
    """A document of its own, of 260 to 700 characters."""
    words = (f"word{(seed * 7919 + n * n * (seed % 7 + 1)) % 997}" for n in range(40 + seed % 50))
    return f"{seed} " + " ".join(words)


def write_jsonl(path, seeds):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.writelines(json.dumps({"text": text(seed)}) + "\n" for seed in seeds)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Text of two domains, the first from two sources; and a tokenizer for it."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "shards").mkdir()
    for shard in range(3):
        write_jsonl(folder / "shards" / f"{shard}.jsonl.gz", range(40 * shard, 40 * shard + 40))
    write_jsonl(folder / "more.jsonl", range(1000, 1060))
    (folder / "notes").mkdir()
    for seed in range(2000, 2060):
        (folder / "notes" / f"{seed}.txt").write_text(text(seed))
    (folder / "notes" / "short.txt").write_text("short")
    (folder / "notes" / "binary.txt").write_bytes(b"\xff\0" * 500)
    Tokenizer.train([text(seed) for seed in range(30)], 400).save(folder / "tokenizer.json")
    return folder


def spec(folder, stream=None, **options):
    sources = (
        Files(str(folder / "shards"), domain="web"),
        Files(str(folder / "notes"), domain="notes", licence="MIT"),
        Files(str(folder / "more.jsonl"), domain="web"),
    )
    given = {
        "name": "mixed",
        "sources": sources,
        "weights": WEIGHTS,
        "tokenizer": str(folder / "tokenizer.json"),
        "validation": 0.1,
        "test": 0.1,
        "stream": stream,
    }
    return Specification(**given | options)


@pytest.fixture(scope="module")
def built(made, tmp_path_factory):
    return build(spec(made), tmp_path_factory.mktemp("built") / "corpus")


@pytest.fixture(scope="module")
def streamed(made, tmp_path_factory):
    """Blocks of ten sequences, of which an epoch of a domain has many."""
    stream = Streaming(sample=12_000, shuffle=10 * LENGTH)
    return build(spec(made, stream), tmp_path_factory.mktemp("streamed") / "corpus")


def rows(batches, count):
    """The first `count` batches of one rank, one row of tokens and targets per sequence."""
    return [torch.cat((t, g[:, -1:]), 1) for t, g in itertools.islice(batches, count)]


def test_one_block_per_epoch_gives_the_batches_of_the_built_corpus(made, built, tmp_path):
    # the tokenizer is trained, and the split scored, on the same documents too
    trained = {"tokenizer": None, "vocab_size": 300}
    first = build(spec(made, **trained), tmp_path / "built")
    second = build(spec(made, Streaming(), **trained), tmp_path / "streamed")
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert second.manifest["splits"] == first.manifest["splits"]
    assert second.fingerprint != first.fingerprint
    stream, batches = Stream(second, LENGTH, 8, seed=3), Batches(first, "train", LENGTH, 8, seed=3)
    epochs = 3
    count = epochs * batches.epoch_tokens // (8 * LENGTH)
    for mine, reference in zip(rows(stream, count), rows(batches, count), strict=True):
        assert torch.equal(mine, reference)
    assert stream.state()["domains"]["notes"]["epoch"] >= 1


def test_blocks_are_the_built_corpus_in_order_shuffled_within_each(built, streamed):
    seen = dict.fromkeys(built.domains, 0)
    expected = {}
    for number, domain in enumerate(built.domains):
        tokens = built.tokens("train", domain)
        windows = [tokens[at : at + LENGTH + 1] for at in range(0, len(tokens) - LENGTH, LENGTH)]
        blocks = [windows[at : at + 10] for at in range(0, len(windows), 10)]
        expected[domain] = [
            block[permute(place, len(block), mix(5, number, at))].tolist()
            for at, block in enumerate(itertools.chain(blocks, blocks))  # two epochs
            for place in range(len(block))
        ]
    total = len(expected["web"])
    for row in torch.cat(rows(Stream(streamed, LENGTH, 1, seed=5), total)).tolist():
        domain = next(d for d, n in seen.items() if n < total and expected[d][n] == row)
        seen[domain] += 1
        assert abs(seen["web"] - 0.75 * sum(seen.values())) <= 1
    assert seen["notes"] > len(expected["notes"]) // 2, "no second epoch was reached"


def test_held_out_documents_are_never_trained_on(made, tmp_path):
    def held_out(seed):
        digest = hashlib.blake2b(text(seed).encode(), digest_size=16).digest()
        return int.from_bytes(digest[:8], "little") / 2**64 < 0.2

    only = {"sources": (Files(str(made / "more.jsonl"), domain="web"),), "weights": None}
    # blocks of one sequence, so that they follow one another as the documents do
    corpus = build(spec(made, Streaming(sample=9000, shuffle=1), **only), tmp_path / "corpus")
    stream, ids = Stream(corpus, LENGTH, 1, seed=0), []
    while stream.state()["domains"]["web"]["epoch"] < 2:
        ids += rows(stream, 1)[0][0, :-1].tolist()
    ends = [at for at, id_ in enumerate(ids) if id_ == corpus.tokenizer.end_of_text]
    texts = [corpus.tokenizer.decode(ids[a + 1 : b]) for a, b in itertools.pairwise(ends)]
    wanted = [text(seed) for seed in range(1000, 1060) if not held_out(seed)]
    assert 0 < len(wanted) < 60
    # in order; the end of an epoch that fills no sequence is left out
    assert texts[: len(wanted) - 1] == wanted[:-1]
    assert texts[len(wanted) :][: len(wanted) - 1] == wanted[:-1]


@settings(max_examples=12)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(0, 4)), max_size=5))
def test_resuming_at_any_world_and_batch_size_continues_one_order(streamed, legs):
    seen, state = [], None
    for world, batch, steps in legs:
        ranks = [Stream(streamed, LENGTH, batch, 0, rank, world, state) for rank in range(world)]
        for _ in range(steps):
            for rank in ranks:
                seen += rows(rank, 1)
        assert all(rank.state() == ranks[0].state() for rank in ranks)
        state = json.loads(json.dumps(ranks[0].state()))
        assert state["tokens_seen"] == sum(map(len, seen)) * LENGTH
        for rank in ranks:
            rank.close()
    if seen:
        found = torch.cat(seen)
        assert torch.equal(found, rows(Stream(streamed, LENGTH, len(found), 0), 1)[0])


def test_every_moment_of_two_epochs_can_be_resumed(streamed):
    stream, states = Stream(streamed, LENGTH, 16, 0), []
    whole = []
    for _ in range(130):
        states.append(json.dumps(stream.state()))
        whole += rows(stream, 1)
    assert stream.state()["domains"]["notes"]["epoch"] >= 1
    assert max(len(state) for state in states) < 1000, "a state is a few numbers"
    for at in range(0, 130, 9):
        resumed = Stream(streamed, LENGTH, 16, 0, state=json.loads(states[at]))
        assert torch.equal(rows(resumed, 1)[0], whole[at])


def places(source):
    return [(place, document.text) for place, document in source.documents_from("unused")]


def parquet(path, seeds):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"id": list(seeds), "text": [text(seed) for seed in seeds]})
    pyarrow.parquet.write_table(table, path, row_group_size=4)


@pytest.mark.parametrize(
    "kind", ["jsonl", "parquet", "json", "cut", "folder", "python", "hub", "hub-parquet"]
)
def test_documents_are_given_from_any_place_on(tmp_path, kind):
    if kind == "jsonl":
        (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\n{"text": "b"}\n{"text": "c"}\n')
        source = Files(str(tmp_path / "a.jsonl"), domain="x")
    elif kind == "parquet":
        pytest.importorskip("pyarrow.parquet")
        parquet(tmp_path / "a.parquet", range(11))
        source = Files(str(tmp_path / "a.parquet"), domain="x")
    elif kind == "json":
        (tmp_path / "a.json").write_text(json.dumps([{"text": text(seed)} for seed in range(5)]))
        source = Files(str(tmp_path), domain="x")
    elif kind == "cut":
        long = " ".join(text(seed) for seed in range(9))
        (tmp_path / "a.jsonl").write_text((json.dumps({"text": long}) + "\n") * 2)
        (tmp_path / "b.txt").write_text(long)
        source = Files(str(tmp_path), domain="x", cut=1000)
    elif kind == "folder":
        for seed in range(5):
            (tmp_path / f"{seed}.txt").write_text(text(seed))
            write_jsonl(tmp_path / f"{seed}.jsonl.gz", range(10 * seed, 10 * seed + 3))
        source = Files(str(tmp_path), domain="x")
    elif kind == "python":
        (tmp_path / "own.py").write_text(
            f"def texts():\n    return ({text(0)!r} * n for n in range(1, 9))\n"
        )
        source = PythonFunction(f"{tmp_path}/own.py:texts", domain="x")
    else:
        pytest.importorskip("datasets")
        for file in range(3):
            seeds = range(10 * file, 10 * file + 7)
            if kind == "hub":
                write_jsonl(tmp_path / f"{file}.jsonl", seeds)
            else:
                parquet(tmp_path / f"{file}.parquet", seeds)
        source = HubDataset(str(tmp_path), domain="x")
    everything = places(source)
    assert [text for _, text in everything] == [d.text for d in source.documents("unused")]
    assert len(everything) >= 3
    for number in range(0, len(everything), 4 if "hub" in kind else 1):
        saved = json.loads(json.dumps(everything[number][0]))
        rest = [(place, d.text) for place, d in source.documents_from("unused", saved)]
        assert [text for _, text in rest] == [text for _, text in everything[number:]]
        place, wanted = rest[-1]  # places that a resumed reading gives are as good
        assert next(source.documents_from("unused", place))[1].text == wanted


def test_a_hub_dataset_is_streamed_and_resumed(made, tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "rows").mkdir()
    for file in range(2):
        write_jsonl(tmp_path / "rows" / f"{file}.jsonl", range(60 * file, 60 * file + 60))
    hub = HubDataset(str(tmp_path / "rows"), domain="web", licence="MIT")
    stream = Streaming(sample=15_000, shuffle=10 * LENGTH)
    corpus = build(spec(made, stream, sources=(hub,), weights=None), tmp_path / "corpus")
    first = Stream(corpus, LENGTH, 4, 0)
    rows(first, 12)
    state = json.loads(json.dumps(first.state()))
    assert state["domains"]["web"]["block"] > 2
    again = Stream(corpus, LENGTH, 4, 0, state=state)
    assert torch.equal(torch.cat(rows(again, 30)), torch.cat(rows(first, 30)))


def test_a_limit_ends_an_epoch_as_it_ends_a_build(made, tmp_path):
    limited = replace(spec(made).sources[0], limit=20_000)
    only = {"sources": (limited,), "weights": None}
    first = build(spec(made, **only), tmp_path / "built")
    second = build(spec(made, Streaming(shuffle=7 * LENGTH), **only), tmp_path / "streamed")
    stream, batches = Stream(second, LENGTH, 1, 0), Batches(first, "train", LENGTH, 1, 0)
    epoch = batches.epoch_tokens // LENGTH
    assert stream.state()["domains"]["web"]["epoch"] == 0
    found = sorted(torch.cat(rows(stream, epoch)).tolist())
    assert stream.state()["domains"]["web"]["epoch"] == 0
    assert found == sorted(torch.cat(rows(batches, epoch)).tolist())
    rows(stream, 1)
    assert stream.state()["domains"]["web"]["epoch"] == 1
    for _ in range(10):  # the limit counts on from a checkpoint
        stream = Stream(second, LENGTH, 1, 0, state=stream.state())
        rows(stream, epoch // 4)
    assert stream.state()["domains"]["web"]["epoch"] == 3


def test_the_folder_holds_a_sample_and_is_opened_from_anywhere(
    made, streamed, tmp_path, monkeypatch
):
    read = [source["characters"] for source in streamed.manifest["sources"]]
    assert all(12_000 <= characters < 13_000 for characters in read)
    assert streamed.manifest["splits"]["test"]["web"]["documents"]
    assert [source["licence"] for source in streamed.manifest["sources"]][1] == "MIT"
    Corpus.open(streamed.path).verify()
    monkeypatch.chdir(made)
    relative = spec(made, Streaming(sample=12_000))
    sources = tuple(replace(s, path=os.path.relpath(s.path)) for s in relative.sources)
    corpus = build(replace(relative, sources=sources), tmp_path / "corpus")
    monkeypatch.chdir(tmp_path)
    assert len(rows(training_batches(corpus, LENGTH, 2, 0), 1)) == 1


def test_reading_ahead_ends_when_it_is_closed(made, tmp_path):
    corpus = build(spec(made, Streaming(sample=12_000)), tmp_path / "corpus")
    before = set(threading.enumerate())
    stream = Stream(corpus, LENGTH, 2, 0)
    assert set(threading.enumerate()) == before, "nothing is read before it is needed"
    rows(stream, 1)
    workers = set(threading.enumerate()) - before
    assert 1 <= len(workers) <= 2
    stream.close()
    for worker in workers:
        worker.join(10)
        assert not worker.is_alive()


@pytest.fixture
def own(made, tmp_path):
    """A stream of one file that a test may spoil, and the file."""
    file = tmp_path / "own.jsonl"
    write_jsonl(file, range(80))
    source = Files(str(file), domain="web")
    stream = Streaming(sample=12_000, shuffle=10 * LENGTH)
    given = spec(made, stream, sources=(source,), weights=None)
    return build(given, tmp_path / "corpus"), file


def keep_stamp(file, change):
    """Change a file behind the back of its size and time."""
    size, times = file.stat().st_size, file.stat()
    file.write_bytes(change(file.read_bytes())[:size].ljust(size, b"\n"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_source_that_changed_or_is_gone_is_named(own):
    corpus, file = own
    with file.open("a") as more:
        more.write(json.dumps({"text": text(99)}) + "\n")
    with pytest.raises(ValueError, match=r"own\.jsonl: has changed since the stream") as caught:
        Stream(corpus, LENGTH, 1, 0)
    one_line(caught)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"own\.jsonl: no such file") as caught:
        Stream(corpus, LENGTH, 1, 0)
    one_line(caught)


@pytest.mark.parametrize("spoil", [lambda data: data.replace(b"word", b"wort"), lambda data: b""])
def test_another_document_at_the_place_of_a_checkpoint_is_noticed(own, spoil):
    corpus, file = own
    stream = Stream(corpus, LENGTH, 4, 0)
    rows(stream, 12)
    state = stream.state()
    assert state["domains"]["web"]["place"][1] > 10
    keep_stamp(file, spoil)
    with pytest.raises(ValueError, match=r"changed since the checkpoint") as caught:
        rows(Stream(corpus, LENGTH, 4, 0, state=state), 1)
    one_line(caught)


def test_a_bad_document_is_named_when_it_is_reached(own):
    corpus, file = own
    lines = file.read_bytes().splitlines(keepends=True)
    bad = b"{" + b"x" * (len(lines[70]) - 2) + b"\n"
    keep_stamp(file, lambda data: b"".join([*lines[:70], bad, *lines[71:]]))
    stream = Stream(corpus, LENGTH, 1, 0)
    rows(stream, 30)
    with pytest.raises(ValueError, match=r"own\.jsonl: line 71: damaged, not JSON") as caught:
        rows(stream, 10_000)
    one_line(caught)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 16}, "was trained on the corpus '0000"),
        ({"seed": 1}, "has seed 1, not 0"),
        ({"tokens_seen": 100}, "do not fit sequences of 32"),
        ({"sequence_length": 64}, "do not fit sequences of 32"),
        ({"tokens_seen": -32}, "do not fit"),
        ({"epoch": 1}, "unknown option 'loader.epoch'"),
        ({"domains": {}}, "has domains"),
        ({"domains": {"web": 3, "notes": {}}}, "loader.domains.web: expected options"),
    ],
)
def test_a_foreign_state_is_refused_in_one_line(streamed, change, message):
    state = Stream(streamed, LENGTH, 2, 0).state() | change
    with pytest.raises(ValueError, match=message) as caught:
        Stream(streamed, LENGTH, 2, 0, state=state)
    one_line(caught)


def test_what_cannot_be_streamed_is_refused(made, built, streamed, own):
    with pytest.raises(ValueError, match="is a stream, whose train split is a sample"):
        Batches(streamed, "train", LENGTH, 1, 0)
    with pytest.raises(ValueError, match="does not describe a stream"):
        Stream(built, LENGTH, 1, 0)
    with pytest.raises(ValueError, match="rank 2 of world 2"):
        Stream(streamed, LENGTH, 1, 0, rank=2, world=2)
    with pytest.raises(ValueError, match="shorter than a sequence of 100000 tokens"):
        rows(Stream(own[0], 100_000, 1, 0), 1)
    with pytest.raises(ValueError, match="give weights for 'web, notes'"):
        spec(made, Streaming(), weights=None)
    with pytest.raises(ValueError, match="shuffle 0 must be"):
        Streaming(shuffle=0)


def test_both_give_the_same_kind_of_batch(built, streamed):
    for corpus in (built, streamed):
        tokens, targets = next(training_batches(corpus, LENGTH, 8, seed=3))
        assert tokens.dtype == targets.dtype == torch.int64
        assert tokens.shape == targets.shape == (8, LENGTH)
        assert torch.equal(tokens[:, 1:], targets[:, :-1])
        assert int(np.max(tokens.numpy())) < corpus.vocab_size
