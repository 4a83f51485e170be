"""Ours: do the three works combine, and is sharing worth it at equal size and equal compute?"""

from dataclasses import replace

from plait.config import ModelConfig, TrainConfig
from plait.recipes import nano, pathmoe
from plait.recipes.ct_moe import TOPOLOGY
from plait.recipes.expert_tying import tied_models
from plait.studies.claims import Claim, Paper, PaperFigure, Scale
from plait.studies.contrasts import Contrast
from plait.studies.designs import factorial_study
from plait.studies.factorial import Factorial
from plait.studies.study import Study

NANO_TOKENS = 1_000_000
SUFFIX = {"nano": "-nano", "tiny": "-tiny", "paper": ""}


def _plain(scale: Scale) -> TrainConfig:
    """Nano's own model and rules; elsewhere PathMoE's independent model and how it trains."""
    if scale == "nano":
        return nano.training(nano.model(), tokens=NANO_TOKENS)
    if scale == "tiny":
        return pathmoe.tiny_training(_independent(pathmoe.tiny_model()))
    return pathmoe.training(_independent(pathmoe.model_900m()))


def _independent(model: ModelConfig) -> ModelConfig:
    return pathmoe.arms(model)["independent-balanced"]


def factorial(scale: Scale = "nano") -> Study:
    """All combinations of shared routers, tied experts and collaboration.

    The margin is twice that of single structures: an interaction is a difference of differences,
    and as small a one takes four times the seeds.
    """
    factors = Factorial(
        {
            "router": {"own": {}, "b4": {"model.sharing.router": "blocks(4)"}},
            "experts": {"own": {}, "g4": {"model.sharing.experts": "groups(4, skip=2)"}},
            "collaboration": {"none": {}, "topology": {"model.collaboration": TOPOLOGY}},
        }
    )
    return factorial_study(
        f"factorial{SUFFIX[scale]}",
        _plain(scale),
        factors,
        seeds=tuple(range(8)),
        margin=0.02,
        description="Routers shared over blocks of four × experts tied over groups of four × "
        "collaboration: eight cells, whose effects and interactions are what is asked.",
    )


def worth(scale: Scale = "nano") -> Study:
    """Tied models beside plain ones that store as much, and beside a dense one of equal compute."""
    plain = _plain(scale)
    tied = tied_models(plain.model)
    variants = {
        name: replace(plain, model=model, optimizer=replace(plain.optimizer, tied_divisor=divisor))
        for name, (model, divisor) in tied.items()
        if name in ("tied-g2", "tied-g4", "half", "quarter")
    }
    return Study(
        name=f"worth{SUFFIX[scale]}",
        baseline="dense",
        variants={"dense": replace(plain, model=nano.dense(plain.model)), **variants},
        seeds=(0, 1, 2, 3, 4),
        contrasts=(
            Contrast.between("tied-g4", "quarter", "lower"),
            Contrast.between("tied-g4", "dense", "lower"),
            Contrast.between("tied-g2", "half", "lower"),
            Contrast.between("quarter", "dense"),
        ),
        description="Experts tied over two and four depths, untied models with a half and a "
        "quarter of the experts there, and a dense one as wide as the experts of a token.",
    )


def paper(scale: Scale = "nano") -> Paper:
    """The questions that no paper of the three asks, put as claims."""
    crossed, tied = factorial(scale), worth(scale)
    return Paper(
        name="combinations",
        title="Sharing combined",
        scale=scale,
        deviation=nano.DEVIATION if scale == "nano" else None,
        studies=(crossed, tied),
        claims=(
            Claim(
                name="A-1",
                statement="The three combine: what they bring or cost adds up",
                published="",
                study=crossed.name,
                effects={
                    "router=b4 × experts=g4": "equal",
                    "router=b4 × collaboration=topology": "equal",
                    "experts=g4 × collaboration=topology": "equal",
                },
                controls=("router=b4", "experts=g4", "collaboration=topology"),
            ),
            Claim(
                name="A-2",
                statement="At equal size and at equal compute sharing is worth it",
                published="",
                study=tied.name,
                contrasts=("tied-g4 − quarter", "tied-g4 − dense"),
                controls=("tied-g2 − half", "quarter − dense"),
            ),
        ),
        figures=(
            PaperFigure(
                number="1",
                title="Effects and interactions",
                study=crossed.name,
                shows="effects",
            ),
            PaperFigure(
                number="2",
                title="At equal stored parameters and equal wall time",
                study=tied.name,
                shows="cost",
            ),
        ),
        notes=("These claims are ours: no paper of the three makes them.",),
    )
