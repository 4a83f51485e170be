"""Who owns which parameter, in which role, and how it begins.

Every module states the role of its own parameters in an attribute `role`; optimizers group by it
and never by a name. Every parameter begins from a random stream of its own, keyed by the seed and
the parameter's name, so that what two variants have in common begins equal for the same seed.
"""

import hashlib
import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from plait.config import Role


@dataclass(frozen=True)
class OwnedParameter:
    """One stored parameter: its name, its role, and the number of depths that use its bank."""

    name: str
    parameter: nn.Parameter
    role: Role
    uses: int
    stacked: int = 1
    """matrices that are stacked along the rows of this one (2 for a fused gate|up)"""


def role_of(module: nn.Module, name: str) -> Role:
    """Return the declared role of `module`'s own parameter `name`."""
    role = getattr(module, "role", None)
    assert role is not None, f"{type(module).__name__} declares no role for its {name}"
    return "bias" if name.endswith("bias") and role == "matrix" else cast(Role, role)


def stacked(module: nn.Module, name: str) -> int:
    """Return how many matrices lie stacked along the rows of `module`'s own parameter `name`."""
    return cast("dict[str, int]", getattr(module, "stacked", {})).get(name, 1)


def linear(inputs: int, outputs: int, role: Role, bias: bool = False) -> nn.Linear:
    """Return an `nn.Linear` that declares its role."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    layer.role = role  # type: ignore[assignment]
    return layer


Runs = Sequence[tuple[torch.Tensor, int]]
"""of a tensor, what is here of it in one piece, and the element of the whole at which it begins"""
Held = Callable[[torch.Tensor], Runs]
"""gives what is here of a tensor"""


def as_it_is(tensor: torch.Tensor) -> Runs:
    """Return a tensor that is here whole."""
    return [(tensor, 0)]


@torch.no_grad()
def initialise(
    model: nn.Module,
    seed: int,
    init: str,
    std: float,
    depth: int,
    only: Container[torch.Tensor] | None = None,
    held: Held = as_it_is,
) -> None:
    """Set every parameter and every random buffer of `model`.

    Args:
        model: the model; a module's `begins_at` says by name what begins otherwise: at a constant,
            or "normal" with deviation 1.
        seed: with the parameter's name it keys the parameter's own random stream.
        init: "normal", or "xavier-depth" with gain 1/√(3·depth) (arXiv 2606.16825).
        std: standard deviation of the normal distribution; embeddings use it in both modes.
        depth: depth of the model.
        only: the tensors to set; None: all of them.
        held: where processes hold parts of tensors, says which.
    """
    for prefix, module in model.named_modules():
        special = getattr(module, "begins_at", {})
        for name, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ):
            if only is not None and tensor not in only:
                continue
            path = f"{prefix}.{name}".encode()
            key = int.from_bytes(hashlib.sha256(b"%d:%s" % (seed, path)).digest()[:8], "big")
            generator = torch.Generator().manual_seed(key >> 1)
            runs = held(tensor)
            if special.get(name) == "normal":
                _draw(runs, tensor.numel(), _normal(generator, 1.0))
            elif name in special:
                _fill(runs, special[name])
            elif role_of(module, name) == "norm":
                _fill(runs, 0.0 if name == "bias" else 1.0)
            elif tensor.dim() < 2:
                _fill(runs, 0.0)
            elif init == "xavier-depth" and role_of(module, name) not in ("embedding", "head"):
                rows = tensor.shape[-2] // stacked(module, name)
                bound = math.sqrt(6 / (rows + tensor.shape[-1])) / math.sqrt(3 * depth)
                _draw(runs, tensor.numel(), _uniform(generator, bound))
            else:
                _draw(runs, tensor.numel(), _normal(generator, std))


def _fill(runs: Runs, value: float) -> None:
    for part, _ in runs:
        part.fill_(value)


def _normal(generator: torch.Generator, std: float) -> Callable[[int], torch.Tensor]:
    return lambda count: torch.randn(count, generator=generator) * std


def _uniform(generator: torch.Generator, bound: float) -> Callable[[int], torch.Tensor]:
    return lambda count: torch.rand(count, generator=generator) * 2 * bound - bound


_BLOCK = 1 << 18
"""elements drawn at once: torch draws normal numbers 16 at a time, and so does the last block"""


def _draw(runs: Runs, whole: int, draw: Callable[[int], torch.Tensor]) -> None:
    """Fill what is here of `whole` elements from the stream of all of them."""
    start, end = 0, max((first + part.numel() for part, first in runs if part.numel()), default=0)
    while start < end:
        count = _BLOCK if whole - start >= _BLOCK + 16 else whole - start
        values = draw(count)
        for part, first in runs:
            low, high = max(first, start), min(first + part.numel(), start + count)
            if low < high:
                part.view(-1)[low - first : high - first] = values[low - start : high - start]
        start += count
