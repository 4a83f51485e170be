"""Small models with clear routing, ours and transformers', and text for them."""

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import transformers

from plait.config import (
    AttentionConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    TrainConfig,
)
from plait.data import Corpus
from plait.model import LanguageModel
from plait.routing import Passage
from plait.training import train

M = TypeVar("M", bound=torch.nn.Module)

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 32,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "eos_token_id": 0,
    "bos_token_id": 0,
    "pad_token_id": 0,
}
LATENT = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}


def ours(**fields: object) -> LanguageModel:
    given: dict[str, object] = {
        "vocab_size": 97,
        "depth": 4,
        "width": 32,
        "context": 32,
        "attention": AttentionConfig(heads=4),
        "experts": ExpertConfig(count=8, width=16, top_k=2),
    }
    model = LanguageModel(ModelConfig(**{**given, **fields}))  # type: ignore[arg-type]
    return spread(model)


def spread(model: M) -> M:
    """Give routers weights large enough that logits differ clearly."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "router" in name or "gate.weight" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def theirs(kind: str, **fields: object) -> torch.nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, **fields})
    model: torch.nn.Module = transformers.AutoModelForCausalLM.from_config(config)
    return spread(model)


def text(documents: int = 5, seed: int = 0) -> list[Passage]:
    generator = np.random.default_rng(seed)
    return [
        Passage(generator.integers(0, 97, generator.integers(1, 80)).tolist(), "ab"[number % 2])
        for number in range(documents)
    ]


def trained_run(model: ModelConfig, corpus: Corpus, folder: Path) -> Path:
    """Train for two steps and return the run's folder."""
    config = TrainConfig(
        model=model,
        data=DataConfig(corpus=str(corpus.path), sequence_length=64, batch=4),
        tokens=2 * 4 * 64,
        evaluation=EvaluationConfig(final_tokens=64),
    )
    train(config, folder)
    return folder
