"""What is timed against what: our model and transformers' OLMoE with the same weights."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from plait import kernels
from plait.bench.shapes import Shape
from plait.config import ModelConfig
from plait.interop.exporting import export_model
from plait.kernels import processor
from plait.model import LanguageModel
from plait.optim.clipping import clip_
from plait.storage.model_folder import save_model

IMPLEMENTATIONS = ("eager", "grouped_mm")
"""transformers' ways of computing experts on a CPU; batched_mm copies a weight per token"""
LARGEST_NORM = 1.0
"""of the gradients; above it they are scaled down"""

Loss = Callable[[Tensor, Tensor], Tensor]
Clip = Callable[[nn.Module], object]


class Trained:
    """A model with its optimizer: one call of `step` is a whole training step."""

    def __init__(
        self, model: nn.Module, loss: Loss, clip: Clip, autocast: bool, device: torch.device
    ):
        self.model, self.loss, self.clip = model.to(device), loss, clip
        self.autocast, self.device = autocast, device
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(self, tokens_BS: Tensor, targets_BS: Tensor) -> float:
        """Forward, backward, clip, AdamW; returns the loss."""
        tokens_BS, targets_BS = tokens_BS.to(self.device), targets_BS.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.loss(tokens_BS, targets_BS)
        loss.backward()  # type: ignore[no-untyped-call]
        self.clip(self.model)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def ours(config: ModelConfig, precision: str, device: torch.device) -> Trained:
    """Return Plait's model of this configuration."""
    model = LanguageModel(config)

    def loss(tokens_BS: Tensor, targets_BS: Tensor) -> Tensor:
        value: Tensor = model(tokens_BS, targets_BS).loss
        return value

    def clip(model: nn.Module) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        clip_(gradients, float(kernels.total_norm(gradients)), LARGEST_NORM)

    return Trained(model, loss, clip, precision == "bf16", device)


def theirs(shape: Shape, precision: str, device: torch.device) -> Trained:
    """Return transformers' OLMoE with the weights that `ours` begins with.

    Args:
        shape: sizes.
        precision: "fp32", "bf16" (autocast over fp32 weights) or "pure-bf16" (weights too).
        device: where both train.
    """
    model = their_model(shape)
    if precision == "pure-bf16":
        model.to(torch.bfloat16)

    def loss(tokens_BS: Tensor, targets_BS: Tensor) -> Tensor:
        out = model(
            input_ids=tokens_BS, labels=targets_BS, shift_labels=targets_BS, use_cache=False
        )
        value: Tensor = out.loss
        return value

    def clip(model: nn.Module) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)

    return Trained(model, loss, clip, precision == "bf16", device)


def their_model(shape: Shape) -> Any:
    """Return transformers' own class, loaded from an export of ours."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = shape.config()
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "ours", config, LanguageModel(config).state_dict())
        export_model(Path(folder) / "ours", Path(folder) / "theirs")
        model = AutoModelForCausalLM.from_pretrained(Path(folder) / "theirs", dtype=torch.float32)
    assert type(model).__name__ == "OlmoeForCausalLM", "the bench compares with OLMoE"
    return model.train()


@contextmanager
def settings(tuned: bool) -> Iterator[None]:
    """Run with the settings that `processor.configure` chose, or with torch's and glibc's own."""
    setting = processor.configure().fp32_setting if tuned else "none"
    processor.keep_freed_memory(tuned)
    with processor.products_under(setting):
        yield
