"""A Plait model as a transformers model: a skin over `LanguageModel` that computes nothing itself.

There is one module tree and one name for each stored parameter, so that saving, sharding, PEFT,
Trainer and generation see an ordinary model, whatever its layers share.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.utils.generic import can_return_tuple

from plait.interop.configuration import PlaitConfig
from plait.model import LanguageModel, Routing
from plait.model.parameters import initialise


class _Depth(GradientCheckpointingLayer):
    """One step of the walk, which transformers recomputes in its own way when it is asked to."""

    def forward(self, step: Callable[..., Any], *stream: Tensor | None) -> Any:
        return step(*stream)


class PlaitForCausalLM(PreTrainedModel, GenerationMixin):
    """Any Plait model behind transformers' interface."""

    config: PlaitConfig
    config_class = PlaitConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LanguageModel"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: PlaitConfig):
        super().__init__(config)
        self.model = LanguageModel(config.structure())
        self.depth = _Depth()
        for tensor in self.model.state_dict(keep_vars=True).values():
            if not tensor.is_meta:  # the model has set it
                tensor._is_hf_initialized = True
        self.post_init()

    @classmethod
    def of(cls, model: LanguageModel, **options: Any) -> "PlaitForCausalLM":
        """Return a model behind this interface, its weights uncopied.

        Args:
            model: a Plait model.
            options: further options of its `PlaitConfig`, such as `eos_token_id`.
        """
        with torch.device("meta"):
            skin = cls(PlaitConfig.of(model.config, **options))
        skin.model = model
        skin.training = model.training
        return skin

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set what no file held of a module's own tensors, as the model itself would."""
        if all(module is not own for own in self.modules()):  # a new, larger embedding
            super()._init_weights(module)
            return
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        missing = {tensor for tensor in own if not getattr(tensor, "_is_hf_initialized", False)}
        if missing:
            c = self.model.config
            initialise(self.model, 0, c.init, c.init_std, c.depth, only=missing)

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] = checkpoint,
        every_n_layers: int = 1,
    ) -> None:
        """Recompute without re-entering: only so gradients flow through a routing handed on."""
        func: Any = gradient_checkpointing_func
        func = partial(getattr(func, "func", func), **getattr(func, "keywords", {}))
        func = partial(func, use_reentrant=False)
        super()._set_gradient_checkpointing(enable, func, every_n_layers)

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding of tokens."""
        return cast(nn.Module, self.model.embedding)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of tokens."""
        value.role = "embedding"  # type: ignore[assignment]
        self.model.embedding = cast(nn.Embedding, value)

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the output head; None where it is the embedding."""
        return cast(nn.Module | None, self.model.head)

    def set_output_embeddings(self, new_embeddings: nn.Module | None) -> None:
        """Replace the output head."""
        if new_embeddings is not None:
            new_embeddings.role = "head"  # type: ignore[assignment]
        self.model.head = cast(nn.Linear | None, new_embeddings)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Grow or shrink the vocabulary, as transformers does for every model."""
        embedding = super().resize_token_embeddings(*args, **kwargs)
        self.model.config = self.config.structure()
        return embedding

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """Run the model; arguments and output are those of transformers' own MoE models.

        Args:
            input_ids: (B, S) token ids.
            attention_mask: (B, cached + S), 1 at real tokens.
            position_ids: (B, S); None: counted on from the cache, padding included.
            past_key_values: a dynamic cache, extended in place.
            inputs_embeds: (B, S, D) in place of `input_ids`.
            labels: (B, S); −100 is ignored; shifted here.
            use_cache: return a cache; None: as the configuration says.
            output_router_logits: return (T, E) logits for each routed depth, and the auxiliary
                load-balancing loss, which is added to the loss with `router_aux_loss_coef`.
            output_hidden_states: return the stream before each depth, and the final norm's output.
            logits_to_keep: logits of the last n positions, or of these positions; 0: all.
            kwargs: go to the loss function.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds`; attention maps, a 4-D
                mask or a static cache were asked for.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if kwargs.pop("output_attentions", None):
            raise ValueError(
                "output_attentions: attention is computed in one step and its weights never exist"
            )
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("attention_mask must be (batch, tokens); causality is understood")
        if past_key_values is not None and past_key_values.is_compileable:
            raise ValueError("static caches are not supported: use a dynamic one")
        config = self.config
        use_cache = config.use_cache if use_cache is None else use_cache
        if output_router_logits is None:
            output_router_logits = config.output_router_logits
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        self.model.checkpointing = self.depth.gradient_checkpointing and self.training
        if self.model.checkpointing:
            self.model.recompute = self.depth.__call__
            use_cache, past_key_values = False, None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=config)

        tokens_BS = input_ids if inputs_embeds is None else inputs_embeds[..., 0]
        assert tokens_BS is not None
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(past, past + tokens_BS.shape[1], device=tokens_BS.device)
            position_ids = position_ids[None]
        padded = attention_mask is not None and not bool(attention_mask.all())
        last = logits_to_keep if isinstance(logits_to_keep, int) else 0
        with _recorded(self.model, output_hidden_states) as hidden_states:
            output = self.model(
                tokens_BS,
                positions_BS=position_ids,
                mask_BS=attention_mask.bool() if padded and attention_mask is not None else None,
                cache=past_key_values,
                routings=output_router_logits,
                logits_to_keep=last,
                embeddings_BSD=inputs_embeds,
            )
        logits = output.logits
        if isinstance(logits_to_keep, Tensor):
            logits = logits[:, logits_to_keep]
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, config.vocab_size, **kwargs)
        aux_loss = None
        if output_router_logits:
            aux_loss = _balance(output.routings, attention_mask)
            if loss is not None and aux_loss is not None:
                loss = loss + config.router_aux_loss_coef * aux_loss.to(loss.device)
        routed = [routing for routing in output.routings if routing is not None]
        return MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=aux_loss,
            logits=logits,
            past_key_values=past_key_values if use_cache else None,
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            router_logits=tuple(r.logits_TE for r in routed) if output_router_logits else None,
        )


@contextmanager
def _recorded(model: LanguageModel, wanted: bool | None) -> Iterator[list[Tensor]]:
    """Record the stream as it enters each depth, whose parts may be shared, and the last norm."""
    recorded: list[Tensor] = []
    hooks = []
    if wanted:
        before = model.config.norm_place == "before"
        for first in (model.attention_norm if before else model.attention).values():
            hooks.append(
                first.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0]))
            )
        hooks.append(
            model.final_norm.register_forward_hook(lambda _, __, output: recorded.append(output))
        )
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()


def _balance(routings: tuple[Routing | None, ...], attention_mask: Tensor | None) -> Tensor | None:
    """Return transformers' auxiliary loss, pooled over depths; None without routers.

    Depths with different numbers of experts cannot be pooled: then the mean over the numbers.
    """
    by_experts: dict[int, list[Routing]] = {}
    for routing in routings:
        if routing is not None and routing.tokens_N is None:
            by_experts.setdefault(routing.logits_TE.shape[-1], []).append(routing)
    losses = [
        load_balancing_loss_func(
            cast(tuple[Tensor], tuple(routing.logits_TE for routing in group)),
            experts,
            group[0].expert_ids_TK.shape[-1],
            attention_mask,
        )
        for experts, group in by_experts.items()
    ]
    return cast(Tensor, sum(losses) / len(losses)) if losses else None
