"""Traces whose content is known: written out by hand, or drawn."""

from collections.abc import Sequence

import numpy as np

from plait.routing import Trace, TraceInfo


def info(routed: int, experts: int, top_k: int, **fields: object) -> TraceInfo:
    given = {
        "model": "made up",
        "tokenizer": "none",
        "depth": routed,
        "routed": tuple(range(routed)),
        "experts": (experts,) * routed,
        "top_k": top_k,
        "context": 64,
        "domains": ("a", "b"),
    }
    return TraceInfo(**{**given, **fields})  # type: ignore[arg-type]


def by_hand(
    ids: Sequence[Sequence[Sequence[int]]],
    experts: int,
    *,
    tokens: Sequence[int] | None = None,
    documents: Sequence[int] | None = None,
    domains: Sequence[int] | None = None,
    **fields: object,
) -> Trace:
    """A trace from `ids[token][depth][rank]`."""
    ids_NLK = np.asarray(ids, dtype=np.uint8)
    count, routed, top_k = ids_NLK.shape
    return Trace(
        info=info(routed, experts, top_k, **fields),
        token_ids_N=np.asarray(tokens if tokens is not None else range(count), np.int32),
        document_N=np.asarray(documents if documents is not None else range(count), np.int32),
        domain_N=np.asarray(domains if domains is not None else [0] * count, np.int16),
        expert_ids_NLK=ids_NLK,
    )


def random(
    tokens: int, routed: int, experts: int, top_k: int, seed: int = 0, **fields: object
) -> Trace:
    """Independent uniform choice at every token and depth; documents of 20 tokens, two domains."""
    generator = np.random.default_rng(seed)
    scores = generator.random((tokens, routed, experts))
    ids_NLK = np.argsort(scores, axis=-1)[..., :top_k].astype(np.uint8)
    document_N = (np.arange(tokens) // 20).astype(np.int32)
    return Trace(
        info=info(routed, experts, top_k, **fields),
        token_ids_N=generator.integers(0, 30, tokens).astype(np.int32),
        document_N=document_N,
        domain_N=(document_N % 2).astype(np.int16),
        expert_ids_NLK=ids_NLK,
        gates_NLK=generator.random((tokens, routed, top_k)).astype(np.float16),
        router_entropy_NL=generator.random((tokens, routed)).astype(np.float16),
    )
