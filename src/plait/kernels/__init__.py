"""How a bank of experts is computed: several backends, one choice.

Every backend is a module with the same function, `experts`, and equals `reference` in outputs and
gradients. Shapes: T tokens, D width, F expert width, E experts, K experts per token, X rows of the
up-projection (2F for SwiGLU: the gate's rows first, then up's; F for GELU).
"""

import logging
import os
from functools import cache
from importlib import import_module
from typing import Protocol, cast

import torch
from torch import Tensor

log = logging.getLogger(__name__)

BACKENDS = ("reference", "cpu", "native", "grouped")


class Backend(Protocol):
    """What every backend offers."""

    def experts(
        self,
        x_TD: Tensor,
        expert_ids_TK: Tensor,
        weights_TK: Tensor,
        up_EXD: Tensor,
        down_EDF: Tensor,
        activation: str,
    ) -> Tensor:
        """Return y_TD, the sum over each token's chosen experts, weighted by `weights_TK`."""
        ...


def select(name: str | None = None, device: str = "cpu") -> Backend:
    """Return the backend called `name`; without one `PLAIT_KERNEL` decides, then the device.

    On CUDA that is torch's grouped product; on a CPU the C++ version where a compiler and the
    processor allow it, else the Python one. Raises ValueError if there is no backend of that name.
    """
    name = name or _chosen(device)
    if name not in BACKENDS:
        raise ValueError(f"no kernel is called {name!r}; choose one of {', '.join(BACKENDS)}")
    return cast(Backend, import_module(f"{__name__}.{name}"))


def compiled(x: Tensor) -> bool:
    """Whether what is done to `x` between the products goes through the C++ kernels."""
    return (
        x.is_cpu
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.compiler.is_compiling()
        and _compiled(os.environ.get("PLAIT_KERNEL"))
    )


@cache  # decoding asks some sixty times a token
def _compiled(wanted: str | None) -> bool:
    return (wanted or _best_on_cpu()) == "native" and _missing() is None


def _chosen(device: str) -> str:
    return os.environ.get("PLAIT_KERNEL") or (_best_on_cpu() if device == "cpu" else "grouped")


@cache
def _best_on_cpu() -> str:
    if (problem := _missing()) is None:
        return "native"
    log.warning("kernels run in Python, which is slower than in C++: %s", problem)
    return "cpu"


def _missing() -> str | None:
    from plait.kernels.native.build import load  # imported late: it may have to compile

    return load()
