"""The report file: complete, escaped, equal to the table beside it."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import altair as alt
import pytest
import torch
from markupsafe import Markup

from made_up_study import BYTES_PER_TOKEN, write_factorial, write_ladder, write_study
from plait.parallel import World
from plait.report.figure import Figure, Section, chart_data
from plait.report.palette import SERIES, series, themed
from plait.report.study.configurations import changes
from plait.report.study.curves import curve_figures
from plait.report.study.differences import domain_figures
from plait.report.study.study_report import write_report
from plait.storage.checkpoint import Checkpoints
from plait.studies.results import read_study

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
    assert not re.search(r"""src=|href=(?!"#)|url\(|@import""", markup)
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


def with_topology(run: Path, raw_EE: torch.Tensor) -> None:
    """Give a made-up run a checkpoint that holds a topology."""
    weights = {"collaboration.0.raw": raw_EE, "head.weight": torch.ones(2)}
    here = World(torch.device("cpu"))
    checkpoints = Checkpoints(run / "checkpoints", 1, here)
    checkpoints.save(500, weights, {}, {})
    checkpoints.wait()


def topology_specs(page: str) -> list[dict[str, Any]]:
    specs = [json.loads(s) for s in re.findall(r"application/json[^>]*>(.*?)</script>", page, re.S)]
    return [spec for spec in specs if "weight" in str(spec.get("encoding", ""))]


def weights_of(spec: dict[str, Any]) -> dict[tuple[int, int], float]:
    return {(cell["listener"], cell["heard"]): cell["weight"] for cell in spec["data"]["values"]}


def test_a_topology_parts_its_colours_at_the_untrained_one(tmp_path: Path) -> None:
    folder = write_study(tmp_path, {"plain": [0.0], "ct": [0.1]}, collaborating=["ct"])
    raw = torch.zeros(8, 8)
    raw[0, 1] = 5.0
    with_topology(folder / "run1-s0", raw)
    page = write_report(folder).read_text(encoding="utf-8")
    [spec] = topology_specs(page)
    weights = weights_of(spec)
    assert len(weights) == 56  # no diagonal
    heard = 7 * torch.e**2.5 / (torch.e**2.5 + 6)
    assert weights[0, 1] == weights[1, 0] == pytest.approx(heard)
    assert weights[2, 1] == pytest.approx(1)
    assert spec["encoding"]["y"]["axis"]["title"] == "expert that listens"
    assert spec["encoding"]["color"]["scale"]["domain"] == pytest.approx([0, 1, heard])
    fold = page[page.index("<h2>Collaboration") - 90 : page.index("<h2>Collaboration")]
    assert '<details class="fold">' in fold  # one seed differs from nothing beyond chance
    assert "one seed: no scatter to compare with" in page


