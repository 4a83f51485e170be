"""CT-MoE (Learning Expert Collaboration Topology): its model, how it trains, its ablation."""

from dataclasses import replace
from functools import partial

from plait.config import (
    AttentionConfig,
    CollaborationConfig,
    DataConfig,
    ExpertConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from plait.recipes import nano
from plait.studies.claims import Claim, Paper, PaperFigure, PaperTable, Scale
from plait.studies.contrasts import Contrast
from plait.studies.study import Study

TOPOLOGY = CollaborationConfig(strength=0.5, routing_strength=0.5)
"""λ_c and λ_r of the paper's text; its code ran 1.0 and 1.5"""
GATE_SCALE = CollaborationConfig(control="gate-scale", routing_strength=0.0)
"""the control that scales gates and has no topology"""


def model(
    collaboration: CollaborationConfig | None = TOPOLOGY,
    top_k: int = 2,
    vocab_size: int = 16_000,
) -> ModelConfig:
    """CT-MoE's model. Its top_k of 2 lets S learn nothing from messages; take 3 or more to test it.

    The default λ_c = λ_r = 0.5 is the paper's text; its code ran λ_c 1.0 and λ_r 1.5.
    """
    return ModelConfig(
        vocab_size=vocab_size,
        depth=6,
        width=512,
        context=256,
        attention=AttentionConfig(heads=8, position="learned"),
        experts=ExpertConfig(count=16, width=512, top_k=top_k, activation="gelu"),
        collaboration=collaboration,
        norm="layer",
        dropout=0.1,
    )


def training(model: ModelConfig, corpus: str = "papers") -> TrainConfig:
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


PAPER = "CT-MoE: Learning Expert Collaboration Topology"
CODE = CollaborationConfig(strength=1.0, routing_strength=1.5)
"""λ_c and λ_r of the published code"""


def nano_model(collaboration: CollaborationConfig | None = None, top_k: int = 3) -> ModelConfig:
    """CT-MoE's architecture at a quarter of its width, for two cores."""
    full = model(collaboration, top_k, vocab_size=2048)
    return replace(
        full,
        width=128,
        context=128,
        attention=replace(full.attention, heads=4),
        experts=replace(full.experts, width=128),
    )


def arms(top_k: int) -> dict[str, CollaborationConfig | None]:
    """The four of the paper under its names, in the strengths of text and code, and controls.

    At K = 2 a row-normalised S sends each chosen expert's output to the other one whatever S is, so
    the frozen uniform S is called by what it does: fixed-swap.
    """
    found: dict[str, CollaborationConfig | None] = {"Standard": None}
    for suffix, c in (("", TOPOLOGY), ("-code", CODE)):
        found[f"NoCollab{suffix}"] = replace(c, strength=0.0)
        found[f"NoRouting{suffix}"] = replace(c, routing_strength=0.0)
        found[f"Full{suffix}"] = c
        found[f"gate-scale{suffix}"] = replace(GATE_SCALE, strength=c.strength)
    frozen = replace(TOPOLOGY, control="frozen-uniform", routing_strength=0.0)
    if top_k == 2:
        return found | {"fixed-swap": frozen}
    return found | {
        "frozen-uniform": frozen,
        "frozen-random": replace(TOPOLOGY, control="frozen-random"),
        "unnormalised": replace(TOPOLOGY, row_normalise=False),
        "hidden": replace(TOPOLOGY, messages="hidden"),
    }


def ablation(top_k: int = 3, scale: Scale = "tiny") -> Study:
    """CT-MoE's ablation at K = 2 as published, or at the least K at which S can be learned.

    At nano scale the paper's rules of training are too noisy for effects of hundredths of a nat
    (docs/lab/2026-11-24-recipe.md), so ours for nano models take their place.
    """
    small = scale == "nano"
    build = nano_model if small else model
    models = {name: build(collaboration, top_k) for name, collaboration in arms(top_k).items()}
    plain = models["Standard"]
    models["renormalised"] = replace(plain, router=replace(plain.router, renormalise=True))
    train = partial(nano.training, tokens=NANO_TOKENS, corpus="papers-2k") if small else training
    contrasts = [
        Contrast.between("Full", "Standard", "lower"),
        Contrast.between("NoRouting", "Standard", "lower"),
        Contrast.between("NoCollab", "Standard", "lower"),
        Contrast.between("NoRouting", "gate-scale", "lower"),
        Contrast.between("gate-scale", "Standard", "equal"),
        Contrast.between("renormalised", "Standard"),
        Contrast.between("Full-code", "Standard", "lower"),
        Contrast.between("Full-code", "gate-scale-code", "lower"),
    ]
    if top_k == 2:
        contrasts.append(Contrast.between("NoRouting", "fixed-swap", "lower"))
    else:
        contrasts += [
            Contrast.between("Full", "frozen-uniform", "lower"),
            Contrast.between("Full", "frozen-random", "lower"),
        ]
    return Study(
        name=f"ct-moe-k{top_k}" + ("-nano" if small else ""),
        baseline="Standard",
        variants={name: train(one) for name, one in models.items()},
        seeds=(0, 1, 2, 3, 4),
        contrasts=tuple(contrasts),
        description=f"CT-MoE's ablation on code and papers at K = {top_k}, with the controls that "
        "its table lacks.",
    )


def paper(scale: Scale = "nano") -> Paper:
    """CT-MoE's claims, table and figures."""
    k2, k3 = ablation(2, scale), ablation(3, scale)
    table = {
        "Standard": ("25.5", "19.0", "22.3"),
        "NoCollab": ("26.4", "18.9", "22.7"),
        "NoRouting": ("20.0", "17.7", "19.0"),
        "Full": ("19.7", "17.5", "18.7"),
    }
    four = tuple(table)
    shown = (
        ("1", "Validation perplexity", "perplexity"),
        ("2", "Training loss, smoothed", "training"),
        ("3", "Routing entropy", "router_entropy"),
        ("4", "S at each depth", "topology"),
        ("5", "Row entropy of S while training", "topology_entropy"),
        ("6", "Largest entry of S while training", "topology_max"),
        ("7", "Held-out text by domain", "domains"),
        ("8", "Specialisation of the experts", "specialisation"),
        ("9", "Spectrum of S, the untrained one beside it", "spectrum"),
        ("10", "S of the variants side by side", "topology"),
        ("11", "The ablation as a picture", "ablation"),
    )
    return Paper(
        name="ct-moe",
        title=PAPER,
        scale=scale,
        deviation=nano.DEVIATION if scale == "nano" else None,
        studies=(k3, k2),
        claims=(
            Claim(
                name="Full",
                statement="Collaboration and its routing bias lower the loss (K = 2, as published)",
                published="perplexity 22.3 → 18.7 on mixed text, one seed",
                study=k2.name,
                contrasts=("Full − Standard",),
                controls=("Full-code − Standard", "gate-scale − Standard"),
            ),
            Claim(
                name="CT-1",
                statement="Messages between experts lower the loss (K = 3, where S can learn)",
                published="perplexity 22.3 → 19.0 without the routing bias, at K = 2",
                study=k3.name,
                contrasts=("NoRouting − gate-scale",),
                controls=("NoRouting − Standard", "gate-scale − Standard"),
            ),
            Claim(
                name="CT-1 at K = 2",
                statement="Messages over a learned S lower the loss, as published",
                published="perplexity 22.3 → 19.0 without the routing bias",
                study=k2.name,
                contrasts=("NoRouting − gate-scale", "NoRouting − fixed-swap"),
                controls=("NoRouting − Standard", "renormalised − Standard"),
            ),
            Claim(
                name="CT-2",
                statement="A learned topology matters",
                published="stated; no control in the paper",
                study=k3.name,
                contrasts=("Full − frozen-uniform", "Full − frozen-random"),
            ),
            Claim(
                name="CT-3",
                statement="The routing bias alone helps",
                published="perplexity 22.3 → 22.7 on mixed text: it did not",
                study=k3.name,
                contrasts=("NoCollab − Standard",),
            ),
            Claim(
                name="CT-4",
                statement="The spectrum of S shows learned structure",
                published="dominant eigenvalue 0.5, which is that of the untrained S",
                untestable="no difference of losses tests it; figure 9 shows both spectra",
            ),
        ),
        tables=(
            PaperTable(
                title="The ablation: perplexity",
                study=k2.name,
                columns=("code", "papers", "mixed"),
                published=table,
            ),
        ),
        figures=tuple(
            PaperFigure(number=number, title=title, study=k2.name, shows=shows, arms=four)
            for number, title, shows in shown
        ),
        notes=NOTES[scale],
    )


NOTES: dict[Scale, tuple[str, ...]] = {
    "nano": (
        "A quarter of the width, sequences of 128 and the training rules of our nano models in "
        "place of AdamW at 2e-4: at the paper's own rules differences of hundredths of a nat "
        "drown in noise at this size.",
    ),
    "tiny": ("The paper's model and rules; its length is not stated, 20,000 steps are ours.",),
    "paper": ("The paper's model and rules; its length is not stated, 20,000 steps are ours.",),
}
NANO_TOKENS = 1_000_000
