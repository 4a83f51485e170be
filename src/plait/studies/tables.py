"""The comparison table: a row per variant, with all that a fair comparison must show beside it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plait.statistics import Difference, Estimate, mean_interval, paired_difference
from plait.studies.answers import Answer, Finding, answers, has_learned
from plait.studies.effects import Effects, effects
from plait.studies.results import StudyResults
from plait.studies.scaling import Scaling, scaling


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant over its finished seeds.

    Parameters are counts; FLOPs are for training (forward and backward) per token; `loss` is
    held-out nats per token on the test split; `bits_per_byte` is by domain, pooled under "all";
    `gate_mass` is the mean sum of a token's gates. `difference` is variant − baseline in nats per
    token (on a ladder the baseline of its size), None for a baseline and where no seed is shared;
    `answer` is the study's question about it, None where the study does not ask and the difference
    is for orientation only. `learned`: its loss lies below that of the bigram, or nobody counted.
    """

    variant: str
    baseline: bool
    seeds: tuple[int, ...]
    stored: int
    total: int
    active: int
    training_flops: float
    tokens: int
    tokens_per_second: float
    gate_mass: float | None
    loss: Estimate
    bits_per_byte: Mapping[str, Estimate]
    difference: Difference | None = None
    answer: Answer | None = None
    learned: bool = True

    @property
    def perplexity(self) -> Estimate:
        """The exponential of the loss and of its bounds."""
        low, high = (None if b is None else math.exp(b) for b in (self.loss.low, self.loss.high))
        return Estimate(value=math.exp(self.loss.value), low=low, high=high, n=self.loss.n)


def comparison_table(study: StudyResults) -> tuple[Row, ...]:
    """Rows of every variant with a finished run, in the study's order."""
    asked = {
        a.contrast.variant: a
        for a in answers(study)
        if a.contrast.against == study.reference(a.contrast.variant)
    }
    return tuple(_row(study, name, asked.get(name)) for name in study.finished_variants)


def _row(study: StudyResults, variant: str, answer: Answer | None) -> Row:
    runs = study.of(variant)
    against = study.reference(variant)
    first = runs[0].result  # counts are functions of the configuration: equal for every seed
    masses = [run.result.gate_mass for run in runs if run.result.gate_mass is not None]
    return Row(
        variant=variant,
        baseline=variant == against,
        seeds=tuple(run.seed for run in runs),
        stored=first.parameters["stored"],
        total=first.parameters["total"],
        active=first.parameters["active"],
        training_flops=first.flops_per_token["training"],
        tokens=first.tokens,
        tokens_per_second=_mean([run.result.tokens_per_second for run in runs]),
        gate_mass=_mean(masses) if masses else None,
        loss=mean_interval(list(study.measured(variant).values())),
        bits_per_byte={
            domain: mean_interval(list(study.measured(variant, domain, "bits_per_byte").values()))
            for domain in (*study.domains, "all")
        },
        difference=None
        if variant == against
        else paired_difference(study.measured(variant), study.measured(against)),
        answer=answer,
        learned=has_learned(study, variant),
    )


def records(rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    """The rows as flat records for CSV and JSON; names carry the units."""
    return [
        {
            "variant": row.variant,
            "baseline": row.baseline,
            "seeds": len(row.seeds),
            "parameters_stored": row.stored,
            "parameters_total": row.total,
            "parameters_active": row.active,
            "training_flops_per_token": row.training_flops,
            "tokens_seen": row.tokens,
            "tokens_per_second": row.tokens_per_second,
            "gate_mass": row.gate_mass,
            **_columns("loss_nats_per_token", row.loss),
            **_columns("perplexity", row.perplexity),
            **{
                key: value
                for domain, estimate in row.bits_per_byte.items()
                for key, value in _columns(f"bits_per_byte_{domain}", estimate).items()
            },
            **_columns(
                "difference_nats_per_token", row.difference.estimate if row.difference else None
            ),
            **_answered(row.answer),
        }
        for row in rows
    ]


def contrast_records(found: tuple[Answer, ...]) -> list[dict[str, Any]]:
    """The answers as flat records for CSV and JSON; names carry the units."""
    return [
        {
            "contrast": answer.contrast.name,
            "variant": answer.contrast.variant,
            "against": answer.contrast.against,
            "claim": answer.contrast.claim,
            "expected": answer.contrast.expected,
            "seeds": len(answer.difference.by_seed) if answer.difference else 0,
            **_columns(
                "difference_nats_per_token",
                answer.difference.estimate if answer.difference else None,
            ),
            **_answered(answer),
        }
        for answer in found
    ]


def design_records(study: StudyResults) -> dict[str, list[dict[str, Any]]]:
    """What the study's design found, as flat records: "effects", or "ladder" and "ranking".

    Nothing for a study that is neither factorial nor on a ladder.
    """
    if (found := effects(study)) is not None:
        return {"effects": _effect_records(found)}
    if (scaled := scaling(study)) is not None:
        return {"ladder": _ladder_records(scaled), "ranking": _ranking_records(scaled)}
    return {}


def _effect_records(found: Effects) -> list[dict[str, Any]]:
    return [
        {
            "effect": finding.name,
            "seeds": len(found.seeds),
            **_columns(
                "effect_nats_per_token",
                finding.difference.estimate if finding.difference else None,
            ),
            **_judged(finding, finding.margin),
        }
        for finding in found.findings
    ]


def _ladder_records(found: Scaling) -> list[dict[str, Any]]:
    return [
        {
            "structure": climb.structure,
            "baseline": climb.structure == found.baseline,
            "rungs": [
                {
                    "size": one.size,
                    "training_flops": one.compute,
                    **_columns("loss_nats_per_token", one.loss),
                }
                for one in climb.rungs
            ],
            "held_out_size": climb.held_out and climb.held_out.size,
            "observed_nats_per_token": climb.held_out and climb.held_out.observed,
            "predicted_nats_per_token": climb.held_out and climb.held_out.predicted,
            "predicted_nats_per_token_low90": climb.held_out and climb.held_out.low,
            "predicted_nats_per_token_high90": climb.held_out and climb.held_out.high,
            "speed_up_at_nats_per_token": climb.at_loss,
            **_columns("speed_up", climb.speed_up),
        }
        for climb in found.climbs
    ]


def _ranking_records(found: Scaling) -> list[dict[str, Any]]:
    return [
        {"size": size, "pairs": share.n, **_columns("share_of_pairs_as_at_the_largest", share)}
        for size, share in found.accuracy.items()
    ]


def _answered(answer: Answer | None) -> dict[str, Any]:
    return _judged(answer, answer.margin if answer else None)


def _judged(answer: Finding | None, margin: float | None) -> dict[str, Any]:
    return {
        "p_holm": answer and answer.p,
        "equivalence_margin_nats": margin,
        "equivalence_p_holm": answer and answer.p_equivalence,
        "verdict": answer and answer.verdict,
    }


def _columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {name: None, f"{name}_low95": None, f"{name}_high95": None}
    return {
        name: estimate.value,
        f"{name}_low95": estimate.low,
        f"{name}_high95": estimate.high,
    }


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)
