"""The next token's logits, with a cache: in one operation where C++ knows the structure."""

from typing import cast

import torch
from torch import Tensor

from plait import kernels
from plait.config import ModelConfig
from plait.kernels import whole_token
from plait.model.attending import KVCache
from plait.model.attention import Attention
from plait.model.experts import ExpertBank, FeedForward
from plait.model.language_model import LanguageModel
from plait.model.rotary import rotary
from plait.model.router import LinearRouter, RandomFixedRouter


class Decoder:
    """A model and the sequence that it has read so far.

    Args:
        model: in eval mode. Its weights may change meanwhile, their types and places may not.
    """

    def __init__(self, model: LanguageModel):
        self.model, self.cache = model, KVCache()
        self.stack = whole_stack(model)
        self.angles: tuple[Tensor | None, Tensor | None] = None, None

    def logits_after(self, tokens: list[int]) -> Tensor:
        """Read further tokens, at least one; return the logits (V) of what follows them."""
        if self.stack is None or len(tokens) > 1 or not self.cache.lengths:
            device = self.model.embedding.weight.device
            tokens_1S = torch.tensor([tokens], device=device)
            logits_11V = self.model(tokens_1S, cache=self.cache, logits_to_keep=1).logits
            return cast(Tensor, logits_11V)[0, -1]
        held = self.cache.get_seq_length()
        buffers = [self.cache.room(depth, 1) for depth in range(self.model.config.depth)]
        keys, values = ([both[i] for both in buffers] for i in range(2))
        a, room = self.model.config.attention, keys[0].shape[2]
        if self.angles[0] is None or len(self.angles[0]) < room:
            cos, sin = rotary(torch.arange(room)[None], self.model.config.heads[2], a)
            self.angles = cos[0], sin[0]
        given = keys, values, held
        return whole_token.logits_after(tokens[0], self.stack, *self.angles, *given)


def whole_stack(model: LanguageModel) -> whole_token.Stack | None:
    """Return what one token passes through, or None where that is more than one operation knows."""
    c = model.config
    if not _plain(c) or model.training or _watched(model):
        return None
    depths = []
    for depth in range(c.depth):
        part = model.parts_at(depth)
        experts, router = part.experts, part.router
        if isinstance(experts, ExpertBank):
            if experts.compute is not kernels.experts or experts._is_expert_parallel:
                return None
            if not isinstance(router, LinearRouter | RandomFixedRouter):
                return None
            up_EXD, down_EDF = experts.up, experts.down
        else:
            dense = cast(FeedForward, experts)
            up_EXD, down_EDF = dense.up[None], dense.down[None]
        a = cast(Attention, part.attention)
        depths.append(
            whole_token.Depth(
                cast(Tensor, part.attention_norm.weight),
                *(p.weight for p in (a.q_proj, a.k_proj, a.v_proj, a.o_proj)),
                *((a.q_norm.weight, a.k_norm.weight) if a.qk_norm != "none" else (None, None)),
                cast(Tensor, part.expert_norm.weight),
                None if router is None else cast(Tensor, router.weight),
                None if part.load_bias is None else part.load_bias.bias_E,
                up_EXD,
                down_EDF,
            )
        )
    r, weight = c.router, model.embedding.weight
    stack = whole_token.Stack(
        embedding_VD=weight,
        depths=tuple(depths),
        final_norm_D=cast(Tensor, model.final_norm.weight),
        head_VD=weight if model.head is None else model.head.weight,
        eps=c.norm_eps,
        activation=c.experts.activation,
        top_k=c.experts.top_k,
        sigmoid=r.gating == "sigmoid",
        renormalise=r.renormalise or r.gating == "topk-softmax",
        scale=r.scale,
    )
    return stack if whole_token.covers(stack, c.heads[2]) else None


def _plain(c: ModelConfig) -> bool:
    """Whether a structure has nothing that one operation does not know."""
    a, r = c.attention, c.router
    return (
        (c.norm, c.norm_place, c.collaboration) == ("rms", "before", None)
        and c.embedding_scale == c.residual_scale == c.logit_divisor == 1.0
        and (a.position, a.clip_qkv, a.scale, a.lora_rank) == ("rope", None, None, 0)
        and not (a.qkv_bias or a.output_bias or c.experts.shared_width)
        and (r.choice, r.groups) == ("tokens", 1)
        and r.kind in ("linear", "random-fixed")
        and c.plans.decision.count == c.depth
    )


def _watched(model: LanguageModel) -> bool:
    """Whether somebody looks at what modules hand on, which one operation would not call."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
