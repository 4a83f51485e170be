"""What the page shows: a model's structure, and the routing and loss of each token of a text.

`describe` and `analyse` return plain dictionaries, ready for JSON.

Their schema is in `docs/explore.md`.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.data.tokenizer import Encoder, Tokenizer, require_vocabulary
from plait.model import LanguageModel, Routing
from plait.report.token_text import pieces, pieces_of_bytes
from plait.routing import TraceInfo, WatchedModel, watch
from plait.routing.watched_model import evaluating, vocabulary
from plait.sharing import Plan

MAX_BYTES = 32_768
"""longest text, UTF-8"""
MAX_TOKENS = 1024
"""longest text, in tokens, where the model's context allows as many"""


class TooLongError(ValueError):
    """The text is longer than what is read at once."""


def describe(model: nn.Module, tokenizer: Encoder, name: str) -> dict[str, Any]:
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
        "vocabulary": vocabulary(model),
        "tokenizer": tokenizer.encoding_fingerprint,
        "max_bytes": MAX_BYTES,
        "max_tokens": token_limit(info),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "plans": {
            part: {"text": str(plan), "banks": list(plan.banks)}
            for part, plan in _plans(model, info).items()
        },
    }


def analyse(
    model: nn.Module,
    tokenizer: Encoder,
    text: str,
    *,
    first: int | None = None,
    watched: WatchedModel | None = None,
) -> dict[str, Any]:
    """Run a model over a text and return, for each token, its experts, gates and loss.

    A token stands before the text, as in training, so that the text's first token has a loss too;
    it is left out of what is returned.

    Args:
        model: ours, or a transformers MoE.
        tokenizer: the one that the model was trained with.
        text: what to read; lone surrogates are read as U+FFFD.
        first: the token before the text; None: end of text, where the tokenizer is ours, else none,
            and the first token's loss is unknown.
        watched: the model's `WatchedModel`, where it is known already.

    Raises:
        ValueError: the text is empty, or the tokenizer is not the model's.
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
    if not token_ids:
        raise ValueError("the tokenizer finds no token in this text: type or paste some more")
    require_vocabulary(token_ids, vocabulary(model), watched.info.model)
    if first is None and isinstance(tokenizer, Tokenizer):
        first = tokenizer.end_of_text
    before = [] if first is None else [first]
    tokens_BS = torch.tensor([before + token_ids])
    routings = [_after(len(before), routing) for routing in watched.routings(tokens_BS)]
    losses_T = _losses(model, tokens_BS)[-len(token_ids) :]
    known_T = losses_T[losses_T.isfinite()]
    ends = _ends(tokenizer, token_ids, data)
    starts = [0, *ends[:-1]] if ends else []
    if ends:
        shown = [pieces_of_bytes(data[a:b]) for a, b in zip(starts, ends, strict=True)]
    else:
        shown = [pieces(tokenizer.token(id_)) for id_ in token_ids]
    paths = zip(*(routing.expert_ids_TK[:, 0].tolist() for routing in routings), strict=True)
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
                "experts": routing.expert_ids_TK.tolist(),
                "gates": [_numbers(gates_K) for gates_K in routing.weights_TK],
                "entropy": _numbers(torch.special.entr(routing.probs_TE).sum(-1)),
            }
            for depth, routing in zip(watched.info.routed, routings, strict=True)
        ],
        "summary": {
            "bytes": len(data),
            "loss": _number(float(known_T.mean())),
            "bits_per_byte": _number(float(known_T.sum()) / math.log(2) / len(data)),
            "paths": len(set(paths)),
        },
    }


def token_limit(info: TraceInfo) -> int:
    """Most tokens of a text; one place of the context goes to the token before it."""
    return max(1, min(MAX_TOKENS, info.context - 1))


def _plans(model: nn.Module, info: TraceInfo) -> dict[str, Plan]:
    """The plan of each kind of part that the model has, experts, router and decision first."""
    plans = {
        "experts": Plan.parse(info.expert_plan, info.depth),
        "router": Plan.parse(info.router_plan, info.depth),
        "decision": Plan.parse(info.decision_plan, info.depth),
    }
    for ours in model.modules():
        if isinstance(ours, LanguageModel):  # also inside of its Hugging Face class
            own = ours.config.plans
            plans |= {"attention": own.attention, "norms": own.norms}
            if ours.collaboration:
                plans["collaboration"] = own.collaboration
    return plans


def _after(count: int, routing: Routing) -> Routing:
    """The routing without the first `count` tokens."""
    return Routing(
        routing.logits_TE[count:],
        routing.probs_TE[count:],
        routing.expert_ids_TK[count:],
        routing.weights_TK[count:],
    )


def _ends(tokenizer: Encoder, token_ids: list[int], data: bytes) -> list[int]:
    """Where each token ends in the text's bytes; empty if they have no exact place in it.

    That is so where the tokenizer normalises text, or is not byte-level.
    """
    if not isinstance(tokenizer, Tokenizer):
        return []
    ends: list[int] = tokenizer.token_bytes[token_ids].cumsum().tolist()
    return ends if ends[-1] == len(data) else []


def _losses(model: nn.Module, tokens_BS: Tensor) -> Tensor:
    """Cross-entropy in nats of each token given those before, shape (S,); first of all NaN."""
    with evaluating(model):
        tokens_BS = tokens_BS.to(next(model.parameters()).device)
        logits_SV, targets_S = model(tokens_BS).logits[0, :-1], tokens_BS[0, 1:]
        # in pieces, so that the fp32 copies of S × V logits do not exist at once
        pieces_of_rows = zip(torch.split(logits_SV, 128), torch.split(targets_S, 128), strict=True)
        losses = [F.cross_entropy(lo.float(), to, reduction="none") for lo, to in pieces_of_rows]
    return torch.cat([torch.tensor([torch.nan]), *(loss.cpu() for loss in losses)])


def _numbers(values: Tensor) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | None:
    """Round for transport; JSON knows no NaN and no infinities."""
    return round(value, 4) if math.isfinite(value) else None
