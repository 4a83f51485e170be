"""A `tokenizer.json` in llama.cpp's words: how it splits text, and its tokens in order."""

from collections.abc import Mapping
from typing import Any

from gguf import TokenType

from plait.reading import quoted

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = _WORDS % r"\p{N}" + _SPACES
_LLAMA3 = _WORDS % r"\p{N}{1,3}" + _SPACES
_OF_OTHER_KINDS = (
    "byte_fallback",
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
)
PRE_TOKENIZERS = {
    (_GPT2, False): "gpt-2",
    (_QWEN2, False): "qwen2",
    (_LLAMA3, False): "dbrx",
    (_LLAMA3, True): "llama-bpe",
}
"""expression that splits text, whether whole tokens are looked up before merging → llama.cpp's
name. Where it decodes a whole text at once (not token by token, as its programs do), gpt-2 and dbrx
also take spaces away before punctuation"""


def pre_tokenizer(said: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for how a `tokenizer.json` splits text.

    Args:
        said: the file's content, as `tokenizers` writes it.

    Raises:
        ValueError: llama.cpp has none that does the same.
    """
    model = said["model"]
    if model["type"] != "BPE" or any(model[option] for option in _OF_OTHER_KINDS):
        raise ValueError("not byte-level BPE: GGUF is written for the GPT-2, Llama-3 or Qwen kind")
    if not model["merges"]:
        raise ValueError("it merges nothing, which llama.cpp refuses: train a larger vocabulary")
    normalizer = (said["normalizer"] or {"type": "NFC"})["type"]
    expression = _expression(said)
    name = None
    if expression is not None:
        name = PRE_TOKENIZERS.get((expression, model["ignore_merges"]))
    if normalizer != "NFC" or name is None:
        raise ValueError(
            "llama.cpp has no pre-tokenizer that is known to split text as this one does: known "
            f"are those of {', '.join(PRE_TOKENIZERS.values())}"
        )
    return name


def _expression(said: Mapping[str, Any]) -> str | None:
    """The expression by which text is split into what is then merged byte by byte."""
    whole = said["pre_tokenizer"] or {"type": None}
    steps = whole.get("pretokenizers", [whole])
    kinds = [step["type"] for step in steps]
    if kinds[-1:] != ["ByteLevel"] or steps[-1]["add_prefix_space"]:
        return None
    if kinds == ["ByteLevel"]:
        return _GPT2 if steps[0]["use_regex"] else None
    if kinds != ["Split", "ByteLevel"] or steps[1]["use_regex"]:
        return None
    split = steps[0]
    if split["behavior"] != "Isolated" or split["invert"]:
        return None
    return split["pattern"].get("Regex")  # type: ignore[no-any-return]


def vocabulary(said: Mapping[str, Any], size: int) -> tuple[list[str], list[TokenType]]:
    """Return the tokens by id, and what each is; ids of the model without one are unused.

    Args:
        said: as for `pre_tokenizer`.
        size: of the model's vocabulary.

    Raises:
        ValueError: the tokenizer has more tokens than the model.
    """
    tokens = [f"[PAD{id_}]" for id_ in range(size)]
    types = [TokenType.UNUSED] * size
    known = [(text, id_, TokenType.NORMAL) for text, id_ in said["model"]["vocab"].items()]
    for added in said["added_tokens"]:
        kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
        known.append((added["content"], added["id"], kind))
    for text, id_, kind in known:
        if id_ >= size:
            raise ValueError(
                f"token {quoted(text)} has number {id_}, but the model has only {size}: put the "
                "tokenizer back that it was trained with"
            )
        tokens[id_], types[id_] = text, kind
    return tokens, types
