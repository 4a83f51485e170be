"""Factors that are varied together: every combination of their levels, or half of them."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Literal

from plait.config import TrainConfig
from plait.config.files import config_hash
from plait.reading import quoted
from plait.statistics import half_fraction
from plait.studies.changes import Change, changed, overlap

REFERENCE = "base"
"""the cell of which every factor is at its reference level"""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class FactorialDesign:
    """Its names, as `study.json` keeps them: levels by factor, reference first; cells by variant.

    A cell names one level per factor, in the factors' order.
    """

    factors: dict[str, tuple[str, ...]]
    cells: dict[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        for factor, levels in self.factors.items():
            if len(levels) < 2 or len(set(levels)) < len(levels):
                raise ValueError(f"factor {quoted(factor)} has the levels {quoted(levels)}")
        for name, cell in self.cells.items():
            fits = len(cell) == len(self.factors) and all(
                level in levels for level, levels in zip(cell, self.factors.values(), strict=True)
            )
            if not fits:
                raise ValueError(f"cell {quoted(name)} is not one level of each factor")

    @property
    def effects(self) -> tuple[str, ...]:
        """What its main effects and two-way interactions are called: "router=b4 × experts=g4"."""
        moved = [[f"{name}={level}" for level in of[1:]] for name, of in self.factors.items()]
        pairs = [pair for one, other in combinations(moved, 2) for pair in product(one, other)]
        return (*(level for of in moved for level in of), *map(effect_name, pairs))


def effect_name(levels: tuple[str, ...]) -> str:
    """Return how the effect of a level, or the interaction of two, is called."""
    return " × ".join(levels)


@dataclass(frozen=True)
class Factorial:
    """Factors, each with two or more named levels; the first level is the reference.

    A level is what it changes of the base configuration: options by their dotted path (`{}` for
    none), or a function from configuration to configuration. `fraction` "half" runs half of the
    cells of three or more two-level factors, see `plait.statistics.half_fraction` for what that
    leaves apart. Names are of letters, digits and . _ -

    Raises:
        ValueError: names that do not fit, a factor with one level, a half of what has none, two
            factors that set the same option.
    """

    factors: Mapping[str, Mapping[str, Change]]
    fraction: Literal["all", "half"] = "all"

    def __post_init__(self) -> None:
        if not self.factors:
            raise ValueError("a factorial study needs factors: give each two levels or more")
        if self.fraction not in ("all", "half"):
            raise ValueError(f"fraction is {quoted(self.fraction)}: all or half")
        for factor, levels in self.factors.items():
            for name in (factor, *levels):
                if not _NAME.fullmatch(name):
                    raise ValueError(
                        f"factor {quoted(factor)}: {quoted(name)} cannot be part of a folder's "
                        "name: use letters, digits and . _ - only"
                    )
            if len(levels) < 2:
                raise ValueError(f"factor {factor} has one level: give it two or more")
        for (a, first), (b, second) in combinations(self.factors.items(), 2):
            for one, other in product(first.values(), second.values()):
                if option := overlap(one, other):
                    raise ValueError(
                        f"factors {a} and {b} both set {option}: one of them would be ignored"
                    )
        cells = list(self._cells())
        names = [self._name(cell) for cell in cells]
        if len(set(names)) < len(names):
            raise ValueError(
                f"two cells have the same name ({', '.join(sorted(names))}): rename a level"
            )

    @property
    def design(self) -> FactorialDesign:
        """Names of factors, levels and cells."""
        return FactorialDesign(
            {name: tuple(levels) for name, levels in self.factors.items()},
            {self._name(cell): cell for cell in self._cells()},
        )

    def variants(self, base: TrainConfig) -> dict[str, TrainConfig]:
        """Every cell's configuration, by its name: "router-b4+experts-g4", of the reference "base".

        Raises:
            ValueError: an option that there is not or a value that does not fit; two cells of one
                configuration.
        """
        configs: dict[str, TrainConfig] = {}
        same: dict[str, str] = {}
        for name, cell in self.design.cells.items():
            config = base
            for (factor, levels), level in zip(self.factors.items(), cell, strict=True):
                config = changed(config, levels[level], f"factor {factor}, level {level}")
            configs[name] = config
            other = same.setdefault(config_hash(dataclasses.replace(config, seed=0)), name)
            if other != name:
                raise ValueError(
                    f"{other} and {name} are the same configuration: a level that changes nothing "
                    "(or only the seed, which the study sets) is no level"
                )
        return configs

    def _cells(self) -> Iterator[tuple[str, ...]]:
        levels = {name: tuple(of) for name, of in self.factors.items()}
        yield from half_fraction(levels) if self.fraction == "half" else product(*levels.values())

    def _name(self, cell: tuple[str, ...]) -> str:
        moved = [
            f"{factor}-{level}"
            for (factor, levels), level in zip(self.factors.items(), cell, strict=True)
            if level != next(iter(levels))
        ]
        return "+".join(moved) or REFERENCE
