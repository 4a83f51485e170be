"""What a study on a ladder of sizes found: curves, the largest size predicted, compute saved."""

import math
from dataclasses import dataclass

from plait.statistics import (
    Curve,
    Estimate,
    HeldOut,
    Ladder,
    decision_accuracy,
    fit_curve,
    mean_interval,
    speed_up,
)
from plait.studies.ladder import LadderDesign, rung
from plait.studies.results import StudyResults

_INSIDE = 1e-6
"""nats per token that a speed-up's loss lies above the end of a curve, out of rounding's way"""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """A structure at a size: `compute` in training FLOPs of the whole run, loss in nats/token."""

    size: str
    compute: float
    losses: dict[int, float]
    """by seed"""

    @property
    def loss(self) -> Estimate:
        """Mean over seeds."""
        return mean_interval(list(self.losses.values()))


@dataclass(frozen=True, kw_only=True)
class Climb:
    """One structure over its finished sizes.

    `smaller` is the curve through all sizes but the largest, from which `held_out` comes; both
    are None with fewer than four sizes finished by a seed. `speed_up` is the baseline's compute ÷
    its own at a loss of `at_loss` nats per token; None for the baseline, and where the two curves
    reach no common loss where they were measured.
    """

    structure: str
    rungs: tuple[Rung, ...]
    smaller: Curve | None = None
    held_out: HeldOut[str] | None = None
    speed_up: Estimate | None = None
    at_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Every structure's climb, and by size how often its ranking is that of the largest."""

    baseline: str
    climbs: tuple[Climb, ...]
    accuracy: dict[str, Estimate]


def scaling(study: StudyResults) -> Scaling | None:
    """Analyse a study on a ladder as far as its runs are finished; None for one of another kind."""
    design = study.ladder
    if design is None:
        return None
    rungs = {name: _rungs(study, design, name) for name in design.structures}
    ladders = {name: _ladder(found) for name, found in rungs.items()}
    reference = ladders[design.baseline]
    return Scaling(
        baseline=design.baseline,
        climbs=tuple(
            _climb(name, rungs[name], ladders[name], None if name == design.baseline else reference)
            for name in design.structures
        ),
        accuracy=_accuracy(design, rungs),
    )


def _rungs(study: StudyResults, design: LadderDesign, structure: str) -> tuple[Rung, ...]:
    found = []
    for size in design.sizes:
        runs = study.of(rung(structure, size))
        if runs:
            first = runs[0].result  # counts are functions of the configuration
            compute = first.flops_per_token["training"] * first.tokens
            losses = {run.seed: run.held_out() for run in runs}
            found.append(Rung(size=size, compute=compute, losses=losses))
    return tuple(found)


def _ladder(rungs: tuple[Rung, ...]) -> Ladder[str] | None:
    """None where there is no curve: under three sizes, or no seed at all of them."""
    shared = set.intersection(*(set(r.losses) for r in rungs)) if rungs else set()
    if len(rungs) < 3 or not shared:
        return None
    return Ladder({r.size: r.compute for r in rungs}, {r.size: r.losses for r in rungs})


def _climb(
    structure: str,
    rungs: tuple[Rung, ...],
    ladder: Ladder[str] | None,
    reference: Ladder[str] | None,
) -> Climb:
    if ladder is None:
        return Climb(structure=structure, rungs=rungs)
    smaller = held_out = None
    if len(ladder.sizes) > 3:
        smaller = fit_curve(ladder.compute_N[:-1], ladder.losses_SN.mean(0)[:-1])
        held_out = ladder.held_out()
    saved = at_loss = None
    if reference is not None:
        ends = [one.curve().at(float(one.compute_N[-1])) for one in (reference, ladder)]
        at_loss = max(ends) + _INSIDE
        saved = speed_up(reference, ladder, at_loss)
    return Climb(
        structure=structure,
        rungs=rungs,
        smaller=smaller,
        held_out=held_out,
        speed_up=saved,
        at_loss=None if saved is None else at_loss,
    )


def _accuracy(design: LadderDesign, rungs: dict[str, tuple[Rung, ...]]) -> dict[str, Estimate]:
    """Over the seeds that finished all that has begun, so that every mean is of the same seeds."""
    everything = [one.losses for found in rungs.values() for one in found]
    seeds = sorted(set.intersection(*map(set, everything))) if everything else []
    if not seeds:
        return {}
    means = {
        name: {one.size: math.fsum(one.losses[s] for s in seeds) / len(seeds) for one in found}
        for name, found in rungs.items()
    }
    return decision_accuracy(means, design.sizes)
