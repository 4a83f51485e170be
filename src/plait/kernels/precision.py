"""Which type a computation runs in: what a configuration asks for, as far as the device has it."""

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from plait.kernels import processor

Precision = Literal["fp32", "bf16"]


def compute_type(device: str, precision: Precision) -> torch.dtype:
    """Return the type of products on a type of device ("cpu", "cuda").

    A CPU without units for bfloat16 computes in float32 where bfloat16 is asked for: it would have
    to imitate it, ten times as slowly, and float32 is the more exact.
    """
    if precision == "bf16" and (device != "cpu" or processor.multiplies_bf16()):
        return torch.bfloat16
    return torch.float32


def full_float32() -> None:
    """Compute float32 products on a GPU in float32, whatever was set before.

    TF32 keeps ten bits of a number's 23. A run that says fp32 would then be one thing on a CPU and
    another on a GPU, and two GPUs could differ; who wants the speed asks for bf16, and says so.
    """
    torch.backends.cuda.matmul.fp32_precision = "ieee"


def autocast(device: str, precision: Precision) -> AbstractContextManager[Any]:
    """Run what is inside in `compute_type`, over weights that stay float32."""
    enabled = compute_type(device, precision) == torch.bfloat16
    return torch.autocast(device, torch.bfloat16, enabled=enabled)
