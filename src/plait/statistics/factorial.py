"""Effects of factors that were varied together, seed as block.

Within each seed that finished every stated cell, main effects and two-way interactions are fitted
by least squares, coded so that a coefficient *is* the effect: a level's main effect is its mean
minus the reference level's, an interaction the difference of differences, each averaged evenly over
all other levels. The seeds' values then give a mean with Student's t: each effect's error is that
effect's own spread over seeds, n − 1 degrees of freedom, so few seeds stay honest. Interactions of
three factors and more are taken to be nothing, as they must be where only a fraction was run.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import numpy.typing as npt

from plait.statistics.paired import Difference, paired_difference

Cell = tuple[str, ...]
Name = tuple[str, ...]

_NOTHING = 1e-9
"""share of an effect that counts as none, above rounding in a design of zeros and ones"""


@dataclass(frozen=True)
class Effect:
    """One effect in nats per token: `("router=b4",)`, or `("router=b4", "experts=g4")`."""

    name: Name
    difference: Difference


@dataclass(frozen=True)
class Factorial:
    """Effects that the stated cells separate, and `aliases`: names that they do not.

    A tuple in `aliases` holds effects of which only a sum or part is known; one that stands alone
    there is confounded with the overall mean. `seeds` finished every cell; with none of them there
    are no effects.
    """

    effects: tuple[Effect, ...]
    aliases: tuple[tuple[Name, ...], ...]
    seeds: tuple[int, ...]


def factorial_effects(
    factors: Mapping[str, Sequence[str]], losses: Mapping[Cell, Mapping[int, float]]
) -> Factorial:
    """Estimate main effects and two-way interactions.

    Args:
        factors: levels of each factor, the reference first.
        losses: nats per token by seed of each stated cell, which names one level per factor in the
            factors' order. All cells or a fraction of them.

    Raises:
        ValueError: a factor with fewer than two levels, a cell that is none of the design.
    """
    _check(factors)
    if not losses:
        raise ValueError("a factorial study needs the losses of its cells: none were given")
    for cell in losses:
        if len(cell) != len(factors) or any(
            level not in levels for level, levels in zip(cell, factors.values(), strict=True)
        ):
            raise ValueError(f"cell {cell} is not one level for each of {dict(factors)}")
    names, design_CE = _design(factors, list(losses))
    solve_EC = np.linalg.pinv(design_CE)
    unknown_EE = np.eye(len(names)) - solve_EC @ design_CE
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in losses.values())))
    effects = []
    for index, name in enumerate(names):
        if not seeds or not name or np.abs(unknown_EE[index]).max() > _NOTHING:
            continue
        by_seed = {
            seed: math.fsum(
                w * loss[seed] for w, loss in zip(solve_EC[index], losses.values(), strict=True)
            )
            for seed in seeds
        }
        difference = paired_difference(by_seed, dict.fromkeys(seeds, 0.0))
        assert difference is not None
        effects.append(Effect(name, difference))
    return Factorial(tuple(effects), _aliases(names, unknown_EE), tuple(seeds))


def half_fraction(factors: Mapping[str, Sequence[str]]) -> tuple[Cell, ...]:
    """Regular half of a two-level design, by its highest interaction; the reference cell is in it.

    With four factors main effects are clear of all two-way interactions, which alias in pairs; with
    five these are clear of each other too. With three, each main effect has a two-way alias.

    Raises:
        ValueError: a factor without exactly two levels, fewer than three factors.
    """
    _check(factors)
    several = {name: len(levels) for name, levels in factors.items() if len(levels) != 2}
    if several:
        raise ValueError(
            f"a half fraction is of two-level factors, and the levels are {several}: keep two "
            "levels of each, or run all cells"
        )
    if len(factors) < 3:
        raise ValueError(f"half of {len(factors)} factors separates nothing: run all cells")
    return tuple(
        cell
        for cell in product(*factors.values())
        if sum(level != levels[0] for level, levels in zip(cell, factors.values(), strict=True)) % 2
        == 0
    )


def _check(factors: Mapping[str, Sequence[str]]) -> None:
    for name, levels in factors.items():
        if len(levels) < 2 or len(set(levels)) != len(levels):
            raise ValueError(f"factor {name} needs two or more different levels, got {levels}")


def _design(
    factors: Mapping[str, Sequence[str]], cells: Sequence[Cell]
) -> tuple[list[Name], npt.NDArray[np.float64]]:
    """Names of the effects, the mean `()` first, and the design (cells, effects).

    A level's column is its indicator minus 1 ÷ levels, which is centred over the whole design.
    """
    columns: dict[Name, npt.NDArray[np.float64]] = {(): np.ones(len(cells))}
    by_factor: list[list[Name]] = []
    for place, (factor, levels) in enumerate(factors.items()):
        by_factor.append([(f"{factor}={level}",) for level in levels[1:]])
        for name, level in zip(by_factor[-1], levels[1:], strict=True):
            columns[name] = np.array([(c[place] == level) - 1 / len(levels) for c in cells])
    for first, second in combinations(by_factor, 2):
        for a, b in product(first, second):
            columns[a + b] = columns[a] * columns[b]
    return list(columns), np.stack(list(columns.values()), axis=1)


def _aliases(
    names: Sequence[Name], unknown_EE: npt.NDArray[np.float64]
) -> tuple[tuple[Name, ...], ...]:
    """Groups of effects that the design's null space links; the mean links but is not named."""
    linked_EE = np.abs(unknown_EE) > _NOTHING
    left = {index for index in range(len(names)) if linked_EE[index].any()}
    groups = []
    while left:
        group, reached = set(), {min(left)}
        while reached:
            group |= reached
            reached = set(np.flatnonzero(linked_EE[sorted(reached)].any(axis=0)).tolist()) - group
        left -= group
        named = tuple(names[index] for index in sorted(group) if names[index])
        if named:
            groups.append(named)
    return tuple(groups)
