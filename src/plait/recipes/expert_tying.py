"""Expert Tying (arXiv 2606.16825): looped models, tied banks, how they train, its claims."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from plait.config import (
    AttentionConfig,
    DataConfig,
    Divisor,
    ExpertConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from plait.recipes import nano
from plait.recipes.architectures import TYING_BALANCE, Size, deepseek_moe, olmoe, qwen3_moe
from plait.sharing import Sharing
from plait.studies.claims import Claim, Paper, PaperFigure, PaperTable, Scale
from plait.studies.contrasts import Contrast
from plait.studies.study import Study

PAPER = "Expert Tying (arXiv 2606.16825)"
NANO_TOKENS = 1_000_000
TOPOLOGIES: Mapping[int, Mapping[str, str]] = {
    32: {
        "g1": "2 + 2x14 + 2",
        "g2": "2 + 2x7 + 2x7 + 2",
        "g3": "2 + 2x5 + 2x4 + 2x5 + 2",
        "g4": "2 + (1x7)*4 + 2",
        "g7": "2 + (1x4)*7 + 2",
        "moeut": "2x16",
    },
    16: {
        "g1": "2 + 2x6 + 2",
        "g2": "2 + 2x3 + 2x3 + 2",
        "g3": "2 + 2x2 + 2x2 + 2x2 + 2",
        "g4": "2 + (1x3)*4 + 2",
        "g6": "2 + (1x2)*6 + 2",
        "moeut": "2x8",
    },
}
"""The topologies of §3 by their number of groups, for depth 32; for depth 16 ours like them."""

Grain = Literal["fine", "coarse", "dense"]
GRAINS: tuple[Grain, ...] = ("fine", "coarse", "dense")
LoopedMode = Literal["alltie", "attntie", "lora", "experttie"]
LOOPED_MODES: tuple[LoopedMode, ...] = ("alltie", "attntie", "lora", "experttie")


def looped_32(
    grain: Grain = "fine",
    topology: str = "own",
    mode: LoopedMode = "experttie",
    vocab_size: int = 100_277,
) -> ModelConfig:
    """Looped models of Expert Tying §3 (arXiv 2606.16825): depth 32, a topology, what it ties.

    The LoRA rank (16) is ours.
    """
    experts = {
        "fine": ExpertConfig(count=32, width=256, top_k=8),
        "coarse": ExpertConfig(count=8, width=1024, top_k=2),
        "dense": ExpertConfig(count=1, width=2048, top_k=1),
    }[grain]
    return ModelConfig(
        vocab_size=vocab_size,
        depth=32,
        width=512,
        context=512,
        attention=AttentionConfig(heads=8, qk_norm="head", lora_rank=16 if mode == "lora" else 0),
        experts=experts,
        balance=TYING_BALANCE,
        sharing=_looped(topology, mode),
        init="xavier-depth",
    )


def looped_16(
    grain: Grain = "fine", topology: str = "own", mode: LoopedMode = "experttie"
) -> ModelConfig:
    """Looped models for two cores: half the depth, a quarter of the width, as many experts."""
    full = looped_32(grain, topology="own", vocab_size=2048)
    return replace(
        full,
        depth=16,
        width=128,
        context=128,
        attention=replace(full.attention, heads=4, lora_rank=4 if mode == "lora" else 0),
        experts=replace(full.experts, width=full.experts.width // 8),
        sharing=_looped(topology, mode),
    )


def _looped(topology: str, mode: LoopedMode) -> Sharing:
    return Sharing(
        experts=topology,
        attention="own" if mode == "experttie" else topology,
        router=topology if mode == "alltie" else "own",
    )


def training(
    model: ModelConfig,
    *,
    sequence_length: int,
    tokens_per_step: int,
    steps: int,
    warmup_steps: int,
    adamw_decay: float,
    divisor: Divisor = "sqrt",
    corpus: str = "starter",
) -> TrainConfig:
    """Expert Tying's rules (arXiv 2606.16825): Muon 0.02 → 0.002 by a cosine, AdamW at 0.1 of it.

    Muon's own decay (0.1) is ours.
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
        optimizer=OptimizerConfig(
            name="muon", learning_rate=0.02, adamw_decay=adamw_decay, tied_divisor=divisor
        ),
        schedule=ScheduleConfig(warmup=warmup_steps * tokens_per_step, floor=0.1),
        precision="bf16",
    )


def looped_training(model: ModelConfig, divisor: Divisor = "sqrt") -> TrainConfig:
    """Train as the grid of §3 does: 10k steps of 131k tokens, sequences of 512."""
    return training(
        model,
        sequence_length=512,
        tokens_per_step=131_072,
        steps=10_000,
        warmup_steps=50,
        adamw_decay=0.0,
        divisor=divisor,
    )


