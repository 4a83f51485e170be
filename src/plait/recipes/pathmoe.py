"""PathMoE (arXiv 2603.18297): its models and how long it trains."""

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    DataConfig,
    ExpertConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from plait.sharing import Sharing


def model_900m(vocab_size: int = 32_000) -> ModelConfig:
    """PathB4-MoE, 0.9B (arXiv 2603.18297): routers shared over blocks of 4, no balancing loss."""
    return ModelConfig(
        vocab_size=vocab_size,
        depth=24,
        width=1152,
        context=4096,
        attention=AttentionConfig(heads=9),
        experts=ExpertConfig(count=16, width=512, top_k=4),
        balance=BalanceConfig(switch=0.0),
        sharing=Sharing(router="blocks(4)"),
        tied_head=False,
    )


def model_16b(vocab_size: int = 50_432) -> ModelConfig:
    """PathB4-MoE, 16B (arXiv 2603.18297): DeepSeekMoE's width without its shared experts."""
    return ModelConfig(
        vocab_size=vocab_size,
        depth=28,
        width=2048,
        context=4096,
        attention=AttentionConfig(heads=16),
        experts=ExpertConfig(count=64, width=1408, top_k=6),
        balance=BalanceConfig(switch=0.0),
        sharing=Sharing(router="blocks(4)"),
        tied_head=False,
    )


def training(model: ModelConfig, corpus: str = "starter") -> TrainConfig:
    """PathMoE's lengths (arXiv 2603.18297): 100B tokens, sequences of 4096; the rates are ours."""
    return TrainConfig(
        model=model,
        data=DataConfig(corpus=corpus, sequence_length=4096, batch=256, micro_batch=4),
        tokens=100_000_000_000,
        optimizer=OptimizerConfig(learning_rate=4e-4),
        schedule=ScheduleConfig(warmup=2_000_000_000, floor=0.1),
        precision="bf16",
    )
