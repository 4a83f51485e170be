"""What values show of themselves in a notebook, read back from the HTML."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_up_study import made_up_config, write_study
from plait.config import CollaborationConfig, ExpertConfig, ModelConfig
from plait.config.counts import count
from plait.notebook.plan_picture import DRAWN, Row, plan_picture
from plait.notebook.tables import note, table, titled
from plait.report.figure import Figure, chart_data
from plait.routing.trace import Trace, TraceInfo
from plait.sharing import Plan, Sharing
from plait.storage.result import Result
from plait.studies.results import read_study
from plait.studies.study import Study

SVG = "{http://www.w3.org/2000/svg}"


def parsed(html: str) -> ElementTree.Element:
    """Whole markup, nothing left open."""
    return ElementTree.fromstring(f"<div>{html}</div>")


def words(html: str) -> str:
    return " ".join(" ".join(parsed(html).itertext()).split())


def cells(html: str) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in parsed(html).iter("tr")]


def boxes(html: str) -> list[tuple[range, int, float, float, str]]:
    """Of each box: depths, bank, left and right edge, colour."""
    found = []
    for box in parsed(html).iter(f"{SVG}rect"):
        title = box.findtext(f"{SVG}title") or ""
        match = re.fullmatch(r"depths? (\d+)(?: to (\d+))?: bank (\d+)", title)
        assert match is not None, title
        first, last = int(match[1]), int(match[2] or match[1])
        left, width = float(box.attrib["x"]), float(box.attrib["width"])
        where = range(first, last + 1)
        found.append((where, int(match[3]), left, left + width, box.attrib["fill"]))
    return found


@given(st.lists(st.integers(0, 4), min_size=1, max_size=DRAWN))
def test_a_picture_holds_the_plan(banks: Sequence[int]) -> None:
    drawn = boxes(plan_picture([Row("experts", banks, "some text")]))
    assert [bank for where, bank, *_ in drawn for _ in where] == list(banks)
    assert [depth for where, *_ in drawn for depth in where] == list(range(len(banks)))
    assert all(a[1] != b[1] for a, b in pairwise(drawn))  # one box a run
    assert all(a[3] < b[2] for a, b in pairwise(drawn))  # none over another
    for _, bank, _, _, colour in drawn:
        assert (colour == "currentColor") == (banks.count(bank) == 1)


def test_banks_of_one_row_have_colours_of_their_own() -> None:
    drawn = boxes(Plan.parse("2x3 + 1x2", 8)._repr_html_())
    assert len({colour for *_, colour in drawn}) == 3


def test_a_plan_without_a_text_and_one_too_deep_to_draw() -> None:
    crossed = Plan((0, 1, 1, 0))
    with pytest.raises(ValueError, match="cannot be written"):
        str(crossed)
    assert [bank for _, bank, *_ in boxes(crossed._repr_html_())] == [0, 1, 0]
    assert words(Plan.parse("own", DRAWN + 1)._repr_html_()) == "own"


def test_sharing_is_drawn_at_the_depth_that_its_plans_name() -> None:
    html = Sharing(experts="2 + 1x8 + 2", router="blocks(4)")._repr_html_()
    assert [bank for _, bank, *_ in boxes(html)] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert "not shared: decision, attention, norms, collaboration" in words(html)
    assert "depth 12" in words(html)
    assert "depth 8" in words(Sharing(router="blocks(4)")._repr_html_())
    assert "depth 18" in words(Sharing(experts="groups(2, skip=9)")._repr_html_())
    assert "1x3" in words(Sharing(experts="1x3", router="1x4")._repr_html_())  # fit no depth


def test_a_model_shows_its_sizes_and_what_it_shares() -> None:
    config = made_up_config(tied=True).model
    html = config._repr_html_()
    assert f"depth {config.depth}, width {config.width}" in words(html)
    assert "8 experts of width 256, top 3, linear router" in words(html)
    assert [bank for _, bank, *_ in boxes(html)] == [0, 1]
    assert "collaboration" not in words(html)
    assert "collaboration" in words(
        replace(config, collaboration=CollaborationConfig())._repr_html_()
    )
    dense = ModelConfig(vocab_size=9, depth=2, width=32, experts=ExpertConfig(count=1, top_k=1))
    assert "dense" in words(dense._repr_html_())
    mixed = replace(config, sharing=Sharing(), experts=ExpertConfig(count=(4, 8, 16, 4)))
    assert "4 to 16 experts" in words(mixed._repr_html_())
    counts = count(config)
    shown = {name.strip(): size for name, size in cells(counts._repr_html_())}
    assert shown["stored"] == f"{counts.stored:,}"
    assert shown["experts"] == f"{counts.stored_by_part['experts']:,}"


def test_results_show_what_was_measured(tmp_path: Path) -> None:
    folder = write_study(
        tmp_path, {"plain": [0.0, 0.1, 0.2], "tied": [0.1, 0.2, 0.4]}, missing=["tied-s2"]
    )
    results = read_study(folder)
    heads, plain, tied = cells(results._repr_html_())
    assert heads[3] == "difference to plain"
    assert plain[:2] == ["plain", "3"]
    assert plain[2].startswith("4.100 [3.852, ")  # 0.1 · t(0.975, 2) ÷ √3 = 0.248
    assert plain[3] == "–"
    assert tied == ["tied", "2", "4.150 [3.515, 4.785]", "0.100 [0.100, 0.100]", "2,100,000"]
    assert "not finished: run1-s2" in words(results._repr_html_())

    result = Result.load_from(folder / "run0-s0")
    assert result is not None
    [_, *domains] = cells(result._repr_html_())
    assert [(row[0], row[1]) for row in domains] == [
        ("code", "4.350"),
        ("encyclopaedia", "3.700"),
        ("all", "4.000"),
    ]
    [single] = cells(read_study(write_study(tmp_path, {"a": [0]}, name="one"))._repr_html_())[1:]
    assert single[2] == "4.000"


def test_a_study_shows_its_variants() -> None:
    study = Study(
        name="two",
        baseline="plain",
        variants={"plain": made_up_config(), "tied": made_up_config(tied=True)},
        seeds=(0, 4),
    )
    html = study._repr_html_()
    assert [bank for _, bank, *_ in boxes(html)] == [0, 1]
    for said in ("seeds 0, 4", "plain (baseline)", "nothing is shared", "2,000,000 tokens"):
        assert said in words(html)
    stored = count(study.variants["tied"].model).stored
    assert f"{stored:,} parameters stored" in words(html)


def test_a_trace_shows_its_text_and_what_experts_are_called() -> None:
    info = TraceInfo(
        model="<b>mine</b>",
        tokenizer="",
        depth=4,
        routed=(1, 2, 3),
        experts=(8, 8, 4),
        top_k=2,
        context=16,
        domains=("code", "prose"),
        router_plan="1 + 1x2 + 1",
    )
    trace = Trace(
        info=info,
        token_ids_N=np.zeros(5, np.int32),
        document_N=np.array([0, 0, 1, 1, 1], np.int32),
        domain_N=np.array([0, 0, 1, 1, 1], np.int16),
        expert_ids_NLK=np.zeros((5, 3, 2), np.uint8),
    )
    html = trace._repr_html_()
    assert "Routing of <b>mine</b>" in words(html)
    rows = {name.strip(): value for name, value in cells(html)}
    assert (rows["tokens"], rows["code"], rows["prose"], rows["documents"]) == ("5", "2", "3", "2")
    assert (rows["depths with a router"], rows["experts at a depth"]) == ("3 of 4", "4 to 8")
    assert [bank for _, bank, *_ in boxes(html)] == [0, 1, 2]


def test_markup_in_names_is_text() -> None:
    hostile = "<script>alert(1)</script>&"
    html = titled(hostile, table([(hostile, hostile)], (hostile, "")), note(hostile))
    html += plan_picture([Row(hostile, (0, 0), hostile)])
    assert not list(parsed(html).iter("script"))
    assert words(html).count(hostile) >= 5


def test_a_figure_is_svg_with_its_title() -> None:
    chart = alt.Chart(chart_data([{"x": 1, "y": 2}])).mark_point().encode(x="x:Q", y="y:Q")
    bundle = Figure("name", "A title", chart, "What it says.")._repr_mimebundle_()
    svg = ElementTree.fromstring(bundle["image/svg+xml"])
    assert "A title" in "".join(svg.itertext())
    assert bundle["text/plain"] == "A title. What it says."


def test_a_plan_is_shown_without_torch() -> None:
    code = (
        "import sys\n"
        "from plait.config import ModelConfig\n"
        "from plait.sharing import Plan, Sharing\n"
        "shown = ModelConfig(vocab_size=9, depth=4, width=32, sharing=Sharing(router='all'))\n"
        "assert 'svg' in shown._repr_html_() and 'svg' in Plan((0, 0))._repr_html_()\n"
        "assert not {'torch', 'altair', 'IPython', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
