"""Effects against brute-force means, planted effects, and what a fraction cannot separate."""

import math
from itertools import combinations, product

import numpy as np
import pytest

from plait.statistics import holm
from plait.statistics.factorial import factorial_effects, half_fraction

TWO = {"router": ("own", "b4"), "experts": ("own", "g4")}
MIXED = {"router": ("own", "b2", "b4"), "experts": ("own", "g4"), "width": ("1", "2", "3", "4")}
FOUR = {name: ("off", "on") for name in "abcd"}


def noise(factors: dict, seeds: int, generator: np.random.Generator) -> dict:
    """Losses with a shared seed effect and none of the factors."""
    block = generator.normal(0, 0.05, seeds)
    return {
        cell: dict(enumerate(3.5 + block + generator.normal(0, 0.02, seeds)))
        for cell in product(*factors.values())
    }


def mean(losses: dict, seed: int, **fixed: str) -> float:
    """Plain mean over the cells with these levels."""
    places = {list(MIXED).index(name): level for name, level in fixed.items()}
    return float(
        np.mean(
            [
                loss[seed]
                for cell, loss in losses.items()
                if all(cell[place] == level for place, level in places.items())
            ]
        )
    )


def test_effects_are_differences_of_plain_means() -> None:
    losses = noise(MIXED, 3, np.random.default_rng(1))
    found = factorial_effects(MIXED, losses)
    assert found.aliases == ()
    assert len(found.effects) == (2 + 1 + 3) + (2 * 1 + 2 * 3 + 1 * 3)
    for effect in found.effects:
        levels = dict(part.split("=") for part in effect.name)
        base = {name: MIXED[name][0] for name in levels}
        for seed, value in effect.difference.by_seed.items():
            expected = mean(losses, seed, **levels)
            if len(levels) == 1:
                expected -= mean(losses, seed, **base)
            else:
                a, b = levels
                expected -= mean(losses, seed, **{a: base[a], b: levels[b]})
                expected -= mean(losses, seed, **{a: levels[a], b: base[b]})
                expected += mean(losses, seed, **base)
            assert value == pytest.approx(expected, abs=1e-9)


def test_two_by_two_is_the_usual_definition() -> None:
    y = {("own", "own"): 3.0, ("b4", "own"): 3.2, ("own", "g4"): 2.9, ("b4", "g4"): 3.5}
    found = factorial_effects(TWO, {cell: {0: loss, 1: loss + 1} for cell, loss in y.items()})
    values = {effect.name: effect.difference.estimate.value for effect in found.effects}
    assert values == {
        ("router=b4",): pytest.approx((3.2 + 3.5 - 3.0 - 2.9) / 2),
        ("experts=g4",): pytest.approx((2.9 + 3.5 - 3.0 - 3.2) / 2),
        ("router=b4", "experts=g4"): pytest.approx((3.5 - 2.9) - (3.2 - 3.0)),
    }


def test_planted_effects_are_covered() -> None:
    generator, studies = np.random.default_rng(2), 2500
    planted = {("router=b4",): 0.03, ("experts=g4",): 0.0, ("router=b4", "experts=g4"): -0.02}
    covered, sums = 0, dict.fromkeys(planted, 0.0)
    for _ in range(studies):
        losses = noise(TWO, 4, generator)
        for (router, experts), by_seed in losses.items():
            r, e = (router == "b4") - 0.5, (experts == "g4") - 0.5
            for seed in by_seed:
                by_seed[seed] += 0.03 * r - 0.02 * r * e
        for effect in factorial_effects(TWO, losses).effects:
            estimate = effect.difference.estimate
            assert estimate.low is not None
            assert estimate.high is not None
            covered += estimate.low <= planted[effect.name] <= estimate.high
            sums[effect.name] += estimate.value / studies
    assert covered / studies / 3 == pytest.approx(0.95, abs=0.015)
    assert sums == pytest.approx(planted, abs=0.002)


