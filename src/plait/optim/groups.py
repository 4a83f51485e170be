"""Which parameter gets which optimizer, rate and decay: by the role its module declares.

======================  ===============  ==========================================
role                    AdamW run        Muon run
======================  ===============  ==========================================
matrix, expert          AdamW            Muon
router                  AdamW            AdamW at adamw_factor × the rate
embedding, head         AdamW at embedding_factor × AdamW's rate in both
----------------------  -----------------------------------------------------------
norm, bias              AdamW, no decay  AdamW at adamw_factor × the rate, no decay
topology (S of CT-MoE)  AdamW at topology_factor × AdamW's rate, no decay
======================  ===========================================================
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plait.config import Divisor, OptimizerConfig
from plait.kernels.precision import compute_type
from plait.model.parameters import OwnedParameter
from plait.optim.muon import Muon


def tied_factor(uses: int, divisor: Divisor) -> float:
    """Return the factor on the rate of a bank used at `uses` depths (arXiv 2606.16825)."""
    if not isinstance(divisor, str):
        return 1.0 if uses == 1 else 1 / divisor
    return {"none": 1.0, "sqrt": 1 / math.sqrt(uses), "linear": 1 / uses}[divisor]


def build_optimizers(
    owned: Sequence[OwnedParameter], config: OptimizerConfig
) -> list[torch.optim.Optimizer]:
    """Group the parameters and make their optimizers: [AdamW], or [Muon, AdamW].

    Each group keeps its peak rate as `peak`, beside torch's `lr`, and the `roles` in it.
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
        if one.role in ("embedding", "head"):
            rate *= config.embedding_factor
        if one.role == "topology":
            rate *= config.topology_factor
        if one.role in config.tied_roles:
            rate *= tied_factor(one.uses, config.tied_divisor)
        bare = one.role in ("norm", "bias", "topology") or one.parameter.ndim < 2
        decay = config.weight_decay
        if not muon and config.adamw_decay is not None:
            decay = config.adamw_decay
        decay = 0.0 if bare else decay
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
        device = by_muon[0]["params"][0].device.type
        dtype = compute_type(device, config.muon_precision)
        optimizers.append(
            Muon(by_muon, momentum=config.momentum, scale=config.muon_scale, dtype=dtype)
        )
    if by_adamw:
        # One fused pass over the bytes: four times as fast as torch's default on CPUs, and the
        # only kind that knows `found_inf`.
        optimizers.append(
            torch.optim.AdamW(
                by_adamw, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
            )
        )
    return optimizers


def move(
    optimizers: Sequence[torch.optim.Optimizer], factor: float, left_out: Tensor | None = None
) -> None:
    """Move every parameter at `factor` × its group's peak rate.

    Where `left_out` (float32, ()) is not 0, neither parameters nor states change; it stays on the
    device. This is what torch's fused optimizers read as `found_inf`.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        optimizer.found_inf = left_out  # type: ignore[attr-defined]
        optimizer.step()


def state_keys(optimizer: torch.optim.Optimizer) -> set[str]:
    """Return the names of the tensors that an optimizer keeps of each parameter."""
    if isinstance(optimizer, Muon):
        return {"momentum_buffer"}
    return {"step", "exp_avg", "exp_avg_sq"}
