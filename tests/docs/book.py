"""Writes the verdicts of `results/` into docs/results.md, and their pictures beside it.

python tests/docs/book.py

`results/CORPUS/GROUP/STUDY` are published studies (`plait study publish`), a group for each set of
claims that were tested together; beside them lies the paper's page, as `plait reproduce` wrote it.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from plait import recipes
from plait.report.figure import Figure, write_figures
from plait.report.numbers import interval, quantity, signed
from plait.report.palette import series
from plait.report.paper.figures import drawn as drawn_as
from plait.report.paper.paper_page import Shown, results_of, shown_claims
from plait.report.study.differences import answer_figure
from plait.storage.result import Result
from plait.studies.answers import Answer, answers
from plait.studies.claims import Claim, Paper, PaperFigure
from plait.studies.effects import EffectFinding, effects
from plait.studies.results import StudyResults
from plait.studies.run_rows import differing_options
from plait.studies.tables import comparison_table

ROOT = Path(__file__).parents[2]
RESULTS, PAGE = ROOT / "results", ROOT / "docs" / "results.md"
PICTURES = ROOT / "docs" / "images" / "results"
BEGIN, END = "<!-- from results/, by tests/docs/book.py -->", "<!-- end -->"
LEAST = 5
"""seeds that a verdict needs in the book"""


@dataclass(frozen=True)
class Verdict:
    """A claim, the corpus that it was tested on, and what came out."""

    claim: Claim
    shown: Shown
    paper: Paper
    group: Path
    study: StudyResults

    @property
    def corpus(self) -> str:
        return self.group.parent.name

    @property
    def size(self) -> str:
        """Parameters that the baseline stores."""
        return quantity(self.study.of(self.study.baseline)[0].result.parameters["stored"])

    @property
    def findings(self) -> list[Answer | EffectFinding]:
        """Those that test it, then those of its controls."""
        moved = effects(self.study)
        found: list[Answer | EffectFinding] = [*answers(self.study)]
        found += moved.findings if moved else ()
        named = {one.name: one for one in found}
        wanted = (*self.claim.contrasts, *self.claim.effects, *self.claim.controls)
        return [named[name] for name in wanted if name in named]

    @property
    def seeds(self) -> int:
        """The fewest behind a question that tests it."""
        told = [one.difference.estimate.n for one in self.findings if one.difference]
        return min(told) if told else min(len(self.study.of(arm)) for arm in self._arms)

    @property
    def _arms(self) -> set[str]:
        return {arm for one in self.claim.paths for arm in (one.variant, one.against)}

    @property
    def picture(self) -> Path:
        return PICTURES / f"{self.corpus}-{self.group.name}.svg"

    @property
    def figure(self) -> Figure:
        """Every seed of every question that was asked together."""
        if self.claim.effects:
            asked = PaperFigure(number="", title="", study=self.study.name, shows="effects")
            return drawn_as(asked, self.study)[0]
        looks = series(self.study.finished_variants, self.study.baseline)
        figure = answer_figure(answers(self.study), looks)
        assert figure is not None
        return figure


def verdicts(results: Path = RESULTS) -> Iterator[Verdict]:
    """Yield each claim that has runs with seeds enough, paper by paper."""
    for name in recipes.PAPERS:
        for group in sorted(path for path in results.glob("*/*") if path.is_dir()):
            paper = _paper(name)
            with warnings.catch_warnings(action="ignore"):  # the same, of what is read
                found = results_of(paper, group)
                shown = {one.name: one for one in shown_claims(paper, found, 0)}
            about_paths = {claim.name for claim in paper.claims if claim.paths}
            shown = {name: one for name, one in shown.items() if name not in about_paths}
            shown |= _traced(paper, group)
            for claim in paper.claims:
                study = found.get(claim.study)
                if study is None or claim.name not in shown or not _asked(claim, study):
                    continue
                verdict = Verdict(claim, shown[claim.name], paper, group, study)
                if verdict.seeds >= LEAST:
                    yield verdict


def _asked(claim: Claim, study: StudyResults) -> bool:
    asked = {answer.name for answer in answers(study)}
    traced = {arm for one in claim.paths for arm in (one.variant, one.against)}
    return (
        asked.issuperset(claim.contrasts)
        and traced <= set(study.finished_variants)
        and (study.factorial is not None or not claim.effects)
    )


def _traced(paper: Paper, group: Path) -> dict[str, Shown]:
    """Claims about paths as the paper's page has them: it had the weights, which are not kept."""
    path = group / f"{paper.name}-{paper.scale}.json"
    told = json.loads(path.read_text(encoding="utf-8"))["claims"] if path.exists() else ()
    about = {claim.name for claim in paper.claims if claim.paths}
    return {one["name"]: Shown(**one) for one in told if one["name"] in about and one["tested"]}


def lines(results: Path = RESULTS) -> Iterator[str]:
    """The table of verdicts, then each claim's sentences and picture, then what was run."""
    found = list(verdicts(results))
    yield "| claim | text | size | verdict | differences, nats per token [95 % interval] | seeds |"
    yield "|---|---|---|---|---|---|"
    for one in found:
        told = "<br>".join(_difference(one.claim, found) for found in one.findings)
        said = f"**{one.claim.name}** {one.claim.statement}"
        place = f"{one.corpus} | {one.size}"
        told = told or "of paths, below"
        yield f"| {said} | {place} | **{one.shown.outcome}** | {told} | {one.seeds} |"
    drawn = set()
    for one in found:
        at = f"{one.corpus}, {one.size}"
        yield from ("", f"### {one.claim.name} on {at}: {one.shown.outcome}", "")
        published = f" (published: {one.claim.published})" if one.claim.published else ""
        yield f"*{one.claim.statement}*{published}."
        yield ""
        yield from (f"- {sentence}" for sentence in one.shown.tested)
        yield from (f"- beside it: {sentence}" for sentence in one.shown.controls)
        if one.picture not in drawn and not one.claim.paths:
            drawn.add(one.picture)
            yield ""
            yield f"![{_described(one)}]({one.picture.relative_to(PAGE.parent).as_posix()})"
            yield from _loads(one.study)
    yield from _runs(found)
    yield from _not_run(found)


