"""Commands under torchrun: what is divided equals one process, and the rest is done once."""

import os

import pytest
from command_processes import run_in_turn

from gloo import start
from plait.cli import main
from plait.cli.commands import COMMANDS, DIVIDED
from plait.config import AttentionConfig, ExpertConfig, ModelConfig
from plait.storage.model_folder import save_model
from tiny_corpus import tiny
from toy_models import lively


@pytest.fixture
def models(tmp_path):
    """Names of two models in `tmp_path`, which know the tokens of the corpus `corpus` there."""
    corpus = tiny(tmp_path / "corpus")
    config = ModelConfig(
        vocab_size=corpus.vocab_size,
        depth=2,
        width=32,
        context=64,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=4, width=16, top_k=2),
    )
    names = ["one", "other"]
    for seed, name in enumerate(names):
        weights = lively(config, seed).state_dict()
        save_model(tmp_path / name, config, weights, corpus.path / "tokenizer.json")
    return names


def test_two_processes_write_and_print_what_one_does(models, processes, tmp_path):
    commands = [
        ["eval", models[0], "--corpus=corpus", "--tokens=4000"],
        ["trace", *models, "--text=corpus", "--tokens=1500", "--perturb-tokens=400", "--figures"],
        ["data", "inspect", "corpus"],
    ]
    found = []
    for size in (1, 2):
        outputs = tmp_path / f"by {size}"
        outputs.mkdir()
        start(processes, size, run_in_turn, commands, tmp_path, outputs)
        (tmp_path / "routing").rename(outputs / "routing")  # where plait trace writes
        files = [file for file in outputs.rglob("*") if file.is_file()]
        found.append({str(file.relative_to(outputs)): file.read_bytes() for file in files})
    alone, together = found
    assert (together.pop("1.out"), together.pop("1.err")) == (b"", b"")
    notice = b"plait: `plait data inspect` runs in one process: the other does nothing\n"
    assert (alone.pop("0.err"), together.pop("0.err")) == (b"", notice)
    printed = [found.pop("0.out").decode().splitlines() for found in (alone, together)]
    untimed = [[line for line in lines if "forwards of" not in line] for lines in printed]
    assert untimed[0] == untimed[1]
    assert together == alone
    assert {"routing.json", "routing.html", "one/trace.parquet", "other/trace.parquet"} == {
        name.removeprefix("routing/") for name in alone
    }


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in DIVIDED])
def test_what_is_not_divided_is_left_to_the_first_process(name, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as end:
            main([*name.split(), "--no-such-option"])
        out, said = capsys.readouterr()
        first = rank == "0"
        assert (out, end.value.code) == ("", 2 if first else 0)
        notice = f"plait: `plait {name}` runs in one process: the other 2 do nothing\n"
        assert said.startswith(notice) if first else said == ""
    assert "WORLD_SIZE" not in os.environ  # what it starts does not wait for the others


@pytest.mark.parametrize(("rank", "said"), [("0", ""), ("1", "process 1: ")])
def test_who_fails_alone_says_so_after_the_first_had_its_turn(rank, said, monkeypatch, capsys):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit):
        main(["eval", "--no-such-option"])
    assert capsys.readouterr().err.startswith(f"plait: {said}no option --no-such-option")
    assert len(waited) == (rank == "1")
