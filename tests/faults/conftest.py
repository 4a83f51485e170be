"""What the attacks work on: a corpus, a finished run, a model, a study, made once and copied."""

import os
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import transformers

from plait.config import (
    AttentionConfig,
    CheckpointConfig,
    CollaborationConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    TrainConfig,
)
from plait.config.files import save_yaml
from plait.report.study.study_report import write_report
from plait.studies.plan import planned_runs, write_plan
from plait.studies.study import Study
from plait.training import train
from tiny_corpus import tiny


@dataclass(frozen=True)
class Whole:
    """Folders and files that nobody has attacked yet."""

    root: Path
    corpus: Path
    study: Path
    run: Path
    configuration: Path
    hugging_face: Path
    text: Path


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Whole:
    root = tmp_path_factory.mktemp("original")
    corpus = tiny(root / "corpus")
    config = TrainConfig(
        model=ModelConfig(
            vocab_size=corpus.vocab_size,
            depth=2,
            width=32,
            context=32,
            attention=AttentionConfig(heads=2, qk_norm="width"),
            experts=ExpertConfig(count=4, width=16, top_k=3),
            tied_head=False,
        ),
        data=DataConfig(corpus="corpus", sequence_length=32, batch=4),
        tokens=6 * 4 * 32,
        evaluation=EvaluationConfig(every=3, tokens=128, final_tokens=256),
        checkpoint=CheckpointConfig(every=2),
    )
    save_yaml(config, root / "run.yaml")
    talking = replace(config, model=replace(config.model, collaboration=CollaborationConfig()))
    study = Study(name="study", baseline="plain", variants={"plain": config, "talking": talking})
    before = Path.cwd()
    os.chdir(root)
    try:
        write_plan(study, Path("runs"))
        for planned in planned_runs(study, Path("runs")):
            train(planned.config, planned.folder, device="cpu")
        write_report(Path("runs") / "study")
    finally:
        os.chdir(before)
    theirs = transformers.OlmoeConfig(
        vocab_size=corpus.vocab_size,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=32,
    )
    transformers.OlmoeForCausalLM(theirs).save_pretrained(root / "olmoe")
    shutil.copy(corpus.path / "tokenizer.json", root / "olmoe")
    (root / "text.txt").write_text("def walk(depth):\n    return depth + 1\n" * 30)
    run = next((root / "runs" / "study").glob("plain-*"))
    return Whole(
        root,
        corpus.path,
        root / "runs" / "study",
        run,
        root / "run.yaml",
        root / "olmoe",
        root / "text.txt",
    )


@pytest.fixture
def whole(original, tmp_path, monkeypatch) -> Whole:
    """A copy to attack, as the working folder."""
    root = tmp_path / "copy"
    shutil.copytree(original.root, root)
    monkeypatch.chdir(root)
    moved = {
        name: root / getattr(original, name).relative_to(original.root)
        for name in ("corpus", "study", "run", "configuration", "hugging_face", "text")
    }
    return Whole(root, **moved)


@pytest.fixture
def chance(request) -> random.Random:
    """Random numbers of this test; PLAIT_FAULTS_SEED gives others."""
    seed = os.environ.get("PLAIT_FAULTS_SEED", "0")
    print(f"seed {seed}")
    return random.Random(f"{seed} {request.node.nodeid}")
