"""What a mesh asks of each process: memory and bytes sent, by arithmetic alone.

`tests/parallel/test_footprint.py` holds the figures to those of real processes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from plait.config import ModelConfig
from plait.config.counts import Bank, backward_bytes_per_token, count, matrix_banks
from plait.parallel.mesh import ParallelConfig
from plait.parallel.parallelise import require_divisible
from plait.parallel.residency import Residency


@dataclass(frozen=True)
class Footprint:
    """Bytes of one process: what it holds, and what reaches it in a step of one micro-batch."""

    weights: int
    """its share, in float32"""
    gradients: int
    """its share, in float32"""
    optimizer: int
    """its share of the moments, in float32"""
    gathered: int
    """what is whole at the worst moment: the rest, two units, banks that stay between their uses,
    and gradients still to be sent"""
    staying: int
    """of that what banks that stay add to the worst moment"""
    activations: int
    """what the forward keeps for the backward"""
    weights_received: int
    """gathering, forward and backward"""
    gradients_received: int
    """reducing over shards, then over replicas"""
    updates_received: int
    """Muon: matrices to their owners, and what these make of them back"""
    tokens_received: int
    """rows of tokens to experts and back, and their gradients, under even load"""

    @property
    def memory(self) -> int:
        """All that is held at the worst moment, the allocator's waste apart."""
        held = self.weights + self.gradients + self.optimizer
        return held + self.gathered + self.activations


def footprint(
    config: ModelConfig,
    mesh: ParallelConfig,
    tokens: int,
    *,
    precision: Literal["fp32", "bf16"] = "bf16",
    optimizer: Literal["adamw", "muon"] = "adamw",
    checkpointing: bool = False,
) -> Footprint:
    """Count what each of the processes of a mesh holds and receives in a step.

    Args:
        config: the model.
        mesh: its sizes; what is not said is 1.
        tokens: that a process takes at once.
        precision: of the products, in which matrices are gathered.
        optimizer: AdamW keeps two moments; muon one of matrices and experts.
        checkpointing: depths are recomputed in the backward pass.

    Raises:
        ValueError: training would refuse the mesh for this model.
    """
    require_divisible(config, mesh)
    replicate, shard, expert = (size or 1 for size in (mesh.replicate, mesh.shard, mesh.expert))
    width = 2 if precision == "bf16" else 4
    banks, stored = matrix_banks(config), count(config).stored
    matrices = sum(bank.size for bank in banks)
    rest = stored - matrices
    share = -(-stored // (shard * expert))
    moments = 2 * stored - (matrices if optimizer == "muon" else 0)

    kept = backward_bytes_per_token(config, width)
    if checkpointing:
        kept = 4 * config.depth * config.width + kept // config.depth
    residency = Residency.plan(config, mesh)
    received = {bank: _received(bank, shard, expert) for bank in banks}
    rows = config.experts.top_k * config.width * len(config.routed_depths)
    beside = sum(bank.size - bank.parted for bank in banks)
    in_rows = sum(bank.parted for bank in banks if bank.experts < expert * shard)
    alone = shard * expert == 1
    whole = 0 if alone else _worst(residency.held, residency, expert, width)
    needed = 0 if alone else _worst(residency.needed, residency, expert, width)
    return Footprint(
        weights=4 * share,
        gradients=4 * share,
        optimizer=4 * -(-moments // (shard * expert)),
        gathered=0 if alone else 8 * rest + whole,
        staying=whole - needed,
        activations=tokens * kept,
        weights_received=round(
            4 * rest * _part(shard * expert)
            + width * sum(residency.gathers(bank) * received[bank] for bank in banks)
        ),
        gradients_received=round(
            4 * (rest * _part(shard * expert) + sum(received.values()))
            + 4 * 2 * share * _part(replicate)
        ),
        updates_received=round(
            8 * (beside * _part(shard * expert) + in_rows / expert * _part(shard))
        )
        if optimizer == "muon"
        else 0,
        tokens_received=round(4 * width * tokens * rows * _part(expert)),
    )


def _part(processes: int) -> float:
    """What of something that lies on several processes comes from the others."""
    return (processes - 1) / processes


def _received(bank: Bank, shard: int, expert: int) -> float:
    """Parameters that a process receives to have a bank whole, its share of the experts at least.

    Each of `expert` places holds its own; what is no expert is sharded over all processes.
    """
    beside = bank.size - bank.parted
    return bank.parted / expert * _part(shard) + beside * _part(shard * expert)


def _worst(held: Sequence[frozenset[Bank]], residency: Residency, expert: int, width: int) -> int:
    """Bytes of whole matrices at the worst place of a walk: banks, and gradients that add up."""
    places = zip(held, residency.adding, strict=True)
    return width * max(sum(bank.whole(expert) for bank in [*a, *b]) for a, b in places)
