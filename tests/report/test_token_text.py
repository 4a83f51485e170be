import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from plait.report.token_text import pieces, pieces_of_bytes


@given(st.text())
@example("\u202eabc\u2066\u200d\x00\x7f\x85\ufeff\u2028\u00ad\U000e0041")
@example("a\u3164b\u2800")
def test_nothing_in_a_plain_piece_can_hide_or_reorder(text):
    for plain in pieces(text)[::2]:
        assert all(
            character == " " or unicodedata.category(character)[0] not in "CZ"
            for character in plain
        )
        assert not set(plain) & set("\u3164\u2800\u115f\u1160\uffa0")


@given(st.text(alphabet=st.characters(exclude_categories=["C", "Z", "M"])))
def test_ordinary_text_stays_as_it_is(text):
    assert "".join(piece for piece in pieces(text)[::2]) in (text, text.replace("\u2800", ""))


@given(st.text(min_size=1), st.data())
def test_every_byte_of_a_cut_text_is_shown_or_named(text, data):
    encoded = text.encode()
    cut = data.draw(st.integers(0, len(encoded)))
    shown = pieces_of_bytes(encoded[:cut]) + pieces_of_bytes(encoded[cut:])
    assert "".join(shown) or not text
    whole = pieces_of_bytes(encoded)
    assert whole == pieces(text)


def test_a_character_over_two_tokens_shows_the_bytes_of_each():
    first, second = "aé!".encode()[:2], "aé!".encode()[2:]
    assert pieces_of_bytes(first) == ["a", "C3"]
    assert pieces_of_bytes(second) == ["", "A9", "!"]


def test_what_cannot_be_seen_is_named():
    assert pieces("a\u202eb\n") == ["a", "RLO", "b", "⏎"]
    assert pieces("\x00\x1b") == ["", "␀", "", "␛"]
    assert pieces("  ") == ["", "··"]
    assert pieces("\u0301a") == ["◌\u0301a"]
