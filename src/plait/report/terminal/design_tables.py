"""What a study's design found, in the terminal: effects of factors, or the climb of a ladder."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from plait.report.numbers import interval, number, p_value, percent, signed
from plait.report.study.wording import WORDS
from plait.statistics import HeldOut
from plait.studies.effects import EffectFinding, Effects, effects
from plait.studies.results import StudyResults
from plait.studies.scaling import Climb, Scaling, scaling


def design_tables(study: StudyResults) -> Iterator[RenderableType]:
    """Tables of a factorial study or of one on a ladder, as far as it has come; of others none."""
    if (found := effects(study)) is not None:
        yield ""
        yield effects_table(found)
        for group in found.aliases:
            yield Text(f"not told apart by these cells: {', '.join(group)}", style="dim")
    if (scaled := scaling(study)) is not None:
        yield ""
        yield ladder_table(scaled)
        if scaled.accuracy:
            yield ""
            yield ranking_table(scaled)


def effects_table(found: Effects) -> Table:
    """A row for each effect: its size with the interval, the verdict, p after correction."""
    table = _table()
    table.add_column("effect")
    table.add_column("nats/token [95 %]", justify="right")
    table.add_column("verdict", justify="left")
    table.add_column("p (Holm)", justify="right")
    for finding in found.findings:
        assert finding.difference is not None, "an effect has the seeds that finished every cell"
        estimate = finding.difference.estimate
        value = signed(estimate.value) + _bracket(interval(estimate, sign=True))
        p = finding.p_equivalence if finding.verdict == "equivalent" else finding.p
        table.add_row(
            Text(finding.name),
            Text(value),
            effect_words(finding),
            "–" if p is None else p_value(p).removeprefix("p = ").removeprefix("p "),
        )
    return table


def effect_words(finding: EffectFinding) -> str:
    """The verdict on an effect, where a lower loss is better."""
    if finding.verdict == "equivalent":
        return f"none beyond ±{finding.margin:g}"
    return WORDS[finding.verdict]


def ladder_table(found: Scaling) -> Table:
    """A row for each structure: the largest size predicted, and compute saved at equal loss."""
    held_out = next((climb.held_out for climb in found.climbs if climb.held_out), None)
    where = "largest size" if held_out is None else held_out.size
    table = _table()
    table.add_column("structure")
    table.add_column(f"{where} predicted [90 %]", justify="right")
    table.add_column("observed", justify="right")
    table.add_column("inside", justify="left")
    table.add_column(f"{found.baseline}’s compute ÷ its own [95 %]", justify="right")
    table.add_column("at nats/token", justify="right")
    for climb in found.climbs:
        table.add_row(Text(climb.structure), *_predicted(climb.held_out), *_saved(climb, found))
    return table


def ranking_table(found: Scaling) -> Table:
    """A row for each smaller size: how often its order of two structures is the largest size's."""
    table = _table()
    table.add_column("size")
    table.add_column("pairs ordered as at the largest size [95 %]", justify="right")
    table.add_column("pairs", justify="right")
    for size, share in found.accuracy.items():
        bounds = ""
        if share.low is not None and share.high is not None:
            bounds = f"{percent(share.low)} to {percent(share.high)}"
        table.add_row(Text(size), Text(percent(share.value) + _bracket(bounds)), str(share.n))
    return table


def _predicted(held_out: HeldOut[str] | None) -> tuple[Text, str, str]:
    if held_out is None:
        return Text("–"), "–", "–"
    bounds = ""
    if held_out.low is not None and held_out.high is not None:
        bounds = f"{number(held_out.low)} to {number(held_out.high)}"
    inside = {True: "yes", False: "no", None: "–"}[held_out.inside]
    return Text(number(held_out.predicted) + _bracket(bounds)), number(held_out.observed), inside


def _saved(climb: Climb, found: Scaling) -> tuple[Text, str]:
    if climb.structure == found.baseline:
        return Text("baseline"), "–"
    if climb.speed_up is None or climb.at_loss is None:
        return Text("–"), "–"
    saved = f"{number(climb.speed_up.value, 2)}×"
    return Text(saved + _bracket(interval(climb.speed_up, 2))), number(climb.at_loss)


def _bracket(bounds: str) -> str:
    return f" [{bounds}]" if bounds else ""


def _table() -> Table:
    return Table(box=None, header_style="dim", padding=(0, 1), show_edge=False)
