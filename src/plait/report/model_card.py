"""The card of an exported model: what it is, how it was trained and scored, how to load it."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

import plait
from plait.config import ModelConfig, TrainConfig
from plait.config.counts import count
from plait.config.files import to_dict
from plait.report.numbers import interval, number, quantity, signed, size
from plait.report.structure_figure import structure_figure
from plait.report.study.measured import corpus
from plait.sharing import KINDS
from plait.statistics import Estimate, mean_interval, paired_difference
from plait.storage.model_folder import read_config, read_training
from plait.storage.result import Result
from plait.storage.run_folder import CORPUS, RunFolder
from plait.studies.results import STUDY, StudyResults, read_study

logger = logging.getLogger(__name__)

CARD, PICTURE = "README.md", "structure.svg"
Card = Callable[[ModelConfig, str], Mapping[str, str]]


def model_card(source: Path, out: Path, licence: str = "unknown") -> Card:
    """Return what makes the card and its picture of the structure and class that were written.

    Args:
        source: a run's folder or a model folder.
        out: the exported folder, by whose name the model is called.
        licence: of the weights, as the hub names it.

    Raises:
        ValueError: the licence is no name.
    """
    if not licence.strip() or not licence.isprintable():
        raise ValueError(f"licence {licence!r} is no name: give for example apache-2.0")

    def card(written: ModelConfig, architecture: str) -> dict[str, str]:
        return {
            CARD: _card(Path(source), Path(out).name, licence, written, architecture),
            PICTURE: structure_figure(read_config(source)),
        }

    return card


def _card(source: Path, name: str, licence: str, written: ModelConfig, architecture: str) -> str:
    config, trained = read_config(source), read_training(source)
    result = None if trained is None else RunFolder(source).result()
    study, variant = _study_of(source)
    untied = written.sharing != config.sharing
    kind = "mixture-of-experts" if config.routed_depths else "dense"
    front = {
        "license": licence,
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["plait", kind],
    }
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {name}",
        f"A {kind} language model of {config.depth} depths, built with Plait {plait.__version__} "
        f"and written as `{architecture}`.",
        *_structure(config, written, untied),
        *_loading(name, architecture),
        *_data(source),
        *_losses(result, study, variant),
        *_making(source, trained, result, study, variant, untied),
    ]
    return "\n\n".join(sections) + "\n"


def _structure(config: ModelConfig, written: ModelConfig, untied: bool) -> Iterator[str]:
    yield "## Structure"
    yield (
        f"![Depth from left to right; depths in one colour share a bank]({PICTURE})\n\n"
        "Each row is a kind of part, each number the bank of parameters that a depth uses. Banks "
        "in colour serve several depths and are stored once."
    )
    if untied:
        yield (
            "These files are untied: the same function with nothing shared but decisions, each "
            "depth with a copy of the banks that it shares in the picture."
        )
    kinds = [kind for kind in KINDS if kind != "collaboration" or config.collaboration]
    plans = [(kind, getattr(config.plans, kind)) for kind in kinds]
    yield _table(
        ("part", "sharing over depth", "banks"), [(k, f"`{p}`", str(p.count)) for k, p in plans]
    )
    counts, heads = count(written), config.heads
    experts = config.experts.count
    each = str(experts) if isinstance(experts, int) else " ".join(map(str, experts))
    wider = f", {config.experts.expand} times as many in shared banks" * (config.experts.expand > 1)
    yield _table(
        ("", ""),
        [
            ("parameters stored", quantity(counts.stored)),
            *[("stored before untying", quantity(count(config).stored))] * untied,
            ("total, as if nothing were shared", quantity(counts.total)),
            ("active per token", quantity(counts.active)),
            ("width, depth", f"{config.width}, {config.depth}"),
            ("heads, of keys and values, features of each", ", ".join(map(str, heads))),
            ("experts in a bank, chosen per token", f"{each}{wider}; {config.experts.top_k}"),
            ("context", f"{config.context:,} tokens"),
            ("vocabulary", f"{config.vocab_size:,} tokens"),
        ],
    )


def _loading(name: str, architecture: str) -> Iterator[str]:
    ours = architecture == "PlaitForCausalLM"
    trust = ", trust_remote_code=True" if ours else ""
    yield "## Loading"
    yield (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{name}"{trust})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")\n'
        "```"
    )
    if ours:
        yield "Where Plait is installed, `import plait.interop` loads it without remote code."


def _data(source: Path) -> Iterator[str]:
    yield "## Data"
    known = corpus(source / CORPUS)
    if not known["sources"]:
        yield "What it was trained on is not recorded beside the weights."
        return
    yield _table(
        ("source", "domain", "licence", "size"),
        [(_last(s.source), s.domain, s.licence, size(s.bytes)) for s in known["sources"]],
    )
    yield "The licences are those of the text. Test text was split off by document before training."


def _losses(result: Result | None, study: StudyResults | None, variant: str) -> Iterator[str]:
    if result is None:
        return
    yield "## Held-out loss"
    yield f"Nats per token on held-out text (the {result.evaluation.get('split', 'test')} split)."
    head = ["domain", "loss", "bits per byte"]
    floors = result.floors or {}
    head += ["bigram count"] * bool(floors)
    seeds = len(study.of(variant)) if study else 0
    against = study.reference(variant) if study else variant
    head += [f"mean of {seeds} seeds, 95 %"] * (seeds > 1)
    head += [f"difference to {against}, 95 %"] * (seeds > 1 and against != variant)
    rows = []
    for domain in sorted(result.domains, key=lambda domain: domain == "all"):
        row = [domain, number(result.held_out(domain))]
        row.append(number(result.held_out(domain, "bits_per_byte")))
        if floors:
            row.append(number(floors["bigram"][domain]["loss"]))
        if study and seeds > 1:
            row += _over_seeds(study, variant, against, domain)
        rows.append(row)
    yield _table(head, rows)
    if study and seeds > 1:
        yield (
            f"These weights are one of the {seeds} runs. Intervals cover the variation of seeds; "
            f"differences are paired by seed, in the study {study.name}."
        )


def _over_seeds(study: StudyResults, variant: str, against: str, domain: str) -> list[str]:
    """The mean, and the difference to what the variant is compared with, with their intervals."""
    values = study.measured(variant, domain)
    said = [_shown(mean_interval(list(values.values())), number)]
    if against != variant:
        found = paired_difference(values, study.measured(against, domain))
        said.append("" if found is None else _shown(found.estimate, signed))
    return said


def _shown(estimate: Estimate, show: Callable[[float], str]) -> str:
    reaching = interval(estimate, sign=show is signed)
    return f"{show(estimate.value)}, {reaching}" if reaching else show(estimate.value)


def _study_of(source: Path) -> tuple[StudyResults | None, str]:
    """The study that a run belongs to, where it is whole, and the run's variant in it."""
    folder = source.resolve().parent
    if (folder / STUDY).is_file():
        try:
            study = read_study(folder)
        except (ValueError, FileNotFoundError) as error:
            logger.warning("the model card is without the study's intervals: %s", error)
            return None, ""
        for run in study.runs:
            if run.folder.resolve() == source.resolve():
                return study, run.variant
    return None, ""


