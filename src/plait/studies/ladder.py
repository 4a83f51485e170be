"""Structures at several sizes: the same change of size, and the same tokens, for each of them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from plait.config import TrainConfig
from plait.config.counts import count
from plait.reading import quoted
from plait.studies.changes import Change, changed, with_tokens

_SIZE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def rung(structure: str, size: str) -> str:
    """Name of the variant that is a structure at a size: "plain.s64"."""
    return f"{structure}.{size}"


@dataclass(frozen=True)
class LadderDesign:
    """Its names, as `study.json` keeps them: sizes, smallest first, and who compares with whom.

    `rungs` holds (structure, size) by variant, `baseline` is the structure that the others are
    compared with at each size.
    """

    sizes: tuple[str, ...]
    baseline: str
    rungs: dict[str, tuple[str, str]]

    def __post_init__(self) -> None:
        for variant, (structure, size) in self.rungs.items():
            if size not in self.sizes:
                raise ValueError(f"{quoted(variant)} is of size {quoted(size)}, which is not there")
            if variant != rung(structure, size):
                raise ValueError(f"{quoted(variant)} is not the name of {structure} at {size}")

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of what is compared, in the study's order."""
        return tuple(dict.fromkeys(structure for structure, _ in self.rungs.values()))

    def same_size(self, variant: str) -> str:
        """The baseline's variant of the same size."""
        return rung(self.baseline, self.rungs[variant][1])


@dataclass(frozen=True)
class Ladder:
    """Sizes from the smallest to the largest, and how many tokens each trains on.

    A size is what it changes of a structure's configuration, `{"model.width": 96}` or a function,
    as a level of a `Factorial` is. All structures of a size train on the same tokens. Where the
    tokens differ from the configuration's own, warm-up, decay and the steps between evaluations
    keep their share of the run; what the size itself sets, stays.

    Raises:
        ValueError: fewer than two sizes, names that do not fit, tokens for other sizes than there
            are.
    """

    sizes: Mapping[str, Change]
    tokens: Mapping[str, int]

    def __post_init__(self) -> None:
        if len(self.sizes) < 2:
            raise ValueError("a ladder needs two sizes; a curve three; a prediction four")
        for name in self.sizes:
            if not _SIZE.fullmatch(name):
                raise ValueError(
                    f"size {quoted(name)} cannot be part of a folder's name: use letters, digits "
                    "and _ - only"
                )
        if set(self.tokens) != set(self.sizes):
            raise ValueError(
                f"sizes are {', '.join(self.sizes)}, and tokens are given for "
                f"{', '.join(self.tokens)}: give each size its tokens"
            )

    def design(self, variants: Mapping[str, object], baseline: str) -> LadderDesign:
        """Names of the rungs; `variants` and the baseline are those of a study on this ladder.

        Raises:
            ValueError: a variant that is not a structure at a size, or a structure that lacks one.
        """
        rungs = {}
        for name in variants:
            structure, dot, size = name.rpartition(".")
            if not dot or size not in self.sizes:
                raise ValueError(
                    f"variant {quoted(name)} is not named STRUCTURE.SIZE with a size of "
                    f"{', '.join(self.sizes)}: make the study with ladder_study"
                )
            rungs[name] = (structure, size)
        largest = tuple(self.sizes)[-1]
        if rungs.get(baseline, ("", ""))[1] != largest:
            raise ValueError(f"the baseline {baseline!r} is not at the largest size, {largest}")
        found = LadderDesign(tuple(self.sizes), rungs[baseline][0], rungs)
        for structure in found.structures:
            for size in self.sizes:
                if rung(structure, size) not in rungs:
                    raise ValueError(f"{structure} has no variant of size {size}")
        return found

    def variants(self, structures: Mapping[str, TrainConfig]) -> dict[str, TrainConfig]:
        """Every structure at every size, size by size: "plain.s64", "tied.s64", "plain.s96".

        Raises:
            ValueError: a size that does not fit a structure, sets its tokens otherwise, or costs
                no more compute than the one before it.
        """
        configs: dict[str, TrainConfig] = {}
        before = dict.fromkeys(structures, 0)
        for size, change in self.sizes.items():
            for structure, config in structures.items():
                sized = self._sized(config, size, change)
                compute = count(sized.model).flops_training * sized.tokens
                if compute <= before[structure]:
                    raise ValueError(
                        f"size {size} costs {structure} no more compute than the one before it: "
                        "give sizes from the smallest to the largest"
                    )
                before[structure] = compute
                configs[rung(structure, size)] = sized
        return configs

    def _sized(self, config: TrainConfig, size: str, change: Change) -> TrainConfig:
        found = changed(with_tokens(config, self.tokens[size]), change, f"size {size}")
        if found.tokens != self.tokens[size]:
            raise ValueError(
                f"size {size} sets tokens to {found.tokens:,}: say so in the ladder's tokens"
            )
        return found