def test_family_error_with_holm_over_all_effects() -> None:
    generator, studies = np.random.default_rng(3), 2500
    factors = {**TWO, "width": ("1", "2")}
    wrong = 0
    for _ in range(studies):
        found = factorial_effects(factors, noise(factors, 3, generator))
        p = [effect.difference.p for effect in found.effects]
        wrong += min(holm([value for value in p if value is not None])) < 0.05
    assert wrong / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)


def test_half_of_four_factors_has_clean_main_effects_and_names_its_pairs() -> None:
    cells = half_fraction(FOUR)
    assert len(cells) == 8
    assert ("off",) * 4 in cells
    losses = noise(FOUR, 3, np.random.default_rng(4))
    found = factorial_effects(FOUR, {cell: losses[cell] for cell in cells})
    assert [effect.name for effect in found.effects] == [(f"{name}=on",) for name in "abcd"]
    assert {
        frozenset("".join(n[0] for n in name) for name in group) for group in found.aliases
    } == {
        frozenset({"ab", "cd"}),
        frozenset({"ac", "bd"}),
        frozenset({"ad", "bc"}),
    }
    for place, effect in enumerate(found.effects):
        for seed, value in effect.difference.by_seed.items():
            on, off = (
                np.mean([losses[cell][seed] for cell in cells if cell[place] == level])
                for level in ("on", "off")
            )
            assert value == pytest.approx(on - off)


def test_half_of_five_factors_separates_all_pairs_and_of_three_none() -> None:
    five = {name: ("off", "on") for name in "abcde"}
    losses = noise(five, 2, np.random.default_rng(5))
    found = factorial_effects(five, {cell: losses[cell] for cell in half_fraction(five)})
    assert found.aliases == ()
    assert len(found.effects) == 5 + len(list(combinations("abcde", 2)))
    three = {name: ("off", "on") for name in "abc"}
    losses = noise(three, 2, np.random.default_rng(6))
    found = factorial_effects(three, {cell: losses[cell] for cell in half_fraction(three)})
    assert found.effects == ()
    assert (("a=on",), ("b=on", "c=on")) in found.aliases


def test_an_irregular_fraction_is_solved_where_it_can_be() -> None:
    cells = [("own", "own"), ("b4", "own"), ("own", "g4")]
    found = factorial_effects(TWO, {cell: {0: 1.0, 1: 2.0} for cell in cells})
    assert found.effects == ()
    assert found.aliases == ((("router=b4",), ("experts=g4",), ("router=b4", "experts=g4")),)


def test_a_factor_that_never_varied_is_confounded_with_the_mean() -> None:
    found = factorial_effects(TWO, {("own", "own"): {0: 1.0}, ("own", "g4"): {0: 2.0}})
    assert found.effects == ()
    assert found.aliases == (
        (("router=b4",),),
        (("experts=g4",), ("router=b4", "experts=g4")),
    )


def test_only_seeds_with_all_cells_count_and_one_has_no_p() -> None:
    losses = noise(TWO, 2, np.random.default_rng(7))
    del losses["b4", "g4"][1]
    found = factorial_effects(TWO, losses)
    assert found.seeds == (0,)
    assert all(e.difference.p is None and e.difference.estimate.low is None for e in found.effects)
    del losses["own", "own"][0]
    assert factorial_effects(TWO, losses).effects == ()


def test_mistakes_say_what_to_change() -> None:
    with pytest.raises(ValueError, match="keep two levels"):
        half_fraction(MIXED)
    with pytest.raises(ValueError, match="run all cells"):
        half_fraction(TWO)
    with pytest.raises(ValueError, match="two or more different levels"):
        factorial_effects({"router": ("own",)}, {("own",): {0: 1.0}})
    with pytest.raises(ValueError, match="one level for each"):
        factorial_effects(TWO, {("own", "b4"): {0: 1.0}})
    with pytest.raises(ValueError, match="none were given"):
        factorial_effects(TWO, {})
