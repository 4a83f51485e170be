"""S over seeds: the mean in units of uniform, and a test that noise passes as seldom as it says."""

import numpy as np
import pytest

from plait.routing.metrics.topology import Topology, topology
from plait.routing.metrics.topology_over_seeds import over_seeds

EXPERTS = 8


def seed(rng: np.random.Generator, noise: float, hub: float = 0.0) -> Topology:
    """A bank after training: its parameter is noise, and all may listen to expert 3 more."""
    raw = rng.normal(0, noise, (EXPERTS, EXPERTS))
    raw = (raw + raw.T) / 2
    raw[:, 3] += hub
    np.fill_diagonal(raw, -np.inf)
    weights = np.exp(raw)
    s_EE = weights / weights.sum(1, keepdims=True)
    uniform = (1 - np.eye(EXPERTS)) / (EXPERTS - 1)
    return topology(0, (0,), s_EE, uniform)


@pytest.mark.parametrize("noise", [0.1, 0.6])
def test_noise_differs_as_seldom_as_the_level(noise: float) -> None:
    rng = np.random.default_rng(0)
    found = [over_seeds([seed(rng, noise) for _ in range(3)]).differs for _ in range(300)]
    assert np.mean(found) < 0.08


def test_what_the_seeds_share_differs() -> None:
    rng = np.random.default_rng(0)
    found = over_seeds([seed(rng, 0.1, hub=0.8) for _ in range(3)])
    assert found.differs
    assert found.mean_EE[0, 3] > 1.5
    assert found.mean_EE.sum(1) == pytest.approx(EXPERTS - 1)
    assert found.largest.n == 3


def test_one_seed_and_an_untrained_s_are_not_tested() -> None:
    rng = np.random.default_rng(0)
    assert over_seeds([seed(rng, 0.1)]).p is None
    untrained = over_seeds([seed(rng, 0.0)] * 3)
    assert untrained.p is None
    assert untrained.mean_EE[0, 1] == pytest.approx(untrained.neutral)
    assert untrained.largest.value == pytest.approx(0)


def test_what_only_rounding_moved_does_not_differ() -> None:
    """Every seed of an S without gradient comes out the same, to float32's last bits."""
    rng = np.random.default_rng(0)
    rounded = [seed(rng, 1e-9, hub=1e-6) for _ in range(3)]
    assert not over_seeds(rounded).differs
    assert over_seeds([seed(rng, 1e-6, hub=1e-3) for _ in range(3)]).differs
