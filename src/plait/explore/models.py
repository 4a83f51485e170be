"""Opening what is explored: a run of Plait, or a folder of a Hugging Face MoE."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from plait.data.tokenizer import Tokenizer
from plait.explore.analysis import analyse, describe
from plait.routing import Subject, watch
from plait.training.loop import open_corpus
from plait.training.run import CONFIG, load_run

_HASH = re.compile(r"-[0-9a-f]{12}$")


@dataclass(frozen=True)
class ExploredModel:
    """A model with its tokenizer, under the name that the page shows."""

    name: str
    model: nn.Module
    tokenizer: Tokenizer

    @cached_property
    def watched(self) -> Subject:
        """The model as one whose routing can be seen."""
        return watch(self.model, self.name)

    def describe(self) -> dict[str, Any]:
        """See `analysis.describe`."""
        return describe(self.model, self.tokenizer, self.name)

    def analyse(self, text: str) -> dict[str, Any]:
        """See `analysis.analyse`."""
        return analyse(self.model, self.tokenizer, text, watched=self.watched)


def open_models(folders: list[Path]) -> list[ExploredModel]:
    """Open every folder; names are those of the folders, as much of each as tells them apart.

    Raises:
        FileNotFoundError: a folder holds neither a run nor a model, or its corpus is not built.
        ValueError: a model has no router, or a tokenizer does not belong to its model.
    """
    if not folders:
        raise ValueError("nothing to explore: name one run or more")
    folders = [folder.resolve() for folder in folders]
    return [_open(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def _open(folder: Path, name: str) -> ExploredModel:
    if (folder / CONFIG).is_file():
        config, model = load_run(folder)
        explored = ExploredModel(name, model, open_corpus(config.data.corpus).tokenizer)
    elif (folder / "config.json").is_file():
        explored = ExploredModel(name, _pretrained(folder), Tokenizer.load(folder))
    else:
        raise FileNotFoundError(
            f"{folder} holds neither {CONFIG} (a run of plait train) nor config.json (a Hugging "
            "Face model): name the run's folder"
        )
    vocabulary = explored.tokenizer.vocab_size
    embedded = _embedding_rows(explored.model)
    if vocabulary > embedded:
        raise ValueError(
            f"{folder}: the tokenizer has {vocabulary:,} token ids, the model only {embedded:,}: "
            "put the tokenizer back that it was trained with"
        )
    return explored


def _pretrained(folder: Path) -> nn.Module:
    try:
        from transformers import AutoModelForCausalLM

        import plait.interop  # noqa: F401  registers PlaitForCausalLM
    except ImportError:
        raise ValueError(
            f"{folder} is a Hugging Face model: pip install 'plait[hf]' to read it"
        ) from None
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return model.float().eval()


def _embedding_rows(model: nn.Module) -> int:
    embedding = next(module for module in model.modules() if isinstance(module, nn.Embedding))
    return embedding.num_embeddings


def _names(folders: list[Path]) -> list[str]:
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
