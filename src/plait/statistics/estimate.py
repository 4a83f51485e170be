"""One figure, its interval, and the value beside which it is read."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One measured figure.

    `low` and `high` bound a 95 % interval, None where too little was measured to give one. `n`
    counts the independent units behind it: seeds of a study, documents of a trace. `chance` is what
    chance alone gives, `ceiling` the greatest value that is possible, None where there is none.
    """

    value: float
    low: float | None = None
    high: float | None = None
    chance: float | None = None
    ceiling: float | None = None
    n: int
