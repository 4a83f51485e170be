"""Which parameter gets which optimizer, rate and decay: by the role its module declares.

role                     AdamW run        Muon run
matrix, expert           AdamW            Muon
router, embedding, head  AdamW            AdamW at adamw_factor × the rate
norm, bias               AdamW, no decay  AdamW at adamw_factor × the rate, no decay
topology (S of CT-MoE)   AdamW at topology_factor × AdamW's rate, no decay
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch

from plait.model.parameters import OwnedParameter, Role
from plait.optim.muon import Muon, Scale

Divisor = Literal["none", "sqrt", "linear"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its rates; the schedule multiplies all of them alike."""

    name: Literal["adamw", "muon"] = "adamw"
    """adamw for all, or muon for matrices and experts with adamw for the rest"""
    learning_rate: float = 1e-3
    """peak learning rate; of Muon's part in a muon run"""
    weight_decay: float = 0.1
    """decoupled decay per unit of learning rate; norms, biases and topology have none"""
    beta1: float = 0.9
    """AdamW: decay of the mean gradient"""
    beta2: float = 0.95
    """AdamW: decay of the mean squared gradient"""
    eps: float = 1e-8
    """AdamW: floor of the root mean square"""
    adamw_factor: float = 0.1
    """muon: rate of what AdamW trains, as a multiple of learning_rate (Expert Tying: 0.1)"""
    momentum: float = 0.95
    """muon: decay of the momentum"""
    muon_scale: Scale = "original"
    """muon: rate by shape, original √max(1, rows/columns) or match-adamw 0.2·√max(rows, columns)"""
    muon_precision: Literal["bf16", "fp32"] = "bf16"
    """muon: of the Newton–Schulz products"""
    topology_factor: float = 100.0
    """rate of the collaboration topology S, as a multiple of AdamW's rate (CT-MoE: 100)"""
    tied_divisor: Divisor = "none"
    """divide the rate of a bank used at g depths by 1, √g (Expert Tying) or g"""
    tied_roles: tuple[Role, ...] = ("expert",)
    """the roles that tied_divisor reaches, where their bank is really used at several depths"""

    def __post_init__(self) -> None:
        if self.name == "adamw":
            for option in fields(self):
                muons_own = option.name.startswith("muon_") or option.name in MUONS_OWN
                if muons_own and getattr(self, option.name) != option.default:
                    raise ValueError(
                        f"optimizer.{option.name} has no meaning for adamw: "
                        "unset it, or set optimizer.name to muon"
                    )
        for name in ("learning_rate", "adamw_factor", "topology_factor", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}: it must be positive")
        if self.weight_decay < 0:
            raise ValueError(f"optimizer.weight_decay is {self.weight_decay}: 0 or more")
        for name in ("beta1", "beta2", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name} is {getattr(self, name)}: it must be in [0, 1)")


MUONS_OWN = ("adamw_factor", "momentum")


def tied_factor(uses: int, divisor: Divisor) -> float:
    """Return the factor on the rate of a bank used at ``uses`` depths (arXiv 2606.16825)."""
    return {"none": 1.0, "sqrt": 1 / math.sqrt(uses), "linear": 1 / uses}[divisor]


def build_optimizers(
    owned: Sequence[OwnedParameter], config: OptimizerConfig
) -> list[torch.optim.Optimizer]:
    """Group the parameters and make their optimizers: [AdamW], or [Muon, AdamW].

    Each group keeps its peak rate as ``peak``, beside torch's ``lr``, and the ``roles`` in it.
    Parameters that need no gradient are left out.
    """
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in owned:
        if not one.parameter.requires_grad:
            continue
        muon = config.name == "muon" and one.role in ("matrix", "expert")
        rate = config.learning_rate
        if config.name == "muon" and not muon:
            rate *= config.adamw_factor
        if one.role == "topology":
            rate *= config.topology_factor
        if one.role in config.tied_roles:
            rate *= tied_factor(one.uses, config.tied_divisor)
        bare = one.role in ("norm", "bias", "topology") or one.parameter.ndim < 2
        decay = 0.0 if bare else config.weight_decay
        group = groups.setdefault(
            (muon, rate, decay, one.stacked if muon else 1),
            {"params": [], "lr": rate, "peak": rate, "weight_decay": decay, "roles": set()},
        )
        if muon:
            group["stacked"] = one.stacked
        group["params"].append(one.parameter)
        group["roles"].add(one.role)

    by_muon = [group for key, group in groups.items() if key[0]]
    by_adamw = [group for key, group in groups.items() if not key[0]]
    optimizers: list[torch.optim.Optimizer] = []
    if by_muon:
        dtype = torch.bfloat16 if config.muon_precision == "bf16" else torch.float32
        optimizers.append(
            Muon(by_muon, momentum=config.momentum, scale=config.muon_scale, dtype=dtype)
        )
    if by_adamw:
        # One fused pass over the bytes: four times as fast as torch's default on CPUs.
        devices = {parameter.device.type for group in by_adamw for parameter in group["params"]}
        optimizers.append(
            torch.optim.AdamW(
                by_adamw,
                betas=(config.beta1, config.beta2),
                eps=config.eps,
                fused=devices <= {"cpu", "cuda"},
            )
        )
    return optimizers


def set_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's rate to ``factor`` × its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak"]
