"""Token text in figures can hide nothing, whatever a corpus holds."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from plait.report.routing.sections import shown


@given(st.text(max_size=30))
def test_every_character_that_is_drawn_can_be_seen(text: str) -> None:
    drawn = shown(text)
    assert len(drawn) <= 24
    for character in drawn:
        assert unicodedata.category(character)[0] not in "CZ", (text, drawn)


def test_marks_have_names() -> None:
    assert shown(" a\u202eb\n") == "·a‹RLO›b⏎"
    assert shown("   ") == "···"
