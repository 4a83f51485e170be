"""The verdicts of docs/results.md are what the published studies say."""

import json
import shutil

import book
import pytest

from made_up_study import write_factorial, write_study

ASKED = [
    {"name": f"{tied} − plain", "variant": tied, "against": "plain", "expected": "equal"}
    for tied in ("tied-g2", "tied-g4")
]


@pytest.fixture
def results(tmp_path):
    """Two verdicts: tying over two depths costs nothing, tying over four does."""
    noise = (0.0, 0.0004, -0.0003, 0.0002, -0.0001)
    offsets = {
        "plain": [0.1 * seed for seed in range(5)],
        "tied-g2": [0.1 * seed + noise[seed] for seed in range(5)],
        "tied-g4": [0.1 * seed + 0.02 + noise[seed] for seed in range(5)],
    }
    write_study(tmp_path / "starter" / "T-1", offsets, name="tied-nano", contrasts=ASKED)
    return tmp_path


def test_a_claim_is_judged_where_its_contrasts_have_run(results):
    [one] = book.verdicts(results)
    assert (one.claim.name, one.corpus, one.shown.outcome) == ("T-1", "starter", "refuted")
    assert [answer.verdict for answer in one.findings] == ["equivalent", "worse"]
    page = "\n".join(book.lines(results))
    assert "| starter | 3.40 M | **refuted** |" in page
    assert "tied-g4 − plain: +0.020 [+0.020 to +0.020] | 5 |" in page


def test_runs_that_two_studies_made_are_compared(results):
    group, again = results / "starter" / "T-1", results / "starter" / "T-1-again"
    for path in group.glob("*/*/result.json"):
        told = json.loads(path.read_text())
        path.write_text(json.dumps(told | {"config_hash": path.parent.name}))
    shutil.copytree(group, again)
    other = again / "tied-nano" / "run1-s3" / "result.json"
    told = json.loads(other.read_text())
    told["evaluation"]["domains"]["all"]["loss"] += 1e-9
    other.write_text(json.dumps(told))
    page = " ".join(book.lines(results))
    assert "15 configurations were trained by more than one study" in page
    assert "the held-out loss of 14 of them is the same to the last bit" in page


def test_a_claim_about_effects_is_drawn_as_effects(tmp_path):
    group = tmp_path / "starter" / "A-1"
    write_factorial(group, {("router=b4",): -0.05}, seeds=5, noise=0.0005)
    (group / "crossed").rename(group / "factorial-nano")
    [one] = book.verdicts(tmp_path)
    assert (one.claim.name, one.shown.outcome, one.seeds) == ("A-1", "confirmed", 5)
    assert one.figure.name == "effects"
    page = "\n".join(book.lines(tmp_path))
    assert "router=b4: −0.05" in page
    begins = "plait reproduce combinations --only A-1 --corpus starter --set "
    [command] = [line for line in page.splitlines() if line.startswith(begins)]
    assert " model.depth=4 " in command
    assert command.endswith(" --seeds 0..4")


def test_a_claim_about_paths_is_as_the_papers_page_says(tmp_path):
    group = tmp_path / "starter" / "P-3"
    arms = ("independent-balanced", "independent", "PathB4")
    write_study(group, {arm: [0.0] * 5 for arm in arms}, name="pathmoe-nano")
    assert not list(book.verdicts(tmp_path))
    told = {"name": "P-3", "statement": "", "published": "", "reason": "", "outcome": "confirmed"}
    page = {"claims": [{**told, "tested": ["Coverage: +0.1."], "controls": []}]}
    (group / "pathmoe-nano.json").write_text(json.dumps(page))
    [one] = book.verdicts(tmp_path)
    assert (one.claim.name, one.shown.outcome, one.seeds) == ("P-3", "confirmed", 5)
    assert "- Coverage: +0.1." in list(book.lines(tmp_path))


def test_no_verdict_from_fewer_than_five_seeds(tmp_path):
    offsets = {"plain": [0.0] * 4, "tied-g2": [0.0] * 4, "tied-g4": [0.1] * 4}
    write_study(tmp_path / "starter" / "T-1", offsets, name="tied-nano", contrasts=ASKED)
    assert not list(book.verdicts(tmp_path))


def test_the_page_says_what_the_results_say():
    text = book.PAGE.read_text(encoding="utf-8")
    written = text.partition(book.BEGIN)[2].partition(book.END)[0]
    assert written == "\n".join(("", *book.lines(), ""))
    for one in book.verdicts():
        assert one.claim.paths or one.picture.exists()
