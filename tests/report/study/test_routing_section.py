"""The routing section of a study's report, from runs that were really trained."""

import json
from dataclasses import replace
from pathlib import Path

from made_up_models import trained_run
from plait.config import AttentionConfig, ExpertConfig, ModelConfig
from plait.report.study.routing_section import study_section
from plait.report.study.study_report import write_report
from plait.sharing import Sharing
from tiny_corpus import tiny


def test_section_of_two_variants_without_the_dense_one(tmp_path: Path) -> None:
    corpus = tiny(tmp_path / "corpus")
    plain = ModelConfig(
        vocab_size=corpus.vocab_size,
        depth=3,
        width=32,
        context=64,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=4, width=16, top_k=2),
    )
    variants = {
        "plain": plain,
        "<b>shared</b>": replace(plain, sharing=Sharing(router="all")),
        "dense": replace(plain, experts=ExpertConfig(count=1, width=32, top_k=1)),
    }
    study = tmp_path / "study"
    planned = []
    for number, (variant, model) in enumerate(variants.items()):
        trained_run(model, corpus, study / f"run-{number}")
        planned.append({"variant": variant, "seed": 0, "folder": f"run-{number}"})
    header = {"name": "s", "description": "", "baseline": "plain", "margin": 0.02, "runs": planned}
    (study / "study.json").write_text(json.dumps(header))
    section = study_section(study, tokens=1000)
    assert section is not None
    assert "&lt;b&gt;shared" in section.html
    assert "<b>shared" not in section.html
    assert "dense" not in section.html
    assert {"routing-coverage", "routing-consistency"} <= {f.name for f in section.figures}
    page = write_report(study, sections=[section]).read_text()
    assert "Where 1,000 held-out tokens went" in page
