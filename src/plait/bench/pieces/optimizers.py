"""What an optimizer step costs: AdamW, clipping, and Muon over banks in bf16 and in fp32."""

from collections.abc import Callable, Iterator

import torch

from plait.bench.measuring import interleaved
from plait.bench.shapes import SHAPES
from plait.config import OptimizerConfig
from plait.kernels import total_norm
from plait.model import LanguageModel
from plait.optim.clipping import clip_
from plait.optim.groups import build_optimizers


def lines(names: tuple[str, ...] = ("A", "D")) -> Iterator[str]:
    """Yield each contestant's milliseconds, and their share of AdamW's."""
    norm = torch.ones(())
    for name in names:
        model = LanguageModel(SHAPES[name].config())
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter) * 1e-4
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        configs = {
            "AdamW": OptimizerConfig(),
            "Muon, bf16": OptimizerConfig(name="muon"),
            "Muon, fp32": OptimizerConfig(name="muon", muon_precision="fp32"),
        }

        def steps(config: OptimizerConfig, model: LanguageModel = model) -> Callable[[], object]:
            made = build_optimizers(model.parameters_by_role(), config)
            return lambda: [optimizer.step() for optimizer in made]

        contestants = {label: steps(config) for label, config in configs.items()}
        contestants["norm"] = lambda g=gradients: total_norm(g)  # type: ignore[misc]
        contestants["clipping"] = lambda g=gradients: clip_(g, norm, 0.999999)  # type: ignore[misc]
        contestants["torch's norm"] = lambda g=gradients: torch.nn.utils.get_total_norm(g)  # type: ignore[misc]
        seconds = interleaved(contestants, rounds=5)
        for label, value in seconds.items():
            share = value / seconds["AdamW"]
            yield f"{name} {label}: {value * 1e3:.1f} ms, {share:.2f} of AdamW"
