import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.data import documents


@given(st.text(alphabet="ab \n\r", max_size=400), st.integers(2, 50))
def test_pieces_joined_are_the_text(text, cut):
    found = list(documents.pieces(io.StringIO(text, newline=""), cut))
    assert "".join(found) == text
    assert all(len(piece) <= cut for piece in found)


def test_a_cut_prefers_a_paragraph_then_a_line():
    assert list(documents.pieces("aaaa a\n\nbb\nbbb", 12)) == ["aaaa a\n\n", "bb\nbbb"]
    assert list(documents.pieces("aaaaaa\nb bbbbb", 12)) == ["aaaaaa\n", "b bbbbb"]


def test_only_a_long_text_is_cut_by_default():
    assert list(documents.pieces("a" * documents.LONGEST)) == ["a" * documents.LONGEST]
    assert max(map(len, documents.pieces("a" * (documents.LONGEST + 1)))) == documents.PIECE


@pytest.mark.parametrize("bad", [b"latin \xe9".decode("utf-8", "surrogateescape"), "zero \0"])
def test_what_is_not_text_is_refused(bad):
    with pytest.raises(UnicodeError):
        documents.clean(bad)


def test_line_ends_are_unified():
    assert documents.clean("\r\n a\r\nb\rc \n") == "a\nb\nc"
