"""The models that are timed, and the batches that they see."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
)
from plait.sharing import Sharing


@dataclass(frozen=True)
class Shape:
    """One size of model and batch."""

    layers: int
    width: int
    heads: int
    experts: int
    top_k: int
    expert_width: int
    sequence: int
    batch: int
    vocabulary: int
    threads: int | None = None
    """that both sides have; None: as many as the process"""
    optimizers: tuple[str, ...] = ("adamw",)
    """that both sides train with, the first one in all figures"""

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.sequence * self.batch

    def config(self) -> ModelConfig:
        """Return the model, which is an OLMoE: transformers has the same mathematics."""
        return ModelConfig(
            vocab_size=self.vocabulary,
            depth=self.layers,
            width=self.width,
            context=self.sequence,
            attention=AttentionConfig(heads=self.heads, qk_norm="width"),
            experts=ExpertConfig(count=self.experts, width=self.expert_width, top_k=self.top_k),
            balance=BalanceConfig(switch=0.0),
            tied_head=False,
        )

    def variants(self) -> dict[str, ModelConfig]:
        """Return models that share or collaborate, to be timed beside the plain one."""
        plain = self.config()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # at K = 2 the topology learns nothing; its cost is real
            talking = replace(plain, collaboration=CollaborationConfig())
        return {
            "tied_experts": replace(plain, sharing=Sharing(experts="groups(2)")),
            "shared_routers": replace(plain, sharing=Sharing(router="blocks(2)")),
            "collaboration": talking,
        }

    def batches(self, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield fresh random (tokens, targets), so that routing changes from step to step."""
        generator = torch.Generator().manual_seed(seed)
        while True:
            size = (self.batch, self.sequence + 1)
            text = torch.randint(0, self.vocabulary, size, generator=generator)
            yield text[:, :-1].contiguous(), text[:, 1:].contiguous()


SHAPES = {
    "A": Shape(6, 256, 8, 16, 2, 256, 256, 16, 16384),
    "B": Shape(6, 256, 8, 64, 8, 256, 256, 8, 16384),
    "C": Shape(8, 512, 8, 16, 2, 512, 512, 8, 16384),
    "D": Shape(6, 512, 8, 64, 8, 256, 512, 8, 16384),
    # what fills a GPU: 0.9 billion parameters, of which two models are trained beside each other
    "G": Shape(8, 1024, 16, 64, 8, 512, 2048, 8, 50304),
    # what studies train where each run has a thread: nano, and with a larger vocabulary
    "N": Shape(8, 128, 4, 16, 3, 64, 128, 8, 8192, threads=1, optimizers=("adamw", "muon")),
    "nano": Shape(8, 128, 4, 16, 3, 64, 128, 8, 2048, threads=1, optimizers=("adamw", "muon")),
    # not a measurement: lets a test run the whole bench
    "tiny": Shape(2, 64, 2, 8, 2, 64, 64, 2, 256, threads=1, optimizers=("adamw", "muon")),
}
STANDARD = ("N", "A", "B", "C", "D")
"""of them, those that are measured where none are named"""


def require_shapes(names: Sequence[str]) -> None:
    """Refuse names that are not in `SHAPES`.

    Raises:
        ValueError: with the names there are.
    """
    for name in names:
        if name not in SHAPES:
            raise ValueError(f"no shape is called {name!r}; choose from {', '.join(SHAPES)}")
