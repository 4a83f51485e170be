"""Scaling gradients to a largest norm."""

from collections.abc import Sequence

from torch import Tensor

from plait import kernels


def clip_(gradients: Sequence[Tensor], norm: float, largest: float) -> None:
    """Scale the gradients in place so that their norm is at most `largest`.

    The factor is torch's, largest / (norm + 1e-6). Where that is 1 or more nothing is done, which
    saves reading and writing every gradient. A norm that is no number makes every gradient so.
    """
    factor = largest / (norm + 1e-6)
    if not factor >= 1:
        kernels.scale(gradients, factor)
