"""A paper's page: each claim beside what came out, then its tables and figures as ours."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from rich.table import Table

import plait
from plait.atomic import write_json, write_text
from plait.report.figure import Figure, Section
from plait.report.html_table import html_table
from plait.report.numbers import interval, number, signed
from plait.report.page import render
from plait.report.palette import Series, series
from plait.report.paper.figures import drawn, restricted
from plait.report.paper.path_claims import answer_paths, sentence
from plait.report.routing.domains import expert_domain_figures
from plait.report.routing.path_classes import class_figures
from plait.report.routing.path_tokens import tokens_table
from plait.report.routing.perturbations import robustness_figures
from plait.report.routing.sections import comparison_figures
from plait.report.study.routing_section import all_metrics, traced
from plait.report.study.wording import in_words
from plait.routing.analysis import Analysis
from plait.statistics import Estimate
from plait.storage.model_folder import read_tokenizer
from plait.studies.answers import Answer, answers
from plait.studies.claims import Claim, Outcome, Paper, PaperTable, PathAnswer, outcome
from plait.studies.effects import EffectFinding, effects
from plait.studies.outlook import outlook
from plait.studies.results import StudyResults, read_study
from plait.studies.tables import Row, comparison_table

TRACED: Mapping[str, Callable[[Sequence[Analysis], Sequence[Series]], list[Figure]]] = {
    "specialisation": lambda found, looks: expert_domain_figures(found),
    "routing": comparison_figures,
    "classes": class_figures,
    "robustness": robustness_figures,
}
"""Figures that need a trace of the arms' first seeds."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A claim, how it came out, and the sentences behind that."""

    name: str
    statement: str
    published: str
    outcome: Outcome
    reason: str
    tested: tuple[str, ...]
    controls: tuple[str, ...]


def results_of(paper: Paper, root: Path) -> dict[str, StudyResults]:
    """Read the paper's studies that have finished runs in the folder of all runs."""
    found = {}
    for study in paper.studies:
        try:
            results = read_study(root / study.name)
        except FileNotFoundError:
            continue
        if results.runs:
            found[study.name] = results
    return found


def shown_claims(
    paper: Paper,
    results: Mapping[str, StudyResults],
    tokens: int = 20_000,
    device: str | None = None,
) -> list[Shown]:
    """Say of each claim how it came out; one whose study has not run is undecided.

    Args:
        paper: the claims.
        results: of its studies.
        tokens: held-out tokens to trace of each run that a claim about paths needs; 0: none.
        device: that they run on.
    """
    asked = {name: answers(study) for name, study in results.items()}
    moved = {name: found.findings for name, of in results.items() if (found := effects(of))}
    return [
        _shown(
            claim,
            results.get(claim.study),
            asked.get(claim.study, ()),
            moved.get(claim.study, ()),
            answer_paths(claim.paths, results[claim.study], tokens, device)
            if claim.paths and tokens and claim.study in results
            else (),
        )
        for claim in paper.claims
    ]


def _shown(
    claim: Claim,
    study: StudyResults | None,
    found: tuple[Answer, ...],
    moved: tuple[EffectFinding, ...],
    about_paths: tuple[PathAnswer, ...],
) -> Shown:
    def sentences(names: Iterable[str]) -> tuple[str, ...]:
        if study is None:
            return ()
        said = {a.name: in_words(a, outlook(study, a)).sentence for a in found}
        said |= {effect.name: in_words(effect).sentence for effect in moved}
        return tuple(said.get(name, f"{name}: not run.") for name in names)

    reason = claim.untestable
    if not reason and study is None:
        reason = f"study {claim.study} has not run"
    elif claim.paths and not about_paths:
        reason = "its runs were not traced"
    return Shown(
        name=claim.name,
        statement=claim.statement,
        published=claim.published,
        outcome=outcome(claim, found, about_paths, moved),
        reason=reason,
        tested=(
            *sentences(claim.contrasts),
            *sentences(claim.effects),
            *map(sentence, about_paths),
        ),
        controls=sentences(claim.controls),
    )


