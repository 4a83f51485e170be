"""What is timed against what: our model and transformers' OLMoE with the same weights."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from plait import kernels
from plait.bench.shapes import Shape
from plait.config import ModelConfig
from plait.kernels import muon, processor
from plait.kernels.precision import compute_type
from plait.model import LanguageModel
from plait.optim.clipping import clip_
from plait.optim.muon import Muon
from plait.storage.model_folder import save_model

IMPLEMENTATIONS = ("eager", "grouped_mm")
"""transformers' ways of computing experts on a CPU; batched_mm copies a weight per token"""
LARGEST_NORM = 1.0
"""of the gradients; above it they are scaled down"""

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
Clip = Callable[[nn.Module], object]


class Trained:
    """A model with its optimizers: one call of `step` is a whole training step."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        clip: Clip,
        autocast: bool,
        device: torch.device,
        optimizers: Sequence[torch.optim.Optimizer],
    ):
        self.model, self.loss, self.clip = model, loss, clip
        self.autocast, self.device = autocast, device
        self.optimizers = optimizers

    def compiled(self, backend: str = "inductor") -> "Trained":
        """Return the same weights and optimizers, with forward and backward by torch.compile."""
        model = cast(nn.Module, torch.compile(self.model, backend=backend))
        how = self.loss, self.clip, self.autocast, self.device, self.optimizers
        return Trained(model, *how)

    def step(self, tokens_BS: Tensor, targets_BS: Tensor) -> float:
        """Forward, backward, clip, optimizers; returns the loss."""
        tokens_BS, targets_BS = tokens_BS.to(self.device), targets_BS.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            loss = self.loss(self.model, tokens_BS, targets_BS)
        loss.backward()  # type: ignore[no-untyped-call]
        self.clip(self.model)
        for optimizer in self.optimizers:
            optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        return loss.item()


class TorchMuon(Muon):
    """Muon in torch's operations, one batched iteration for each bank."""

    move = staticmethod(muon.reference)


def ours(
    config: ModelConfig, precision: str, device: torch.device, optimizer: str = "adamw"
) -> Trained:
    """Return Plait's model of this configuration, trained with "adamw" or "muon"."""
    model = LanguageModel(config).to(device)

    def loss(model: nn.Module, tokens_BS: Tensor, targets_BS: Tensor) -> Tensor:
        value: Tensor = model(tokens_BS, targets_BS).loss
        return value

    def clip(model: nn.Module) -> None:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        clip_(gradients, kernels.total_norm(gradients), LARGEST_NORM)

    return Trained(
        model, loss, clip, precision == "bf16", device, _optimizers(optimizer, model, Muon)
    )


def theirs(shape: Shape, precision: str, device: torch.device, optimizer: str = "adamw") -> Trained:
    """Return transformers' OLMoE with the weights that `ours` begins with.

    Args:
        shape: sizes.
        precision: "fp32", "bf16" (autocast over fp32 weights) or "pure-bf16" (weights too).
        device: where both train.
        optimizer: "adamw", or "muon" in torch's operations.
    """
    model = their_model(shape).to(device)
    if precision == "pure-bf16":
        model.to(torch.bfloat16)

    def loss(model: nn.Module, tokens_BS: Tensor, targets_BS: Tensor) -> Tensor:
        out = model(
            input_ids=tokens_BS, labels=targets_BS, shift_labels=targets_BS, use_cache=False
        )
        value: Tensor = out.loss
        return value

    def clip(model: nn.Module) -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_NORM)

    return Trained(
        model, loss, clip, precision == "bf16", device, _optimizers(optimizer, model, TorchMuon)
    )


def _optimizers(name: str, model: nn.Module, by_muon: type[Muon]) -> list[torch.optim.Optimizer]:
    """AdamW for all, or Muon for matrices and banks between embedding and head."""
    if name == "adamw":
        return [torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)]
    hidden: dict[int, list[Tensor]] = {1: [], 2: []}  # by how many matrices are stacked
    others: list[Tensor] = []
    for parameter_name, parameter in model.named_parameters():
        outside = any(word in parameter_name for word in ("embed", "head", "router", "mlp.gate."))
        if parameter.ndim < 2 or outside:
            others.append(parameter)
        else:
            fused = "gate_up" in parameter_name or parameter_name.endswith(".up")
            hidden[2 if fused else 1].append(parameter)
    device = others[0].device.type
    groups = [{"params": found, "stacked": n} for n, found in hidden.items() if found]
    return [
        by_muon(groups, lr=1e-3, dtype=compute_type(device, "bf16")),
        torch.optim.AdamW(others, lr=1e-4, fused=True),
    ]


def their_model(shape: Shape) -> Any:
    """Return transformers' own class, loaded from an export of ours."""
    # here, since `ours` is timed alone in processes of its own
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from plait.interop.exporting import export_model

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
