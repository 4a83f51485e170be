"""The loss for CUDA, counted on tensors without data: what is in memory at once, and how often."""

import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from plait.kernels import cross_entropy

MIB = 2**20


class Memory(TorchDispatchMode):
    """The most bytes that new tensors hold at once, and how often each operation ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.holders: Counter[int] = Counter()
        self.held = self.peak = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: Any = (), named: Any = None
    ) -> Any:
        result = operation(*given, **(named or {}))
        self.names[str(operation)] += 1
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor) and not any(tensor is one for one in tree_iter(given)):
                self._hold(tensor)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self.held += 0 if self.holders[key] else size
        self.peak = max(self.peak, self.held)
        self.holders[key] += 1
        weakref.finalize(tensor, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self.holders[key] -= 1
        self.held -= 0 if self.holders[key] else size


@pytest.mark.parametrize(
    ("dtype", "vocabulary", "tokens", "chunks", "mebibytes"),
    [
        (torch.bfloat16, 100_352, 16_384, 13, 768),
        (torch.float32, 100_352, 16_384, 25, 512),
        (torch.bfloat16, 16_384, 8_192, 1, 768),
        (torch.bfloat16, 2**20, 1_024, 4, 3 * 512),  # 256 tokens are more than 256 MiB
        (torch.bfloat16, 512, 3, 1, 1),
    ],
)
def test_memory_is_bounded_whatever_the_number_of_tokens(
    dtype: torch.dtype,
    vocabulary: int,
    tokens: int,
    chunks: int,
    mebibytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cross_entropy, "compute_dtype", lambda h_TD: h_TD.dtype)
    h_TD = torch.empty(tokens, 64, dtype=dtype, device="meta", requires_grad=True)
    weight_VD = torch.empty(vocabulary, 64, device="meta", requires_grad=True)
    targets_T = torch.empty(tokens, dtype=torch.int64, device="meta")
    with Memory() as memory:
        cross_entropy.chunked(h_TD, weight_VD, targets_T).backward()
    # by `mm`, in each chunk: logits, and the gradient of h; that of the weights by it or `addmm_`
    products = memory.names["aten.mm.default"] + memory.names["aten.addmm_.default"]
    assert products == 3 * chunks
    assert not [name for name in memory.names if "local_scalar" in name]
    matrices = (h_TD.nbytes + weight_VD.nbytes * 4) / MIB  # gradients and the weights rounded
    small = 1 + tokens * 64 / MIB
    assert memory.peak / MIB <= mebibytes + matrices + small


def test_chunks_are_equal_parts() -> None:
    weight = torch.empty(100_352, 1, dtype=torch.bfloat16, device="meta")
    at_once = cross_entropy._tokens_at_once(2_000, weight)
    assert at_once == 1_000  # and not 1,337 and 663
    assert cross_entropy._tokens_at_once(0, weight) == 1
    assert cross_entropy._tokens_at_once(4096, torch.empty(16_384, 1)) == 1024
