"""Random models small enough to compare, and tokens for them."""

import torch

from plait.config import ModelConfig
from plait.model import LanguageModel

VOCABULARY = 300


def lively(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """A random model whose logits differ enough that a wrong weight shows."""
    model = LanguageModel(config, seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return model


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))
