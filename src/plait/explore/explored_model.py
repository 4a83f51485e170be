"""What the page shows of one model: its structure, and what it makes of a text."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from plait.data.tokenizer import Encoder
from plait.explore.token_paths import analyse, describe
from plait.opening import open_models
from plait.routing import WatchedModel, watch


@dataclass(frozen=True)
class ExploredModel:
    """A model with its tokenizer, under the name that the page shows."""

    name: str
    model: nn.Module
    tokenizer: Encoder
    first: int | None
    """token that stands before a document"""

    @cached_property
    def watched(self) -> WatchedModel:
        """The model as one whose routing can be seen."""
        return watch(self.model, self.name)

    def describe(self) -> dict[str, Any]:
        """See `token_paths.describe`."""
        return describe(self.model, self.tokenizer, self.name)

    def analyse(self, text: str) -> dict[str, Any]:
        """See `token_paths.analyse`."""
        return analyse(self.model, self.tokenizer, text, first=self.first, watched=self.watched)


def open_explored(folders: list[Path], device: str | None = None) -> list[ExploredModel]:
    """Open every folder; errors as for `plait.opening.open_model`."""
    return [
        ExploredModel(opened.name, opened.model, opened.tokenizer, opened.first)
        for opened in open_models(folders, device)
    ]
