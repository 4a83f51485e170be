"""The verdicts of docs/results.md are what the published studies say."""

import book
import pytest

from made_up_study import write_study

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
    assert [answer.verdict for answer in one.answers] == ["equivalent", "worse"]
    page = "\n".join(book.lines(results))
    assert "| starter | **refuted** |" in page
    assert "tied-g4 − plain: +0.020 [+0.020 to +0.020] | 5 |" in page