def _loads(study: StudyResults) -> Iterator[str]:
    """How evenly the arms' experts are used on held-out text: means over depths and seeds."""
    yield from ("", "| arm | busiest expert, of an even share (MaxVio) | experts without a token |")
    yield "|---|---|---|"
    for arm in study.finished_variants:
        depths = [share for run in study.of(arm) for share in run.result.load if share]
        if not depths:  # dense
            continue
        busiest = mean(max(share) * len(share) for share in depths)
        idle = mean(sum(not one for one in share) for share in depths)
        yield f"| {arm} | {busiest:.2f} × | {idle:.2g} of {len(depths[0])} |"


def _not_run(found: Sequence[Verdict]) -> Iterator[str]:
    """Every claim of the recipes that no verdict is about: not run, or with seeds too few."""
    judged = {(one.paper.name, one.claim.name) for one in found}
    yield from ("", "### No verdict yet", "")
    for name in recipes.PAPERS:
        for claim in _paper(name).claims:
            if (name, claim.name) not in judged:
                why = f" ({claim.untestable})" if claim.untestable else ""
                yield f"- **{claim.name}** {claim.statement}{why}"


def _paper(name: str) -> Paper:
    with warnings.catch_warnings(action="ignore"):  # at K = 2 S cannot learn: that is tested
        return recipes.paper(name, "nano")


def _difference(claim: Claim, finding: Answer | EffectFinding) -> str:
    name = f"*control* {finding.name}" if finding.name in claim.controls else finding.name
    if finding.difference is None:
        return f"{name}: –"
    estimate = finding.difference.estimate
    return f"{name}: {signed(estimate.value)} [{interval(estimate, sign=True)}]"


def _described(one: Verdict) -> str:
    return f"Differences of {one.study.name} on {one.corpus}: every seed, the mean, its interval"


def _runs(found: Sequence[Verdict]) -> Iterator[str]:
    """What was trained for them, and the command that does it again."""
    together: dict[Path, list[Verdict]] = {}
    for one in found:
        together.setdefault(one.group, []).append(one)
    yield from ("", "### What was run", "")
    yield "| claims | text | parameters stored; active | tokens | runs | hours of runs |"
    yield "|---|---|---|---|---|---|"
    hours, again = 0.0, dict[str, list[float]]()
    for group, ones in together.items():
        names = ", ".join(one.claim.name for one in ones)
        rows = comparison_table(ones[0].study)
        finished = [Result.load_from(path.parent) for path in group.glob("*/*/result.json")]
        took = len(finished) * median(result.seconds for result in finished if result) / 3600
        hours += took
        for result in filter(None, finished):
            again.setdefault(result.config_hash, []).append(result.held_out())
        stored = _range([row.stored for row in rows])
        active = _range([row.active for row in rows])
        tokens = _range([row.tokens for row in rows])
        row = (names, ones[0].corpus, f"{stored}; {active}", tokens, len(finished), f"{took:.1f}")
        yield f"| {' | '.join(map(str, row))} |"
    yield ""
    yield f"{hours:.0f} hours in all (runs × the median of their times, tuning included),"
    yield "two at a time on two cores that other work shared."
    if repeated := [losses for losses in again.values() if len(losses) > 1]:
        same = sum(len(set(losses)) == 1 for losses in repeated)
        yield f"{len(repeated)} configurations were trained by more than one study:"
        yield f"the held-out loss of {same} of them is the same to the last bit."
    yield "Each again by:"
    yield from ("", "```sh")
    for ones in together.values():
        yield _command(ones)
    yield "```"


def _range(counts: Sequence[int]) -> str:
    low, high = quantity(min(counts)), quantity(max(counts))
    return low if low == high else f"{low} – {high}"


def _command(ones: Sequence[Verdict]) -> str:
    study = ones[0].study
    parts = ["plait reproduce", ones[0].paper.name, "--only", *(one.claim.name for one in ones)]
    parts += ["--corpus", ones[0].corpus]
    if changes := _changes(ones[0]):
        parts += ["--set", *(f"{name}={value}" for name, value in changes.items())]
    if study.tuning:
        parts.append("--tune")
    if study.looks:
        parts.append(f"--until decided --max-seeds {study.looks[-1]}")
    else:
        parts.append(f"--seeds 0..{len(study.seeds) - 1}")
    return " ".join(parts)


def _changes(one: Verdict) -> Mapping[str, object]:
    """Options of the baseline that are not the recipe's: another size."""
    stated = one.paper.study(one.claim.study).variants[one.study.baseline]
    [ran, _] = differing_options([one.study.of(one.study.baseline)[0].config, stated])
    chosen = ("data.corpus", "optimizer.learning_rate")
    return {name: value for name, value in ran.items() if name not in chosen}


def write() -> None:
    """Bring the page and its pictures up to what `results/` says."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = "\n".join((before + BEGIN, *lines(), END + after))
    PAGE.write_text(text, encoding="utf-8")
    for one in verdicts():
        if not one.claim.paths:
            [drawn] = write_figures([one.figure], PICTURES, ["svg"])
            drawn.rename(one.picture)


if __name__ == "__main__":
    write()
