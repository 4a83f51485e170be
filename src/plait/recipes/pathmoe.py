"""PathMoE (arXiv 2603.18297): its models, how long they train, its claims and their arms.

What we know of its tables is second-hand and marked so; arm by arm the settings that it does not
state (router initialisation, rates) are ours.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    DataConfig,
    ExpertConfig,
    ModelConfig,
    OptimizerConfig,
    RouterConfig,
    ScheduleConfig,
    TrainConfig,
)
from plait.recipes import nano
from plait.sharing import Sharing
from plait.studies.claims import (
    Claim,
    Paper,
    PaperFigure,
    PaperTable,
    PathContrast,
    PathMeasure,
    Scale,
)
from plait.studies.contrasts import Contrast
from plait.studies.study import Study

PAPER = "PathMoE (arXiv 2603.18297)"
BALANCED, FREE = BalanceConfig(switch=0.01), BalanceConfig(switch=0.0)
NANO_TOKENS = 1_000_000
PATHS: tuple[tuple[PathMeasure, Literal["higher", "lower"]], ...] = (
    ("coverage", "higher"),
    ("consistency", "higher"),
    ("one permutation", "lower"),
    ("permutation per depth", "lower"),
)
"""What the paper says of paths under shared routers: concentrated, consistent, robust."""


def model_900m(vocab_size: int = 32_000) -> ModelConfig:
    """PathB4-MoE, 0.9B (arXiv 2603.18297): routers shared over blocks of 4, no balancing loss."""
    return ModelConfig(
        vocab_size=vocab_size,
        depth=24,
        width=1152,
        context=4096,
        attention=AttentionConfig(heads=9),
        experts=ExpertConfig(count=16, width=512, top_k=4),
        balance=FREE,
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
        balance=FREE,
        sharing=Sharing(router="blocks(4)"),
        tied_head=False,
    )


def tiny_model(vocab_size: int = 8192) -> ModelConfig:
    """The 0.9B model at a quarter of its width and half its depth, for one GPU (ours)."""
    full = model_900m(vocab_size)
    return replace(
        full,
        depth=12,
        width=288,
        context=512,
        attention=replace(full.attention, heads=9),
        experts=replace(full.experts, width=128),
    )


def training(
    model: ModelConfig, steps: int = 400_000, tokens: int = 100_000_000_000, corpus: str = "starter"
) -> TrainConfig:
    """PathMoE's lengths (arXiv 2603.18297): 400k steps over 100B tokens, sequences of 4096.

    So a step has 61 of them, which is inferred; the rates are ours.
    """
    length = model.context
    batch = max(1, round(tokens / steps / length))
    return TrainConfig(
        model=model,
        data=DataConfig(corpus=corpus, sequence_length=length, batch=batch, micro_batch=1),
        tokens=tokens,
        optimizer=OptimizerConfig(learning_rate=4e-4),
        schedule=ScheduleConfig(warmup=tokens // 50, floor=0.1),
        precision="bf16",
    )


def training_16b(model: ModelConfig) -> TrainConfig:
    """Train the 16B model: 200k steps; that they cover the same 100B tokens is inferred."""
    return training(model, steps=200_000)


def tiny_training(model: ModelConfig) -> TrainConfig:
    """Train on one GPU: 1B tokens of the starter corpus' kind, 131k a step (ours)."""
    return TrainConfig(
        model=model,
        data=DataConfig(sequence_length=512, batch=256, micro_batch=64),
        tokens=1_000_000_000,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        schedule=ScheduleConfig(warmup=20_000_000, floor=0.1),
        precision="bf16",
    )


def arms(plain: ModelConfig) -> dict[str, ModelConfig]:
    """Every structure that the paper compares, from the independent model with a balance loss.

    `independent` and the Path models have no balance loss unless their name says so. At depth 8 a
    block of 8 is all depths, so there is no PathBL beside PathB8.
    """

    def of(
        router: str = "own",
        kind: str = "linear",
        balance: BalanceConfig = FREE,
        top_k: int | None = None,
        decision: str = "own",
        choice: str = "tokens",
    ) -> ModelConfig:
        routing = RouterConfig(kind=kind, choice=choice)  # type: ignore[arg-type]
        experts = replace(plain.experts, top_k=top_k or plain.experts.top_k)
        sharing = Sharing(router=router, decision=decision)
        return replace(plain, sharing=sharing, router=routing, balance=balance, experts=experts)

    found = {
        "independent-balanced": of(balance=BALANCED),
        "independent": of(),
        "PathB2": of("blocks(2)"),
        "PathB4": of("blocks(4)"),
        "PathB8": of("blocks(8)"),
        "PathB4-balanced": of("blocks(4)", balance=BALANCED),
        "decision-B8": of("blocks(8)", decision="blocks(8)"),
        "random-fixed": of(kind="random-fixed"),
        "cosine": of(kind="cosine"),
        "recurrent": of(kind="recurrent"),
        "low-rank": of(kind="low-rank"),
        "PathB4-cosine": of("blocks(4)", kind="cosine"),
        "independent-choice": of(choice="experts"),
        "PathB4-choice": of("blocks(4)", choice="experts"),
    }
    if plain.depth > 8:
        found["PathBL"] = of("all")
    for top_k in (1, 2, 4):
        found[f"independent-balanced-k{top_k}"] = of(balance=BALANCED, top_k=top_k)
        found[f"PathB4-k{top_k}"] = of("blocks(4)", top_k=top_k)
    kept = {name for name in found if not name.endswith(f"-k{plain.experts.top_k}")}
    return {name: config for name, config in found.items() if name in kept}


