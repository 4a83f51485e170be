"""What is computed in which ways: for each operation its backends, and what each of them covers.

Rows stand in order of preference, and the first that covers the arguments runs. The last row of
each operation is its obvious version in torch, which covers everything and which the others equal.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from plait.kernels import attention, cross_entropy, few_rows, gradients, muon, norms, one_token
from plait.kernels.moe import grouped, native, reference, torch_cpu
from plait.kernels.native import build

log = logging.getLogger(__name__)


def anything(*arguments: Any) -> bool:
    """Cover whatever comes."""
    return True


@dataclass(frozen=True)
class Backend:
    """One way to compute one operation.

    Attributes:
        name: what `PLAIT_KERNEL` calls it.
        run: takes the operation's arguments.
        covers: takes the same; whether `run` can do with them, on the device below.
        device: the type of device that it runs on; None is any.
    """

    name: str
    run: Callable[..., Any]
    covers: Callable[..., bool] = anything
    device: str | None = None


NAMES = ("native", "cpu", "grouped", "chunked", "reference")
"""C++ · torch's operations as one node on a CPU · the same with torch's grouped product, for CUDA ·
torch's operations on some tokens at a time · the obvious version; in order of preference"""

TRACED = "grouped"
"""the first of them that torch.compile makes one graph of: it knows no C++, and "cpu" looks at
where each expert's rows are"""

TABLE: dict[str, tuple[Backend, ...]] = {
    "experts": (
        # widths in multiples of 32, float32 and bfloat16
        Backend("native", native.experts, native.covers, "cpu"),
        Backend("cpu", torch_cpu.experts, anything, "cpu"),
        Backend("grouped", grouped.experts),
        Backend("reference", reference.experts),
    ),
    # experts of one token that talk before their down-projection
    "mixing_experts": (
        Backend("cpu", torch_cpu.experts, anything, "cpu"),
        Backend("grouped", grouped.experts),
        Backend("reference", reference.experts),
    ),
    "causal_attention": (
        # heads in multiples of 32
        Backend("native", attention.native, attention.native_covers, "cpu"),
        Backend("reference", attention.reference),
    ),
    # of decoding: one token with its cache
    "attend_one": (
        # heads in multiples of 32, no gradient
        Backend("native", one_token.native, one_token.native_covers, "cpu"),
        Backend("reference", one_token.reference),
    ),
    "rms_norm": (
        # float32 and bfloat16
        Backend("native", norms.native, norms.native_covers, "cpu"),
        Backend("reference", norms.reference),
    ),
    "linear": (
        # fewer than 32 rows, sizes in multiples of 16, no gradient
        Backend("native", few_rows.native, few_rows.native_covers, "cpu"),
        Backend("reference", few_rows.reference),
    ),
    "linear_cross_entropy": (
        # width and vocabulary in multiples of 32
        Backend("native", cross_entropy.native, cross_entropy.native_covers, "cpu"),
        # any sizes, the products by torch
        Backend("native", cross_entropy.native_rows, cross_entropy.native_rows_covers, "cpu"),
        Backend("chunked", cross_entropy.chunked),
        Backend("reference", cross_entropy.reference),
    ),
    "total_norm": (
        # plain float32
        Backend("native", gradients.native_norm, gradients.native_covers, "cpu"),
        Backend("reference", gradients.norm),
    ),
    "scale": (
        # plain float32
        Backend("native", gradients.native_scale, gradients.native_covers, "cpu"),
        Backend("reference", gradients.scale),
    ),
    "muon_step": (
        # plain float32, sizes in multiples of 32 up to 1024, all of a group or none
        Backend("native", muon.native, muon.native_covers, "cpu"),
        Backend("reference", muon.reference),
    ),
}


def call(operation: str, device: torch.device, *arguments: Any) -> Tensor:
    """Compute an operation of the table by the first backend that covers the arguments."""
    result: Tensor = choose(operation, device, *arguments).run(*arguments)
    return result


def choose(
    operation: str, device: torch.device, *arguments: Any, compiling: bool = False
) -> Backend:
    """Return the first backend that runs on `device` and covers the arguments.

    `compiling`, or inside torch.compile, it is the first that torch.compile makes one graph of.
    `PLAIT_KERNEL` names the one to begin with: those before it in `NAMES` are passed over.

    Raises:
        ValueError: there is no backend of the name in `PLAIT_KERNEL`.
        RuntimeError: it says "native", and the C++ cannot be compiled or run here.
    """
    for backend in _candidates(operation, device, compiling):
        if backend.covers(*arguments):
            return backend
    raise AssertionError(f"the last row of {operation} covers everything")


def backend_name(
    operation: str, device: torch.device, *arguments: Any, compiling: bool = False
) -> str:
    """Return the name of the backend that computes an operation on `device`.

    It is the one that runs for these arguments, of which only types and sizes matter: they may lie
    on another device. Without arguments it is the one preferred there.
    """
    if arguments:
        return choose(operation, device, *arguments, compiling=compiling).name
    return _candidates(operation, device, compiling)[0].name


def _candidates(operation: str, device: torch.device, compiling: bool) -> tuple[Backend, ...]:
    wanted = os.environ.get("PLAIT_KERNEL")
    if compiling or torch.compiler.is_compiling():  # which looks through caches, and warns of them
        return _rows(operation, device, wanted, TRACED)
    return _able(operation, device, wanted)


@cache  # decoding asks some sixty times a token
def _able(operation: str, device: torch.device, wanted: str | None) -> tuple[Backend, ...]:
    rows = _rows(operation, device, wanted)
    if rows[0].name == "native" and not _native_works(demanded=bool(wanted)):
        rows = tuple(row for row in rows if row.name != "native")
    return rows


def _rows(
    operation: str, device: torch.device, wanted: str | None, first: str = NAMES[0]
) -> tuple[Backend, ...]:
    """Return the rows that may run, whatever the arguments are: none before `wanted` or `first`."""
    wanted = wanted or first
    if wanted not in NAMES:
        raise ValueError(f"no kernel is called {wanted!r}; choose one of {', '.join(NAMES)}")
    allowed = NAMES[max(NAMES.index(wanted), NAMES.index(first)) :]
    rows = (row for row in TABLE[operation] if row.name in allowed)
    return tuple(row for row in rows if row.device in (None, device.type))


def _native_works(demanded: bool) -> bool:
    problem = build.load()
    if problem is not None and demanded:
        raise RuntimeError(f"the C++ kernels cannot be used: {problem}; choose the kernel 'cpu'")
    if problem is not None:
        _warn(problem)
    return problem is None


@cache  # once, not for every operation
def _warn(problem: str) -> None:
    log.warning("torch's operations compute, slower than kernels in C++ would: %s", problem)
