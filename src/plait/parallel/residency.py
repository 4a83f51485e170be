"""Which banks of several depths stay gathered from one use to the next, and what makes them stay.

A bank is whole for its use in any case. Where the next depth uses it again, keeping it costs
nothing beside what is whole then anyway; where depths with other banks come between, it is held
for longer, and `resident` of the mesh says for how many banks there is memory. The plan is
arithmetic alone, so that `footprint` knows it too.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from plait.config import ModelConfig
from plait.config.counts import Bank, matrix_banks
from plait.parallel.mesh import ParallelConfig


@dataclass(frozen=True)
class Residency:
    """What is whole at each place of a walk over depth, which the backward takes in reverse.

    Attributes:
        units: what is gathered in one go, in the order of use: attention and experts that a depth
            has for itself together, a bank of several depths alone.
        stays: by bank of several depths, whether it stays after each use but the last.
        needed: by place, the banks that are whole anyway: the unit's, and those of its neighbour,
            which FSDP2 gathers ahead.
        held: by place, the banks that are whole: needed, or staying.
        adding: by place, the banks whose gradient is whole: from their last use to their first.
    """

    units: Sequence[tuple[Bank, ...]]
    stays: Mapping[Bank, tuple[bool, ...]]
    needed: Sequence[frozenset[Bank]]
    held: Sequence[frozenset[Bank]]
    adding: Sequence[frozenset[Bank]]

    @classmethod
    def plan(cls, config: ModelConfig, mesh: ParallelConfig) -> "Residency":
        """Keep what fits, the bank whose next use comes first before others.

        What is whole at the worst place grows by `resident` times the largest bank of several
        depths at the most.
        """

        def size(*banks: Bank) -> int:
            return sum(bank.whole(mesh.expert or 1) for bank in banks)

        units = _units(config)
        uses = _uses(units)
        needed = [frozenset(unit + before) for before, unit in pairwise([(), *units])]
        adding = [
            frozenset(bank for bank, places in uses.items() if places[0] <= at <= places[-1])
            for at in range(len(units))
        ]
        tied = {bank: places for bank, places in uses.items() if len(places) > 1}
        most = max(size(*whole, *sums) for whole, sums in zip(needed, adding, strict=True))
        most += mesh.resident * max(map(size, tied), default=0)
        gaps = [(end, at, bank) for bank, places in tied.items() for at, end in pairwise(places)]
        held, kept = list(needed), set()
        for end, start, bank in sorted(gaps, key=lambda gap: gap[:2]):
            between = range(start + 1, end)
            if all(size(*held[at] | {bank}, *adding[at]) <= most for at in between):
                kept.add((start, bank))
                for at in between:
                    held[at] |= {bank}
        stays = {bank: tuple((at, bank) in kept for at in tied[bank][:-1]) for bank in tied}
        return cls(units, stays, needed, held, adding)

    def gathers(self, bank: Bank) -> int:
        """Count how often a step gathers a bank: forward and backward alike."""
        return 2 * (len(bank.depths) - sum(self.stays.get(bank, ())))


def _units(config: ModelConfig) -> list[tuple[Bank, ...]]:
    at: dict[int, list[Bank]] = defaultdict(list)
    for bank in matrix_banks(config):
        for depth in bank.depths:
            at[depth].append(bank)
    units: list[tuple[Bank, ...]] = []
    for depth in range(config.depth):
        apart = any(len(bank.depths) > 1 for bank in at[depth])
        units += [(bank,) for bank in at[depth]] if apart else [tuple(at[depth])]
    return units


def _uses(units: Sequence[tuple[Bank, ...]]) -> dict[Bank, list[int]]:
    uses: dict[Bank, list[int]] = defaultdict(list)
    for place, unit in enumerate(units):
        for bank in unit:
            uses[bank].append(place)
    return uses


def stay_between_uses(model: nn.Module, stays: Mapping[FSDPModule, Sequence[bool]]) -> None:
    """Leave modules gathered after uses, in the forward and at the same places of the backward.

    Args:
        model: whose forward uses them, each once more than its sequence is long.
        stays: for each use but the last whether it stays until the next.
    """
    coming: dict[nn.Module, Iterator[tuple[bool, bool]]] = {}

    def begin(*_: Any) -> None:
        for module, after in stays.items():
            assert isinstance(module, nn.Module)
            coming[module] = zip((*after, False), (False, *after), strict=True)

    def end(*_: Any) -> None:
        coming.clear()  # what runs a module from now on recomputes it: FSDP2 leaves it gathered

    def used(module: nn.Module, _: Any, y: Tensor) -> None:
        if module not in coming:
            return
        assert isinstance(module, FSDPModule)
        in_forward, in_backward = next(coming[module])
        if not in_forward:
            module.reshard()
        if y.requires_grad:  # called before the gradients of this use reach FSDP2
            hook = partial(_set_for_backward, module, in_backward)
            y.register_hook(hook)  # type: ignore[no-untyped-call]

    model.register_forward_pre_hook(begin)
    model.register_forward_hook(end, always_call=True)
    for module in stays:
        assert isinstance(module, nn.Module)
        module.set_reshard_after_forward(False, recurse=False)
        module.register_forward_hook(used)


def _set_for_backward(module: FSDPModule, stay: bool, _: Tensor) -> None:
    module.set_reshard_after_backward(not stay, recurse=False)
