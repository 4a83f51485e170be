"""Errors of whole simulated studies, analysed as the comparison table analyses them."""

import math

import numpy as np
import pytest

from plait.statistics import equivalence, holm, paired_difference

STUDIES = 2500
VARIANTS = 4
MARGIN = 0.02


def losses(
    seeds: int, effects: list[float], sigma: float, generator: np.random.Generator
) -> list[dict[int, float]]:
    """Baseline first; a seed moves all variants, each run has noise of its own (nats)."""
    block = generator.normal(0, 0.05, seeds)
    return [
        dict(enumerate((3.0 + effect + block + generator.normal(0, sigma, seeds)).tolist()))
        for effect in (0.0, *effects)
    ]


@pytest.mark.parametrize("seeds", [3, 4, 6])
@pytest.mark.parametrize("true", [0, 2], ids=["no effects", "two effects"])
def test_family_error_and_coverage(seeds: int, true: int) -> None:
    """Two true effects leave Holm its last steps, where it spends most on the nulls."""
    generator = np.random.default_rng([seeds, true])
    effects = [0.5] * true + [0.0] * (VARIANTS - true)
    wrong = covered = 0
    for _ in range(STUDIES):
        baseline, *variants = losses(seeds, effects, 0.01, generator)
        p = []
        for effect, variant in zip(effects, variants, strict=True):
            difference = paired_difference(variant, baseline)
            assert difference is not None
            assert difference.p is not None
            p.append(difference.p)
            low, high = difference.estimate.low, difference.estimate.high
            assert low is not None
            assert high is not None
            covered += low <= effect <= high
        wrong += min(holm(p)[true:]) < 0.05
    assert wrong / STUDIES <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / STUDIES)
    assert covered / STUDIES / VARIANTS == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("seeds", [3, 4, 6])
@pytest.mark.parametrize("sigma", [0.002, 0.01])
def test_equivalence_is_rarely_claimed_at_the_margin(seeds: int, sigma: float) -> None:
    generator = np.random.default_rng([seeds, round(1e4 * sigma)])
    claimed = 0
    for _ in range(STUDIES):
        baseline, variant = losses(seeds, [MARGIN], sigma, generator)
        difference = paired_difference(variant, baseline)
        assert difference is not None
        tost = equivalence(list(difference.by_seed.values()), MARGIN)
        assert tost is not None
        claimed += tost.holds
    assert claimed / STUDIES <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / STUDIES)
