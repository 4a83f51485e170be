"""One way to open what is on disk: a run, a model folder, or a folder of a Hugging Face model."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from plait.config import TrainConfig
from plait.data.tokenizer import Encoder, Tokenizer
from plait.model import LanguageModel
from plait.parallel import default_device
from plait.reading import one_line, quoted, read_json
from plait.sharing import DEEPEST
from plait.storage.model_folder import load_model, read_tokenizer, read_training
from plait.storage.run_folder import CONFIG, TOKENIZER

_HASH = re.compile(r"-[0-9a-f]{12}$")


@dataclass(frozen=True)
class Opened:
    """A model from disk, in eval mode on its device, and what belongs to it.

    `trained` says how a run was trained; it is None for a model folder and for a Hugging Face one.
    """

    name: str
    folder: Path
    model: nn.Module
    trained: TrainConfig | None = None

    @property
    def ours(self) -> LanguageModel:
        """The model as one of ours.

        Raises:
            ValueError: it is one of transformers'.
        """
        if isinstance(self.model, LanguageModel):
            return self.model
        raise ValueError(
            f"{self.folder} is a Hugging Face model: turn it into a Plait one first, with "
            "plait import"
        )

    @cached_property
    def tokenizer(self) -> Encoder:
        """The model's tokenizer: ours where it is byte-level, else whatever transformers loads.

        Raises:
            FileNotFoundError: there is none, and no corpus of the run either.
            ValueError: it cannot be read.
        """
        try:
            own = read_tokenizer(self.folder) if self._is_ours else Tokenizer.load(self.folder)
        except (ValueError, FileNotFoundError) as refused:
            try:
                return PretrainedTokenizer(self.folder)
            except Exception:  # the library raises many kinds
                raise refused from None
        if own is None:
            raise FileNotFoundError(
                f"{self.folder} has no {TOKENIZER}: put there the one of this model"
            )
        return own

    @property
    def first(self) -> int | None:
        """The token that stands before a document; None where the tokenizer has none."""
        if isinstance(self.tokenizer, Tokenizer):
            return self.tokenizer.end_of_text
        assert isinstance(self.tokenizer, PretrainedTokenizer)
        return self.tokenizer.first

    @property
    def corpus(self) -> str | None:
        """Name or folder of the corpus that a run was trained on."""
        return None if self.trained is None else self.trained.data.corpus

    @property
    def _is_ours(self) -> bool:
        return isinstance(self.model, LanguageModel)


class PretrainedTokenizer:
    """Any tokenizer that transformers loads, where it is not byte-level and ours refuses it."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer

        self.backend: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)

    @property
    def first(self) -> int | None:
        """The token that begins a text, else the one that ends it, else None."""
        begin: int | None = self.backend.bos_token_id
        end: int | None = self.backend.eos_token_id
        return end if begin is None else begin

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


def open_model(folder: Path, device: str | None = None, name: str | None = None) -> Opened:
    """Open the folder of a run, of a model, or of a Hugging Face model.

    Args:
        folder: the folder.
        device: as torch names it; None: CUDA where there is one, else the CPU.
        name: what to call it; None: the folder's name without a run's hash.

    Raises:
        FileNotFoundError: it is none of these, or its weights are missing.
        ValueError: a file of it is damaged, or it needs an extra that is not installed.
    """
    folder, place = Path(folder), default_device(device)
    name = name or _HASH.sub("", folder.resolve().name)
    if (folder / CONFIG).is_file():
        trained = read_training(folder)
        return Opened(name, folder, load_model(folder, str(place)), trained)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds neither {CONFIG} (a run of plait train, or a model) nor config.json "
            "(a Hugging Face model): name the run's folder"
        )
    described = read_json(folder / "config.json", "fetch or save it anew")
    depth = described.get("num_hidden_layers", 1)
    if isinstance(depth, int) and depth > DEEPEST:  # transformers would make a list of them
        raise ValueError(
            f"{folder / 'config.json'}: num_hidden_layers is {quoted(depth)}: {DEEPEST:,} is the "
            "most, so fetch or save it anew"
        )
    from transformers import AutoModelForCausalLM

    import plait.interop  # noqa: F401  registers PlaitForCausalLM

    try:
        theirs: nn.Module = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # the library raises many kinds
        raise ValueError(
            f"{folder}: transformers cannot load it ({one_line(error)}): fetch or save it anew"
        ) from error
    return Opened(name, folder, theirs.to(place).eval())


def open_models(folders: Sequence[Path], device: str | None = None) -> list[Opened]:
    """Open every folder under names that tell them apart; errors as for `open_model`."""
    if not folders:
        raise ValueError("no model is named: give the folder of a run or of a Hugging Face model")
    whole = [Path(folder).resolve() for folder in folders]
    return [open_model(f, device, name) for f, name in zip(whole, _names(whole), strict=True)]


def _names(folders: Sequence[Path]) -> list[str]:
    """Shortest tails of the paths that are all different; the same folder twice is numbered.

    The hash at the end of a run's name is left out where names differ without it.
    """
    names = [_HASH.sub("", folder.name) for folder in folders]
    parts = 1
    while len(set(names)) < len(set(folders)):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        parts += 1
    return [
        f"{name} ({names[:place].count(name) + 1})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]
