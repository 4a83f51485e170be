"""What stands in for the names that pages use: all of it of toy size, made once.

python toys.py FOLDER   makes FOLDER/work, to run pages in; PLAIT_CACHE names the cache they see
"""

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from plait import recipes
from plait.config import TrainConfig
from plait.config.files import save_yaml, to_dict
from plait.data import corpora
from plait.sharing import Sharing
from plait.studies.designs import ladder_study
from plait.studies.ladder import Ladder
from plait.studies.plan import PlannedRun, planned_runs, write_plan
from plait.studies.study import Study

ROOT = Path(__file__).parents[2]
HUGGING_FACE = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 0,
}
SMALL_STUDIES = """\
import toys
from plait import recipes


def demo():
    return toys.small_study(recipes.study("demo"))


def ties():
    return toys.small_study(recipes.study("ties.py:ties"))


def crossed():
    return toys.small_factorial(recipes.study("crossed.py:crossed"))


def rungs():
    return toys.small_ladder(recipes.study("rungs.py:rungs"))
"""
SPECIFICATION = """\
vocab_size: 400
validation: 0.2
test: 0.2
sources:
  - {kind: files, path: texts, domain: notes}
"""


def small_run() -> TrainConfig:
    """The recipe nano, of which every dimension but the depth is small, for two steps."""
    nano = recipes.train_config("nano")
    return replace(
        nano,
        model=replace(
            nano.model,
            vocab_size=512,
            width=32,
            context=64,
            experts=replace(nano.model.experts, width=32),
        ),
        data=replace(nano.data, sequence_length=64, batch=4),
        tokens=2 * 4 * 64,
        schedule=replace(nano.schedule, warmup=0),
        evaluation=replace(nano.evaluation, every=1, tokens=256, final_tokens=1024),
    )


def small_options() -> dict[str, str]:
    """What makes `plait train nano` that run."""
    before = dict(_leaves(to_dict(recipes.train_config("nano"))))
    now = dict(_leaves(to_dict(small_run())))
    changed = (path for path in now if now[path] != before[path])
    return {f"--{path.replace('_', '-')}": str(now[path]) for path in changed}


def small_study(study: Study) -> Study:
    """The first two structures of a study, one seed each, on the small run."""
    run = small_run()
    names = list(study.variants)[:2]
    models = {
        name: replace(run.model, sharing=study.variants[name].model.sharing) for name in names
    }
    variants = {name: replace(run, model=model) for name, model in models.items()}
    return replace(study, variants=variants, seeds=(0,))


def small_factorial(study: Study) -> Study:
    """All cells of a study on the small run, one seed each."""
    assert study.factorial is not None
    return replace(study, variants=study.factorial.variants(small_run()), seeds=(0,))


def small_ladder(study: Study) -> Study:
    """The structures of a study at its first and third size, one seed each, on few tokens."""
    assert study.ladder is not None
    assert study.ladder_design is not None
    run = small_run()
    sizes = dict(list(study.ladder.sizes.items())[:3:2])
    ladder = Ladder(sizes, dict(zip(sizes, (run.tokens, 2 * run.tokens), strict=True)))
    models = {
        name: study.variants[f"{name}.{next(iter(sizes))}"].model
        for name in study.ladder_design.structures
    }
    structures = {
        name: replace(run, model=replace(run.model, sharing=model.sharing))
        for name, model in models.items()
    }
    return ladder_study(study.name, structures, ladder, baseline="plain", seeds=(0,))


def runs() -> list[PlannedRun]:
    """The runs that there are, each already finished."""
    return planned_runs(small_study(recipes.study("demo")), Path("runs"))


def make(folder: Path) -> None:
    """Fill the folder."""
    from transformers import AutoModelForCausalLM, OlmoeConfig

    from plait.interop.tokenization import hub_tokenizer
    from plait.training import train

    work = folder / "work"
    work.mkdir()
    corpus = corpora.tiny(corpora.default_path("starter"))  # only the names are the real ones'
    shutil.copytree(corpus.path, corpora.default_path("starter-2k"))
    write_plan(small_study(recipes.study("demo")), work / "runs")
    for planned in runs():
        train(planned.config, work / planned.folder)

    model = AutoModelForCausalLM.from_config(OlmoeConfig(**HUGGING_FACE))
    model.save_pretrained(work / "olmoe")
    hub_tokenizer(corpus.tokenizer, 64).save_pretrained(work / "olmoe")

    save_yaml(small_run(), work / "run.yaml")
    tied = replace(small_run().model, sharing=Sharing(experts="groups(4, skip=2)"))
    save_yaml(tied, work / "tied.yaml")
    (work / "notes.yaml").write_text(SPECIFICATION)
    (work / "small.py").write_text(SMALL_STUDIES)
    (work / "src").symlink_to(ROOT / "src")
    (work / "docs").symlink_to(ROOT / "docs")
    texts = list(_texts(300))
    (work / "held-out.txt").write_text(texts[0])
    (work / "texts" / "deeper").mkdir(parents=True)
    for number, text in enumerate(texts[:150]):
        place = "texts/deeper" if number % 2 else "texts"
        (work / place / f"{number}.md").write_text(text)
    rows = ({"title": str(n), "body": {"text": text}} for n, text in enumerate(texts[150:]))
    (work / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _texts(count: int) -> Iterator[str]:
    generator = random.Random(0)
    words = Path(__file__).read_text().split()
    for number in range(count):
        yield f"{number} " + " ".join(generator.choices(words, k=120)) + "\n"


def _leaves(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield path + name, value


if __name__ == "__main__":
    assert "PLAIT_CACHE" in os.environ, "or the corpus would take the place of a real one"
    make(Path(sys.argv[1]))
