"""Studies: what is compared with what, as plain functions that return variants × seeds."""

from collections.abc import Mapping
from dataclasses import replace

from plait.config import CollaborationConfig, ModelConfig
from plait.recipes import models, training
from plait.sharing import Sharing
from plait.studies.study import Study

TOPOLOGY = CollaborationConfig()
GATE_SCALE = CollaborationConfig(control="gate-scale", routing_strength=0.0)


def _woven(base: ModelConfig) -> dict[str, ModelConfig]:
    """The plain model, each of the three works alone, CT-MoE's control, and all three together."""
    return {
        "plain": base,
        "path-b4": replace(base, sharing=Sharing(router="blocks(4)")),
        "tied-g4": replace(base, sharing=Sharing(experts="groups(4, skip=2)")),
        "ct-moe": replace(base, collaboration=TOPOLOGY),
        "gate-scale": replace(base, collaboration=GATE_SCALE),
        "all-three": replace(
            base,
            sharing=Sharing(router="blocks(4)", experts="groups(4, skip=2)"),
            collaboration=TOPOLOGY,
        ),
    }


def demo() -> Study:
    """Six structures on the starter corpus, one seed, a minute each: the main job in small."""
    return Study(
        name="demo",
        baseline="plain",
        variants={
            name: training.nano(model, tokens=DEMO_TOKENS)
            for name, model in _woven(models.nano()).items()
        },
        description="Routers shared over blocks of four, experts tied over groups of four, experts "
        "that collaborate, the control that only scales gates, and all three together.",
    )


DEMO_TOKENS = 400_000


def nano() -> Study:
    """The demo's structures and dense, random-fixed and decision-shared controls, with 3 seeds."""
    base = models.nano()
    variants = _woven(base) | {
        "decision-b4": replace(base, sharing=Sharing(router="blocks(4)", decision="blocks(4)")),
        "router-all": replace(base, sharing=Sharing(router="all")),
        "random-fixed": replace(base, router=replace(base.router, kind="random-fixed")),
        "dense": models.nano_dense(),
    }
    return Study(
        name="nano",
        baseline="plain",
        variants={name: training.nano(model) for name, model in variants.items()},
        seeds=(0, 1, 2),
        description="Ten structures on the starter corpus, three seeds each: hours on two cores.",
    )


def ct_moe_ablation(top_k: int = 3) -> Study:
    """CT-MoE's ablation with the controls that its table lacks, on code and papers, 3 seeds.

    At the paper's top_k of 2 the row-normalised topology gets no gradient from messages, whatever
    the data; the default here is 3.
    """
    c = TOPOLOGY
    collaborations: Mapping[str, CollaborationConfig | None] = {
        "standard": None,
        "bias-only": replace(c, strength=0.0),
        "messages-only": replace(c, routing_strength=0.0),
        "full": c,
        "frozen-uniform": replace(c, control="frozen-uniform"),
        "frozen-random": replace(c, control="frozen-random"),
        "gate-scale": GATE_SCALE,
        "unnormalised": replace(c, row_normalise=False),
        "hidden": replace(c, messages="hidden"),
    }
    variants = {
        name: training.ct_moe(models.ct_moe_65m(collaboration, top_k))
        for name, collaboration in collaborations.items()
    }
    renormalised = models.ct_moe_65m(None, top_k)
    variants["renormalised"] = training.ct_moe(
        replace(renormalised, router=replace(renormalised.router, renormalise=True))
    )
    return Study(name="ct-moe", baseline="standard", variants=variants, seeds=(0, 1, 2))


def expert_tying() -> Study:
    """OLMoE at tiny width with experts tied over g = 1, 2, 4 depths, and the equal-size control."""
    base = models.olmoe("tiny", vocab_size=8192)
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
            name: training.tying(model, sequence_length=2048, tokens_per_step=524_288, steps=2000)
            for name, model in variants.items()
        },
        seeds=(0, 1, 2),
        description="Needs GPUs; the rules of arXiv 2606.16825 with the starter corpus.",
    )


def looped() -> Study:
    """Looped models of depth 32: every topology and mode of Expert Tying §3, fine experts."""
    variants = {"own": models.looped_32("fine"), "dense": models.looped_32("dense")}
    for topology in models.LOOPED_TOPOLOGIES:
        for mode in models.LOOPED_MODES:
            text = topology.replace(" ", "").replace("(", "").replace(")", "").replace("*", "r")
            variants[f"{mode}-{text}"] = models.looped_32("fine", topology, mode)
    return Study(
        name="looped",
        baseline="own",
        variants={
            name: training.tying(model, sequence_length=512, tokens_per_step=131_072, steps=10_000)
            for name, model in variants.items()
        },
        seeds=(0, 1, 2),
        description="Needs GPUs; the grid of arXiv 2606.16825 §3.",
    )
