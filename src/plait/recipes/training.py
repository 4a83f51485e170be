"""Training configurations: the papers' where they state them, and ours for small machines."""

from plait.config import ModelConfig
from plait.training.config import (
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)


def tying(
    model: ModelConfig,
    *,
    sequence_length: int,
    tokens_per_step: int,
    steps: int,
    corpus: str = "starter",
) -> TrainConfig:
    """Expert Tying's rules (arXiv 2606.16825): Muon, AdamW at 0.1× its rate, rate of a bank ÷ √g.

    The peak rate, the warm-up and the cosine's floor are ours.
    """
    return TrainConfig(
        model=model,
        data=DataConfig(
            corpus=corpus,
            sequence_length=sequence_length,
            batch=tokens_per_step // sequence_length,
            micro_batch=8,
        ),
        tokens=steps * tokens_per_step,
        optimizer=OptimizerConfig(name="muon", learning_rate=0.01, tied_divisor="sqrt"),
        schedule=ScheduleConfig(warmup=steps * tokens_per_step // 50, floor=0.1),
        precision="bf16",
    )


def ct_moe(model: ModelConfig, corpus: str = "papers") -> TrainConfig:
    """CT-MoE's rules: AdamW 2e-4, decay 0.1, 600 warm-up steps, cosine to 5 %, S at 100×, clip 1.

    How long it trained is not stated; 20,000 steps are ours.
    """
    tokens_per_step = 32 * 256
    return TrainConfig(
        model=model,
        data=DataConfig(corpus=corpus, sequence_length=256, batch=32),
        tokens=20_000 * tokens_per_step,
        optimizer=OptimizerConfig(learning_rate=2e-4, weight_decay=0.1, topology_factor=100.0),
        schedule=ScheduleConfig(warmup=600 * tokens_per_step, floor=0.05),
    )


def pathmoe(model: ModelConfig, corpus: str = "starter") -> TrainConfig:
    """PathMoE's lengths (arXiv 2603.18297): 100B tokens, sequences of 4096; the rates are ours."""
    return TrainConfig(
        model=model,
        data=DataConfig(corpus=corpus, sequence_length=4096, batch=256, micro_batch=4),
        tokens=100_000_000_000,
        optimizer=OptimizerConfig(learning_rate=4e-4),
        schedule=ScheduleConfig(warmup=2_000_000_000, floor=0.1),
        precision="bf16",
    )


def nano(model: ModelConfig, tokens: int = 4_000_000, corpus: str = "starter") -> TrainConfig:
    """Ours for two cores: minutes, not hours. Shorter `tokens` shorten the warm-up with them.

    The topology's factor leaves S at CT-MoE's own rate of 0.02.
    """
    steps = tokens // (16 * 128)
    return TrainConfig(
        model=model,
        data=DataConfig(corpus=corpus, sequence_length=128, batch=16),
        tokens=tokens,
        optimizer=OptimizerConfig(learning_rate=3e-3, topology_factor=7.0),
        schedule=ScheduleConfig(warmup=tokens // 20, floor=0.1),
        evaluation=EvaluationConfig(
            every=max(1, steps // 6), tokens=16_384, final_tokens=131_072, batch=32
        ),
        checkpoint=CheckpointConfig(every=max(100, steps // 6)),
        precision="bf16",
    )
