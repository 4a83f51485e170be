import json

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from plait.data import Tokenizer
from plait.data.tokenizer import END_OF_TEXT

TEXTS = ["the cat sat on the mat, the end", "naïve façade — 東京", "def f(x):\n    return x\n"] * 3
TOKENIZER = Tokenizer.train(TEXTS, 300)
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@given(anything)
def test_text_comes_back_and_its_bytes_are_counted(text):
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.token_bytes[ids].sum() == len(text.encode())


@given(st.lists(anything, max_size=5))
def test_a_batch_is_encoded_like_its_texts(texts):
    assert TOKENIZER.encode_batch(texts) == [TOKENIZER.encode(text) for text in texts]


def test_training_is_deterministic_and_the_file_keeps_everything(tmp_path):
    again = Tokenizer.train(TEXTS, 300)
    assert again.fingerprint == TOKENIZER.fingerprint
    again.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path).fingerprint == TOKENIZER.fingerprint
    assert Tokenizer.train(TEXTS, 299).fingerprint != TOKENIZER.fingerprint


def test_a_special_token_spelled_in_text_is_text():
    ids = TOKENIZER.encode(f"a {END_OF_TEXT} b")
    assert TOKENIZER.end_of_text not in ids
    assert TOKENIZER.decode(ids) == f"a {END_OF_TEXT} b"
    assert TOKENIZER.token_bytes[TOKENIZER.end_of_text] == 0


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(ValueError, match="at least 257"):
        Tokenizer.train(TEXTS, 256)


def test_a_tokenizer_that_is_not_byte_level_is_refused(tmp_path):
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a")).save(str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match=r"t\.json: not a byte-level tokenizer"):
        Tokenizer.load(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(ValueError, match=r"not a tokenizer\.json"):
        Tokenizer.load(tmp_path / "t.json")


def changed(**parts):
    """The text of our tokenizer with other parts."""
    return json.dumps(json.loads(TOKENIZER._backend.to_str()) | parts)


@pytest.mark.parametrize(
    "text",
    [
        "3",
        "[]",
        "[" * 10_000,
        '{"version": "1.0"}',
        changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),  # panics
        changed(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}),
        changed(decoder=None),
        changed(model={"type": "BPE", "vocab": {END_OF_TEXT: 4_000_000_000}, "merges": []}),
        changed(model={"type": "BPE", "vocab": {END_OF_TEXT: 10_000_000}, "merges": []}),
        changed(model={"type": "BPE", "vocab": {END_OF_TEXT: 0}, "merges": [["a", "b"]]}),
        changed(model={"type": "BPE", "vocab": {}, "merges": []}, added_tokens=[]),
    ],
)
def test_a_damaged_tokenizer_is_one_line(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer\.json") as caught:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_panic_while_encoding_is_one_line(tmp_path):
    pattern = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated"}
    split = pattern | {"invert": False}
    (tmp_path / "tokenizer.json").write_text(changed(pre_tokenizer=split))
    tokenizer = Tokenizer.load(tmp_path)
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch([text])):
        with pytest.raises(ValueError, match=r"cannot read th.* text.*retry-limit") as caught:
            encode("a" * 40 + "b")
        assert "\n" not in str(caught.value)


def test_a_tiktoken_encoding_gives_the_same_ids():
    tiktoken = pytest.importorskip("tiktoken")
    from plait.data.tiktoken_import import convert

    # every byte, then what training merged, by rank
    merged = sorted(
        (id_, TOKENIZER.decode([id_]).encode())
        for id_ in range(257, TOKENIZER.vocab_size)
        if "\ufffd" not in TOKENIZER.decode([id_])
    )
    tokens = [bytes([byte]) for byte in range(256)] + [token for _, token in merged]
    encoding = tiktoken.Encoding(
        "toy",
        pat_str=r"[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s+(?!\S)|\s",
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={END_OF_TEXT: len(tokens) + 2},
    )
    ours = Tokenizer(convert(encoding))
    assert ours.end_of_text == len(tokens) + 2
    for text in [*TEXTS, "The theme's  end\n\n 12345 ça\tx", "\U0001f600 東"]:
        assert ours.encode(text) == encoding.encode_ordinary(text)
        assert ours.decode(ours.encode(text)) == text
