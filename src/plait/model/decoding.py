"""The next token's logits, with a cache: in one operation where C++ knows the structure."""

from typing import cast

import torch
from torch import Tensor, nn

from plait import kernels
from plait.config import ModelConfig
from plait.kernels import whole_token
from plait.model.attending import KVCache
from plait.model.attention import Attention
from plait.model.experts import ExpertBank, FeedForward
from plait.model.language_model import LanguageModel
from plait.model.rotary import rotary


class Decoder:
    """A model and the sequence that it has read so far.

    Args:
        model: in eval mode. Its weights may change meanwhile, their types and places may not.
    """

    def __init__(self, model: LanguageModel):
        self.model, self.cache = model, KVCache()
        self.stack = whole_stack(model)
        self.angles: tuple[Tensor, Tensor] | None = None

    def logits_after(self, tokens: list[int]) -> Tensor:
        """Read further tokens, at least one; return the logits (V) of what follows them."""
        if self.stack is None or len(tokens) > 1 or not self.cache.lengths:
            device = self.model.embedding.weight.device
            tokens_1S = torch.tensor([tokens], device=device)
            logits_11V = self.model(tokens_1S, cache=self.cache, logits_to_keep=1).logits
            return cast(Tensor, logits_11V)[0, -1]
        held = self.cache.get_seq_length()
        c, keys, values = self.model.config, [], []
        for depth in range(c.depth):
            key, value, _ = self.cache.room(depth, 1)
            keys.append(key)
            values.append(value)
        room = keys[0].shape[2]
        if self.angles is None or len(self.angles[0]) < room:
            cos, sin = rotary(torch.arange(room)[None], c.heads[2], c.attention)
            self.angles = cos[0], sin[0]
        return whole_token.logits_after(tokens[0], self.stack, self.angles, keys, values, held)


def whole_stack(model: LanguageModel) -> whole_token.Stack | None:
    """Return what one token passes through, or None where that is more than one operation knows."""
    c = model.config
    if not _plain(c) or model.training or _watched(model):
        return None
    depths = []
    for depth in range(c.depth):
        part = model.parts_at(depth)
        a, experts, router = cast(Attention, part.attention), part.experts, part.router
        if isinstance(experts, ExpertBank):
            if experts.compute is not kernels.experts or experts._is_expert_parallel:
                return None
            bank: tuple[Tensor, Tensor] = experts.up, experts.down
        else:
            dense = cast(FeedForward, experts)
            bank = dense.up[None], dense.down[None]
        normed = a.qk_norm != "none"
        depths.append(
            whole_token.Depth(
                attention_norm_D=_weight(part.attention_norm),
                query_ND=a.q_proj.weight,
                key_ND=a.k_proj.weight,
                value_ND=a.v_proj.weight,
                output_DN=a.o_proj.weight,
                query_norm=a.q_norm.weight if normed else None,
                key_norm=a.k_norm.weight if normed else None,
                expert_norm_D=_weight(part.expert_norm),
                router_ED=None if router is None else _weight(router),
                bias_E=None if part.load_bias is None else part.load_bias.bias_E,
                up_EXD=bank[0],
                down_EDF=bank[1],
            )
        )
    r, embedding = c.router, model.embedding
    stack = whole_token.Stack(
        embedding_VD=embedding.weight,
        depths=tuple(depths),
        final_norm_D=_weight(model.final_norm),
        head_VD=_weight(embedding if model.head is None else model.head),
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
        and r.kind in ("linear", "random-fixed")  # both a matrix
        and c.plans.decision.count == c.depth
    )


def _weight(module: nn.Module) -> Tensor:
    return cast(Tensor, module.weight)


def _watched(model: LanguageModel) -> bool:
    """Whether somebody looks at what modules hand on, which one operation would not call."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
