"""Writes the verdicts of `results/` into docs/results.md, and their pictures beside it.

python tests/docs/book.py

`results/CORPUS/GROUP/STUDY` are published studies (`plait study publish`), a group for each set of
claims that were tested together.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from plait import recipes
from plait.report.figure import write_figures
from plait.report.numbers import interval, signed
from plait.report.palette import series
from plait.report.paper.paper_page import Shown, results_of, shown_claims
from plait.report.study.differences import answer_figure
from plait.studies.answers import Answer, answers
from plait.studies.claims import Claim
from plait.studies.results import StudyResults

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "results", ROOT / "docs" / "results.md"
PICTURES = ROOT / "docs" / "images" / "results"
BEGIN, END = "<!-- from results/, by tests/docs/book.py -->", "<!-- end -->"
PAPERS = ("expert-tying", "pathmoe", "ct-moe")


@dataclass(frozen=True)
class Verdict:
    """A claim, the corpus that it was tested on, and what came out."""

    claim: Claim
    shown: Shown
    corpus: str
    group: str
    study: StudyResults

    @property
    def answers(self) -> list[Answer]:
        """Those of its own contrasts, then of its controls."""
        named = {answer.name: answer for answer in answers(self.study)}
        wanted = (*self.claim.contrasts, *self.claim.controls)
        return [named[name] for name in wanted if name in named]

    @property
    def picture(self) -> Path:
        return PICTURES / f"{self.corpus}-{self.group}.svg"


def verdicts(results: Path = RESULTS) -> Iterator[Verdict]:
    """Yield each claim whose contrasts all have runs, paper by paper."""
    for name in PAPERS:
        for group in sorted(path for path in results.glob("*/*") if path.is_dir()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # at K = 2 S cannot learn, which is what is tested
                paper = recipes.paper(name, "nano")
                found = results_of(paper, group)
                shown = {one.name: one for one in shown_claims(paper, found, 0)}
            for claim in paper.claims:
                study = found.get(claim.study)
                asked = {answer.name for answer in answers(study)} if study else set()
                if study and claim.contrasts and asked.issuperset(claim.contrasts):
                    yield Verdict(claim, shown[claim.name], group.parent.name, group.name, study)


def lines(results: Path = RESULTS) -> Iterator[str]:
    """The table of verdicts, then each claim's sentences and picture."""
    found = list(verdicts(results))
    yield "| claim | text | verdict | differences, nats per token [95 % interval] | seeds |"
    yield "|---|---|---|---|---|"
    for one in found:
        told = "<br>".join(map(_difference, one.answers))
        seeds = max(len(answer.difference.by_seed) for answer in one.answers if answer.difference)
        said = f"**{one.claim.name}** {one.claim.statement}"
        yield f"| {said} | {one.corpus} | **{one.shown.outcome}** | {told} | {seeds} |"
    drawn = set()
    for one in found:
        yield from ("", f"### {one.claim.name} on {one.corpus}: {one.shown.outcome}", "")
        yield f"*{one.claim.statement}* (published: {one.claim.published})."
        yield ""
        yield from (f"- {sentence}" for sentence in (*one.shown.tested, *one.shown.controls))
        if one.picture not in drawn:
            drawn.add(one.picture)
            yield ""
            yield f"![{_described(one)}]({one.picture.relative_to(PAGE.parent).as_posix()})"


def _difference(answer: Answer) -> str:
    if answer.difference is None:
        return f"{answer.name}: –"
    estimate = answer.difference.estimate
    return f"{answer.name}: {signed(estimate.value)} [{interval(estimate, sign=True)}]"


def _described(one: Verdict) -> str:
    return f"Differences of {one.study.name} on {one.corpus}: every seed, the mean, its interval"


def write() -> None:
    """Bring the page and its pictures up to what `results/` says."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join((before + BEGIN, *lines(), END + after))
    PAGE.write_text(text, encoding="utf-8")
    for one in verdicts():
        looks = series(one.study.finished_variants, one.study.baseline)
        figure = answer_figure(answers(one.study), looks)
        assert figure is not None
        [drawn] = write_figures([figure], PICTURES, ["svg"])
        drawn.rename(one.picture)


if __name__ == "__main__":
    write()
