"""What the page shows: a model's structure, and the routing and loss of each token of a text.

`describe` and `analyse` return plain dictionaries, ready for JSON.

Their schema is in `docs/explore.md`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.data.tokenizer import Tokenizer
from plait.explore.visible import pieces, pieces_of_bytes
from plait.model import LanguageModel
from plait.routing import Subject, TraceInfo, watch
from plait.routing.subject import evaluating
from plait.sharing import Plan

MAX_BYTES = 32_768
"""longest text, UTF-8"""
MAX_TOKENS = 1024
"""longest text, in tokens, where the model's context allows as many"""


class TooLongError(ValueError):
    """The text is longer than what is read at once."""


def describe(model: nn.Module, tokenizer: Tokenizer, name: str) -> dict[str, Any]:
    """Return a model's structure: sizes, and which depths share the banks of each kind of part.

    Raises:
        ValueError: the model has no router that is recognised.
    """
    info = watch(model, name).info
    counts = dict(zip(info.routed, info.experts, strict=True))
    return {
        "name": name,
        "depth": info.depth,
        "experts": [counts.get(depth, 0) for depth in range(info.depth)],
        "top_k": info.top_k,
        "vocabulary": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "max_bytes": MAX_BYTES,
        "max_tokens": token_limit(info),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "plans": {
            part: {"text": str(plan), "banks": list(plan.banks)}
            for part, plan in _plans(model, info).items()
        },
    }


def analyse(
    model: nn.Module, tokenizer: Tokenizer, text: str, *, watched: Subject | None = None
) -> dict[str, Any]:
    """Run a model over a text and return, for each token, its experts, gates and loss.

    An end-of-text token stands before the text, as in training, so that the first token has a loss
    too; it is left out of what is returned.

    Args:
        model: ours, or a transformers MoE.
        tokenizer: the one that the model was trained with.
        text: what to read; lone surrogates are read as U+FFFD.
        watched: the model's `Subject`, where it is known already.

    Raises:
        ValueError: the text is empty.
        TooLongError: it exceeds MAX_BYTES, MAX_TOKENS or the model's context.
    """
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    data = text.encode()
    if not data:
        raise ValueError("there is no text: type or paste some")
    if len(data) > MAX_BYTES:
        raise TooLongError(
            f"the text has {len(data):,} bytes, at most {MAX_BYTES:,} are read: shorten it"
        )
    watched = watched or watch(model)
    token_ids = tokenizer.encode(text)
    limit = token_limit(watched.info)
    if len(token_ids) > limit:
        raise TooLongError(
            f"the text has {len(token_ids):,} tokens for {watched.info.model}, at most {limit:,} "
            "are read at once: shorten it"
        )
    ends = torch.tensor(tokenizer.token_bytes[token_ids]).cumsum(0).tolist()
    if ends[-1] == len(data):
        starts = [0, *ends[:-1]]
        shown = [pieces_of_bytes(data[a:b]) for a, b in zip(starts, ends, strict=True)]
    else:  # the tokenizer normalises text, so its tokens have no exact place in it
        starts, ends = [], []
        shown = [pieces(tokenizer.token(id_)) for id_ in token_ids]
    tokens_BS = torch.tensor([[tokenizer.end_of_text, *token_ids]])
    routings = watched.routings(tokens_BS)
    losses_T = _losses(model, tokens_BS)
    paths = zip(*(routing.expert_ids_TK[1:, 0].tolist() for routing in routings), strict=True)
    total = float(losses_T.sum())
    return {
        "tokens": {
            "id": token_ids,
            "shown": shown,
            "start": starts,
            "end": ends,
            "loss": _numbers(losses_T),
        },
        "depths": [
            {
                "depth": depth,
                "experts": routing.expert_ids_TK[1:].tolist(),
                "gates": [_numbers(gates_K) for gates_K in routing.weights_TK[1:]],
                "entropy": _numbers(torch.special.entr(routing.probs_TE[1:]).sum(-1)),
            }
            for depth, routing in zip(watched.info.routed, routings, strict=True)
        ],
        "summary": {
            "bytes": len(data),
            "loss": _number(total / len(token_ids)),
            "bits_per_byte": _number(total / math.log(2) / len(data)),
            "paths": len(set(paths)),
        },
    }


def token_limit(info: TraceInfo) -> int:
    """Most tokens of a text; one place of the context goes to the end-of-text token before it."""
    return max(1, min(MAX_TOKENS, info.context - 1))


def _plans(model: nn.Module, info: TraceInfo) -> dict[str, Plan]:
    """The plan of each kind of part that the model has, experts, router and decision first."""
    plans = {
        "experts": Plan.parse(info.expert_plan, info.depth),
        "router": Plan.parse(info.router_plan, info.depth),
        "decision": Plan.parse(info.decision_plan, info.depth),
    }
    if isinstance(model, LanguageModel):
        own = model.config.plans
        plans |= {"attention": own.attention, "norms": own.norms}
        if model.collaboration:
            plans["collaboration"] = own.collaboration
    return plans


def _losses(model: nn.Module, tokens_BS: Tensor) -> Tensor:
    """Cross-entropy in nats of each token after the first, shape (S − 1,)."""
    with evaluating(model):
        tokens_BS = tokens_BS.to(next(model.parameters()).device)
        logits_SV, targets_S = model(tokens_BS).logits[0, :-1], tokens_BS[0, 1:]
        # in pieces, so that the fp32 copies of S × V logits do not exist at once
        pieces_of_rows = zip(torch.split(logits_SV, 128), torch.split(targets_S, 128), strict=True)
        losses = [F.cross_entropy(lo.float(), to, reduction="none") for lo, to in pieces_of_rows]
    return torch.cat(losses).cpu()


def _numbers(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | None:
    """Round for transport; JSON knows no NaN and no infinities."""
    return round(value, 4) if math.isfinite(value) else None
