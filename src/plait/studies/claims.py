"""What a paper claims, said so that studies can test it, and how a claim came out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from plait.reading import quoted
from plait.statistics import Difference, holm, paired_difference
from plait.studies.answers import LEAST_SEEDS, LEVEL, Answer
from plait.studies.contrasts import Contrast, Expected
from plait.studies.effects import EffectFinding
from plait.studies.study import Study

Scale = Literal["nano", "tiny", "paper"]
"""two cores · one GPU · as published, stated and priced without running"""
Outcome = Literal["confirmed", "refuted", "undecided", "not testable at this scale"]


PathMeasure = Literal["coverage", "consistency", "one permutation", "permutation per depth"]
"""Of a trace: share of tokens on the 100 most frequent paths · Jaccard index of neighbouring depths
above chance · rise of the loss when experts are permuted, nats per token"""


@dataclass(frozen=True, kw_only=True)
class PathContrast:
    """One question about paths: a measure of `variant` minus that of `against`, paired by seed."""

    measure: PathMeasure
    variant: str
    against: str
    expected: Literal["higher", "lower"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, with what tests it of one study: contrasts of losses or of paths, or effects.

    All of them must come out as their `expected` says for it to be confirmed; one that comes
    out decided otherwise refutes it. `controls` are contrasts or effects that say what else could
    explain it.
    """

    name: str
    statement: str
    published: str
    """what the paper reports for it, in its own unit; empty: no paper makes it"""
    study: str = ""
    contrasts: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    paths: tuple[PathContrast, ...] = ()
    effects: Mapping[str, Expected] = field(default_factory=dict)
    """of a factorial design, by their names (`plait.studies.factorial.effect_name`)"""
    untestable: str = ""
    """why no study of this scale tests it"""

    def __post_init__(self) -> None:
        if bool(self.untestable) == bool(self.contrasts or self.paths or self.effects):
            raise ValueError(
                f"claim {self.name}: give the contrasts that test it, or say why none does"
            )


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table of the paper: what it reports for arms of a study, to stand beside ours."""

    title: str
    study: str
    columns: tuple[str, ...]
    published: Mapping[str, tuple[str, ...]]
    """of each arm, a cell for each column; arms that only ours has are added"""


@dataclass(frozen=True, kw_only=True)
class PaperFigure:
    """A figure of the paper, by its number there, and which of our figures answers it."""

    number: str
    title: str
    study: str
    shows: str
    """a name in `plait.report.paper`: of its `figures`, or of those that need a trace"""
    arms: tuple[str, ...] = ()
    """none: all of the study"""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """A paper at one scale: claims, the studies that test them, its tables and figures."""

    name: str
    title: str
    scale: Scale
    studies: tuple[Study, ...]
    claims: tuple[Claim, ...]
    tables: tuple[PaperTable, ...] = ()
    figures: tuple[PaperFigure, ...] = ()
    notes: tuple[str, ...] = ()
    """what differs from the paper at this scale, and what is inferred"""
    deviation: float | None = None
    """σ of a paired difference in nats per token, as such runs had it before; None: not known"""

    def __post_init__(self) -> None:
        named = {study.name: study for study in self.studies}
        for claim in self.claims:
            study = named.get(claim.study)
            design = study.factorial_design if study else None
            effects = design.effects if design else ()
            known = [c.name for c in study.contrasts] if study else []
            for effect in claim.effects:
                if effect not in effects:
                    raise ValueError(
                        f"claim {claim.name}: study {claim.study!r} has no effect {quoted(effect)}"
                    )
            for contrast in (*claim.contrasts, *claim.controls):
                if contrast not in (*known, *effects):
                    raise ValueError(
                        f"claim {claim.name}: study {claim.study!r} has no contrast "
                        f"{quoted(contrast)}"
                    )
            for asked in claim.paths:
                for arm in (asked.variant, asked.against):
                    if arm not in named[claim.study].variants:
                        raise ValueError(f"claim {claim.name}: {claim.study} has no arm {arm!r}")
        shown: tuple[PaperTable | PaperFigure, ...] = (*self.tables, *self.figures)
        for one in shown:
            arms = one.published if isinstance(one, PaperTable) else one.arms
            for arm in arms:
                if arm not in named[one.study].variants:
                    raise ValueError(f"{one.title}: study {one.study} has no arm {arm!r}")

    def of(self, names: Sequence[str]) -> "Paper":
        """Return the paper with these claims alone, and the arms that they need; none: all.

        Raises:
            ValueError: it has no such claim, or none of them can be tested at this scale.
        """
        if not names:
            return self
        known = {claim.name: claim for claim in self.claims}
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{self.name} has no claim {quoted(name)}: choose {', '.join(known)}"
                )
        claims = tuple(known[name] for name in names)
        studies = []
        for study in self.studies:
            of_study = [claim for claim in claims if claim.study == study.name]
            if of_study:
                studies.append(_asking(study, of_study))
        if not studies:
            raise ValueError(f"{', '.join(names)}: not testable at {self.scale} scale")
        arms = {study.name: study.variants for study in studies}
        tables = [
            replace(
                t, published={arm: of for arm, of in t.published.items() if arm in arms[t.study]}
            )
            for t in self.tables
            if t.study in arms
        ]
        figures = []
        for figure in self.figures:
            left = tuple(arm for arm in figure.arms if arm in arms.get(figure.study, ()))
            if figure.study in arms and (left or not figure.arms):
                figures.append(replace(figure, arms=left))
        return replace(
            self,
            claims=claims,
            studies=tuple(studies),
            tables=tuple(tables),
            figures=tuple(figures),
        )

    def study(self, name: str) -> Study:
        """Return the study of this name."""
        return next(study for study in self.studies if study.name == name)


def _asking(study: Study, claims: Sequence[Claim]) -> Study:
    """Return the study with the contrasts of these claims alone and the arms that they name."""
    names = {name for claim in claims for name in (*claim.contrasts, *claim.controls)}
    contrasts = tuple(contrast for contrast in study.contrasts if contrast.name in names)
    asked: list[Contrast | PathContrast] = [*contrasts]
    asked += [one for claim in claims for one in claim.paths]
    arms = {study.baseline} | {arm for one in asked for arm in (one.variant, one.against)}
    if any(claim.effects for claim in claims):
        arms = set(study.variants)
    kept = {name: config for name, config in study.variants.items() if name in arms}
    return replace(study, variants=kept, contrasts=contrasts)


@dataclass(frozen=True, kw_only=True)
class PathAnswer:
    """One question about paths and what is known of it; `p` after Holm's correction."""

    contrast: PathContrast
    difference: Difference | None
    p: float | None

    @property
    def as_expected(self) -> bool | None:
        """Whether it came out as claimed; None where it is not decided."""
        if self.difference is None or self.p is None or self.p >= LEVEL:
            return None
        return (self.difference.estimate.value > 0) == (self.contrast.expected == "higher")