def test_topologies_are_averaged_and_unfolded_only_beyond_chance(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    seeds, nothing = range(3), [0.0, 0.1, 0.2]
    names = ["plain", "ct"]
    for name, shared in (("noise", 0.0), ("learned", 1.0)):
        folder = write_study(
            tmp_path, dict.fromkeys(names, nothing), name=name, collaborating=["ct"]
        )
        for seed in seeds:
            raw = 0.1 * torch.randn(8, 8, generator=generator)
            raw[2, 5] += shared
            with_topology(folder / f"run1-s{seed}", raw)
        page = write_report(folder).read_text(encoding="utf-8")
        assert len(topology_specs(page)) == 1
        fold = page[page.index("<h2>Collaboration") - 90 : page.index("<h2>Collaboration")]
        assert ('<details class="fold" open>' in fold) == bool(shared)


def test_what_never_trained_does_not_stretch_the_scale(tmp_path: Path) -> None:
    names = ["plain", "ct", "random"]
    folder = write_study(tmp_path, {name: [0.0] for name in names}, collaborating=names[1:])
    small, large = torch.zeros(8, 8), torch.zeros(8, 8)
    small[0, 1], large[0, 1] = 0.2, 8.0
    with_topology(folder / "run1-s0", small)
    with_topology(folder / "run2-s0", large)
    config = folder / "run2-s0" / "config.yaml"
    config.write_text(config.read_text().replace("control: none", "control: frozen-random"))
    page = write_report(folder).read_text(encoding="utf-8")
    trained, frozen = topology_specs(page)
    assert trained["encoding"]["color"] == frozen["encoding"]["color"]
    highest = max(weights_of(trained).values())
    assert trained["encoding"]["color"]["scale"]["domain"][-1] == pytest.approx(highest)
    assert "Never trained." in page


def test_floors_stand_in_the_table_and_a_variant_above_is_marked(tmp_path: Path) -> None:
    offsets = {"plain": [0.0, 0.1, 0.2], "slow": [0.6, 0.7, 0.8]}
    page = write_report(write_study(tmp_path, offsets, bigram=4.4)).read_text(encoding="utf-8")
    table = page[page.index("<tbody") : page.index("</table>")]
    assert "bigram counts</th><td>4.400</td>" in table
    assert "unigram counts" in table
    assert "has not learned yet" in table
    assert '"floor": "bigram"' in page or '"floor":"bigram"' in page
    far = write_report(write_study(tmp_path / "far", offsets, bigram=9)).read_text(encoding="utf-8")
    assert '"floor":"bigram"' not in far
    assert "bigram 9.000" in far


def test_what_the_plan_does_not_ask_stands_apart(tmp_path: Path) -> None:
    asked = {"name": "tied or not", "variant": "tied", "against": "plain", "margin": 0.01}
    claim = {"expected": "lower", "claim": "tying helps"}
    folder = write_study(
        tmp_path,
        {"plain": [0.0, 0.1, 0.2], "tied": [-0.3, -0.2, -0.11], "extra": [0.1, 0.1, 0.1]},
        contrasts=[asked | claim],
    )
    page = write_report(folder, figure_formats=["svg"]).read_text(encoding="utf-8")
    table = page[page.index("<tbody") : page.index("</table>")]
    assert table.index("tied") < table.index("Not asked by the plan") < table.index("extra")
    assert "Claim: tying helps" in page
    assert ", as claimed" in page
    assert (folder / "figures" / "not-asked.svg").exists()


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


def test_a_design_comes_before_what_nobody_asked_and_after_the_questions(tmp_path: Path) -> None:
    crossed = write_report(write_factorial(tmp_path, {("router=b4",): -0.05}))
    rungs = write_report(write_ladder(tmp_path, {"plain": 0.0, "tied": -0.03}))
    page = crossed.read_text(encoding="utf-8")
    assert page.index("<h2>Effects of the factors") < page.index("<h2>How far apart")
    assert '<span class="question">router=b4</span>' in page
    page = rungs.read_text(encoding="utf-8")
    assert page.index("<h2>How far apart") < page.index("<h2>Over sizes")
    assert "Differences to the baseline of the same size" in page


def test_on_a_ladder_gaps_and_domains_are_to_the_baseline_of_the_size(tmp_path: Path) -> None:
    study = read_study(write_ladder(tmp_path, {"plain": 0.0, "tied": -0.03}, noise=0))
    looks = series(study.finished_variants, study.baseline)
    [gaps, _] = curve_figures(study, looks)
    domains = domain_figures(study, looks)
    for figure, scale in ((gaps, 1), (domains[0], math.log(2) * BYTES_PER_TOKEN)):
        spec: Any = figure.chart.to_dict()
        rows = [row for of in spec["layer"] if "data" in of for row in of["data"]["values"]]
        means = {row["variant"]: row for row in rows if "variant" in row}
        assert set(means) == {"tied.s64", "tied.s96", "tied.s128", "tied.s160"}
        for row in means.values():
            found = row.get("difference", row.get("mean"))
            assert found * scale == pytest.approx(-0.03, abs=1e-6)
