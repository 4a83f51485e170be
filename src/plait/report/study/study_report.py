"""The report of a study: which structure did better, by how much, how sure, how measured."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import plait
from plait.atomic import write_json, write_text
from plait.config.files import load_json, to_dict
from plait.data.corpus import file_sha256
from plait.report.figure import Format, Section, write_figures
from plait.report.numbers import number, reach, signed
from plait.report.page import render
from plait.report.palette import Series, series
from plait.report.study.configurations import changes
from plait.report.study.design_words import study_headline
from plait.report.study.dynamics_figures import dynamics_section
from plait.report.study.effects_section import effects_section
from plait.report.study.ladder_section import ladder_section
from plait.report.study.study_figures import (
    curve_figures,
    difference_figure,
    domain_figures,
    load_figures,
    size_figure,
)
from plait.report.study.topology_section import topology_section
from plait.report.study.wording import row_words
from plait.statistics import Estimate
from plait.storage.result import RESULT
from plait.storage.run_folder import CORPUS
from plait.studies.answers import LEAST_SEEDS, answers
from plait.studies.results import StudyResults, read_study
from plait.studies.tables import (
    Row,
    comparison_table,
    contrast_records,
    design_records,
    records,
)


def write_report(
    study_folder: Path,
    output: Path | None = None,
    *,
    sections: Sequence[Section] = (),
    figure_formats: Sequence[Format] = (),
) -> Path:
    """Write the report of a study folder and return the path of its HTML file.

    Args:
        study_folder: `runs/<study>`, finished or not.
        output: the HTML file; `report.html` in the study folder where None. `report.json` and
            `report.csv` (the table) are written beside it.
        sections: further sections, after the study's own and before how it was measured.
        figure_formats: also write every figure in these formats, into `figures/` beside the file.

    Raises FileNotFoundError where the folder holds no study, ValueError where no run has finished.
    """
    study = read_study(study_folder)
    if not study.runs:
        raise ValueError(f"no run of study {study.name} has finished yet: nothing to report")
    output = output or study_folder / "report.html"
    rows = comparison_table(study)
    looks = series(study.finished_variants, study.baseline)
    said = study_headline(study)
    shown = [*_sections(study, rows, looks), *sections]
    configs = {name: to_dict(study.of(name)[0].config) for name in study.finished_variants}
    base_config = configs.get(study.baseline, {})
    page = render(
        "study.html.j2",
        shown,
        page_title=f"{study.name}: {said.title}",
        study=study,
        headline=said,
        domains=study.domains,
        lines=_lines(study, rows, looks),
        looks=looks,
        interval_note=_interval_note(study),
        rules=_rules(study),
        facts=_facts(study),
        **_corpus(study.folder / CORPUS),
        base_config=yaml.safe_dump(base_config, sort_keys=False, allow_unicode=True),
        configurations=[
            (name, changes(base_config, config))
            for name, config in configs.items()
            if name != study.baseline
        ],
        version=plait.__version__,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_text(output, page)
    _write_table(study, rows, output)
    if figure_formats:
        figures = [figure for section in shown for figure in section.figures]
        write_figures(figures, output.parent / "figures", figure_formats)
    return output


def _sections(study: StudyResults, rows: Sequence[Row], looks: Sequence[Series]) -> list[Section]:
    """The study's own sections; one whose figures have nothing to show is left out."""
    differences = []
    if any(row.difference for row in rows):
        differences.append(difference_figure(study, rows, looks))
    first = "" if len(study.seeds) == 1 else f" Shown for seed {study.seeds[0]}."
    sections = [
        effects_section(study),
        ladder_section(study),
        Section("How far apart", figures=[*differences, size_figure(rows, looks)]),
        Section("While training", figures=curve_figures(study, looks)),
        Section(
            "Held-out text by domain",
            [
                "Difference to the baseline in each domain, in bits per byte, which do not "
                "depend on the tokenizer. Left of the line is better."
            ],
            domain_figures(study, looks),
        ),
        Section(
            "Load of the experts",
            [
                "Each expert’s share of the choices at its depth on held-out text, relative to an "
                "equal share: 1 is balanced, 0 is an expert that nobody chooses." + first
            ],
            load_figures(study),
        ),
        dynamics_section(study, looks),
        topology_section(study),
    ]
    return [section for section in sections if section is not None and section.figures]


@dataclass(frozen=True)
class _Cell:
    text: str
    interval: str = ""
    best: bool = False


