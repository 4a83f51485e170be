"""tiktoken's encodings as `tokenizers` ones, so that every corpus holds a `tokenizer.json`."""

from itertools import pairwise
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers


def encoding(name: str) -> Any:
    """Return tiktoken's encoding of this name.

    Raises:
        ValueError: if tiktoken is not installed, or has or can fetch no such encoding.
    """
    try:
        import tiktoken
    except ImportError:
        raise ValueError(f"tiktoken:{name} needs tiktoken: pip install tiktoken") from None
    try:
        return tiktoken.get_encoding(name)
    except Exception as error:  # an unknown name, or whatever its download raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"tiktoken:{name} cannot be loaded: {reason}") from None


def convert(encoding: Any) -> tokenizers.Tokenizer:
    """Return a tokenizer that gives the same ids as a `tiktoken.Encoding`.

    tiktoken stores the rank of each token but not the two parts that were merged into it; they
    are what byte-pair encoding makes of the token's bytes when only lower ranks may merge.
    """
    ranks: dict[bytes, int] = encoding._mergeable_ranks
    character = _byte_characters()

    def written(token: bytes) -> str:
        return "".join(character[byte] for byte in token)

    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = _encode(ranks, token, rank) if len(token) > 1 else []
        if len(parts) == 2:
            merges.append((written(parts[0]), written(parts[1])))
    vocab = {written(token): rank for token, rank in ranks.items()}
    # tiktoken looks a whole piece up before it merges anything
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(encoding._pat_str), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    specials = sorted(encoding._special_tokens.items(), key=lambda item: item[1])
    for token, id_ in specials:
        _fill(backend, id_)
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        assert backend.token_to_id(token) == id_
    return backend


def _fill(backend: tokenizers.Tokenizer, id_: int) -> None:
    # ids without a token: added tokens are numbered without gaps
    while (size := backend.get_vocab_size(with_added_tokens=True)) < id_:
        backend.add_special_tokens([AddedToken(f"<|unused_{size}|>", special=True)])


def _encode(ranks: dict[bytes, int], token: bytes, below: int) -> list[bytes]:
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 1:
        pairs = [
            (ranks.get(left + right, below), place)
            for place, (left, right) in enumerate(pairwise(parts))
        ]
        rank, place = min(pairs)
        if rank >= below:
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def _byte_characters() -> dict[int, str]:
    """Return GPT-2's character for each byte: itself if printable, else one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    stand_ins = {byte: chr(0x100 + number) for number, byte in enumerate(others)}
    return {byte: chr(byte) for byte in printable} | stand_ins
