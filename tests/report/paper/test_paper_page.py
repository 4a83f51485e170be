"""A paper's page from made-up runs: outcomes, and our numbers beside the paper's."""

import json
from dataclasses import replace

import pytest

from made_up_study import made_up_config, write_factorial, write_study
from plait import recipes
from plait.report.paper.figures import FIGURES
from plait.report.paper.paper_page import write_paper
from plait.studies.answers import answers
from plait.studies.claims import Claim, Paper, PaperFigure, PaperTable, outcome
from plait.studies.contrasts import Contrast
from plait.studies.results import read_study
from plait.studies.study import Study

CONTRASTS = (
    Contrast("better − plain", "better", "plain", expected="lower"),
    Contrast("worse − plain", "worse", "plain", expected="lower"),
    Contrast("same − plain", "same", "plain", expected="equal"),
    Contrast("open − plain", "open", "plain", expected="lower"),
)
OFFSETS = {
    "plain": [0.0, 0.01, 0.02],
    "better": [-0.2, -0.191, -0.18],
    "worse": [0.2, 0.211, 0.22],
    "same": [0.0002, 0.0102, 0.0201],
    "open": [-0.3, 0.2, 0.1],
}


def claim(name, *contrasts, **more):
    told = {"statement": f"<i>{name}</i>", "published": "12.91 → 12.29", "study": "made-up"}
    return Claim(name=name, contrasts=contrasts, **(told | more))


CLAIMS = (
    claim("A", "better − plain", controls=("open − plain",)),
    claim("B", "better − plain", "worse − plain"),
    claim("C", "same − plain"),
    claim("D", "better − plain", "open − plain"),
    claim("E", study="", untestable="it is about paths"),
)


@pytest.fixture
def paper():
    config = made_up_config()
    variants = {
        name: replace(config, optimizer=replace(config.optimizer, beta1=0.9 - i / 100))
        for i, name in enumerate(OFFSETS)
    }
    study = Study(
        name="made-up", baseline="plain", variants=variants, seeds=(0, 1, 2), contrasts=CONTRASTS
    )
    return Paper(
        name="p",
        title="A paper",
        scale="nano",
        studies=(study,),
        claims=CLAIMS,
        tables=(
            PaperTable(
                title="Its table", study="made-up", columns=("loss",), published={"plain": ("4.2",)}
            ),
        ),
        figures=tuple(
            PaperFigure(
                number=str(i), title=shows, study="made-up", shows=shows, arms=("plain", "better")
            )
            for i, shows in enumerate(FIGURES)
        ),
        notes=("A note on what differs.",),
    )


@pytest.fixture
def root(tmp_path):
    asked = [
        {"name": c.name, "variant": c.variant, "against": c.against, "expected": c.expected}
        for c in CONTRASTS
    ]
    write_study(tmp_path, OFFSETS, contrasts=asked)
    return tmp_path


OUTCOMES = {
    "A": "confirmed",
    "B": "refuted",
    "C": "confirmed",
    "D": "undecided",
    "E": "not testable at this scale",
}


def test_a_claim_is_what_its_contrasts_say(root):
    found = answers(read_study(root / "made-up"))
    assert {claim.name: outcome(claim, found) for claim in CLAIMS} == OUTCOMES
    assert outcome(CLAIMS[0], ()) == "undecided"


PAIRS = (
    ("router=b4", "experts=g4"),
    ("router=b4", "collaboration=topology"),
    ("experts=g4", "collaboration=topology"),
)


@pytest.mark.parametrize(("moved", "expected"), [({}, "confirmed"), ({PAIRS[0]: 0.1}, "refuted")])
def test_a_claim_about_effects_is_what_the_factorial_says(moved, expected, tmp_path):
    write_factorial(tmp_path, {("router=b4",): -0.05, **moved}, noise=0.0005)
    effects = {" × ".join(pair): "equal" for pair in PAIRS}
    asked = Claim(
        name="A-1", statement="", published="", study="crossed", effects=effects,
        controls=("router=b4",),
    )  # fmt: skip
    crossed = replace(recipes.study("factorial-nano"), name="crossed")
    paper = Paper(name="p", title="Ours", scale="nano", studies=(crossed,), claims=(asked,))
    [shown] = write_paper(paper, tmp_path, tmp_path / "page.html", trace_tokens=0)
    assert shown.outcome == expected
    assert [said.partition(":")[0] for said in shown.tested] == list(effects)
    assert shown.controls[0].startswith("router=b4: −0.05" if not moved else "router=b4: ")
    assert "The paper:" not in (tmp_path / "page.html").read_text()
    assert len(paper.of(["A-1"]).study("crossed").variants) == 8


def test_a_claim_names_effects_that_its_study_has():
    one = replace(recipes.paper("combinations", "nano").claims[0], effects={"router=b8": "equal"})
    crossed = recipes.study("factorial-nano")
    with pytest.raises(ValueError, match="claim A-1: study 'factorial-nano' has no effect"):
        Paper(name="p", title="", scale="nano", studies=(crossed,), claims=(one,))


def test_the_page_has_outcomes_numbers_and_escapes(paper, root):
    claims = write_paper(paper, root, root / "page.html", trace_tokens=0)
    assert {claim.name: claim.outcome for claim in claims} == OUTCOMES
    page = (root / "page.html").read_text()
    assert "Of 5 claims, 2 confirmed, 1 refuted, 1 undecided, 1 not testable at this scale" in page
    assert "&lt;i&gt;A" in page
    assert "<i>A" not in page
    assert "12.91 → 12.29" in page
    assert "A note on what differs." in page
    assert "4.2" in page
    assert "Figure 0: perplexity" in page
    assert "Figure 5: ablation" in page
    stored = json.loads((root / "page.json").read_text())
    assert [claim["outcome"] for claim in stored["claims"]] == list(OUTCOMES.values())
    assert "−0.20" in stored["claims"][0]["tested"][0]


def test_a_study_that_has_not_run_is_said(paper, tmp_path):
    with pytest.raises(ValueError, match="no run of p at nano scale has finished"):
        write_paper(paper, tmp_path, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"claims": (claim("A", "no − such"),)}, "no contrast 'no − such'"),
        (
            {"tables": (PaperTable(title="T", study="made-up", columns=(), published={"x": ()}),)},
            "no arm 'x'",
        ),
    ],
)
def test_what_a_paper_names_must_be_there(paper, change, says):
    with pytest.raises(ValueError, match=says):
        replace(paper, **change)


def test_claims_by_name(paper):
    some = paper.of(["A"])
    assert [*some.studies[0].variants] == ["plain", "better", "open"]
    with pytest.raises(ValueError, match="choose A, B, C, D, E"):
        paper.of(["Z"])
    with pytest.raises(ValueError, match="not testable"):
        paper.of(["E"])
