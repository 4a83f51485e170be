"""The report of a study: which structure did better, by how much, how sure, how measured."""

import csv
from collections.abc import Sequence
from pathlib import Path

import yaml

import plait
from plait.atomic import write_json, write_text
from plait.config.files import to_dict
from plait.data.corpus import file_sha256
from plait.report.figure import Figure, Format, Section, write_figures
from plait.report.page import render
from plait.report.palette import Series, series
from plait.report.study.configurations import changes
from plait.report.study.curves import curve_figures, training_curve
from plait.report.study.design_words import study_headline
from plait.report.study.differences import (
    answer_figure,
    compared_with,
    domain_figures,
    exploratory_figure,
)
from plait.report.study.dynamics_figures import dynamics_section
from plait.report.study.effects_section import effects_section
from plait.report.study.ladder_section import ladder_section
from plait.report.study.measured import corpus, facts, rules
from plait.report.study.study_figures import load_figures, load_gist, size_figure
from plait.report.study.table_lines import floor_lines, interval_note, table_lines
from plait.report.study.topology_section import topology_sections
from plait.report.study.tuning_section import tuning_section
from plait.storage.result import RESULT
from plait.storage.run_folder import CORPUS
from plait.studies.answers import Answer, answers
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
    shown = [*_sections(study, answers(study), rows, looks), *sections]
    configs = {name: to_dict(study.of(name)[0].config) for name in study.finished_variants}
    base_config = configs.get(study.baseline, {})
    lines = table_lines(study, rows, looks)
    page = render(
        "study.html.j2",
        shown,
        page_title=f"{study.name}: {said.title}",
        study=study,
        headline=said,
        domains=study.domains,
        places=_places(shown),
        lines=lines,
        marked=any(line["loss"].best for line in lines),
        floors=floor_lines(study),
        looks=looks,
        interval_note=interval_note(study),
        rules=rules(study),
        facts=facts(study),
        **corpus(study.folder / CORPUS),
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


def _sections(
    study: StudyResults, found: Sequence[Answer], rows: Sequence[Row], looks: Sequence[Series]
) -> list[Section]:
    """The study's own sections, what says most first; one without anything to show is left out."""
    first = "" if len(study.seeds) == 1 else f" Shown for seed {study.seeds[0]}."
    sections = [
        *_foremost(study, found, rows, looks),
        Section("While training", figures=curve_figures(study, looks)),
        Section(
            "Held-out text by domain",
            [
                f"Difference to {compared_with(study)} in each domain, in bits per byte, which do "
                "not depend on the tokenizer. Left of the line is better."
            ],
            domain_figures(study, looks),
        ),
        *topology_sections(study),
        tuning_section(study, looks),
        Section(
            "Load of the experts",
            [
                "Each expert’s share of the choices at its depth on held-out text, relative to an "
                "equal share: 1 is balanced, 0 is an expert that nobody chooses." + first
            ],
            load_figures(study),
            folded=True,
            gist=load_gist(study),
        ),
        Section(
            "Training loss",
            figures=_made(training_curve(study, looks)),
            folded=True,
            gist="on the text that is trained on",
        ),
        dynamics_section(study, looks),
    ]
    return [section for section in sections if section is not None and section.figures]


def _foremost(
    study: StudyResults, found: Sequence[Answer], rows: Sequence[Row], looks: Sequence[Series]
) -> list[Section | None]:
    """What answers the study's questions: asked of pairs, or of what its design varies."""
    asked = answer_figure(found, looks)
    apart = Section(
        "How far apart",
        figures=_made(asked, size_figure(rows, looks), exploratory_figure(study, rows, looks)),
    )
    designs = [effects_section(study), ladder_section(study)]
    return [apart, *designs] if asked else [*designs, apart]


def _places(shown: Sequence[Section]) -> list[tuple[str, str]]:
    """The contents: each part's place in the page and its title."""
    sections = [(f"section-{i}", section.title) for i, section in enumerate(shown)]
    first, last = ("answers", "Answers"), ("measured", "How it was measured")
    return [first, ("comparison", "Comparison"), *sections, last]


def _made(*figures: Figure | None) -> list[Figure]:
    return [figure for figure in figures if figure is not None]


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
