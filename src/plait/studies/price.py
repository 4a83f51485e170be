"""What a study costs where nobody runs it: tokens, FLOPs and hours of a stated processor."""

from collections.abc import Sequence
from dataclasses import dataclass

from plait.config.counts import count
from plait.studies.study import Study

GPU, GPU_FLOPS = "H100 in bf16", 989e12
"""dense peak of the data sheet"""
UTILISATION = 0.4
"""share of it that training is taken to reach: stated, never measured here"""


@dataclass(frozen=True)
class Price:
    """Of all runs of a study: an arm in each seed."""

    study: str
    runs: int
    tokens: int
    flops: float

    @property
    def gpu_hours(self) -> float:
        """Hours of `GPU` at `UTILISATION`."""
        return self.flops / (GPU_FLOPS * UTILISATION) / 3600


def price(studies: Sequence[Study]) -> list[Price]:
    """Price each study by arithmetic alone."""
    found = []
    for study in studies:
        configs = study.variants.values()
        seeds = len(study.seeds)
        flops = sum(count(one.model).flops_training * one.tokens for one in configs)
        tokens = seeds * sum(one.tokens for one in configs)
        found.append(Price(study.name, seeds * len(study.variants), tokens, float(seeds * flops)))
    return found
