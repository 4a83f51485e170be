"""Muon, on banks of experts as well: momentum, then the nearest half-orthogonal matrix.

`torch.optim.Muon` refuses 3-D parameters. Here a parameter of shape (E, R, C) is E matrices, each
orthogonalised on its own (`kernels.muon_step`); on a 2-D parameter the reference kernel gives
torch's result bit for bit, and the C++ the same up to rounding. Under FSDP2 a bank is sharded over
its experts, so each rank works on the experts it holds and nothing is sent; where rows are sharded,
which do not decide alone, one rank gathers a matrix, orthogonalises it for all and sends them back.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from plait import kernels
from plait.config import MuonScale
from plait.kernels.muon import apart, become_, orthogonalise
from plait.parallel import by_mesh, by_owner, has_whole_matrices, local


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

    found_inf: Tensor | None = None
    """() not 0 where a step changes nothing, as torch's fused optimizers have it"""
    move: Callable[..., None] = staticmethod(kernels.muon_step)
    """what moves parameters; see there"""

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
            taking = [parameter for parameter in group["params"] if parameter.grad is not None]
            self._step_of([one for one in taking if has_whole_matrices(one)], group)
            for parts in by_mesh([one for one in taking if not has_whole_matrices(one)]):
                self._step_of_parts(parts, group)
        return loss

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer: Tensor = state["momentum_buffer"]
        return buffer

    def _rate(self, parameter: Tensor, group: dict[str, Any]) -> float:
        rows, columns = parameter.shape[-2] // group["stacked"], parameter.shape[-1]
        return float(group["lr"] * rate_scale(rows, columns, group["scale"]))

    def _step_of(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Move matrices that are here whole: of a sharded bank the experts that are here."""
        parameters = [parameter for parameter in parameters if local(parameter).numel()]
        if parameters:
            self.move(
                [local(parameter) for parameter in parameters],
                [local(parameter.grad) for parameter in parameters if parameter.grad is not None],
                [local(self._momentum(parameter)) for parameter in parameters],
                [self._rate(parameter, group) for parameter in parameters],
                momentum=group["momentum"],
                kept=1 - group["lr"] * group["weight_decay"],
                stacked=group["stacked"],
                steps=group["steps"],
                dtype=group["dtype"],
                left_out=self.found_inf,
            )

    def _step_of_parts(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Move matrices of which each process holds some rows."""
        directions = []
        for parameter in parameters:
            gradient, buffer = parameter.grad, self._momentum(parameter)
            assert gradient is not None
            turned = buffer.lerp(gradient, 1 - group["momentum"])
            directions.append(gradient.lerp(turned, group["momentum"]))
            become_(local(buffer), local(turned), self.found_inf)

        def orthogonalised(matrices: list[Tensor]) -> list[Tensor]:
            parts = [apart(matrix, group["stacked"]) for matrix in matrices]
            how = {"steps": group["steps"], "dtype": group["dtype"]}
            return [orthogonalise(part, **how).flatten(0, -2) for part in parts]

        for parameter, update in zip(parameters, by_owner(directions, orthogonalised), strict=True):
            here = local(parameter)
            kept = 1 - group["lr"] * group["weight_decay"]
            moved = (here * kept).add_(update, alpha=-self._rate(parameter, group))
            become_(here, moved, self.found_inf)
