"""Studies of nano models: the demo, every structure, and a ladder of sizes."""

from dataclasses import replace

from plait.config import ModelConfig
from plait.recipes.ct_moe import GATE_SCALE, TOPOLOGY
from plait.recipes.nano import dense_model, model, training
from plait.sharing import Sharing
from plait.studies.designs import ladder_study
from plait.studies.ladder import Ladder
from plait.studies.study import Study

DEMO_TOKENS = 400_000


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


def demo_study() -> Study:
    """Four structures with three seeds, a quarter of an hour in all: the main job in small.

    Seeds 0 to 5 were the pilot: differences of 0.005 to 0.027 nats with σ of 0.006 to 0.009, so
    three others can show that sharing costs less than 0.05 nats, and little that is finer.
    """
    woven = _woven(model())
    names = ("plain", "path-b4", "tied-g4", "all-three")
    return Study(
        name="demo",
        baseline="plain",
        variants={name: training(woven[name], tokens=DEMO_TOKENS) for name in names},
        seeds=(6, 7, 8),
        margin=0.05,
        description="Routers shared over blocks of four, experts tied over groups of four, and "
        "both together with experts that collaborate.",
    )


def nano_study() -> Study:
    """The demo's structures and dense, random-fixed and decision-shared controls, with 3 seeds."""
    base = model()
    variants = _woven(base) | {
        "decision-b4": replace(base, sharing=Sharing(router="blocks(4)", decision="blocks(4)")),
        "router-all": replace(base, sharing=Sharing(router="all")),
        "random-fixed": replace(base, router=replace(base.router, kind="random-fixed")),
        "dense": dense_model(),
    }
    return Study(
        name="nano",
        baseline="plain",
        variants={name: training(variant) for name, variant in variants.items()},
        seeds=(0, 1, 2),
        description="Ten structures on the starter corpus, three seeds each: hours on two cores.",
    )


def nano_ladder() -> Study:
    """Shared routers and tied experts beside plain at four sizes, tokens as parameters grow."""
    structures = {name: training(_woven(model())[name]) for name in ("plain", "path-b4", "tied-g4")}
    sizes = {
        f"w{width}": {
            "model.width": width,
            "model.attention.heads": width // 32,
            "model.experts.width": width // 2,
        }
        for width in (64, 96, 128, 160)
    }
    tokens = {"w64": 1_000_000, "w96": 2_250_000, "w128": 4_000_000, "w160": 6_250_000}
    return ladder_study(
        "nano-ladder",
        structures,
        Ladder(sizes, tokens),
        baseline="plain",
        description="Three structures at four widths and one learning rate, the largest with "
        "twenty times the compute of the smallest: does what small models say hold for larger?",
    )
