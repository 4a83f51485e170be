"""Opening what is explored: a run, a model folder, or a folder of a Hugging Face MoE."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from plait.explore.analysis import analyse, describe
from plait.routing import Subject, watch
from plait.routing.targets import Encoder, open_targets
from plait.training.model_folder import load_model, read_tokenizer
from plait.training.run import CONFIG

_HASH = re.compile(r"-[0-9a-f]{12}$")


@dataclass(frozen=True)
class ExploredModel:
    """A model with its tokenizer, under the name that the page shows."""

    name: str
    model: nn.Module
    tokenizer: Encoder
    first: int | None
    """token that stands before a document"""

    @cached_property
    def watched(self) -> Subject:
        """The model as one whose routing can be seen."""
        return watch(self.model, self.name)

    def describe(self) -> dict[str, Any]:
        """See `analysis.describe`."""
        return describe(self.model, self.tokenizer, self.name)

    def analyse(self, text: str) -> dict[str, Any]:
        """See `analysis.analyse`."""
        return analyse(self.model, self.tokenizer, text, first=self.first, watched=self.watched)


def open_models(folders: list[Path]) -> list[ExploredModel]:
    """Open every folder; names are those of the folders, as much of each as tells them apart.

    Raises:
        FileNotFoundError: a folder holds neither a run nor a model, or its corpus is not built.
        ValueError: there are no folders, or one has no tokenizer, or a damaged file.
    """
    if not folders:
        raise ValueError("nothing to explore: name one run or more")
    folders = [folder.resolve() for folder in folders]
    return [_open(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def _open(folder: Path, name: str) -> ExploredModel:
    if not (folder / CONFIG).is_file():
        (target,) = open_targets([folder])
        return ExploredModel(name, target.model, target.tokenizer, target.first)
    tokenizer = read_tokenizer(folder)
    if tokenizer is None:
        raise ValueError(f"{folder} has no tokenizer.json: put there the one of this model")
    return ExploredModel(name, load_model(folder), tokenizer, tokenizer.end_of_text)


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
