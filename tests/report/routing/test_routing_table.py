"""The table of routing metrics and the path flow, as a reader sees them."""

import io
import re

from rich.console import Console

from made_up_traces import random
from plait.report.routing.path_flow import flow_figures
from plait.report.routing.routing_page import html_table
from plait.report.terminal.routing_table import readings, routing_table
from plait.routing.analysis import Analysis, analyse
from plait.routing.perturb import Robustness


def analysed(model: str, experts: int, top_k: int = 2) -> Analysis:
    rise = Robustness(
        kind="noise", setting=0.1, losses=(2.99899, 3.00099), baseline=3.0, tokens=300
    )
    trace = random(400, 3, experts, top_k, model=model)
    return analyse(trace, robustness=[rise], draws=20)


def test_a_cell_of_three_models_breaks_between_its_parts() -> None:
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(routing_table([analysed(f"model-{n}", 8) for n in range(3)]))
    rows = [line for line in console.export_text().splitlines() if "│" in line]
    cells = [cell.strip() for row in rows for cell in row.split("│")]
    intervals = [cell for cell in cells if "[" in cell or "]" in cell]
    assert len(intervals) > 30
    assert all(re.fullmatch(r"\[\S+, \S+\]", cell) for cell in intervals), intervals
    assert not [cell for cell in cells if cell.endswith("chance")]


def test_what_rounds_to_zero_has_no_sign_and_names_stand_by_themselves() -> None:
    rows = readings([analysed("one", 8)])
    names = [name for name, _ in rows]
    assert "0.000 ± 0.001 (0 % PPL)" in [value for _, values in rows for value in values]
    assert not [name for name in names if name.startswith(" ")]
    assert sum("windows of 2 depths" in name for name in names) == 1


def test_chance_has_a_column_where_models_share_it() -> None:
    alike = html_table([analysed("a", 8), analysed("b", 8)])
    differing = html_table([analysed("a", 8), analysed("b", 16)])
    assert '<th scope="col">chance</th>' in alike
    assert '<th scope="col">chance</th>' not in differing
    for table in (alike, differing):
        heads = table.count('scope="col"')
        for row in table.split("<tr>")[2:]:
            assert row.count("<td>") + 1 == heads
    assert "<small>chance 0.125</small>" not in alike


def test_names_of_experts_stand_right_of_their_bars() -> None:
    (figure,) = flow_figures([analysed("a", 8)])
    chart = figure.chart.to_dict()
    bars, names = chart["layer"][1:]
    assert names["mark"]["type"] == "text"
    assert names["mark"]["align"] == "left"
    assert names["encoding"]["x"]["field"] == bars["encoding"]["x2"]["field"]
