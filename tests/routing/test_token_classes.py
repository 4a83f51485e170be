"""The tagger: each rule by hand, whole words over their pieces, and hostile text."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_up_models import ours
from made_up_traces import by_hand
from plait.data.tokenizer import Tokenizer
from plait.routing import Passage, trace_model
from plait.routing.token_classes import CLASSES, OUTSIDE, PLACES, classes_of, token_classes


def named(texts: Sequence[str], code: bool = False) -> list[str]:
    return [CLASSES[of_token] for of_token in classes_of(texts, code).class_N]


@pytest.mark.parametrize(
    ("text", "prose", "code"),
    [
        (" 12", "number", "number"),
        ("0x1F", "number", "number"),
        (" 1st", "number", "number"),
        ("½", "number", "number"),
        (" return", "word", "keyword"),
        (" for", "function word", "keyword"),
        (" None", "capitalised", "keyword"),
        (" the", "function word", "identifier"),
        (" The", "function word", "identifier"),
        (" it's", "function word", None),
        ("don’t", "function word", None),
        (" House", "capitalised", "identifier"),
        ("Éire", "capitalised", "identifier"),
        ("d'Alembert", "word", None),
        (" naïve", "word", "identifier"),
        ("日本", "word", "identifier"),
        (" getName", "identifier", "identifier"),
        ("top_k", "identifier", "identifier"),
        ("_", "punctuation", "identifier"),
        (" ==", "punctuation", "punctuation"),
        ("€", "punctuation", "punctuation"),
        ("'", "punctuation", "punctuation"),
        (".get", "word", "identifier"),
        ("\n        ", "layout", "layout"),
        ("\u00a0", "layout", "layout"),
        ("<|endoftext|>", "other", "other"),
        ("</s>", "other", "other"),
        ("\x07", "other", "other"),
        ("\ufffd", "other", None),
        ("", "other", "other"),
    ],
)
def test_each_rule(text: str, prose: str, code: str | None) -> None:
    assert named([text]) == [prose]
    if code is not None:
        assert named([text], code=True) == [code]


def test_all_pieces_of_a_word_have_its_class_and_one_begins_it() -> None:
    found = classes_of([" re", "turn", " x", "_", "1", "2", "()", " ret", "urn", "ed"], code=True)
    names = [CLASSES[of_token] for of_token in found.class_N]
    assert names == ["keyword"] * 2 + ["identifier"] * 4 + ["punctuation"] + ["identifier"] * 3
    begins, goes_on = range(len(PLACES))
    expected = [begins, goes_on, begins, *[goes_on] * 3, OUTSIDE, begins, goes_on, goes_on]
    assert found.place_N.tolist() == expected
    numbers = classes_of([" 19", "90", "s"])
    assert {CLASSES[of_token] for of_token in numbers.class_N} == {"number"}
    assert (numbers.place_N == OUTSIDE).all()


def test_comments_and_strings_of_code_are_prose() -> None:
    texts = [" x", " =", " '", "is", " x", "'", " is", " #", " is", "\n", '"""', "is", '"""', "is"]
    names = named(texts, code=True)
    assert [name for text, name in zip(texts, names, strict=True) if "is" in text] == [
        "function word",
        "keyword",
        "function word",
        "function word",
        "keyword",
    ]


def test_pieces_of_a_character_belong_to_its_word() -> None:
    """As tokens: caf, first byte of é, its second byte and s."""
    found = classes_of([" Caf", "\ufffd", "\ufffds", " now"])
    assert [CLASSES[of_token] for of_token in found.class_N] == ["capitalised"] * 3 + ["word"]
    assert found.place_N.tolist() == [0, 1, 1, 0]


@given(st.lists(st.text(max_size=6), max_size=30), st.booleans())
def test_every_token_of_any_text_has_one_class(texts: list[str], code: bool) -> None:
    found = classes_of(texts, code)
    assert len(found.class_N) == len(found.place_N) == len(texts)
    for text, of_token, place in zip(texts, found.class_N, found.place_N, strict=True):
        name = CLASSES[of_token]
        if name == "layout":
            assert text.isspace()
        if name == "punctuation":
            assert not any(character.isalpha() for character in text)
        assert (place == OUTSIDE) == (name in ("number", "punctuation", "layout", "other"))


def test_hostile_text_takes_no_longer_than_its_length() -> None:
    for text in ("_" * 200_000, "\\'" * 100_000, '"""' + "'" * 100_000, "a'" * 100_000):
        classes_of([text], code=True)
        classes_of([text])


def test_words_end_with_their_document_and_code_is_a_matter_of_the_domain() -> None:
    trace = by_hand(
        [[[0]]] * 6,
        experts=1,
        tokens=[0, 1, 1, 0, 1, 1],
        documents=[0, 0, 1, 3, 3, 4],
        domains=[0, 0, 1, 0, 0, 0],
    )
    found = token_classes(trace, [" re", "turn"].__getitem__, code_domains=("a",))
    names = [CLASSES[of_token] for of_token in found.class_N]
    assert names == ["keyword", "keyword", "word", "keyword", "keyword", "identifier"]
    assert found.place_N.tolist() == [0, 1, 0, 0, 1, 0]


def test_padding_has_no_class() -> None:
    """Documents of very unlike length in one batch: the classes are those of their own tokens."""
    texts = ["def f(x): return x", "It is. " * 9, "1"]
    tokenizer = Tokenizer.train(texts, 300)
    passages = [Passage(tokenizer.encode(text), "code") for text in texts]
    trace = trace_model(ours(vocab_size=tokenizer.vocab_size), passages)
    found = token_classes(trace, tokenizer.token)
    alone = [classes_of([tokenizer.token(id_) for id_ in p.token_ids], True) for p in passages]
    assert (found.class_N == np.concatenate([of_text.class_N for of_text in alone])).all()
    assert len(found.class_N) == sum(len(passage.token_ids) for passage in passages)
