import io
import json
import random
import shutil

import numpy as np
import pytest
from rich.console import Console

from plait.data import Corpus, Tokenizer, inspect
from plait.data.batches import Batches, evaluation_batches
from plait.data.corpora import open_corpus
from plait.data.corpus import file_sha256
from plait.report.terminal.corpus_table import corpus_tables


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny.path, tmp_path / "copy")


def refusal(path, action=Corpus.open):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        action(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_truncated_shard_is_refused_at_open(copy):
    shard = copy / "train-code.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    assert "train-code.bin" in (message := refusal(copy))
    assert "build the corpus again" in message
    shard.unlink()
    assert "train-code.bin: 0 bytes" in refusal(copy)


def test_a_flipped_bit_is_found_by_inspect(copy):
    shard = copy / "test-prose.bin"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    Corpus.open(copy)
    assert "test-prose.bin: its bytes differ" in refusal(copy, inspect)


def test_what_training_reads_is_verified_once_and_again_when_it_changes(copy, monkeypatch):
    read = []
    verify = Corpus.verify
    monkeypatch.setattr(Corpus, "verify", lambda corpus: (read.append(corpus.path), verify(corpus)))
    for _ in range(3):
        open_corpus(str(copy))
    assert read == [copy]
    generator = random.Random(0)
    shards = sorted(copy.glob("*.bin"))
    for number in range(24):
        shard = generator.choice(shards)
        whole = shard.read_bytes()
        data = bytearray(whole)
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        shard.write_bytes(data)
        assert f"{shard.name}: its bytes differ" in refusal(str(copy), open_corpus), number
        shard.write_bytes(whole)
        open_corpus(str(copy))


def test_a_token_beyond_the_vocabulary_is_refused_though_its_hash_fits(copy):
    shard = copy / "train-code.bin"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["splits"]["train"]["code"]["sha256"] = file_sha256(shard)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert "token 65535, but the tokenizer has 512" in refusal(str(copy), open_corpus)


def test_another_tokenizer_is_refused(copy):
    size = (copy / "tokenizer.json").stat().st_size
    Tokenizer.train(["something else"], 300).save(copy / "tokenizer.json")
    assert "tokenizer.json" in refusal(copy)
    with (copy / "tokenizer.json").open("a") as file:  # of the very same size
        file.write(" " * (size - file.tell()))
    corpus = Corpus.open(copy)
    assert "not the tokenizer" in refusal(copy, lambda path: corpus.tokenizer)


def test_a_folder_without_a_whole_manifest_is_no_corpus(copy, tmp_path):
    assert "plait data build" in refusal(tmp_path / "nothing")
    manifest = copy / "manifest.json"
    whole = json.loads(manifest.read_text())
    manifest.write_text(manifest.read_text()[:500])
    assert "damaged" in refusal(copy)
    manifest.write_text(json.dumps(whole | {"format": 99}))
    assert "format 99" in refusal(copy)


MISSING = object()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("splits",), []),
        (("splits",), {}),
        (("splits", "train"), MISSING),
        (("splits", "train"), {}),
        (("splits", "test", "code"), MISSING),
        (("splits", "train", "code"), 3),
        (("splits", "train", "code", "tokens"), "many"),
        (("splits", "train", "code", "tokens"), 0),
        (("splits", "train", "code", "tokens"), 10**400),
        (("splits", "train", "code", "file"), ["a"]),
        (("splits", "train", "code", "file"), "../tiny/train-code.bin"),
        (("splits", "train", "code", "file"), "a\0b"),
        (("tokenizer",), MISSING),
        (("tokenizer",), None),
        (("tokenizer", "vocab_size"), "512"),
        (("tokenizer", "vocab_size"), -1),
        (("dtype",), "O"),
        (("dtype",), {}),
        (("weights",), {"code": 1}),
        (("weights",), [1, 2]),
        (("name",), 3),
        (("sources",), "none"),
        (("format",), {}),
    ],
)
def test_a_manifest_of_another_shape_is_refused(copy, place, value):
    manifest = copy / "manifest.json"
    whole = json.loads(manifest.read_text())
    inner = whole
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    if value is MISSING:
        del inner[place[-1]]
    manifest.write_text(json.dumps(whole))
    assert len(refusal(copy)) < 1000
    assert str(copy) in refusal(copy)


def test_a_manifest_that_is_no_object_is_refused(copy):
    for text in ("3", "[]", "[" * 10_000, '{"format": 1}'):
        (copy / "manifest.json").write_text(text)
        assert "build the corpus again" in refusal(copy)


def test_a_shard_that_is_a_link_out_of_the_corpus_is_refused(copy, tmp_path):
    shard = copy / "train-code.bin"
    shutil.move(shard, tmp_path / "elsewhere.bin")
    shard.symlink_to(tmp_path / "elsewhere.bin")
    assert "leads out of" in refusal(copy)


def test_a_token_beyond_the_vocabulary_is_found_where_it_is_read(copy):
    for split in ("train", "validation"):
        shard = copy / f"{split}-code.bin"
        shard.write_bytes(b"\xff" * shard.stat().st_size)
    corpus = Corpus.open(copy)
    batches = Batches(corpus, "train", 16, 8, seed=0)
    assert "holds token 65535" in refusal(copy, lambda _: [next(batches) for _ in range(4)])
    batches = evaluation_batches(corpus, "validation", 16, 8)
    assert "holds token 65535" in refusal(copy, lambda _: next(batches))


def test_the_manifest_counts_what_is_there(tiny):
    for split, domains in tiny.manifest["splits"].items():
        for domain, shard in domains.items():
            tokens = np.asarray(tiny.tokens(split, domain))
            assert len(tokens) == shard["tokens"]
            assert (tokens == tiny.tokenizer.end_of_text).sum() == shard["documents"]
            assert len(tiny.tokenizer.decode(tokens.tolist()).encode()) == shard["bytes"]
    with pytest.raises(ValueError, match="no split 'dev'"):
        tiny.tokens("dev", "code")
    with pytest.raises(ValueError, match="no domain 'law'"):
        tiny.tokens("train", "law")


def test_inspect_prints_every_domain_split_and_licence(tiny):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(corpus_tables(inspect(tiny.path)))
    printed = console.export_text()
    for text in ("train", "validation", "test", "code", "prose", "PSF-2.0", tiny.fingerprint):
        assert text in printed
