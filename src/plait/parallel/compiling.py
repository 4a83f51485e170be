"""Depths by torch.compile, in training: one graph for all depths that are made alike."""

import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch

from plait import kernels

STRUCTURES = 64
"""kinds of depths that are compiled for one model; each more is an error, and no slower way"""


def require_compiler(device: torch.device) -> None:
    """Refuse where torch.compile lacks what compiles its code, or gets what it has no graph of.

    Raises:
        ValueError: there is no C++ compiler for a CPU, or no C compiler for Triton's launchers; or
            `PLAIT_KERNEL` leaves the experts to their reference.
    """
    if kernels.backend_name("experts", device, compiling=True) == "reference":
        raise ValueError(
            "PLAIT_KERNEL leaves the experts to their reference, of which torch.compile makes no "
            "graph: unset it, or train without --compile"
        )
    on_cpu = device.type == "cpu"
    usual = ("clang++" if sys.platform == "darwin" else "g++",) if on_cpu else ("gcc", "clang")
    variable = "CXX" if on_cpu else "CC"
    named = os.environ.get(variable)
    if not any(shutil.which(name) for name in ((named,) if named else usual)):
        raise ValueError(
            f"torch.compile needs a compiler here and finds none ({named or ' or '.join(usual)}): "
            f"install one, name it in {variable}, or train without --compile"
        )


def compiled(one_depth: Callable[..., Any], whole: bool) -> Callable[..., Any]:
    """Return `Walk.one_depth` as it runs compiled where gradients are wanted, else as it is.

    What is scored is computed as ever, in batches of any size, and costs no second compilation.

    Args:
        one_depth: of a model.
        whole: a depth is one graph, and anything that breaks it an error.
    """
    graph = torch.compile(one_depth, fullgraph=whole)

    def run(*given: Any, **how: Any) -> Any:
        if not torch.is_grad_enabled():
            return one_depth(*given, **how)
        # A recomputation is the same code over the same numbers and so chooses the same. With what
        # was chosen as an input it would be another graph, which keeps other tensors.
        how["again"] = None
        with torch._dynamo.config.patch(
            recompile_limit=STRUCTURES, fail_on_recompile_limit_hit=True
        ):
            return graph(*given, **how)

    return run
