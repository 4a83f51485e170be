"""Which of their tensors make up one of ours."""

import re
from collections.abc import Mapping

import torch

from plait.config import ModelConfig
from plait.model import LanguageModel


class Naming:
    """The tensors of one structure, in our names and theirs.

    Args:
        config: a structure whose parts are all its own.
        tensors: our pattern → their patterns, as in `Architecture.tensors`.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, tuple[str, ...]]):
        self.config = config
        self.tensors = tensors
        with torch.device("meta"):
            self.sizes = {
                name: tuple(tensor.shape)
                for name, tensor in LanguageModel(config).state_dict().items()
            }

    def theirs(self, name: str) -> list[str]:
        """Return their tensors that, end to end, are ours; experts outermost."""
        depth = re.search(r"\d+", name)
        d = int(depth[0]) if depth else 0
        pattern = name.replace(depth[0], "{d}", 1) if depth else name
        dense = pattern.startswith("experts.") and self.config.experts_at(d) == 1
        patterns = self.tensors[pattern.replace("experts.", "dense.", 1) if dense else pattern]
        experts = self.sizes[name][0] if any("{e}" in p for p in patterns) else 1
        return [p.format(d=d, e=e) for e in range(experts) for p in patterns]
