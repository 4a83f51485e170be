"""Each variant gets a rate of its own, from one grid at one cost, on seeds that no result uses."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from plait.config import TrainConfig
from plait.storage.run_folder import RunFolder

State = Literal["running", "tuned", "not tuned"]


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the learning rate of each variant is chosen.

    `learning_rate` is the grid, `seeds` are for tuning alone. An optimum at the edge of the grid
    widens it by one rate, `widen` times at the most; then the variant counts as not tuned. Tuning
    runs are scored on the validation split.
    """

    learning_rate: tuple[float, ...]
    seeds: tuple[int, ...] = (1000,)
    widen: int = 2

    @classmethod
    def around(cls, rate: float) -> "Tuning":
        """Return the grid of half, one and two times a rate."""
        return cls(learning_rate=(rate / 2, rate, 2 * rate))

    def __post_init__(self) -> None:
        rates = self.learning_rate
        if len(rates) < 3 or any(b <= a for a, b in pairwise(rates)):
            raise ValueError(
                f"tuning: the rates {rates} must be three or more, in increasing order, so that "
                "the best can lie between two others"
            )
        if not 0 < rates[0] <= rates[-1] < math.inf:
            raise ValueError(f"tuning: the rates {rates} must be positive")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"tuning: give each seed once, at least one: {self.seeds}")
        if self.widen < 0:
            raise ValueError(f"tuning: widen is {self.widen}: 0 or more")


@dataclass(frozen=True)
class TuningCurve:
    """Validation losses of one variant by rate and seed, and what follows from them.

    `losses` are nats per token; infinite where the run diverged.
    """

    variant: str
    state: State
    learning_rate: float | None
    losses: Mapping[float, Mapping[int, float]]

    @property
    def means(self) -> dict[float, float]:
        """Rate → mean loss over the tuning seeds."""
        return {rate: math.fsum(by.values()) / len(by) for rate, by in self.losses.items()}


def at_rate(config: TrainConfig, rate: float) -> TrainConfig:
    """Return a variant's configuration with this peak learning rate."""
    return dataclasses.replace(
        config, optimizer=dataclasses.replace(config.optimizer, learning_rate=rate)
    )


def tuning_config(config: TrainConfig, rate: float, seed: int) -> TrainConfig:
    """Return the tuning run of a variant: scored on the validation split."""
    evaluation = dataclasses.replace(config.evaluation, final_split="validation")
    return dataclasses.replace(at_rate(config, rate), seed=seed, evaluation=evaluation)


def next_rates(tuning: Tuning, means: Mapping[float, float]) -> Sequence[float]:
    """The rates that are needed and not known yet: of the grid, then beyond an edge.

    Args:
        tuning: grid and limits.
        means: rate → mean validation loss, of the rates that are known.
    """
    missing = [rate for rate in tuning.learning_rate if rate not in means]
    if missing:
        return missing
    rates = sorted(means)
    if len(rates) >= len(tuning.learning_rate) + tuning.widen:
        return []
    best = best_rate(means)
    if best == rates[0]:
        return [rates[0] * rates[0] / rates[1]]
    if best == rates[-1]:
        return [rates[-1] * rates[-1] / rates[-2]]
    return []


def best_rate(means: Mapping[float, float]) -> float:
    """The rate with the lowest mean loss, the lower one of two that are equal."""
    return min(sorted(means), key=lambda rate: means[rate])


def is_inside(means: Mapping[float, float]) -> bool:
    """Whether the best rate lies between two others."""
    return min(means) < best_rate(means) < max(means)


def tuning_curve(
    variant: str, tuning: Tuning, runs: Iterable[tuple[float, int, RunFolder]]
) -> TuningCurve:
    """Read what is known of a variant from its tuning runs: rate, seed and folder of each.

    A run that diverged has an infinite loss, so its rate is never chosen where another one trains.
    """
    losses: dict[float, dict[int, float]] = {}
    for rate, seed, run in runs:
        result = run.result()
        if result is not None:
            losses.setdefault(rate, {})[seed] = result.held_out()
        elif run.diverged:
            losses.setdefault(rate, {})[seed] = math.inf
    whole = {rate: by for rate, by in losses.items() if len(by) == len(tuning.seeds)}
    curve = TuningCurve(variant, "running", None, losses)
    means = {rate: mean for rate, mean in curve.means.items() if rate in whole}
    if next_rates(tuning, means):
        return curve
    best = best_rate(means)
    if not math.isfinite(means[best]):
        return curve
    state: State = "tuned" if is_inside(means) else "not tuned"
    return dataclasses.replace(curve, state=state, learning_rate=best)