def architecture_training(model: ModelConfig, divisor: Divisor = "sqrt") -> TrainConfig:
    """Train as the models of §4 do: 524k tokens a step, sequences of 2048, 20k or 30k steps.

    Regular widths train 30k steps and tiny ones 20k; that small ones do as well is inferred.
    """
    return training(
        model,
        sequence_length=2048,
        tokens_per_step=524_288,
        steps=30_000 if model.width >= 1536 else 20_000,
        warmup_steps=100,
        adamw_decay=0.01,
        divisor=divisor,
    )


def nano_training(model: ModelConfig, divisor: Divisor = "sqrt") -> TrainConfig:
    """Train as nano models do, in 1M tokens, with the paper's divisor."""
    config = nano.training(model, tokens=NANO_TOKENS)
    return replace(config, optimizer=replace(config.optimizer, tied_divisor=divisor))


def grid(
    looped: Callable[[Grain, str, LoopedMode], ModelConfig],
    train: Callable[[ModelConfig, Divisor], TrainConfig],
    depth: int,
) -> dict[str, TrainConfig]:
    """Return the 43 runs of §3: topologies × what they tie, fine and coarse, divisors, dense."""
    topologies = TOPOLOGIES[depth]
    runs: dict[str, TrainConfig] = {}
    for grain in ("fine", "coarse"):
        runs[f"{grain}-untied"] = train(looped(grain, "own", "experttie"), "sqrt")
        for name, topology in topologies.items():
            modes: tuple[LoopedMode, ...] = ("alltie", "attntie", "experttie")
            for mode in modes[: 2 if name == "moeut" else 3]:
                runs[f"{grain}-{name}-{mode}"] = train(looped(grain, topology, mode), "sqrt")
    for mode in ("alltie", "attntie", "experttie"):
        for divisor in ("none", "linear"):
            model = looped("fine", topologies["g4"], mode)
            runs[f"fine-g4-{mode}-{divisor}"] = train(model, divisor)
    runs["dense"] = train(looped("dense", "own", "experttie"), "sqrt")
    return runs


def looped_study(scale: Scale = "paper") -> Study:
    """The grid of §3: at depth 32 as published, at depth 16 for two cores."""
    if scale == "nano":
        variants = grid(looped_16, nano_training, 16)
    else:
        variants = grid(looped_32, looped_training, 32)
    return Study(
        name="looped-nano" if scale == "nano" else "looped",
        baseline="fine-untied",
        variants=variants,
        seeds=(0, 1, 2),
        contrasts=(
            Contrast.between("fine-g4-experttie", "fine-untied", "equal"),
            Contrast.between("fine-g4-experttie", "fine-g4-attntie", "lower"),
            Contrast.between("fine-g4-experttie", "fine-g4-alltie", "lower"),
            Contrast.between("coarse-g4-experttie", "coarse-untied", "equal"),
            Contrast.between("fine-g4-experttie", "fine-g4-experttie-none", "lower"),
            Contrast.between("fine-g4-experttie", "fine-g4-experttie-linear", "lower"),
            Contrast.between("fine-untied", "dense"),
        ),
        description="The 43 runs of arXiv 2606.16825 §3.",
    )


def tied_models(plain: ModelConfig, skip: int = 2) -> dict[str, tuple[ModelConfig, Divisor]]:
    """Return §4's structures with the divisor of each, and the untied control of equal size.

    `half` and `quarter` have that share of the experts at the depths that the others tie; `x2` and
    `x4` widen the tied banks.
    """
    count = plain.experts.count
    assert isinstance(count, int)

    def tied(group: int, expand: int = 1) -> ModelConfig:
        plan = Sharing(experts=f"groups({group}, skip={skip})")
        return replace(plain, sharing=plan, experts=replace(plain.experts, expand=expand))

    def narrow(parts: int) -> ModelConfig:
        always = plain.experts.shared_width / plain.experts.width  # a tied bank has them once too
        few = round((count + always) / parts - always)
        counts = [count if min(d, plain.depth - 1 - d) < skip else few for d in range(plain.depth)]
        counts[: plain.experts.dense_first] = [1] * plain.experts.dense_first
        return replace(plain, experts=replace(plain.experts, count=tuple(counts)))

    return {
        "plain": (plain, "none"),
        "tied-g2": (tied(2), 1.41),
        "tied-g4": (tied(4), 2.0),
        "tied-g4-x2": (tied(4, expand=2), 2.0),
        "tied-g4-x4": (tied(4, expand=4), 2.0),
        "half": (narrow(2), "none"),
        "quarter": (narrow(4), "none"),
    }


