"""Recording a trace: forwards over documents, rows back in document order, bounded memory.

Processes take the batches of a part in turn, which are those of one process, so that the trace is
the same to the bit.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.evaluation.heldout import LONGEST_WINDOW
from plait.parallel import World
from plait.routing.trace import NO_TOKENS, Trace, TraceWriter
from plait.routing.watched_model import WatchedModel
from plait.routing.watching import watch

BATCH_TOKENS = 8192
BATCHES_IN_PART = 8

_Columns = dict[str, npt.NDArray[Any]]
"""by the name of the field of `Trace`"""


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
    world: World | None = None,
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
        world: the processes that call it together, each with the whole model and the same passages;
            each returns the whole trace. None: this one alone.

    Raises:
        ValueError: no router is recognised, or there are no tokens.
    """
    parts = list(
        record(
            model,
            passages,
            context=context,
            logits=logits,
            name=name,
            tokenizer=tokenizer,
            world=world,
        )
    )
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
    world: World | None = None,
) -> Path:
    """Record a trace into a Parquet file, part by part; arguments as for `trace_model`.

    Of several processes the main one writes.
    """
    parts = record(
        model,
        passages,
        context=context,
        logits=logits,
        name=name,
        tokenizer=tokenizer,
        world=world,
    )
    if world is None or world.is_main:
        with TraceWriter(path) as writer:
            for part in parts:
                writer.append(part)
    else:
        for _ in parts:
            pass  # a share of each part was traced here
    return Path(path)


def record(
    model: nn.Module | WatchedModel,
    passages: Iterable[Passage],
    *,
    context: int | None = None,
    logits: bool = False,
    name: str = "model",
    tokenizer: str = "unknown",
    world: World | None = None,
) -> Iterator[Trace]:
    """Yield a trace in parts of about 65,000 tokens, rows in document order.

    Inside a part, windows of like length are batched together, so that little is computed on
    padding; padded rows are dropped. `info.domains` grows as new domains appear.

    Raises:
        ValueError: no router is recognised, or there are no tokens.
    """
    watched = watch(model, name, tokenizer) if isinstance(model, nn.Module) else model
    world = world or World(torch.device("cpu"))
    longest = min(context or LONGEST_WINDOW, watched.info.context)
    domains: dict[str, int] = {}
    waiting: list[_Window] = []
    tokens = done = 0
    for document, passage in enumerate(passages):
        domain = domains.setdefault(passage.domain, len(domains))
        ids = passage.token_ids
        for start in range(0, len(ids), longest):
            waiting.append(_Window(ids[start : start + longest], document, domain))
            tokens += len(waiting[-1].token_ids)
            if tokens >= BATCH_TOKENS * BATCHES_IN_PART:
                yield _part(watched, waiting, tuple(domains), longest, logits, world)
                waiting, tokens, done = [], 0, done + tokens
    if waiting:
        yield _part(watched, waiting, tuple(domains), longest, logits, world)
    elif not done:
        raise ValueError(NO_TOKENS)


def _part(
    watched: WatchedModel,
    windows: list[_Window],
    domains: tuple[str, ...],
    context: int,
    logits: bool,
    world: World,
) -> Trace:
    lengths = np.array([len(window.token_ids) for window in windows])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    batches = list(_batches(lengths))

    def columns_of(batch: np.ndarray) -> _Columns:
        return _columns(watched, [windows[window].token_ids for window in batch], logits)

    found = world.in_turn(batches, columns_of)
    columns = {
        name: np.empty((lengths.sum(), *column.shape[1:]), column.dtype)
        for name, column in found[0].items()
    }
    for batch, here in zip(batches, found, strict=True):
        rows = np.concatenate([starts[w] + np.arange(lengths[w]) for w in batch])
        for name, column in here.items():
            columns[name][rows] = column
    repeated = np.repeat(np.arange(len(windows)), lengths)
    return Trace(
        info=replace(watched.info, domains=domains, context=context),
        token_ids_N=np.concatenate([np.asarray(w.token_ids, dtype=np.int32) for w in windows]),
        document_N=np.array([w.document for w in windows], dtype=np.int32)[repeated],
        domain_N=np.array([w.domain for w in windows], dtype=np.int16)[repeated],
        **columns,
    )


def _columns(watched: WatchedModel, windows: Sequence[list[int]], logits: bool) -> _Columns:
    """Return what one forward says of the tokens of some windows, one after the other."""
    tokens_BS = torch.zeros(len(windows), max(map(len, windows)), dtype=torch.int64)
    real_BS = torch.zeros_like(tokens_BS, dtype=torch.bool)
    for row, window in enumerate(windows):
        tokens_BS[row, : len(window)] = torch.tensor(window)
        real_BS[row, : len(window)] = True
    kept = real_BS.flatten().nonzero()[:, 0]
    widest = max(watched.info.experts)
    small = torch.uint8 if widest <= 256 else torch.uint16
    stacks: dict[str, list[Tensor]] = defaultdict(list)
    for routing in watched.routings(tokens_BS):
        here = kept.to(routing.probs_TE.device)
        entropy_T = torch.special.entr(routing.probs_TE[here]).sum(-1)
        stacks["expert_ids_NLK"].append(routing.expert_ids_TK[here].to(small).cpu())
        stacks["gates_NLK"].append(routing.weights_TK[here].half().cpu())
        stacks["router_entropy_NL"].append(entropy_T.half().cpu())
        if logits:
            logits_TE = routing.logits_TE[here].half().cpu()
            beyond = (0, widest - logits_TE.shape[1])
            stacks["logits_NLE"].append(F.pad(logits_TE, beyond, value=-torch.inf))
    return {name: torch.stack(depths, dim=1).numpy() for name, depths in stacks.items()}


def _batches(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Group windows of like length so that rows × longest stays within a batch's tokens."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, BATCH_TOKENS // int(lengths[order[start]]))
        yield order[start : start + rows]
        start += rows
