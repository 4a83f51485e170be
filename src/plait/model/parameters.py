"""Who owns which parameter, in which role, and how it begins.

Every module states the role of its own parameters in an attribute `role`; optimizers group by it
and never by a name. Every parameter begins from a random stream of its own, keyed by the seed and
the parameter's name, so that what two variants have in common begins equal for the same seed.
"""

import hashlib
import math
from collections.abc import Container
from dataclasses import dataclass
from typing import Literal, cast

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


@torch.no_grad()
def initialise(
    model: nn.Module,
    seed: int,
    init: str,
    std: float,
    depth: int,
    only: Container[torch.Tensor] | None = None,
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
            if name in special:
                tensor.copy_(_constant_or_normal(special[name], tensor, generator))
            elif role_of(module, name) == "norm":
                tensor.fill_(0.0 if name == "bias" else 1.0)
            elif tensor.dim() < 2:
                tensor.zero_()
            elif init == "xavier-depth" and role_of(module, name) not in ("embedding", "head"):
                rows = tensor.shape[-2] // stacked(module, name)
                bound = math.sqrt(6 / (rows + tensor.shape[-1])) / math.sqrt(3 * depth)
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 2 * bound - bound)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * std)


def _constant_or_normal(
    begin: float | Literal["normal"], tensor: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    if begin == "normal":
        return torch.randn(tensor.shape, generator=generator)
    return torch.full_like(tensor, begin)
