"""Rows sorted by expert times the matrices of their experts: all in one product, or one for each.

All ways know of rows and experts, not of tokens and gates.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from plait.kernels.moe.sorting import Order


class Products(Protocol):
    """A way to compute them."""

    def rows(self, a_NI: Tensor, matrices_EIO: Tensor) -> Tensor:
        """Return each row times its expert's matrix, in the type of the rows: (N, O)."""
        ...

    def weight_gradient(self, d_NO: Tensor, a_NI: Tensor, like_EOI: Tensor) -> Tensor:
        """Return dᵀ a of each expert's rows, in the type of `like_EOI`; zero where it has none."""
        ...


@dataclass(frozen=True)
class Grouped:
    """torch's grouped product. Where each expert's rows end is known to the device only.

    Rows of all matrices begin at multiples of 16 bytes. Segments need not: only the dimension that
    experts share out is ragged, and it is never the one whose numbers lie side by side.
    """

    ends_E: Tensor
    """int32"""
    empty_E: Tensor
    """whether an expert has no rows"""

    @classmethod
    def of(cls, order: Order) -> "Grouped":
        """Take the ends as they lie on the device."""
        counts_E = order.ends_E.diff(prepend=order.ends_E.new_zeros(1))
        return cls(order.ends_E.to(torch.int32), counts_E == 0)

    def rows(self, a_NI: Tensor, matrices_EIO: Tensor) -> Tensor:
        """See `Products`."""
        return functional.grouped_mm(a_NI, matrices_EIO.to(a_NI.dtype), offs=self.ends_E)

    def weight_gradient(self, d_NO: Tensor, a_NI: Tensor, like_EOI: Tensor) -> Tensor:
        """See `Products`."""
        gradient_EOI = functional.grouped_mm(d_NO.T, a_NI, offs=self.ends_E)
        # on Blackwell it leaves what lay in memory where an expert has no rows (pytorch #172439)
        return gradient_EOI.masked_fill_(self.empty_E.view(-1, 1, 1), 0).to(like_EOI.dtype)


@dataclass(frozen=True)
class OneByOne:
    """A product for each expert, of any type and size; where its rows lie is known on the host."""

    bounds: list[tuple[int, int]]
    """(first, last + 1) row of each expert"""

    @classmethod
    def of(cls, order: Order) -> "OneByOne":
        """Ask the device for the bounds, once for forward and backward."""
        return cls.between(order.ends_E)

    @classmethod
    def between(cls, ends_E: Tensor) -> "OneByOne":
        """Ask the device for the bounds, of which these are the ends."""
        return cls(list(pairwise([0, *ends_E.tolist()])))

    def rows(self, a_NI: Tensor, matrices_EIO: Tensor) -> Tensor:
        """See `Products`."""
        out_NO = a_NI.new_empty(a_NI.shape[0], matrices_EIO.shape[-1])
        for (first, end), matrix_IO in zip(self.bounds, matrices_EIO, strict=True):
            if end > first:
                torch.mm(a_NI[first:end], matrix_IO.to(a_NI.dtype), out=out_NO[first:end])
        return out_NO

    def weight_gradient(self, d_NO: Tensor, a_NI: Tensor, like_EOI: Tensor) -> Tensor:
        """See `Products`."""
        gradient_EOI = torch.empty_like(like_EOI, memory_format=torch.contiguous_format)
        for (first, end), gradient_OI in zip(self.bounds, gradient_EOI, strict=True):
            if end == first:
                gradient_OI.zero_()
            elif like_EOI.dtype == d_NO.dtype:
                torch.mm(d_NO[first:end].T, a_NI[first:end], out=gradient_OI)
            else:
                gradient_OI.copy_(d_NO[first:end].T @ a_NI[first:end])
        return gradient_EOI


@dataclass(frozen=True)
class Opaque:
    """`OneByOne` for torch.compile, which takes each as one operation and looks at no bounds."""

    ends_E: Tensor

    @classmethod
    def of(cls, order: Order) -> "Opaque":
        """Take the ends as they lie on the device, which is asked for them in every product."""
        return cls(order.ends_E)

    def rows(self, a_NI: Tensor, matrices_EIO: Tensor) -> Tensor:
        """See `Products`."""
        return _rows(a_NI, matrices_EIO, self.ends_E)  # type: ignore[no-any-return]

    def weight_gradient(self, d_NO: Tensor, a_NI: Tensor, like_EOI: Tensor) -> Tensor:
        """See `Products`."""
        of = d_NO, a_NI, like_EOI, self.ends_E
        return _weight_gradient(*of)  # type: ignore[no-any-return]


@torch.library.custom_op("plait::rows_by_expert", mutates_args=())
def _rows(a_NI: Tensor, matrices_EIO: Tensor, ends_E: Tensor) -> Tensor:
    return OneByOne.between(ends_E).rows(a_NI, matrices_EIO)


@_rows.register_fake
def _(a_NI: Tensor, matrices_EIO: Tensor, ends_E: Tensor) -> Tensor:
    return a_NI.new_empty(a_NI.shape[0], matrices_EIO.shape[-1])


@torch.library.custom_op("plait::weight_gradient_by_expert", mutates_args=())
def _weight_gradient(d_NO: Tensor, a_NI: Tensor, like_EOI: Tensor, ends_E: Tensor) -> Tensor:
    return OneByOne.between(ends_E).weight_gradient(d_NO, a_NI, like_EOI)


@_weight_gradient.register_fake
def _(d_NO: Tensor, a_NI: Tensor, like_EOI: Tensor, ends_E: Tensor) -> Tensor:
    return torch.empty_like(like_EOI, memory_format=torch.contiguous_format)
