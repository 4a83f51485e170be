"""Studies made of a design: factors varied together, or structures on a ladder of sizes."""

from collections.abc import Mapping

from plait.config import TrainConfig
from plait.studies.contrasts import Contrast
from plait.studies.factorial import REFERENCE, Factorial
from plait.studies.ladder import Ladder, rung
from plait.studies.study import Study


def factorial_study(
    name: str,
    base: TrainConfig,
    factorial: Factorial,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    margin: float = 0.01,
    contrasts: tuple[Contrast, ...] = (),
    description: str = "",
) -> Study:
    """Return the study of all cells, whose questions are the effects: every run informs each.

    Args:
        name: of the study.
        base: what the levels change.
        factorial: the factors and their levels.
        seeds: each trains every cell.
        margin: nats per token below which an effect counts as none.
        contrasts: comparisons of single cells that are asked as well.
        description: what it is about.
    """
    return Study(
        name=name,
        baseline=REFERENCE,
        variants=factorial.variants(base),
        factorial=factorial,
        seeds=seeds,
        margin=margin,
        contrasts=contrasts,
        description=description,
    )


def ladder_study(
    name: str,
    structures: Mapping[str, TrainConfig],
    ladder: Ladder,
    *,
    baseline: str,
    seeds: tuple[int, ...] = (0, 1, 2),
    margin: float = 0.01,
    contrasts: tuple[Contrast, ...] = (),
    description: str = "",
) -> Study:
    """Return the study of every structure at every size.

    Args:
        name: of the study.
        structures: configurations that the sizes change, by name.
        ladder: the sizes and their tokens.
        baseline: the structure that the others are compared with.
        seeds: each trains every structure at every size.
        margin: nats per token below which structures count as equal.
        contrasts: the questions; none: each structure against the baseline at the largest size.
        description: what it is about.
    """
    return Study(
        name=name,
        baseline=rung(baseline, tuple(ladder.sizes)[-1]),
        variants=ladder.variants(structures),
        ladder=ladder,
        seeds=seeds,
        margin=margin,
        contrasts=contrasts,
        description=description,
    )
