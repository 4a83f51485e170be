"""Nano: a model and the way it trains that fit two cores; the demo is made of it."""

from dataclasses import replace

from plait.config import (
    AttentionConfig,
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    ExpertConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)

DEVIATION = 0.009
"""σ of a paired difference between nano models, nats per token (docs/lab/2026-11-24-recipe.md)"""


def model(vocab_size: int = 2048) -> ModelConfig:
    """Train in a minute or two on two cores: the size of the demo study."""
    return ModelConfig(
        vocab_size=vocab_size,
        depth=8,
        width=128,
        context=128,
        attention=AttentionConfig(heads=4, qk_norm="head"),
        experts=ExpertConfig(count=16, width=64, top_k=3),
    )


def dense(moe: ModelConfig) -> ModelConfig:
    """Return a model's dense control: as wide as the experts of a token together, no router."""
    width = moe.experts.width * moe.experts.top_k
    return replace(moe, experts=ExpertConfig(count=1, width=width, top_k=1))


def dense_model(vocab_size: int = 2048) -> ModelConfig:
    """Return the dense control of `nano`."""
    return dense(model(vocab_size))


def training(
    model: ModelConfig, tokens: int = 4_000_000, corpus: str = "starter-2k"
) -> TrainConfig:
    """Ours for two cores: minutes, not hours. Shorter `tokens` shorten the warm-up with them.

    What is known of it stands in docs/lab/2026-11-24-recipe.md: Muon for quiet gradients, small
    batches and a small vocabulary for what is learned in a minute, embeddings ten times as fast as
    routers, a linear fall from warm-up to end. The topology's factor leaves S at CT-MoE's own rate
    of 0.02.
    """
    steps = tokens // (8 * 128)
    return TrainConfig(
        model=model,
        data=DataConfig(corpus=corpus, sequence_length=128, batch=8),
        tokens=tokens,
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=3e-2,
            momentum=0.9,
            adamw_factor=0.1,
            embedding_factor=10.0,
            topology_factor=7.0,
        ),
        schedule=ScheduleConfig(name="linear", warmup=tokens // 20),
        evaluation=EvaluationConfig(
            every=max(1, steps // 6), tokens=8_192, final_tokens=65_536, batch=32
        ),
        checkpoint=CheckpointConfig(every=max(100, steps // 6)),
        precision="bf16",
    )
