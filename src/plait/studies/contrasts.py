"""The questions of a study, stated before its first run."""

from dataclasses import dataclass
from typing import Literal

from plait.reading import quoted
from plait.studies.factorial import FactorialDesign
from plait.studies.ladder import LadderDesign

Expected = Literal["lower", "equal"]


@dataclass(frozen=True)
class Contrast:
    """One question: held-out loss of `variant` minus that of `against`, paired by seed.

    `margin`, in nats per token, is the difference below which both count as equal; None: the
    study's. `expected` is what the claim behind it says ("lower": the variant's loss is), `claim`
    that claim in words.
    """

    name: str
    variant: str
    against: str
    margin: float | None = None
    expected: Expected | None = None
    claim: str = ""

    @classmethod
    def between(cls, variant: str, against: str, expected: Expected | None = None) -> "Contrast":
        """Return the question that is named by its two variants."""
        return cls(f"{variant} − {against}", variant, against, expected=expected)

    def __post_init__(self) -> None:
        if self.variant == self.against:
            raise ValueError(f"contrast {quoted(self.name)}: it compares {self.variant} to itself")
        if self.margin is not None and not 0 < self.margin < float("inf"):
            raise ValueError(
                f"contrast {quoted(self.name)}: its margin is {self.margin} nats, and must be "
                "above 0"
            )


def default_contrasts(
    baseline: str,
    variants: tuple[str, ...],
    factorial: FactorialDesign | None,
    ladder: LadderDesign | None,
) -> tuple[Contrast, ...]:
    """Return the questions that a study asks where it states none: each variant − the baseline.

    On a ladder only those of the baseline's size; none of a factorial design, whose effects are
    asked for.
    """
    if factorial is not None:
        return ()
    return tuple(
        Contrast.between(variant, baseline)
        for variant in variants
        if variant != baseline and (ladder is None or ladder.same_size(variant) == baseline)
    )