def _lines(
    study: StudyResults, rows: Sequence[Row], looks: Sequence[Series]
) -> list[dict[str, Any]]:
    """Table lines: cells as they are printed, the lowest of each column marked."""
    domains = ("all", *study.domains)
    losses = _column([row.loss for row in rows], 3)
    perplexities = _column([row.perplexity for row in rows], 2)
    bits = [_column([row.bits_per_byte[domain] for row in rows], 3) for domain in domains]
    lines = []
    for index, (row, look) in enumerate(zip(rows, looks, strict=True)):
        d = row.difference
        lines.append(
            {
                "row": row,
                "look": look,
                "loss": losses[index],
                "difference": _Cell(
                    "–" if d is None else signed(d.estimate.value), reach(d.estimate if d else None)
                ),
                "perplexity": perplexities[index],
                "bits": [column[index] for column in bits],
                "p": row.answer and row.answer.p,
                "verdict": (row.answer and row.answer.verdict) or row_words(row),
                "words": row_words(row),
            }
        )
    return lines


def _column(estimates: Sequence[Estimate], digits: int) -> list[_Cell]:
    lowest = min(estimate.value for estimate in estimates)
    return [
        _Cell(number(e.value, digits), reach(e, digits), e.value == lowest and e.n >= LEAST_SEEDS)
        for e in estimates
    ]


def _interval_note(study: StudyResults) -> str:
    if len(study.seeds) == 1:
        return "One seed per variant: no interval and no verdict."
    return (
        "± is half the 95 % interval over seeds (Student’s t). Better and worse: paired by seed, "
        "at the 5 % level, p after Holm’s correction. Equivalent: two one-sided tests (TOST) "
        f"place the difference within ±{study.margin:g} nats per token, p after Holm’s correction. "
        f"Undecided: the seeds show neither. A verdict needs {LEAST_SEEDS} seeds, and a loss below "
        "that of counting pairs of tokens (the bigram)."
    )


def _rules(study: StudyResults) -> list[str]:
    counts = {int(run.held_out(measure="tokens")) for run in study.runs}
    same = len({run.result.corpus_fingerprint for run in study.runs}) == 1
    seeds = ", ".join(str(seed) for seed in study.seeds)
    return [
        "Documents were split by their hash into training, validation and test before anything was "
        "trained, the tokenizer included; every figure called held-out is on the test split, the "
        "curves on validation.",
        f"Every run was scored on the same {counts.pop():,} test tokens."
        if len(counts) == 1
        else "Careful: the runs were scored on different numbers of test tokens.",
        "Runs with the same seed saw the same text in the same order"
        + (f" (seeds {seeds})." if len(study.seeds) > 1 else f" (one seed: {seeds}).")
        if same
        else "Careful: not all runs used the same corpus (their fingerprints differ).",
        "One seed per variant. A difference between two single runs says what happened once; at "
        "least 3 seeds are needed to say how sure it is."
        if len(study.seeds) == 1
        else "Differences are paired by seed. An interval covers the seeds’ variation only: not "
        "that of other corpora, sizes or learning rates.",
    ]


def _facts(study: StudyResults) -> list[tuple[str, str]]:
    run = study.runs[0]
    facts = [
        ("Corpus", run.config.data.corpus),
        ("Corpus fingerprint", run.result.corpus_fingerprint),
        ("Runs", f"{len(study.runs)} finished, {len(study.finished_variants)} variants"),
        ("Tokens per run", f"{run.result.tokens:,} in {run.result.steps:,} steps"),
        ("Time of all runs", f"{sum(r.result.seconds for r in study.runs) / 60:,.0f} min"),
    ]
    return [*facts, *((key, str(value)) for key, value in run.result.environment.items())]


@dataclass(frozen=True)
class _Source:
    source: str
    domain: str
    licence: str
    documents: int
    bytes: int


@dataclass(frozen=True)
class _Shard:
    tokens: int


@dataclass(frozen=True)
class _CorpusFacts:
    sources: list[_Source]
    splits: dict[str, dict[str, _Shard]]


def _corpus(path: Path) -> dict[str, Any]:
    """Sources and splits from the copy of the corpus's manifest, nothing where there is none."""
    if not path.exists():
        return {"sources": [], "splits": {}}
    facts = load_json(_CorpusFacts, path, "put the corpus' manifest in its place")
    return {"sources": facts.sources, "splits": facts.splits}


def _write_table(study: StudyResults, rows: tuple[Row, ...], output: Path) -> None:
    table = records(rows)
    found = answers(study)
    said = study_headline(study)
    report = {
        "study": study.name,
        "baseline": study.baseline,
        "seeds": study.seeds,
        "headline": said.title,
        "sentences": said.sentences,
        "missing": study.missing,
        "plan": study.plan,
        "deviations": study.deviations,
        "contrasts": contrast_records(found),
        **design_records(study),
        "rows": table,
        "results": {run.folder.name: file_sha256(run.folder / RESULT) for run in study.runs},
    }
    write_json(output.with_suffix(".json"), report)
    with output.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