def _making(
    source: Path,
    trained: TrainConfig | None,
    result: Result | None,
    study: StudyResults | None,
    variant: str,
    untied: bool,
) -> Iterator[str]:
    yield "## How it was made"
    export = f"plait export {source.resolve().name} OUT" + " --untie" * untied
    if trained is None:
        yield f"```sh\n{export}\n```"
        return
    first = "plait train config.yaml"
    if study is not None:
        first = f"plait study run {study.name}    # variant {variant}, seed {trained.seed}"
    yield f"```sh\n{first}\n{export}\n```"
    if result is not None:
        yield (
            f"{result.tokens:,} tokens in {result.steps:,} steps, seed {result.seed}. "
            f"Configuration {result.config_hash}, corpus {result.corpus_fingerprint}."
        )
    public = replace(
        trained,
        data=replace(trained.data, corpus=_last(trained.data.corpus)),
        initial_weights=trained.initial_weights and _last(trained.initial_weights),
    )
    whole = yaml.safe_dump(to_dict(public), sort_keys=False, allow_unicode=True)
    yield (
        f"<details><summary>config.yaml, the experiment whole</summary>\n\n"
        f"```yaml\n{whole}```\n\n</details>"
    )


def _last(place: str) -> str:
    """The last part of a path: where it lay on one machine says nothing on another."""
    return Path(place).name if Path(place).is_absolute() else place


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
