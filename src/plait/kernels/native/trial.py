"""Tries compiled kernels on one expert: in a process that may crash first, then in this one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

from plait.kernels import processor

PATIENCE = 300
"""seconds after which a library hangs; most of what it takes is importing torch"""

CHILD = "import sys; from plait.kernels.native import trial; trial.run(sys.argv[1])"


def run(library: Path | str) -> None:
    """Load a library into this process, which makes `torch.ops.plait`, and run one expert.

    Raises:
        OSError: it cannot be loaded.
        RuntimeError: it is wrong, or the processor has no such product.
    """
    processor.use_tiles()
    torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        _compare()


def problem_in_a_child(library: Path) -> str | None:
    """Run a library in a process of its own; return in one line what went wrong, or None.

    Raises:
        OSError: that process was killed from outside, which says nothing about the library.
    """
    # this process' own places for modules, and not the folder that it stands in
    paths = {"PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", CHILD, str(library)],
            env=os.environ | paths,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return f"the compiled kernels did not end within {PATIENCE} s"
    if done.returncode in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT):
        raise OSError("the process that tries the compiled kernels was killed")
    if done.returncode < 0:
        return f"the compiled kernels crash ({signal.Signals(-done.returncode).name})"
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return said[-1] if said else f"the compiled kernels end with {done.returncode}"
    return None


def _compare() -> None:
    """Run one expert in both types: raises RuntimeError where the processor has no such product."""
    generator = torch.Generator().manual_seed(0)
    x, up, down = (torch.randn(64, 64, generator=generator) for _ in range(3))
    want = torch.nn.functional.gelu(x.double() @ up.double().T) @ down.double().T
    ids, gates = torch.zeros(64, 1, dtype=torch.int64), torch.ones(64, 1)
    for dtype, bound in ((torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        y, _ = torch.ops.plait.experts_forward(
            x.to(dtype), ids, gates, up[None], down[None], False, torch.float32, True
        )
        error = float((y.double() - want).norm() / want.norm())
        if not error <= bound:
            raise RuntimeError(f"the compiled kernel is off by {error:.1e} in {dtype}")
