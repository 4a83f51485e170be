"""The comparison table: a row per variant, with all that a fair comparison must show beside it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from plait.statistics import (
    Difference,
    Equivalence,
    Estimate,
    equivalence,
    holm,
    mean_interval,
    paired_difference,
)
from plait.studies.results import StudyResults

Verdict = Literal["baseline", "better", "worse", "equivalent", "undecided", "one seed", "unpaired"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant over its finished seeds.

    Parameters are counts; FLOPs are for training (forward and backward) per token; `loss` is
    held-out nats per token on the test split; `bits_per_byte` is by domain, pooled under "all";
    `gate_mass` is the mean sum of a token's gates. `difference` is variant − baseline in nats per
    token, `p` its Holm-adjusted p value; None for the baseline and where no seed is shared.
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
    p: float | None = None
    equivalence: Equivalence | None = None

    @property
    def perplexity(self) -> Estimate:
        """The exponential of the loss and of its bounds."""
        low, high = (None if b is None else math.exp(b) for b in (self.loss.low, self.loss.high))
        return Estimate(value=math.exp(self.loss.value), low=low, high=high, n=self.loss.n)


def verdict(row: Row) -> Verdict:
    """What the seeds allow to say of a variant against the baseline, at 5 % after Holm."""
    if row.baseline:
        return "baseline"
    if row.difference is None:
        return "unpaired"
    if row.p is None:
        return "one seed"
    if row.p < 0.05:
        return "better" if row.difference.estimate.value < 0 else "worse"
    if row.equivalence is not None and row.equivalence.holds:
        return "equivalent"
    return "undecided"


def comparison_table(study: StudyResults) -> tuple[Row, ...]:
    """Rows of every variant with a finished run, in the study's order."""
    base_losses = study.measured(study.baseline)
    differences: dict[str, Difference] = {}
    for variant in study.finished_variants:
        if variant != study.baseline:
            difference = paired_difference(study.measured(variant), base_losses)
            if difference is not None:
                differences[variant] = difference
    tested = {name: d.p for name, d in differences.items() if d.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(
        _row(study, variant, differences.get(variant), adjusted.get(variant))
        for variant in study.finished_variants
    )


def _row(study: StudyResults, variant: str, difference: Difference | None, p: float | None) -> Row:
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
        difference=difference,
        p=p,
        equivalence=None
        if difference is None
        else equivalence(list(difference.by_seed.values()), study.margin),
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
            "difference_p_holm": row.p,
            "equivalence_margin_nats": row.equivalence and row.equivalence.margin,
            "equivalence_p": row.equivalence and row.equivalence.p,
            "verdict": verdict(row),
        }
        for row in rows
    ]


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
