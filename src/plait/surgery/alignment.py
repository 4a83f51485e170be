"""Putting one layer's experts into the order of another's, without changing what it computes.

The experts of a layer have no order of their own, nor have the hidden units inside an expert. So
before two banks are averaged, the experts of one are matched to the other's by linear assignment,
and then the units of each matched pair (arXiv 2209.04836). What knows experts by their number (the
router's rows, the balancing bias, the topology) is permuted along.
"""

from collections.abc import Mapping

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from plait.kernels.activation import activate

Bank = Mapping[str, Tensor]
"""the tensors of an expert bank or a feed-forward layer, by the rest of their names"""


def assignment(similarity_EE: Tensor) -> Tensor:
    """Return for each row the column assigned to it, so that the sum of similarities is largest."""
    _, columns = linear_sum_assignment(similarity_EE.float().numpy(), maximize=True)
    return torch.from_numpy(columns)


def similarity_of_weights(a: Bank, b: Bank, stacked: int) -> Tensor:
    """Return the cosine similarities (E, E) of two banks' experts as the linear maps they contain.

    Compared are the products of the down-projection with each matrix of the up-projection, which do
    not depend on the order of the hidden units.
    """
    vectors = []
    for bank in (a, b):
        up_EHFD = bank["up"].float().reshape(len(bank["up"]), stacked, -1, bank["up"].shape[-1])
        maps_EHDD = torch.einsum("edf,ehfc->ehdc", bank["down"].float(), up_EHFD)
        vectors.append(F.normalize(maps_EHDD.flatten(1), dim=1))
    return vectors[0] @ vectors[1].T


def similarity_of_outputs(a: Bank, b: Bank, h_TD: Tensor, activation: str) -> Tensor:
    """Return the cosine similarities (E, E) of what two banks' experts make of the same tokens."""
    outputs = [F.normalize(_outputs(bank, h_TD, activation), dim=1) for bank in (a, b)]
    return outputs[0] @ outputs[1].T


def _outputs(bank: Bank, h_TD: Tensor, activation: str) -> Tensor:
    """Return each expert's outputs for all tokens as one vector: (E, T·D)."""
    h = h_TD.float()
    return torch.stack([
        F.linear(activate(F.linear(h, up.float()), activation), down.float()).flatten()
        for up, down in zip(bank["up"], bank["down"], strict=True)
    ])  # fmt: skip


def permuted(bank: Bank, order_E: Tensor) -> dict[str, Tensor]:
    """Return a bank with its experts in another order; a shared expert stays as it is."""
    experts = ("up", "down")
    return {name: tensor[order_E] if name in experts else tensor for name, tensor in bank.items()}


def units_aligned(bank: Bank, to: Bank, stacked: int) -> dict[str, Tensor]:
    """Return a bank with the hidden units of each expert in the order of its counterpart in `to`.

    Args:
        bank: changes its order; the experts are matched already.
        to: gives the order.
        stacked: matrices that lie stacked in `up` (2 for gate and up).
    """
    aligned = dict(bank)
    for prefix in ("", "shared."):
        up, down = f"{prefix}up", f"{prefix}down"
        if up not in bank:
            continue
        matrices = [bank[up], bank[down], to[up], to[down]]
        if matrices[0].dim() == 2:  # a dense layer is a bank of one
            matrices = [matrix[None] for matrix in matrices]
        new_up, new_down = [], []
        for own_up, own_down, to_up, to_down in zip(*matrices, strict=True):
            halves = own_up.reshape(stacked, -1, own_up.shape[-1])
            wanted = to_up.reshape(halves.shape)
            similarity_FF = torch.einsum("hfd,hgd->fg", wanted.float(), halves.float())
            similarity_FF += to_down.float().T @ own_down.float()
            order_F = assignment(similarity_FF)
            new_up.append(halves[:, order_F].reshape(own_up.shape))
            new_down.append(own_down[:, order_F])
        aligned[up] = torch.stack(new_up).reshape(bank[up].shape)
        aligned[down] = torch.stack(new_down).reshape(bank[down].shape)
    return aligned
