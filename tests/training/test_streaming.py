import json
import os
import random
import signal
import time
from dataclasses import replace

import pytest
from test_distributed import together
from test_recovery import poison
from test_resume import assert_same, outcome, rows
from training_process import run

from plait.config import OptimizerConfig
from plait.data import Specification, build
from plait.data.corpus import Corpus
from plait.data.sources import Files
from plait.data.specification import Streaming
from plait.storage.metrics_file import read_rows
from plait.training import train
from plait.verification import verify

WEIGHTS = {"code": 75, "web": 25}


def write(path, seed):
    """150 documents of made-up words."""
    draw = random.Random(seed)
    with path.open("w") as file:
        for _ in range(150):
            words = (f"{draw.choice('abcdefgh')}{draw.randrange(99)}" for _ in range(120))
            file.write(json.dumps({"text": " ".join(words)}) + "\n")


def specification(folder, corpus, **options):
    """Two domains, with the tokenizer of the corpus of the other tests."""
    return Specification(
        name="two",
        sources=(
            Files(str(folder / "code.jsonl"), domain="code"),
            Files(str(folder / "web.jsonl"), domain="web"),
        ),
        tokenizer=str(corpus.path / "tokenizer.json"),
        weights=WEIGHTS,
        validation=0.15,
        test=0.15,
        **options,
    )


@pytest.fixture(scope="module")
def on(config, corpus, tmp_path_factory):
    """The configuration, on a corpus that is made anew."""

    folder = tmp_path_factory.mktemp("text")
    for seed, domain in enumerate(WEIGHTS):
        write(folder / f"{domain}.jsonl", seed)

    def made(**options):
        path = tmp_path_factory.mktemp("corpora") / "two"
        build(specification(folder, corpus, **options), path)
        return replace(config, data=replace(config.data, corpus=str(path)))

    return made


@pytest.fixture(scope="module")
def streaming(on):
    """On a stream whose blocks are so small that the run goes through many."""
    return on(stream=Streaming(sample=30_000, shuffle=256))


def test_a_stream_trains_to_the_losses_of_the_corpus_on_the_disk(on, tmp_path):
    train(on(), tmp_path / "built", device="cpu")
    train(on(stream=Streaming()), tmp_path / "streamed", device="cpu")
    first, second = (tmp_path / name for name in ("built", "streamed"))
    assert any("evaluation" in row for row in rows(first))
    assert rows(first) == rows(second)
    results = [json.loads((path / "result.json").read_text()) for path in (first, second)]
    assert results[0]["evaluation"] == results[1]["evaluation"]
    assert results[0]["floors"] == results[1]["floors"]
    assert not [check for check in verify(second) if check.problem]


def test_killed_while_streaming_it_ends_as_if_never_killed(streaming, processes, tmp_path):
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    train(streaming, undisturbed, device="cpu")
    killed.mkdir()
    process = processes.Process(target=run, args=(streaming, killed))
    process.start()
    while not (killed / "checkpoints" / "step-10").exists():
        assert process.is_alive()
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL, "it finished before it could be killed"
    train(streaming, killed, device="cpu")
    assert_same(outcome(killed, streaming.steps), outcome(undisturbed, streaming.steps))
    loader = outcome(killed, streaming.steps)[2]
    assert loader["domains"]["code"]["block"] > 10
    assert loader["fingerprint"] == Corpus.open(streaming.data.corpus).fingerprint


def test_a_run_that_goes_back_goes_on_past_the_batches(streaming, tmp_path, monkeypatch):
    poison(monkeypatch, lambda place: 5 <= place <= 7)
    few = replace(streaming, tokens=10 * streaming.tokens_per_step, skip_limit=3)
    result = train(few, tmp_path, device="cpu")
    assert [(turn["step"], turn["back_to"]) for turn in result.recoveries] == [(7, 4)]
    skipped = result.recoveries[0]["tokens_skipped"]
    assert outcome(tmp_path, 10)[2]["tokens_seen"] == few.tokens + skipped


def test_a_source_that_is_gone_leaves_no_run_behind(config, corpus, tmp_path):
    (tmp_path / "text").mkdir()
    for seed, domain in enumerate(WEIGHTS):
        write(tmp_path / "text" / f"{domain}.jsonl", seed)
    build(specification(tmp_path / "text", corpus, stream=Streaming()), tmp_path / "two")
    (tmp_path / "text" / "web.jsonl").unlink()
    config = replace(config, data=replace(config.data, corpus=str(tmp_path / "two")))
    with pytest.raises(FileNotFoundError, match=r"web\.jsonl: no such file"):
        train(config, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(streaming, processes, tmp_path):
    plain = replace(
        streaming,
        model=replace(streaming.model, dropout=0.0),
        data=replace(streaming.data, micro_batch=None),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        tokens=8 * streaming.tokens_per_step,
    )
    one, two = tmp_path / "one", tmp_path / "two"
    train(plain, one, device="cpu")
    together(processes, 2, plain, two, stop_after=5)
    assert read_rows(two / "metrics.jsonl")[-1]["step"] < 8
    train(plain, two, device="cpu")
    assert outcome(one, 8)[2] == outcome(two, 8)[2], "they stand at the same place in the stream"
    losses = [[row["loss"] for row in rows(path) if "loss" in row] for path in (one, two)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
