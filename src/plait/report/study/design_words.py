"""The headline of any study: of a factorial one its effects come first."""

from collections.abc import Sequence

from plait.report.numbers import number
from plait.report.study.wording import Headline, headline, in_words
from plait.studies.answers import LEAST_SEEDS, answers
from plait.studies.effects import EffectFinding, Effects, effects
from plait.studies.outlook import outlook
from plait.studies.results import StudyResults


def study_headline(study: StudyResults) -> Headline:
    """What is decided; then each main effect, interaction found and question in words.

    All interactions stand in the table of effects.
    """
    found, asked = effects(study), answers(study)
    if found is None or not study.runs:
        return headline(study, asked)
    told = [one for one in found.findings if len(one.levels) == 1 or one.moves]
    said = [in_words(answer, outlook(study, answer)) for answer in asked]
    return Headline(_title(found), (*map(in_words, told), *said))


def _title(found: Effects) -> str:
    if not found.findings:
        return "Nothing is decided: no seed has finished every cell"
    decided = [finding for finding in found.findings if finding.decided]
    if not decided:
        reasons = {
            "too few seeds": f"a verdict needs {LEAST_SEEDS} seeds",
            "not learned": "not every cell has learned more than a bigram yet",
        }
        reason = reasons.get(found.findings[0].verdict)
        return f"Nothing is decided: {reason}" if reason else "Nothing is decided yet"
    first = _foremost(decided)
    open_ = len(found.findings) - len(decided)
    others = f"; {len(decided) - 1} more of {len(found.findings)} effects decided"
    return _decision(first) + (
        others if len(decided) > 1 else "; the other effects are open" if open_ else ""
    )


def _foremost(decided: Sequence[EffectFinding]) -> EffectFinding:
    """Effects there are before those there are not, main effects first, the larger before."""
    return min(
        decided,
        key=lambda one: (one.verdict == "equivalent", len(one.levels), -abs(_value(one))),
    )


def _decision(finding: EffectFinding) -> str:
    gap = number(abs(_value(finding)))
    if finding.verdict == "equivalent":
        return f"{finding.name} has no effect beyond ±{finding.margin:g} nats per token"
    if len(finding.levels) == 1:
        moves = "lowers" if finding.verdict == "better" else "raises"
        return f"{finding.name} {moves} the loss by {gap} nats per token"
    more = "less" if finding.verdict == "better" else "more"
    return f"{' and '.join(finding.levels)} together lose {gap} nats per token {more} than they add"


def _value(finding: EffectFinding) -> float:
    assert finding.difference is not None
    return finding.difference.estimate.value
