"""A study: variants × seeds under equal conditions, each run in its own folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from plait.config import TrainConfig
from plait.config.counts import count
from plait.notebook.tables import note, titled
from plait.reading import quoted
from plait.sharing import KINDS
from plait.statistics import Looks
from plait.studies.contrasts import Contrast, default_contrasts
from plait.studies.factorial import Factorial, FactorialDesign
from plait.studies.ladder import Ladder, LadderDesign
from plait.studies.tuning import Tuning

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared with what: a recipe function returns one.

    `variants` maps a name (letters, digits and . _ + -, for it names folders) to a whole training
    configuration; each is trained once per seed, everything else in it unchanged. `margin` is the
    difference in nats per token below which variants count as equal in the equivalence test.
    `contrasts` are the questions asked; none: each variant against the baseline. A study of a
    `factorial` design asks for its effects instead, one on a `ladder` for each variant of the
    largest size; `plait.studies.designs` makes both. With `tuning` each variant first gets a
    learning rate of its own. `looks` are numbers of seeds, in the order of `seeds`, at which the
    study stops where every contrast is decided; none: all seeds are run.
    """

    name: str
    baseline: str
    variants: Mapping[str, TrainConfig]
    seeds: tuple[int, ...] = (0,)
    margin: float = 0.01
    contrasts: tuple[Contrast, ...] = ()
    tuning: Tuning | None = None
    looks: tuple[int, ...] = ()
    description: str = ""
    factorial: Factorial | None = None
    ladder: Ladder | None = None

    def __post_init__(self) -> None:
        for name in (self.name, *self.variants):
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot name a folder: use letters, digits and . _ + - only, and "
                    "begin with a letter or digit"
                )
        if self.baseline not in self.variants:
            raise ValueError(
                f"study {self.name}: the baseline {self.baseline!r} is not among the variants "
                f"{', '.join(self.variants)}"
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"study {self.name}: give each seed once, at least one: {self.seeds}")
        if self.margin <= 0:
            raise ValueError(f"study {self.name}: margin {self.margin} must be above 0 nats")
        if self.looks and Looks(self.looks).sizes[-1] != len(self.seeds):
            raise ValueError(
                f"study {self.name}: the last look is at {self.looks[-1]} seeds, but there are "
                f"{len(self.seeds)}: make them the same"
            )
        if self.tuning is not None and set(self.tuning.seeds) & set(self.seeds):
            raise ValueError(
                f"study {self.name}: tuning and results share seeds {self.tuning.seeds}: a rate "
                "that is chosen on a seed flatters the result of that seed"
            )
        for contrast in self.contrasts:
            for variant in (contrast.variant, contrast.against):
                if variant not in self.variants:
                    raise ValueError(
                        f"study {self.name}: contrast {quoted(contrast.name)} names {variant!r}, "
                        f"which is not among the variants {', '.join(self.variants)}"
                    )
        names = [contrast.name for contrast in self.contrasts]
        if len(set(names)) < len(names):
            raise ValueError(f"study {self.name}: two contrasts have the same name")
        self._check_design()
        configs = self.variants.values()
        self._same("data.corpus", {config.data.corpus for config in configs})
        self._same("evaluation.final_tokens", {c.evaluation.final_tokens for c in configs})

    @property
    def questions(self) -> tuple[Contrast, ...]:
        """The contrasts that are asked, the default ones where none are stated, with margins."""
        asked = self.contrasts or default_contrasts(
            self.baseline, tuple(self.variants), self.factorial_design, self.ladder_design
        )
        return tuple(replace(one, margin=one.margin or self.margin) for one in asked)

    @property
    def factorial_design(self) -> FactorialDesign | None:
        """Names of the factors, levels and cells; None where there are none."""
        return None if self.factorial is None else self.factorial.design

    @property
    def ladder_design(self) -> LadderDesign | None:
        """Names of the sizes and rungs; None where there are none."""
        if self.ladder is None:
            return None
        return self.ladder.design(self.variants, self.baseline)

    def _repr_html_(self) -> str:
        """What is compared: the sharing and size of each variant."""
        parts = []
        for name, config in self.variants.items():
            model, baseline = config.model, " (baseline)" if name == self.baseline else ""
            size = f"{count(model).stored:,} parameters stored, {config.tokens:,} tokens"
            kinds = [kind for kind in KINDS if getattr(model.sharing, kind) != "own"]
            drawn = model.sharing.drawn(model.depth, kinds) if kinds else note("nothing is shared")
            shown = titled(f"{name}{baseline}", note(size), drawn)
            parts.append(f'<div style="margin-top: 0.8em">{shown}</div>')
        seeds = ", ".join(map(str, self.seeds))
        return titled(f"Study {self.name}, seeds {seeds}", note(self.description), *parts)

    def _check_design(self) -> None:
        if self.factorial is not None and self.looks:
            raise ValueError(
                f"study {self.name}: looks decide stated contrasts, and the effects of a factorial "
                "design are tested once, when all seeds are there: leave out looks"
            )
        if self.factorial is not None and self.ladder is not None:
            raise ValueError(f"study {self.name}: take a factorial design or a ladder, not both")
        cells = self.factorial_design.cells if self.factorial_design else self.variants
        if set(cells) != set(self.variants):
            raise ValueError(
                f"study {self.name}: its variants are not the cells of its factorial design: make "
                "it with factorial_study"
            )
        _ = self.ladder_design  # raises where variants are not its rungs

    def _same(self, option: str, values: set[Any]) -> None:
        if len(values) > 1:
            raise ValueError(
                f"study {self.name}: variants differ in {option} "
                f"({', '.join(sorted(map(str, values)))}), so their losses would not be "
                "comparable: make it the same"
            )
