"""`plait trace` from runs and files to the folder that it leaves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import transformers
from rich.console import Console

from made_up_models import trained_run
from plait.config import AttentionConfig, CollaborationConfig, ExpertConfig, ModelConfig
from plait.data import Corpus
from plait.interop.exporting import export_model
from plait.report.routing.trace_report import run_trace
from plait.routing import Passage, read_trace, trace_model
from plait.routing.metrics.consistency import consistency
from plait.sharing import Sharing
from plait.statistics import Resampler
from plait.storage.model_folder import load_model
from tiny_corpus import tiny


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny(tmp_path_factory.mktemp("corpora") / "tiny")


@pytest.fixture(scope="module")
def runs(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A model with collaboration, and one with a shared decision, each trained for two steps."""
    model = ModelConfig(
        vocab_size=corpus.vocab_size,
        depth=3,
        width=32,
        context=64,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=4, width=16, top_k=3),
    )
    variants = {
        "collaborating": replace(model, collaboration=CollaborationConfig()),
        "shared": replace(model, sharing=Sharing(router="1x2 + 1", decision="1x2 + 1")),
    }
    root = tmp_path_factory.mktemp("runs")
    return [trained_run(variant, corpus, root / name) for name, variant in variants.items()]


def silent() -> Console:
    return Console(quiet=True)


def test_two_runs_side_by_side(runs: list[Path], tmp_path: Path) -> None:
    console = Console(record=True, width=160, quiet=True)
    run_trace(
        runs, out=tmp_path, tokens=1500, perturb_tokens=300, draws=2, formats=(), console=console
    )
    first, second = (read_trace(tmp_path / run.name / "trace.parquet") for run in runs)
    assert (first.token_ids_N == second.token_ids_N).all()
    assert len(first) == 1500
    assert first.info.domains == ("code", "prose")
    # the shared decision: consistency exactly 1 inside its block, known in advance
    within = consistency(second, Resampler(second.document_N, second.domain_N)).within_shared
    assert within is not None
    assert within.value == 1.0
    summaries = json.loads((tmp_path / "routing.json").read_text())["models"]
    assert [s["model"]["name"] for s in summaries] == ["collaborating", "shared"]
    assert summaries[1]["consistency"]["within_shared"]["value"] == 1.0
    assert summaries[0]["consistency"]["within_shared"] is None
    assert "neither expert bank, router nor decision" in summaries[0]["notes"][0]
    assert len(summaries[0]["topology"]) == 3
    kinds = {r["kind"] for r in summaries[0]["robustness"]}
    assert len(kinds) == 5
    page = (tmp_path / "routing.html").read_text()
    assert "http://" not in page.split("<body>")[1].split("<script")[0]


def test_files_as_text_with_hostile_tokens(runs: list[Path], tmp_path: Path) -> None:
    hostile = "</script><script>alert(1)</script> \u202e gnp.exe \x07\u200b " * 40
    (tmp_path / "a.txt").write_text(hostile)
    (tmp_path / "b.txt").write_text("plain words of prose, again and again. " * 40)
    out = tmp_path / "out"
    found = run_trace(
        runs[:1],
        [f"bad={tmp_path / 'a.txt'}", f"good={tmp_path / 'b.txt'}"],
        out,
        tokens=1200,
        perturb_tokens=0,
        formats=("svg",),
        console=silent(),
    )
    assert found[0].info.domains == ("bad", "good")
    assert found[0].tokens_by_domain["bad"] > 100
    page = (out / "routing.html").read_text()
    assert "<script>alert" not in page
    for character in "\u202e\x07\u200b":
        assert character not in page
        for figure in (out / "figures").glob("*.svg"):
            assert character not in figure.read_text()


def test_one_line_refusals(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds neither"):
        run_trace([tmp_path], out=tmp_path, console=silent())
    with pytest.raises(ValueError, match="no model is named"):
        run_trace([], out=tmp_path, console=silent())
    with pytest.raises((FileNotFoundError, ValueError), match=r"none\.txt"):
        run_trace(runs[:1], [str(tmp_path / "none.txt")], tmp_path, console=silent())


def test_other_tokenizer_is_refused(runs: list[Path], corpus: Corpus, tmp_path: Path) -> None:
    other = tmp_path / "other"
    config = transformers.OlmoeConfig(
        vocab_size=512, hidden_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.OlmoeForCausalLM(config).save_pretrained(other)
    changed = json.loads((corpus.path / "tokenizer.json").read_text())
    changed["model"]["merges"] = changed["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="different tokenizers"):
        run_trace([runs[0], other], out=tmp_path / "out", console=silent())


def test_exported_model_gives_the_same_trace_from_both_sides(
    corpus: Corpus, tmp_path: Path
) -> None:
    model = ModelConfig(
        vocab_size=corpus.vocab_size,
        depth=3,
        width=32,
        context=64,
        attention=AttentionConfig(heads=4, qk_norm="width"),
        experts=ExpertConfig(count=8, width=16, top_k=2),
        tied_head=False,
        init_std=0.3,
    )
    trained = trained_run(model, corpus, tmp_path / "run")
    export_model(trained, tmp_path / "exported")
    ours = load_model(trained)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert type(theirs).__name__ == "OlmoeForCausalLM"
    generator = np.random.default_rng(0)
    text = [Passage(generator.integers(0, corpus.vocab_size, 100).tolist()) for _ in range(5)]
    a, b = trace_model(ours, text), trace_model(theirs, text)
    assert (a.token_ids_N == b.token_ids_N).all()
    assert (a.expert_ids_NLK == b.expert_ids_NLK).all()
    assert a.gates_NLK is not None
    assert b.gates_NLK is not None
    assert np.abs(a.gates_NLK.astype(float) - b.gates_NLK.astype(float)).max() < 2e-3
    # also by the command, which has to see that their tokenizers are the same
    found = run_trace(
        [trained, tmp_path / "exported"],
        out=tmp_path / "out",
        tokens=600,
        perturb_tokens=200,
        draws=1,
        formats=(),
        console=silent(),
    )
    assert found[0].consistency.adjacent == found[1].consistency.adjacent
    for here, there in zip(found[0].robustness, found[1].robustness, strict=True):
        assert (here.kind, here.setting) == (there.kind, there.setting)
        assert here.losses == pytest.approx(there.losses, abs=1e-4)
