"""Attention, norm and loss, forward and backward: ours against torch's own, as speed-up."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from plait.bench.measuring import interleaved, types
from plait.kernels import causal_attention, linear_cross_entropy, rms_norm


def compare(name: str, ours: Callable[[], Tensor], torchs: Callable[[], Tensor]) -> str:
    """Time the two in turn."""
    seconds = interleaved(
        {
            "ours": lambda: ours().sum().backward(),  # type: ignore[no-untyped-call]
            "torch": lambda: torchs().sum().backward(),  # type: ignore[no-untyped-call]
        },
        rounds=7,
    )
    ratio = seconds["torch"] / seconds["ours"]
    return f"{name}: {ratio:.1f} × torch's speed ({seconds['ours'] * 1e3:.1f} ms)"


def lines(
    attention: tuple[tuple[int, ...], ...] = ((16, 256, 8, 32), (8, 512, 8, 64)),
    tokens: int = 4096,
    vocabulary: int = 16384,
) -> Iterator[str]:
    """Yield our speed over torch's for each piece and precision.

    Args:
        attention: shapes of queries, keys and values: batch, sequence, heads, width of a head.
        tokens: rows of norm and loss.
        vocabulary: of the loss.
    """
    for dtype in types(torch.device("cpu")):
        for shape in attention:
            q, k, v = (torch.randn(shape).to(dtype).requires_grad_() for _ in range(3))

            def torchs(q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
                q, k, v = (t.transpose(1, 2) for t in (q, k, v))
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)

            yield compare(
                f"attention {shape} {dtype}",
                lambda q=q, k=k, v=v: causal_attention(q, k, v),  # type: ignore[misc]
                torchs,
            )
        x = torch.randn(tokens, 256).to(dtype).requires_grad_()
        weight = torch.ones(256, requires_grad=True)
        yield compare(
            f"RMSNorm ({tokens}, 256) {dtype}",
            lambda x=x, w=weight: rms_norm(x, w, 1e-5),  # type: ignore[misc]
            lambda x=x, w=weight: F.rms_norm(x.float(), (256,), w, 1e-5).to(x.dtype),  # type: ignore[misc]
        )
        head = (torch.randn(vocabulary, 256) * 0.02).requires_grad_()
        targets = torch.randint(0, vocabulary, (tokens,))

        def cross_entropy(
            x: Tensor = x, w: Tensor = head, t: Tensor = targets, d: torch.dtype = dtype
        ) -> Tensor:
            return F.cross_entropy((x @ w.to(d).T).float(), t)

        def ours(
            x: Tensor = x, w: Tensor = head, t: Tensor = targets, d: torch.dtype = dtype
        ) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=d == torch.bfloat16):
                return linear_cross_entropy(x, w, t)

        yield compare(f"head and loss {tokens} × {vocabulary} {dtype}", ours, cross_entropy)