def study(scale: Scale = "nano") -> Study:
    """All arms of the paper, at one of three sizes."""
    sizes: dict[Scale, tuple[ModelConfig, Callable[[ModelConfig], TrainConfig]]] = {
        "nano": (nano.model(), partial(nano.training, tokens=NANO_TOKENS)),
        "tiny": (tiny_model(), tiny_training),
        "paper": (model_900m(), training),
    }
    plain, train = sizes[scale]
    return Study(
        name="pathmoe" if scale == "paper" else f"pathmoe-{scale}",
        baseline="independent-balanced",
        variants={name: train(config) for name, config in arms(plain).items()},
        seeds=(0, 1, 2, 3, 4),
        contrasts=(
            Contrast.between("PathB4", "independent-balanced", "lower"),
            Contrast.between("PathB4", "independent", "lower"),
            Contrast.between("PathB4-balanced", "PathB4", "equal"),
            Contrast.between("independent", "independent-balanced"),
            Contrast.between("PathB4", "PathB2", "lower"),
            Contrast.between("PathB4", "PathB8", "lower"),
            Contrast.between("PathB4-choice", "independent-choice", "equal"),
            Contrast.between("PathB4", "random-fixed", "lower"),
            Contrast.between("decision-B8", "independent-balanced"),
        ),
        description="Routers shared over blocks of depths, with and without a balance loss, and "
        "every other router that the paper compares.",
    )


def paper(scale: Scale = "nano") -> Paper:
    """PathMoE's claims, tables and figures; the paper's own numbering is not known to us."""
    asked = study(scale)
    sharing = ("independent-balanced", "independent", "PathB4", "PathB4-balanced")
    return Paper(
        name="pathmoe",
        title=PAPER,
        scale=scale,
        deviation=nano.DEVIATION if scale == "nano" else None,
        studies=(asked,),
        claims=(
            Claim(
                name="P-1",
                statement="Routers shared over blocks of four lower the loss",
                published="perplexity 12.91 → 12.29 at 0.9B (second-hand)",
                study=asked.name,
                contrasts=("PathB4 − independent-balanced", "PathB4 − independent"),
                controls=("independent − independent-balanced", "PathB4 − random-fixed"),
            ),
            Claim(
                name="P-2",
                statement="Shared routers need no balance loss",
                published="stated",
                study=asked.name,
                contrasts=("PathB4-balanced − PathB4",),
            ),
            Claim(
                name="P-3",
                statement="Their paths are more concentrated, consistent and robust",
                published="consistency 79 % against 48 %; perplexity + 237 % against + 5328 % when "
                "experts are shuffled (second-hand)",
                study=asked.name,
                paths=tuple(
                    PathContrast(
                        measure=measure, variant="PathB4", against=against, expected=expected
                    )
                    for against in ("independent-balanced", "independent")
                    for measure, expected in PATHS
                ),
            ),
            Claim(
                name="P-4",
                statement="Blocks of four are best",
                published="B = 2, 4, 8 and all depths were tried",
                study=asked.name,
                contrasts=("PathB4 − PathB2", "PathB4 − PathB8"),
            ),
            Claim(
                name="P-5",
                statement="Under expert choice shared routers bring nothing",
                published="no gain",
                study=asked.name,
                contrasts=("PathB4-choice − independent-choice",),
            ),
        ),
        tables=(
            PaperTable(
                title="Independent and shared routers at 0.9B: perplexity (second-hand)",
                study=asked.name,
                columns=("perplexity",),
                published={"independent-balanced": ("12.91",), "PathB4": ("12.29",)},
            ),
        ),
        figures=(
            PaperFigure(
                number="dynamics 1",
                title="Validation perplexity with and without a balance loss",
                study=asked.name,
                shows="perplexity",
                arms=sharing,
            ),
            *(
                PaperFigure(
                    number=f"dynamics {number}",
                    title=title,
                    study=asked.name,
                    shows=name,
                    arms=sharing,
                )
                for number, (name, title) in enumerate(
                    (
                        ("load_max_over_mean", "Is an expert overloaded?"),
                        ("router_entropy", "How undecided is the router?"),
                        ("path_entropy", "How many paths are there?"),
                        ("consistency", "Do neighbouring depths choose alike?"),
                    ),
                    start=2,
                )
            ),
            PaperFigure(
                number="paths",
                title="How concentrated and how consistent paths are, beside chance",
                study=asked.name,
                shows="routing",
                arms=sharing,
            ),
            PaperFigure(
                number="robustness",
                title="Loss when the routing is changed, and when few paths are allowed",
                study=asked.name,
                shows="robustness",
                arms=sharing,
            ),
            PaperFigure(
                number="words",
                title="What paths are about: classes of tokens beside chance, and words",
                study=asked.name,
                shows="classes",
                arms=sharing,
            ),
            PaperFigure(
                number="blocks",
                title="Blocks and routers beside the independent model",
                study=asked.name,
                shows="ablation",
                arms=tuple(
                    n for n in asked.variants if not n.endswith(("-choice", "-k1", "-k2", "-k4"))
                ),
            ),
        ),
        notes=(
            "Expert-choice losses look ahead (docs/methods.md): compare them with each other only.",
            *(("At depth 8 a block of eight is all depths.",) if scale == "nano" else ()),
        ),
    )
