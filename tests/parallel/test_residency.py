"""Which banks are said to stay, against every choice that there is."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations, pairwise, product

import pytest
from ranks import toy

from plait.config.counts import count, matrix_banks
from plait.parallel import ParallelConfig
from plait.parallel.footprint import footprint
from plait.parallel.residency import Residency
from plait.sharing import Plan, Sharing

SIZE = {"attention": 1, "experts": 3}
"""of the banks of `toy`, as multiples of one of attention"""


def plans(depth: int) -> Iterator[Plan]:
    """Yield every plan of a depth that can be written."""
    for banks in product(*(range(place + 1) for place in range(depth))):
        with suppress(ValueError):
            plan = Plan(banks)
            str(plan)
            yield plan


def best(plan: Plan, resident: int) -> tuple[int, int]:
    """Try all gaps of the experts that may be kept: the most that fit, and what is whole at least.

    Attention is each depth's own, gathered with its experts where these are its own too.
    """
    units: list[set[tuple[str, int]]] = []
    for depth, bank in enumerate(plan.banks):
        parts = [("attention", depth), ("experts", bank)]
        units += [set(parts)] if len(plan.uses(bank)) == 1 else [{part} for part in parts]
    places = {
        part: [at for at, unit in enumerate(units) if part in unit] for part in set().union(*units)
    }

    def worst(kept: tuple[tuple[tuple[str, int], int, int], ...]) -> int:
        found = []
        for at, unit in enumerate(units):
            whole = unit | (units[at - 1] if at else set())
            whole |= {part for part, start, end in kept if start < at < end}
            adding = [part for part, of in places.items() if of[0] <= at <= of[-1]]
            found.append(sum(SIZE[kind] for kind, _ in [*whole, *adding]))
        return max(found)

    gaps = [(part, *gap) for part, of in places.items() for gap in pairwise(of)]
    choices = [kept for number in range(len(gaps) + 1) for kept in combinations(gaps, number)]
    limit = worst(()) + resident * SIZE["experts"]
    return max(len(kept) for kept in choices if worst(kept) <= limit), worst(())


def test_the_sizes_are_those_of_the_model() -> None:
    attention, experts = (matrix_banks(toy(depth=1))[place].size for place in (0, 1))
    assert experts == SIZE["experts"] * attention


@pytest.mark.parametrize("resident", [0, 1, 2])
def test_as_many_gathers_are_saved_as_memory_allows(resident) -> None:
    mesh = ParallelConfig(shard=2, resident=resident)
    stayed = set()
    for plan in [plan for depth in (1, 4, 6) for plan in plans(depth)]:
        config = toy(depth=plan.depth, sharing=Sharing(experts=str(plan)))
        found = Residency.plan(config, mesh)
        most, least = best(plan, resident)
        assert sum(map(sum, found.stays.values())) == most, plan
        stayed.add(most)
        gathered = sum(map(found.gathers, matrix_banks(config)))
        assert gathered == 4 * plan.depth - 2 * most
        unit = 2 * matrix_banks(config)[0].size  # in bf16
        said = footprint(config, mesh, 1)
        rest = count(config).stored - sum(bank.size for bank in matrix_banks(config))
        assert said.gathered - said.staying == 8 * rest + unit * least
        assert said.staying <= resident * unit * SIZE["experts"], plan
    assert len(stayed) > 3
