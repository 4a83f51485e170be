"""The tokenizer: byte-level BPE, trained on a corpus or loaded."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from plait.atomic import write_text
from plait.config.limits import LARGEST_VOCABULARY
from plait.reading import one_line

END_OF_TEXT = "<|endoftext|>"
_KNOWN_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<|im_end|>", "<eos>")


class Encoder(Protocol):
    """What reading text with a model needs of a tokenizer."""

    @property
    def encoding_fingerprint(self) -> str:
        """Hex digits of what decides the ids of plain text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        ...

    def token(self, id_: int) -> str:
        """Return one token as text."""
        ...


@contextmanager
def _library(problem: str, fix: str) -> Iterator[None]:
    """Make one line of what goes wrong in the library `tokenizers`.

    It raises bare Exception, and where its Rust code panics something that is no Exception.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{problem} ({one_line(error)}): {fix}") from None


def read_backend(file: Path) -> tokenizers.Tokenizer:
    """Read a `tokenizer.json` of whatever kind.

    Raises:
        ValueError: it is damaged.
    """
    with _library(f"{file}: not a tokenizer.json", "fetch it anew"):
        return tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))


def require_vocabulary(ids: Iterable[int], vocabulary: int, model: object) -> None:
    """Make sure that a model knows the tokens that a text was turned into.

    Raises:
        ValueError: the tokenizer is not the model's.
    """
    if (largest := max(ids, default=-1)) >= vocabulary:
        raise ValueError(
            f"the tokenizer gives token {largest}, but {model} has only {vocabulary}: put the "
            "tokenizer back that it was trained with"
        )


class Tokenizer:
    """A byte-level BPE tokenizer with an end-of-text token: a typed skin over `tokenizers`.

    Text that happens to spell a special token is encoded as the ordinary text that it is.

    Raises:
        ValueError: if the tokenizer is not byte-level (then the bytes behind a token, and with
            them bits per byte, are not defined) or has no end-of-text token.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._backend.encode_special_tokens = True
        self._backend.no_truncation()
        self._backend.no_padding()
        # before anything else: the library walks over every number up to the largest
        most = min(LARGEST_VOCABULARY, 1000 + 2 * backend.get_vocab_size(with_added_tokens=True))
        if self.vocab_size > most:
            raise ValueError(
                f"its tokens are numbered up to {self.vocab_size - 1:,}, with more holes than "
                f"tokens, or beyond {LARGEST_VOCABULARY:,}: number them anew"
            )
        if "ByteLevel" not in repr(backend.decoder):
            raise ValueError(
                "not a byte-level tokenizer, so bits per byte are undefined: use one of the "
                "GPT-2, GPT-NeoX, Llama-3 or Qwen kind, or train one"
            )
        ends = [id_ for end in _KNOWN_ENDS if (id_ := backend.token_to_id(end)) is not None]
        if not ends:
            raise ValueError(
                f"the tokenizer has no end-of-text token (one of {', '.join(_KNOWN_ENDS)}): add one"
            )
        self.end_of_text: int = ends[0]
        """Id of the token that stands before each document."""

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Train byte-level BPE with GPT-2's pre-tokenization; the same texts give the same result.

        Raises:
            ValueError: if `vocab_size` has no room for 256 bytes and the end-of-text token.
        """
        if vocab_size < 257:
            raise ValueError(
                f"vocabulary of {vocab_size}: give at least 257 (256 bytes and the end of text)"
            )
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Load a `tokenizer.json`, or the one in a folder (a corpus, a Hugging Face model).

        `tiktoken:NAME` loads an encoding of that library, if it is installed.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is damaged, or of a kind that the class refuses.
        """
        if str(path).startswith("tiktoken:"):
            from plait.data.tiktoken_import import convert, encoding

            return cls(convert(encoding(str(path).removeprefix("tiktoken:"))))
        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such tokenizer: give a tokenizer.json")
        backend = read_backend(file)
        try:
            return cls(backend)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json`, which `tokenizers` and `transformers` load too."""
        write_text(Path(path), self._backend.to_str(pretty=True))

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id, added tokens included."""
        return 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with anything that changes the encoding."""
        canonical = json.dumps(json.loads(self._backend.to_str()), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @cached_property
    def encoding_fingerprint(self) -> str:
        """16 hex digits of what decides the ids of plain text.

        Equal before and after a way through transformers, which adds a post-processor.
        """
        whole = json.loads(self._backend.to_str())
        kept = {key: whole[key] for key in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without an end-of-text token."""
        with _library("the tokenizer cannot read this text", "use another tokenizer.json"):
            return list(self._backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, encoded on all cores."""
        with _library("the tokenizer cannot read these texts", "use another tokenizer.json"):
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text behind ids; special tokens are left out, broken UTF-8 becomes U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def token(self, id_: int) -> str:
        """Return one token as text, for display; broken UTF-8 becomes U+FFFD."""
        return str(self._backend.decode([id_], skip_special_tokens=False))

    @cached_property
    def token_bytes(self) -> npt.NDArray[np.int64]:
        """Bytes of text behind each id, shape (vocab_size,); 0 for special tokens.

        Exact also where a character is spread over tokens: a byte-level token writes each byte as
        one character, so its bytes are its length.
        """
        lengths = np.zeros(self.vocab_size, np.int64)
        for token, id_ in self._backend.get_vocab(with_added_tokens=False).items():
            lengths[id_] = len(token)
        for id_, added in self._backend.get_added_tokens_decoder().items():
            lengths[id_] = 0 if added.special else len(added.content.encode())
        return lengths