ARCHITECTURES: Mapping[str, Callable[[Size], ModelConfig]] = {
    "olmoe": olmoe,
    "qwen3-moe": qwen3_moe,
    "deepseek-moe": deepseek_moe,
}


def tied_study(architecture: str = "olmoe", size: Size | Literal["nano"] = "tiny") -> Study:
    """§4's comparison on an architecture at one of its sizes, or on nano's model."""
    plain = nano.model() if size == "nano" else ARCHITECTURES[architecture](size)
    train = nano_training if size == "nano" else architecture_training
    runs = {name: train(model, divisor) for name, (model, divisor) in tied_models(plain).items()}
    tied = runs["tied-g4"].model
    runs |= {f"tied-g4-{d}": train(tied, d) for d in ("none", "linear")}
    return Study(
        name="tied-nano" if size == "nano" else f"tied-{architecture}-{size}",
        baseline="plain",
        variants=runs,
        seeds=(0, 1, 2, 3, 4),
        contrasts=(
            Contrast.between("tied-g2", "plain", "equal"),
            Contrast.between("tied-g4", "plain", "equal"),
            Contrast.between("tied-g2", "half", "lower"),
            Contrast.between("tied-g4", "quarter", "lower"),
            Contrast.between("tied-g4-x2", "half", "lower"),
            Contrast.between("tied-g4-x4", "plain", "lower"),
            Contrast.between("tied-g4", "tied-g4-none", "lower"),
            Contrast.between("tied-g4", "tied-g4-linear", "lower"),
        ),
        description="Experts tied over groups of depths, widened, and controls of equal size.",
    )


def paper(scale: Scale = "nano") -> Paper:
    """Expert Tying's claims and the controls that test them."""
    looped = looped_study(scale)
    if scale == "nano":
        tied, others = tied_study(size="nano"), []
    else:
        sizes: tuple[Size, ...] = ("tiny",) if scale == "tiny" else ("regular", "small", "tiny")
        tied, *others = [tied_study(name, size) for size in sizes for name in ARCHITECTURES]
    return Paper(
        name="expert-tying",
        title=PAPER,
        scale=scale,
        deviation=nano.DEVIATION if scale == "nano" else None,
        studies=(tied, *others, looped),
        claims=(
            Claim(
                name="T-1",
                statement="Tying experts over two or four depths costs nothing",
                published="stated; a replication found +0.02 to +0.04 nats",
                study=tied.name,
                contrasts=("tied-g2 − plain", "tied-g4 − plain"),
            ),
            Claim(
                name="T-2",
                statement="A widened tied model beats an untied one of equal size",
                published="stated",
                study=tied.name,
                contrasts=("tied-g4-x4 − plain",),
                controls=("tied-g4 − quarter", "tied-g2 − half"),
            ),
            Claim(
                name="T-3",
                statement="The rate of a tied bank must be divided by √g",
                published="stated; a replication found undivided rates slightly better",
                study=tied.name,
                contrasts=("tied-g4 − tied-g4-none", "tied-g4 − tied-g4-linear"),
            ),
            Claim(
                name="T-4",
                statement="Experts can be tied, attention should not be",
                published="stated",
                study=looped.name,
                contrasts=(
                    "fine-g4-experttie − fine-g4-attntie",
                    "fine-g4-experttie − fine-g4-alltie",
                ),
                controls=("fine-g4-experttie − fine-untied",),
            ),
        ),
        tables=(
            PaperTable(title="§3, the grid", study=looped.name, columns=(), published={}),
            *(
                PaperTable(title=f"§4, {one.name}", study=one.name, columns=(), published={})
                for one in (tied, *others)
            ),
        ),
        figures=(
            PaperFigure(
                number="§4, g",
                title="How many depths share a bank: loss against tokens",
                study=tied.name,
                shows="perplexity",
                arms=("plain", "tied-g2", "tied-g4"),
            ),
            PaperFigure(
                number="§4, size",
                title="At equal stored parameters and equal wall time",
                study=tied.name,
                shows="cost",
            ),
            PaperFigure(
                number="§3, grid",
                title="Every run of the grid beside the untied one",
                study=looped.name,
                shows="ablation",
            ),
            PaperFigure(
                number="§3, agreement",
                title="Agreement inside tied groups while training",
                study=looped.name,
                shows="agreement",
                arms=("fine-untied", *(f"fine-{g}-experttie" for g in ("g1", "g2", "g3", "g4"))),
            ),
        ),
        notes=("§3 at depth 16 in place of 32; nano's training rules with the paper's divisors.",)
        if scale == "nano"
        else (),
    )