def path_answers(
    contrasts: Sequence[PathContrast],
    measured: Mapping[str, Mapping[int, Mapping[PathMeasure, float]]],
) -> tuple[PathAnswer, ...]:
    """Answer questions about paths that are asked together.

    Args:
        contrasts: the questions; each counts in Holm's correction of the others.
        measured: arm → seed → measures.
    """

    def of(contrast: PathContrast, arm: str) -> dict[int, float]:
        return {
            seed: by[contrast.measure]
            for seed, by in measured.get(arm, {}).items()
            if contrast.measure in by
        }

    found = [paired_difference(of(c, c.variant), of(c, c.against)) for c in contrasts]
    tested = [None if one is None or one.estimate.n < LEAST_SEEDS else one.p for one in found]
    corrected = holm([1.0 if p is None else p for p in tested])
    return tuple(
        PathAnswer(contrast=contrast, difference=one, p=None if p is None else adjusted)
        for contrast, one, p, adjusted in zip(contrasts, found, tested, corrected, strict=True)
    )


def outcome(
    claim: Claim,
    answers: Sequence[Answer],
    paths: Sequence[PathAnswer] = (),
    effects: Sequence[EffectFinding] = (),
) -> Outcome:
    """Say how a claim came out, from the answers of its study; none where nothing has run."""
    if claim.untestable:
        return "not testable at this scale"
    found = {answer.name: answer.as_expected for answer in answers}
    about_paths = {answer.contrast: answer.as_expected for answer in paths}
    moved = {
        one.name: one.came_out(claim.effects[one.name])
        for one in effects
        if one.name in claim.effects
    }
    tested = [
        *(found.get(name) for name in claim.contrasts),
        *(about_paths.get(contrast) for contrast in claim.paths),
        *(moved.get(name) for name in claim.effects),
    ]
    if False in tested:
        return "refuted"
    return "confirmed" if tested and all(tested) else "undecided"
