"""What is traced: a run of Plait or a folder of a Hugging Face MoE, with its tokenizer."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from plait.data.tokenizer import Tokenizer
from plait.training.model_folder import load_model, read_tokenizer, read_training
from plait.training.run import CONFIG

_HASH = re.compile(r"-[0-9a-f]{12}$")


class Encoder(Protocol):
    """What a trace needs of a tokenizer."""

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


@dataclass(frozen=True)
class Target:
    """A model, its tokenizer, the token that stands before a document, and the run's own corpus."""

    name: str
    model: nn.Module
    tokenizer: Encoder
    first: int | None
    corpus: str | None = None


class PretrainedTokenizer:
    """Any tokenizer that transformers loads, where it is not byte-level and ours refuses it."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.backend: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @property
    def encoding_fingerprint(self) -> str:
        """Hash of the vocabulary."""
        vocabulary = sorted(self.backend.get_vocab().items())
        return hashlib.sha256(repr(vocabulary).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """See `Encoder.encode`."""
        return list(self.backend.encode(text, add_special_tokens=False))

    def token(self, id_: int) -> str:
        """See `Encoder.token`."""
        return str(self.backend.decode([id_]))


def open_targets(folders: Sequence[Path], device: str = "cpu") -> list[Target]:
    """Open every folder; names are theirs without the run's hash, numbered where they repeat.

    Raises:
        FileNotFoundError: a folder holds neither a run nor a model, or its corpus is not built.
        ValueError: they do not have one tokenizer, so their traces could not be compared.
    """
    if not folders:
        raise ValueError("nothing to trace: name the folder of a run or of a Hugging Face model")
    names = [_HASH.sub("", Path(folder).resolve().name) for folder in folders]
    targets: list[Target] = []
    for place, (folder, name) in enumerate(zip(folders, names, strict=True)):
        number = f" ({names[:place].count(name) + 1})" if names.count(name) > 1 else ""
        targets.append(open_target(Path(folder), name + number, device))
        if not _same_tokens(targets[0].tokenizer, targets[-1].tokenizer):
            raise ValueError(
                f"{targets[-1].name} and {targets[0].name} have different tokenizers, so there are "
                "no same tokens to compare them on: trace them apart"
            )
    return targets


def open_target(folder: Path, name: str, device: str = "cpu") -> Target:
    """Open one folder; errors as for `open_targets`."""
    if (folder / CONFIG).is_file():
        tokenizer, trained = read_tokenizer(folder), read_training(folder)
        if tokenizer is None:
            raise FileNotFoundError(f"{folder} has no tokenizer.json: put there this model's")
        corpus = None if trained is None else trained.data.corpus
        return Target(name, load_model(folder, device), tokenizer, tokenizer.end_of_text, corpus)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds neither {CONFIG} (a run of plait train) nor config.json (a Hugging "
            "Face model): name the run's folder"
        )
    try:
        from transformers import AutoModelForCausalLM

        import plait.interop  # noqa: F401  registers PlaitForCausalLM
    except ImportError:
        raise ValueError(
            f"{folder} is a Hugging Face model: pip install 'plait[hf]' to read it"
        ) from None
    pretrained: nn.Module = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return Target(name, pretrained.to(device).eval(), *_tokenizer(folder))


def _same_tokens(a: Encoder, b: Encoder) -> bool:
    return a is b or a.encoding_fingerprint == b.encoding_fingerprint


def _tokenizer(folder: Path) -> tuple[Encoder, int | None]:
    """Load ours where it is byte-level, or else whatever transformers makes of the folder."""
    try:
        ours = Tokenizer.load(folder)
    except (ValueError, FileNotFoundError) as refused:
        try:
            theirs = PretrainedTokenizer(folder)
        except Exception:  # the library raises many kinds
            raise ValueError(f"{refused}") from None
        begin = theirs.backend.bos_token_id
        return theirs, begin if begin is not None else theirs.backend.eos_token_id
    return ours, ours.end_of_text
