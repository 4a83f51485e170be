"""Muon, batched over banks of experts: momentum, then the nearest half-orthogonal matrix.

`torch.optim.Muon` refuses 3-D parameters. Here a parameter of shape (E, R, C) is E matrices,
each orthogonalised on its own in one batched iteration; on a 2-D parameter the result is torch's,
bit for bit. Under FSDP2 a bank is sharded over its experts, so each rank works on the experts it
holds and nothing is sent; a sharded 2-D matrix is gathered first: its rows do not decide alone.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from plait.config import MuonScale

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients that make the slope at zero as steep as it may be (Jordan et al., 2024)."""


def orthogonalise(
    update: Tensor, *, steps: int = 5, dtype: torch.dtype = torch.bfloat16, eps: float = 1e-7
) -> Tensor:
    """Replace each matrix by U S' Vᵀ, S' near 1, with the quintic Newton–Schulz iteration.

    Args:
        update: (R, C) or (N, R, C): N matrices that do not see one another.
        steps: iterations; 5 bring singular values that are not tiny into about [0.7, 1.2].
        dtype: of the products. bfloat16 is as good here as float32, since S' is only near 1 anyway.
        eps: floor of the Frobenius norm, so that a zero gradient (an unused expert) stays zero.

    Returns:
        The same shape, in `dtype`.

    """
    a, b, c = QUINTIC
    multiply_add = torch.addmm if update.ndim == 2 else torch.baddbmm
    tall = update.size(-2) > update.size(-1)
    x = update.to(dtype, copy=True)
    if tall:
        x = x.mT
    x.div_(torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=eps))
    for _ in range(steps):
        gram = x @ x.mT
        x = multiply_add(x, multiply_add(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def rate_scale(rows: int, columns: int, scale: MuonScale) -> float:
    """Factor on the learning rate that makes updates of differently shaped matrices alike.

    `original` is √max(1, rows/columns) (Jordan et al., 2024); `match-adamw` is 0.2·√max(rows,
    columns), which gives an update the root mean square of AdamW's (arXiv 2502.16982, eq. 4).
    """
    if scale == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton–Schulz, for hidden matrices and banks of them.

    Args:
        params: parameters or groups; each parameter is (R, C) or (E, R, C). A group may set
            `stacked`: how many matrices lie on top of one another in the rows of each parameter.
            `gate_up` of shape (E, 2F, D) has 2, and is orthogonalised as (2E, F, D): gate and up
            are two maps, and apart they are also cheaper.
        lr: learning rate, before `rate_scale`.
        momentum: decay of the momentum buffer; Nesterov's look-ahead is always on.
        weight_decay: decoupled, times `lr`.
        steps: Newton–Schulz iterations.
        scale: see `rate_scale`; of the single matrices, after `stacked` took them apart.
        dtype: of the Newton–Schulz products.

    Raises:
        ValueError: a parameter that is no matrix or bank of matrices.

    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        steps: int = 5,
        scale: MuonScale = "original",
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "steps": steps,
            "scale": scale,
            "dtype": dtype,
            "stacked": 1,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                shape, stacked = tuple(parameter.shape), group["stacked"]
                if parameter.ndim not in (2, 3) or shape[-2] % stacked:
                    raise ValueError(
                        f"Muon takes matrices (R, C) or banks (E, R, C) of {stacked} stacked "
                        f"matrices, not a parameter of shape {shape}: give it to AdamW"
                    )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - group["momentum"])
        direction = gradient.lerp(buffer, group["momentum"])

        stacked = group["stacked"]
        rows, columns = parameter.shape[-2] // stacked, parameter.shape[-1]
        rate = group["lr"] * rate_scale(rows, columns, group["scale"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])

        if isinstance(direction, DTensor):
            own_experts = direction.ndim == 3 and all(
                placement.is_replicate() or placement == Shard(0)
                for placement in direction.placements
            )
            whole = direction.to_local() if own_experts else direction.full_tensor()
            update = _orthogonalise_stacked(whole, stacked, group).to(direction.dtype)
            if not own_experts:
                # Every rank has the whole result already: cut, do not send.
                update = distribute_tensor(
                    update, direction.device_mesh, direction.placements, src_data_rank=None
                ).to_local()
            assert isinstance(parameter, DTensor)
            parameter.to_local().add_(update, alpha=-rate)
        else:
            parameter.add_(_orthogonalise_stacked(direction, stacked, group), alpha=-rate)


def _orthogonalise_stacked(update: Tensor, stacked: int, group: dict[str, Any]) -> Tensor:
    if stacked == 1:
        apart = update
    else:
        apart = update.reshape(-1, update.shape[-2] // stacked, update.shape[-1])
    result = orthogonalise(apart, steps=group["steps"], dtype=group["dtype"])
    return result.reshape(update.shape)
