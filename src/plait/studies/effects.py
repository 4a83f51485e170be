"""The effects of a factorial study's factors: main effects and two-way interactions, judged."""

from dataclasses import dataclass

from plait.statistics import factorial_effects
from plait.studies.answers import Finding, Question, findings, has_learned
from plait.studies.factorial import effect_name
from plait.studies.results import StudyResults


@dataclass(frozen=True, kw_only=True)
class EffectFinding(Finding):
    """One effect and what is known of it; p values are corrected over all of the study's effects.

    `levels` is `("router=b4",)` for a main effect, that level's mean loss minus the reference
    level's, or `("router=b4", "experts=g4")` for an interaction: by how much the one moves the
    effect of the other. `margin` is in nats per token.
    """

    levels: tuple[str, ...]
    margin: float

    @property
    def name(self) -> str:
        """What the effect is called: "router=b4 × experts=g4"."""
        return effect_name(self.levels)

    @property
    def as_expected(self) -> bool | None:
        """None: a factorial design states no claims."""
        return None


@dataclass(frozen=True, kw_only=True)
class Effects:
    """What a factorial study found.

    `findings` are empty until a seed has finished every cell; `seeds` are those that have. Each
    group of `aliases` names effects that the cells do not tell apart.
    """

    findings: tuple[EffectFinding, ...]
    aliases: tuple[tuple[str, ...], ...]
    seeds: tuple[int, ...]


def effects(study: StudyResults) -> Effects | None:
    """Estimate and judge a factorial study's effects; None for a study of another kind."""
    design = study.factorial
    if design is None:
        return None
    found = factorial_effects(
        design.factors, {cell: study.measured(name) for name, cell in design.cells.items()}
    )
    learned = all(has_learned(study, name) for name in design.cells)
    judged = findings([Question.of(e.difference, study.margin, learned) for e in found.effects])
    return Effects(
        findings=tuple(
            EffectFinding(levels=effect.name, margin=study.margin, **vars(finding))
            for effect, finding in zip(found.effects, judged, strict=True)
        ),
        aliases=tuple(tuple(map(effect_name, group)) for group in found.aliases),
        seeds=found.seeds,
    )
