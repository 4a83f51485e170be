"""The report file: complete, escaped, equal to the table beside it."""

import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import pytest
import torch
from markupsafe import Markup

from made_up_study import write_study
from plait.parallel import World
from plait.report.figure import Figure, Section, chart_data
from plait.report.palette import SERIES, series, themed
from plait.report.study.configurations import changes
from plait.report.study.study_report import write_report
from plait.storage.checkpoint import Checkpoints

HOSTILE = "<script>document.title='owned'</script>"


def test_text_from_outside_is_escaped_everywhere(tmp_path: Path) -> None:
    folder = write_study(
        tmp_path,
        {"plain": [0.0], HOSTILE: [-0.1]},
        description=HOSTILE + "</script><img src=x onerror=alert(1)>",
        domains={"co</script>de": 0.1, "b": 0.2},
    )
    page = write_report(folder).read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert "<img" not in re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert "co</script>de" not in page
    assert page.count("</script>") == page.count("<script")
    specs = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)
    assert len(specs) == page.count('class="chart" id=')
    assert any(HOSTILE in json.dumps(json.loads(spec)) for spec in specs)


def test_nothing_is_fetched_and_only_our_scripts_may_run(tmp_path: Path) -> None:
    page = write_report(write_study(tmp_path, {"plain": [0.0]})).read_text(encoding="utf-8")
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    assert not re.search(r"""(src|href)=|url\(|@import""", markup)
    assert len(page.encode()) < 3_000_000


def test_the_table_beside_the_page_has_the_same_numbers(tmp_path: Path) -> None:
    report = write_report(
        write_study(tmp_path, {"plain": [0.0, 0.1, 0.2], "tied": [0.3, 0.4, 0.45]})
    )
    data = json.loads(report.with_suffix(".json").read_text())
    [_, tied] = data["rows"]
    assert tied["verdict"] == "worse"
    assert tied["difference_nats_per_token"] == pytest.approx(0.85 / 3)
    with report.with_suffix(".csv").open() as file:
        [_, row] = csv.DictReader(file)
    assert float(row["difference_nats_per_token"]) == tied["difference_nats_per_token"]
    page = report.read_text(encoding="utf-8")
    assert "+0.283" in page
    assert "model.sharing.experts" in page  # what differs from the baseline's configuration
    assert "PSF-2.0" in page


def test_unfinished_studies_say_what_is_missing(tmp_path: Path) -> None:
    folder = write_study(tmp_path, {"plain": [0.0], "tied": [0.1]}, missing=["tied-s0"])
    assert "1 of 2 runs are not in this report" in write_report(folder).read_text(encoding="utf-8")
    nothing = write_study(tmp_path, {"plain": [0.0]}, name="nothing", missing=["plain-s0"])
    with pytest.raises(ValueError, match="nothing to report"):
        write_report(nothing)


def test_topologies_stand_beside_the_untrained_one(tmp_path: Path) -> None:
    folder = write_study(tmp_path, {"plain": [0.0], "ct": [0.1]}, collaborating=["ct"])
    raw = torch.zeros(8, 8)
    raw[0, 1] = 5.0
    weights = {"collaboration.0.raw": raw, "head.weight": torch.ones(2)}
    here = World(torch.device("cpu"))
    Checkpoints(folder / "run1-s0" / "checkpoints", 1, here).save(500, lambda: weights, {}, {})
    page = write_report(folder).read_text(encoding="utf-8")
    specs = [json.loads(s) for s in re.findall(r"application/json[^>]*>(.*?)</script>", page, re.S)]
    by_cells = [
        {(cell["listener"], cell["heard"]): cell["weight"] for cell in spec["data"]["values"]}
        for spec in specs
        if "weight" in str(spec.get("encoding", ""))
    ]
    untrained, trained = by_cells
    assert list(untrained.values()) == pytest.approx([1 / 7] * 56)
    assert len(trained) == 56  # no diagonal
    assert trained[0, 1] == pytest.approx(trained[1, 0])
    assert trained[0, 1] == pytest.approx(torch.e**2.5 / (torch.e**2.5 + 6))


def test_further_sections_and_figure_files(tmp_path: Path) -> None:
    points = chart_data([{"x": 1, "y": 2}])
    chart = alt.Chart(points).mark_point(color=SERIES[0]).encode(x="x:Q", y="y:Q")
    section = Section("Routing", ["a < b"], [Figure("more", "More", chart)], Markup("<b>bold</b>"))
    folder = write_study(tmp_path, {"plain": [0.0, 0.1], "tied": [-0.1, 0.0]})
    page = write_report(folder, sections=[section], figure_formats=["svg"]).read_text("utf-8")
    assert "<h2>Routing</h2>" in page
    assert "a &lt; b" in page
    assert "<b>bold</b>" in page
    names = {path.stem for path in (folder / "figures").iterdir()}
    assert {"more", "difference", "held-out-curve", "load-0"} <= names
    root = ElementTree.parse(folder / "figures" / "more.svg").getroot()
    assert SERIES[0] in ElementTree.tostring(root, encoding="unicode")


def test_charts_follow_the_page_but_their_data_does_not() -> None:
    spec = {"color": SERIES[1], "data": {"values": [SERIES[1]]}, "domain": [SERIES[1]]}
    assert themed(spec) == {**spec, "color": "var(--series-1)"}


def test_looks_tell_many_variants_apart_by_symbol_and_colour_and_without_colour() -> None:
    looks = series([str(i) for i in range(15)], baseline="0")
    assert len({look.colour for look in looks[:10]}) == 10
    assert len({look.shape for look in looks[:10]}) == 10
    assert len({(look.colour, look.shape) for look in looks}) == 15
    assert len({(look.colour, look.dash) for look in looks}) == 15
    assert len({(look.shape, look.dash) for look in looks}) >= 14


def test_changes_name_the_option_by_its_path() -> None:
    old = {"model": {"depth": 4, "collaboration": None}, "seed": 0}
    new = {"model": {"depth": 4, "collaboration": {"strength": 0.5}}, "seed": 1}
    assert changes(old, new) == [
        ("model.collaboration", "none", "strength 0.5"),
        ("seed", "0", "1"),
    ]
