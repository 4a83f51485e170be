"""What is traced: a run of Plait or a folder of a Hugging Face MoE, with its tokenizer."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from plait.data.tokenizer import Tokenizer
from plait.training.config import TrainConfig
from plait.training.loop import open_corpus
from plait.training.run import CONFIG, load_run


class Encoder(Protocol):
    """What a trace needs of a tokenizer."""

    @property
    def fingerprint(self) -> str:
        """Hex digits that change with anything that changes the encoding."""
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
    def fingerprint(self) -> str:
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
    """Open every folder; names are the folders' own, numbered where they repeat.

    Raises:
        FileNotFoundError: a folder holds neither a run nor a model, or its corpus is not built.
        ValueError: they do not have one tokenizer, so their traces could not be compared.
    """
    if not folders:
        raise ValueError("nothing to trace: name the folder of a run or of a Hugging Face model")
    targets: list[Target] = []
    for folder in folders:
        name = folder.resolve().name
        repeats = sum(t.name == name or t.name.startswith(f"{name} (") for t in targets)
        targets.append(open_target(folder, f"{name} ({repeats + 1})" if repeats else name, device))
        if targets[-1].tokenizer.fingerprint != targets[0].tokenizer.fingerprint:
            raise ValueError(
                f"{targets[-1].name} and {targets[0].name} have different tokenizers, so there are "
                "no same tokens to compare them on: trace them apart"
            )
    return targets


def open_target(folder: Path, name: str, device: str = "cpu") -> Target:
    """Open one folder; errors as for `open_targets`."""
    if (folder / CONFIG).is_file():
        loaded: tuple[TrainConfig, nn.Module] = load_run(folder, device)
        config, model = loaded
        tokenizer = open_corpus(config.data.corpus).tokenizer
        return Target(name, model, tokenizer, tokenizer.end_of_text, config.data.corpus)
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
