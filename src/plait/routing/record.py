"""Recording a trace: forwards over documents, rows back in document order, bounded memory."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from plait.evaluation.heldout import LONGEST_WINDOW
from plait.routing.trace import Trace, TraceWriter
from plait.routing.watched_model import WatchedModel
from plait.routing.watching import watch

BATCH_TOKENS = 8192
BATCHES_IN_PART = 8


@dataclass(frozen=True)
class Passage:
    """One document as tokens, and the domain that it belongs to."""

    token_ids: list[int]
    domain: str = "text"


@dataclass(frozen=True)
class _Window:
    """A piece of a document, at most the model's context long."""

    token_ids: list[int]
    document: int
    domain: int


def trace_model(
    model: nn.Module | WatchedModel,
    passages: Iterable[Passage],
    *,
    context: int | None = None,
    logits: bool = False,
    name: str = "model",
    tokenizer: str = "unknown",
) -> Trace:
    """Record a trace in memory; for much text use `trace_to_file`.

    Args:
        model: ours, a transformers MoE, or a `WatchedModel`.
        passages: documents; those longer than `context` tokens are cut into windows, each of which
            begins anew, as the model's forward does.
        context: longest window, tokens; None takes the model's own, at most 2048.
        logits: record router logits too.
        name: what to call the model.
        tokenizer: a fingerprint of the tokenizer, kept in the trace's `info`.

    Raises:
        ValueError: no router is recognised, or there are no tokens.
    """
    parts = list(
        record(model, passages, context=context, logits=logits, name=name, tokenizer=tokenizer)
    )
    if not parts:
        raise ValueError("the text gave no tokens: nothing was traced")
    return replace(Trace.concatenate(parts), info=parts[-1].info)


def trace_to_file(
    model: nn.Module | WatchedModel,
    passages: Iterable[Passage],
    path: str | os.PathLike[str],
    *,
    context: int | None = None,
    logits: bool = False,
    name: str = "model",
    tokenizer: str = "unknown",
) -> Path:
    """Record a trace into a Parquet file, part by part; arguments as for `trace_model`."""
    with TraceWriter(path) as writer:
        for part in record(
            model, passages, context=context, logits=logits, name=name, tokenizer=tokenizer
        ):
            writer.append(part)
    return Path(path)


def record(
    model: nn.Module | WatchedModel,
    passages: Iterable[Passage],
    *,
    context: int | None = None,
    logits: bool = False,
    name: str = "model",
    tokenizer: str = "unknown",
) -> Iterator[Trace]:
    """Yield a trace in parts of about 65,000 tokens, rows in document order.

    Inside a part, windows of like length are batched together, so that little is computed on
    padding; padded rows are dropped. `info.domains` grows as new domains appear.
    """
    watched = watch(model, name, tokenizer) if isinstance(model, nn.Module) else model
    longest = min(context or LONGEST_WINDOW, watched.info.context)
    domains: dict[str, int] = {}
    waiting: list[_Window] = []
    tokens = 0
    for document, passage in enumerate(passages):
        domain = domains.setdefault(passage.domain, len(domains))
        ids = passage.token_ids
        for start in range(0, len(ids), longest):
            waiting.append(_Window(ids[start : start + longest], document, domain))
            tokens += len(waiting[-1].token_ids)
            if tokens >= BATCH_TOKENS * BATCHES_IN_PART:
                yield _part(watched, waiting, tuple(domains), longest, logits)
                waiting, tokens = [], 0
    if waiting:
        yield _part(watched, waiting, tuple(domains), longest, logits)


def _part(
    watched: WatchedModel,
    windows: list[_Window],
    domains: tuple[str, ...],
    context: int,
    logits: bool,
) -> Trace:
    lengths = np.array([len(window.token_ids) for window in windows])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    tokens, info = int(lengths.sum()), replace(watched.info, domains=domains, context=context)
    routed, top_k, widest = len(info.routed), info.top_k, max(info.experts)
    ids = np.empty((tokens, routed, top_k), dtype=np.uint8 if widest <= 256 else np.uint16)
    gates = np.empty((tokens, routed, top_k), dtype=np.float16)
    entropy = np.empty((tokens, routed), dtype=np.float16)
    all_logits = np.full((tokens, routed, widest), -np.inf, dtype=np.float16) if logits else None
    for batch in _batches(lengths):
        width = int(lengths[batch].max())
        tokens_BS = torch.zeros(len(batch), width, dtype=torch.int64)
        for row, window in enumerate(batch):
            tokens_BS[row, : lengths[window]] = torch.tensor(windows[window].token_ids)
        real_BS = np.arange(width)[None, :] < lengths[batch][:, None]
        kept = torch.from_numpy(np.flatnonzero(real_BS.reshape(-1)))
        rows = (starts[batch][:, None] + np.arange(width)[None, :])[real_BS]
        for column, routing in enumerate(watched.routings(tokens_BS)):
            here = kept.to(routing.probs_TE.device)
            entropy_T = torch.special.entr(routing.probs_TE[here]).sum(-1)
            ids[rows, column] = routing.expert_ids_TK[here].cpu().numpy()
            gates[rows, column] = routing.weights_TK[here].half().cpu().numpy()
            entropy[rows, column] = entropy_T.half().cpu().numpy()
            if all_logits is not None:
                logits_TE = routing.logits_TE[here].half().cpu().numpy()
                all_logits[rows, column, : logits_TE.shape[1]] = logits_TE
    repeated = np.repeat(np.arange(len(windows)), lengths)
    return Trace(
        info=info,
        token_ids_N=np.concatenate([np.asarray(w.token_ids, dtype=np.int32) for w in windows]),
        document_N=np.array([w.document for w in windows], dtype=np.int32)[repeated],
        domain_N=np.array([w.domain for w in windows], dtype=np.int16)[repeated],
        expert_ids_NLK=ids,
        gates_NLK=gates,
        router_entropy_NL=entropy,
        logits_NLE=all_logits,
    )


def _batches(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Group windows of like length so that rows × longest stays within a batch's tokens."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, BATCH_TOKENS // int(lengths[order[start]]))
        yield order[start : start + rows]
        start += rows
