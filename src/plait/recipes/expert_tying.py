"""Expert Tying (arXiv 2606.16825): looped models, tied banks, how they train, what is compared."""

from dataclasses import replace
from typing import Literal

from plait.config import (
    AttentionConfig,
    DataConfig,
    ExpertConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from plait.recipes.architectures import TYING_BALANCE, olmoe
from plait.sharing import Sharing
from plait.studies.study import Study

LOOPED_TOPOLOGIES = (
    "2x16",
    "2 + 2x14 + 2",
    "2 + (2x7)*2 + 2",
    "2 + 2x5 + 2x4 + 2x5 + 2",
    "2 + (1x7)*4 + 2",
    "2 + (1x4)*7 + 2",
)
"""The topologies of Expert Tying §3, for depth 32."""

Grain = Literal["fine", "coarse", "dense"]
GRAINS: tuple[Grain, ...] = ("fine", "coarse", "dense")
LoopedMode = Literal["alltie", "attntie", "lora", "experttie"]
LOOPED_MODES: tuple[LoopedMode, ...] = ("alltie", "attntie", "lora", "experttie")


def looped_32(
    grain: Grain = "fine",
    topology: str = "own",
    mode: LoopedMode = "experttie",
    vocab_size: int = 50_304,
) -> ModelConfig:
    """Looped models of Expert Tying §3 (arXiv 2606.16825): depth 32, a topology, what it ties.

    The LoRA rank (16) and the vocabulary are ours.
    """
    experts = {
        "fine": ExpertConfig(count=32, width=256, top_k=8),
        "coarse": ExpertConfig(count=8, width=1024, top_k=2),
        "dense": ExpertConfig(count=1, width=2048, top_k=1),
    }[grain]
    sharing = Sharing(
        experts=topology,
        attention="own" if mode == "experttie" else topology,
        router=topology if mode == "alltie" else "own",
    )
    return ModelConfig(
        vocab_size=vocab_size,
        depth=32,
        width=512,
        context=512,
        attention=AttentionConfig(heads=8, qk_norm="head", lora_rank=16 if mode == "lora" else 0),
        experts=experts,
        balance=TYING_BALANCE,
        sharing=sharing,
        init="xavier-depth",
    )


def training(
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


def looped_training(model: ModelConfig) -> TrainConfig:
    """Train as the grid of §3 does: 131k tokens a step in sequences of 512, 10k steps."""
    return training(model, sequence_length=512, tokens_per_step=131_072, steps=10_000)


def architecture_training(model: ModelConfig) -> TrainConfig:
    """Train as the models of §4 do: 524k tokens a step in sequences of 2048; 10k steps are ours."""
    return training(model, sequence_length=2048, tokens_per_step=524_288, steps=10_000)


def tied_study() -> Study:
    """OLMoE at tiny width with experts tied over g = 1, 2, 4 depths, and the equal-size control."""
    base = olmoe("tiny", vocab_size=8192)
    few = replace(base, experts=replace(base.experts, count=16))
    variants = {
        "plain": base,
        "tied-g2": replace(base, sharing=Sharing(experts="groups(2, skip=2)")),
        "tied-g4": replace(base, sharing=Sharing(experts="groups(4, skip=2)")),
        "quarter": few,
    }
    return Study(
        name="expert-tying",
        baseline="plain",
        variants={
            name: training(model, sequence_length=2048, tokens_per_step=524_288, steps=2000)
            for name, model in variants.items()
        },
        seeds=(0, 1, 2),
        description="Needs GPUs; the rules of arXiv 2606.16825 with the starter corpus.",
    )


def looped_study() -> Study:
    """Looped models of depth 32: every topology and mode of Expert Tying §3, fine experts."""
    variants = {"own": looped_32("fine"), "dense": looped_32("dense")}
    for topology in LOOPED_TOPOLOGIES:
        for mode in LOOPED_MODES:
            text = topology.replace(" ", "").replace("(", "").replace(")", "").replace("*", "r")
            variants[f"{mode}-{text}"] = looped_32("fine", topology, mode)
    return Study(
        name="looped",
        baseline="own",
        variants={name: looped_training(model) for name, model in variants.items()},
        seeds=(0, 1, 2),
        description="Needs GPUs; the grid of arXiv 2606.16825 §3.",
    )