def write_paper(
    paper: Paper, root: Path, out: Path, trace_tokens: int = 20_000, device: str | None = None
) -> list[Shown]:
    """Write the page of a paper, and the same as JSON beside it, from the runs there are.

    Args:
        paper: at the scale of the runs.
        root: folder of all runs.
        out: the HTML file.
        trace_tokens: held-out tokens that are traced for a figure that needs it; 0: without it.
        device: that the traced models run on, as torch names it; None: as `plait trace`.

    Raises:
        ValueError: no run of the paper has finished.
    """
    results = results_of(paper, root)
    if not results:
        raise ValueError(f"no run of {paper.name} at {paper.scale} scale has finished yet")
    claims = shown_claims(paper, results, trace_tokens, device)
    missing = [
        f"{study.name} has not begun" if study.name not in results else f"{study.name}: {left}"
        for study in paper.studies
        if (left := _missing(results.get(study.name))) or study.name not in results
    ]
    shown = [*_tables(paper, results), *_figures(paper, results, trace_tokens, device)]
    page = render(
        "paper.html.j2",
        shown,
        page_title=f"{paper.title}: what came out",
        title=_title(claims),
        paper=paper,
        claims=claims,
        missing=missing,
        places=[("claims", "Claims"), *((f"section-{i}", s.title) for i, s in enumerate(shown))],
        version=plait.__version__,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    write_json(
        out.with_suffix(".json"),
        {
            "paper": paper.title,
            "scale": paper.scale,
            "notes": paper.notes,
            "missing": missing,
            "claims": [vars(claim) for claim in claims],
        },
    )
    return claims


def _missing(study: StudyResults | None) -> str:
    return f"{len(study.missing)} runs are not finished" if study and study.missing else ""


def _title(claims: list[Shown]) -> str:
    counted: dict[str, int] = {}
    for claim in claims:
        counted[claim.outcome] = counted.get(claim.outcome, 0) + 1
    order: tuple[Outcome, ...] = (
        *("confirmed", "refuted", "undecided"),
        "not testable at this scale",
    )
    told = [f"{counted[word]} {word}" for word in order if word in counted]
    return f"Of {len(claims)} claim{'s' if len(claims) > 1 else ''}, {', '.join(told)}"


def _tables(paper: Paper, results: Mapping[str, StudyResults]) -> list[Section]:
    return [
        Section(table.title, html=html_table(paper_table(table, results[table.study]), table.title))
        for table in paper.tables
        if table.study in results
    ]


def paper_table(table: PaperTable, study: StudyResults) -> Table:
    """Return the paper's numbers beside ours, an arm in each row."""
    made = Table("arm", *(f"{column}, published" for column in table.columns))
    for title in (
        "loss, nats/token",
        "perplexity",
        f"difference to {study.baseline}",
        "stored",
        "seeds",
    ):
        made.add_column(title, justify="right")
    for row in comparison_table(study):
        published = table.published.get(row.variant, ("–",) * len(table.columns))
        made.add_row(row.variant, *published, *_measured(row))
    return made


def _measured(row: Row) -> tuple[str, ...]:
    gap = row.difference
    return (
        number(row.loss.value) + _within(row.loss),
        number(row.perplexity.value, 2),
        "–" if gap is None else signed(gap.estimate.value) + _within(gap.estimate, sign=True),
        f"{row.stored / 1e6:.2f} M",
        str(len(row.seeds)),
    )


def _within(estimate: Estimate, sign: bool = False) -> str:
    reach = interval(estimate, sign=sign)
    return f" [{reach}]" if reach else ""


def _figures(
    paper: Paper, results: Mapping[str, StudyResults], tokens: int, device: str | None
) -> list[Section]:
    sections = []
    of_study = {
        name: _traced(paper, study, tokens, device) if tokens else ([], [])
        for name, study in results.items()
    }
    for asked in paper.figures:
        if asked.study not in results:
            continue
        study = results[asked.study]
        notes: list[str] = []
        html = Markup("")
        if asked.shows not in TRACED:
            figures = drawn(asked, study)
        else:
            found, notes = of_study[asked.study]
            shown = restricted(study, asked.arms)
            found = [one for one in found if one.info.model in shown.finished_variants]
            names = [one.info.model for one in found]
            looks = series(shown.finished_variants, shown.baseline)
            drawn_looks = [look for look in looks if look.name in names]
            figures = TRACED[asked.shows](found, drawn_looks) if found else []
            if asked.shows == "classes":
                html = _words(study, found)
            elif asked.shows == "routing" and found:
                html = all_metrics(found)
        if figures or notes:
            sections.append(Section(f"Figure {asked.number}: {asked.title}", notes, figures, html))
    return sections


def _words(study: StudyResults, found: Sequence[Analysis]) -> Markup:
    """The distinctive tokens of each arm's most frequent paths, where the tokenizer is there."""
    tokenizer = read_tokenizer(study.runs[0].folder)
    if tokenizer is None:
        return Markup("")
    return Markup("").join(tokens_table(one, tokenizer.token) for one in found)


def _traced(
    paper: Paper, study: StudyResults, tokens: int, device: str | None
) -> tuple[list[Analysis], list[str]]:
    """Trace the arms of all figures of a study that need it, once."""
    asked = [f for f in paper.figures if f.study == study.name and f.shows in TRACED]
    if not asked:
        return [], []
    whole = any(not figure.arms for figure in asked)
    arms = () if whole else tuple({arm: None for figure in asked for arm in figure.arms})
    perturbed = tokens // 5 if any(figure.shows == "robustness" for figure in asked) else 0
    return traced(restricted(study, arms), tokens, device, perturbed)
