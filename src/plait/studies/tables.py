"""The comparison table: a row per variant, with all that a fair comparison must show beside it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plait.statistics import Difference, Estimate, mean_interval, paired_difference
from plait.studies.answers import Answer, answers, has_learned
from plait.studies.results import StudyResults


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant over its finished seeds.

    Parameters are counts; FLOPs are for training (forward and backward) per token; `loss` is
    held-out nats per token on the test split; `bits_per_byte` is by domain, pooled under "all";
    `gate_mass` is the mean sum of a token's gates. `difference` is variant − baseline in nats per
    token, None for the baseline and where no seed is shared; `answer` is the study's question about
    it, None where the study does not ask and the difference is for orientation only. `learned`:
    its loss lies below that of the bigram, or nobody counted.
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
    asked = {a.contrast.variant: a for a in answers(study) if a.contrast.against == study.baseline}
    return tuple(
        _row(study, variant, asked.get(variant) if variant != study.baseline else None)
        for variant in study.finished_variants
    )


def _row(study: StudyResults, variant: str, answer: Answer | None) -> Row:
    runs = study.of(variant)
    first = runs[0].result  # counts are functions of the configuration: equal for every seed
    masses = [run.result.gate_mass for run in runs if run.result.gate_mass is not None]
    return Row(
        variant=variant,
        baseline=variant == study.baseline,
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
        if variant == study.baseline
        else paired_difference(study.measured(variant), study.measured(study.baseline)),
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


def _answered(answer: Answer | None) -> dict[str, Any]:
    return {
        "p_holm": answer and answer.p,
        "equivalence_margin_nats": answer and answer.margin,
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
