"""What a paper claims, said so that studies can test it, and how a claim came out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from plait.reading import quoted
from plait.studies.answers import Answer
from plait.studies.study import Study

Scale = Literal["nano", "tiny", "paper"]
"""two cores · one GPU · as published, stated and priced without running"""
Outcome = Literal["confirmed", "refuted", "undecided", "not testable at this scale"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim, with the contrasts of one study that test it.

    All of `contrasts` must come out as their `expected` says for it to be confirmed; one that comes
    out decided otherwise refutes it. `controls` are contrasts that say what else could explain it.
    """

    name: str
    statement: str
    published: str
    """what the paper reports for it, in its own unit"""
    study: str = ""
    contrasts: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    untestable: str = ""
    """why no study of this scale tests it"""

    def __post_init__(self) -> None:
        if bool(self.untestable) == bool(self.contrasts):
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

    def __post_init__(self) -> None:
        named = {study.name: study for study in self.studies}
        for claim in self.claims:
            known = [c.name for c in named[claim.study].contrasts] if claim.study else []
            for contrast in (*claim.contrasts, *claim.controls):
                if contrast not in known:
                    raise ValueError(
                        f"claim {claim.name}: study {claim.study!r} has no contrast "
                        f"{quoted(contrast)}"
                    )
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
            asked = {
                contrast
                for claim in claims
                if claim.study == study.name
                for contrast in (*claim.contrasts, *claim.controls)
            }
            if asked:
                studies.append(_asking(study, asked))
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


def _asking(study: Study, names: set[str]) -> Study:
    """Return the study with these contrasts alone and the arms that they name."""
    contrasts = tuple(contrast for contrast in study.contrasts if contrast.name in names)
    arms = {study.baseline} | {arm for c in contrasts for arm in (c.variant, c.against)}
    kept = {name: config for name, config in study.variants.items() if name in arms}
    return replace(study, variants=kept, contrasts=contrasts)


def outcome(claim: Claim, answers: Sequence[Answer]) -> Outcome:
    """Say how a claim came out, from the answers of its study; none where nothing has run."""
    if claim.untestable:
        return "not testable at this scale"
    found = {answer.name: answer.as_expected for answer in answers}
    tested = [found.get(name) for name in claim.contrasts]
    if False in tested:
        return "refuted"
    return "confirmed" if tested and all(tested) else "undecided"
