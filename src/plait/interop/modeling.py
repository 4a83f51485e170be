"""A Plait model as a transformers model: the same walk over depth, in transformers' classes.

There is one module tree and one name for each stored parameter, so that saving, sharding, PEFT,
Trainer and generation see an ordinary model, whatever its layers share.
"""

# mypy: allow-untyped-calls, allow-untyped-decorators, allow-subclassing-any

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import (
    GenericForSequenceClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.utils.generic import can_return_tuple

from plait.interop.configuration import PlaitConfig
from plait.kernels.rotary import rotate
from plait.model.parameters import initialise
from plait.model.rotary import rotary
from plait.model.walk import Step, Walk, refuse_longer, refuse_parts

if TYPE_CHECKING:
    from plait.model import LanguageModel


class Depth(GradientCheckpointingLayer):
    """One step of the walk, which transformers recomputes in its own way when it is asked to."""

    def forward(self, step: Callable[..., Any], *stream: Tensor | None) -> Any:
        """Run the step."""
        return step(*stream)


class Meeting(nn.Module):
    """How one depth's queries meet keys: any attention function of transformers. No parameters."""

    is_causal = True

    def __init__(self, config: PlaitConfig, depth: int):
        super().__init__()
        self.config, self.layer_idx = config, depth
        heads, kv_heads, self.head_dim = config.structure().heads
        self.num_key_value_groups = heads // kv_heads
        self.scaling = self.head_dim**-0.5

    def forward(
        self, q_BHSd: Tensor, k_BGRd: Tensor, v_BGRd: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return (B, S, H, d), and the weights (B, H, S, R) where they come to exist."""
        name = self.config._attn_implementation
        function = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention)
        met: tuple[Tensor, Tensor | None] = function(
            self, q_BHSd, k_BGRd, v_BGRd, mask, dropout=0.0, scaling=self.scaling, **kwargs
        )
        return met


def eager_attention(
    module: nn.Module,
    q_BHSd: Tensor,
    k_BGRd: Tensor,
    v_BGRd: Tensor,
    mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Attend in plain steps, which have the weights."""
    groups = cast(int, module.num_key_value_groups)
    k, v = (t.repeat_interleave(groups, dim=1) for t in (k_BGRd, v_BGRd))
    scores_BHSR = q_BHSd @ k.mT * scaling
    if mask is not None:
        scores_BHSR = scores_BHSR + mask
    weights_BHSR = scores_BHSR.softmax(-1, dtype=torch.float32).to(q_BHSd.dtype)
    return (weights_BHSR @ v).transpose(1, 2).contiguous(), weights_BHSR


class PlaitPreTrainedModel(PreTrainedModel):
    """What Plait's classes of transformers have in common."""

    config: PlaitConfig
    config_class = PlaitConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = [  # noqa: RUF012
        "Attention",
        "ExpertBank",
        "FeedForward",
        "QueryKeyLora",
        "CosineRouter",
        "LowRankRouter",
        "RecurrentRouter",
        "RouterMemory",
    ]
    _skip_keys_device_placement = ["past_key_values", "common"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _input_embed_layer = "embedding"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set what no file held of a module's own tensors, as the model itself would."""
        walk = cast(Walk, self.base_model)
        if all(module is not own for own in walk.modules()):  # a head, a larger embedding
            super()._init_weights(module)
            return
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        missing = {tensor for tensor in own if not getattr(tensor, "_is_hf_initialized", False)}
        if missing:
            c = walk.structure
            initialise(walk, 0, c.init, c.init_std, c.depth, only=missing)

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

    def _resolve_parallel_plans(
        self, distributed_config: Any
    ) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        """Shard each bank once: not by the plan for all banks where its experts are dealt out."""
        tensors, experts, data = super()._resolve_parallel_plans(distributed_config)
        return tensors, experts, {name: how for name, how in data.items() if name not in experts}

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Grow or shrink the vocabulary, as transformers does for every model."""
        embedding: nn.Embedding = super().resize_token_embeddings(*args, **kwargs)
        cast(Walk, self.base_model).structure = self.config.structure()
        return embedding


class PlaitModel(PlaitPreTrainedModel, Walk):
    """Any Plait model without its head."""

    def __init__(self, config: PlaitConfig):
        super().__init__(config)
        self.build(config.structure())
        self.depth = Depth()
        self.meet = nn.ModuleList(Meeting(config, depth) for depth in range(config.depth))
        if not self.embedding.weight.is_meta:
            c = self.structure
            initialise(self, 0, c.init, c.init_std, c.depth)
            for tensor in self.state_dict(keep_vars=True).values():
                tensor._is_hf_initialized = True
        self.post_init()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of tokens."""
        value.role = "embedding"  # type: ignore[assignment]
        self.embedding = cast(nn.Embedding, value)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_router_logits: bool | None = None,
        **kwargs: Any,
    ) -> MoeModelOutputWithPast:
        """Run the model up to its final norm; arguments as for `PlaitForCausalLM`.

        Raises:
            ValueError: both or neither of `input_ids` and `inputs_embeds`; a cache or padding
                where experts choose their tokens.
        """
        config = self.config
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        wanted = {
            "attentions": output_attentions,
            "hidden_states": output_hidden_states,
            "router_logits": output_router_logits,
        }
        for name, value in wanted.items():
            wanted[name] = getattr(config, f"output_{name}") if value is None else value
        use_cache = config.use_cache if use_cache is None else use_cache
        if self.depth.gradient_checkpointing and self.training:
            use_cache, past_key_values = False, None
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=config)
        refuse_parts(self.structure, attention_mask, past_key_values is not None)

        x_BSD = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if not torch.compiler.is_compiling():
            refuse_longer(self.structure, int(past) + x_BSD.shape[1])
        if position_ids is None:
            position_ids = (torch.arange(x_BSD.shape[1], device=x_BSD.device) + past)[None]
        mask = create_causal_mask(
            config=config,
            inputs_embeds=x_BSD,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        angles = None
        if self.structure.attention.position == "rope":
            angles = rotary(position_ids, self.structure.heads[2], self.structure.attention)

        maps: list[Tensor] = []
        kwargs["output_attentions"] = wanted["attentions"]  # an attention that has none warns

        def attend(q_BSHd: Tensor, k_BSGd: Tensor, v_BSGd: Tensor, depth: int) -> Tensor:
            q, k, v = (t.transpose(1, 2) for t in (q_BSHd, k_BSGd, v_BSGd))
            if angles is not None:
                turn = [t.to(q.device) for t in angles]
                q, k = rotate(q, *turn), rotate(k, *turn)
            if past_key_values is not None:
                k, v = past_key_values.update(k, v, depth)
            seen = mask.to(q.device) if isinstance(mask, Tensor) else mask
            y_BSHd, weights = self.meet[depth](q, k, v, seen, position_ids=position_ids, **kwargs)
            if wanted["attentions"] and weights is not None:
                maps.append(weights)
            return cast(Tensor, y_BSHd)

        hidden: list[Tensor] = []

        def run(depth: Callable[..., Step], x_BSD: Tensor, memory_TM: Tensor | None) -> Step:
            if wanted["hidden_states"]:
                hidden.append(x_BSD)
            return cast(Step, self.depth(depth, x_BSD, memory_TM))

        router_logits: list[Tensor] = []
        for step in self.walk(x_BSD, position_ids, attend, run=run):
            x_BSD = step.x_BSD
            if wanted["router_logits"] and step.routing is not None:
                router_logits.append(step.routing.logits_TE)
        x_BSD = self.final_norm(x_BSD)
        return MoeModelOutputWithPast(
            last_hidden_state=cast(torch.FloatTensor, x_BSD),
            past_key_values=past_key_values if use_cache else None,
            hidden_states=cast(Any, (*hidden, x_BSD) if wanted["hidden_states"] else None),
            attentions=cast(Any, tuple(maps) or None),
            router_logits=cast(Any, tuple(router_logits) if wanted["router_logits"] else None),
        )


class PlaitForCausalLM(PlaitPreTrainedModel, GenerationMixin):
    """Any Plait model behind transformers' interface."""

    _tied_weights_keys = {"lm_head.weight": "model.embedding.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012
    _fsdp_plan = {"lm_head": "keep_full_weight"}  # noqa: RUF012

    def __init__(self, config: PlaitConfig):
        super().__init__(config)
        self.model = PlaitModel(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

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
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> MoeCausalLMOutputWithPast:
        """Run the model; arguments and output are those of transformers' own MoE models.

        Args:
            input_ids: (B, S) token ids.
            attention_mask: (B, cached + S), 1 at real tokens; or (B, 1, S, cached + S) as added.
            position_ids: (B, S); None: counted on from the cache, padding included.
            past_key_values: a cache, extended in place.
            inputs_embeds: (B, S, D) in place of `input_ids`.
            labels: (B, S); −100 is ignored; shifted here.
            use_cache: return a cache; None: as the configuration says.
            output_router_logits: return (T, E) logits for each routed depth, and the auxiliary
                load-balancing loss, which is added to the loss with `router_aux_loss_coef`.
            logits_to_keep: logits of the last n positions, or of these positions; 0: all.
            kwargs: `output_hidden_states` (the stream before each depth, and the final norm's
                output), `output_attentions` (of eager attention); others go to the attention
                and loss functions.
        """
        config = self.config
        if output_router_logits is None:
            output_router_logits = config.output_router_logits
        output = self.model(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_router_logits=output_router_logits,
            return_dict=True,
            **kwargs,
        )
        kept = logits_to_keep
        if isinstance(logits_to_keep, int):
            kept = slice(-logits_to_keep, None)  # type: ignore[assignment]
        hidden = output.last_hidden_state[:, kept]
        if config.logit_divisor != 1.0:
            hidden = hidden / config.logit_divisor
        logits = self.lm_head(hidden)
        loss = aux_loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, config.vocab_size, **kwargs)
        if output_router_logits:
            aux_loss = auxiliary_loss(config, output.router_logits, attention_mask)
            if loss is not None and aux_loss is not None:
                loss = loss + config.router_aux_loss_coef * aux_loss.to(loss.device)
        return MoeCausalLMOutputWithPast(
            loss=loss,
            aux_loss=cast(Any, aux_loss),
            logits=logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            router_logits=output.router_logits,
        )

    @classmethod
    def of(cls, model: "LanguageModel", **options: Any) -> "PlaitForCausalLM":
        """Return a model behind this interface, its weights uncopied.

        Args:
            model: a Plait model.
            options: further options of its `PlaitConfig`, such as `eos_token_id`.
        """
        with torch.device("meta"):
            skin = cls(PlaitConfig.of(model.config, **options))
        for name, part in model.named_children():
            if name != "head":
                setattr(skin.model, name, part)
        skin.lm_head.weight = (model.head or model.embedding).weight
        skin.train(model.training)
        return skin


class PlaitForSequenceClassification(GenericForSequenceClassification, PlaitPreTrainedModel):
    """Any Plait model with a linear classifier of whole sequences, read at their last token."""

    def __init__(self, config: PlaitConfig):
        PlaitPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = PlaitModel(config)
        self.score = nn.Linear(config.width, cast(int, config.num_labels), bias=False)
        self.post_init()


def auxiliary_loss(
    config: PlaitConfig, router_logits: tuple[Tensor, ...], attention_mask: Tensor | None
) -> Tensor | None:
    """Return transformers' auxiliary loss, pooled over depths; None where there is nothing to load.

    Depths with different numbers of experts cannot be pooled: then the mean over the numbers.
    """
    structure = config.structure()
    if structure.router.choice == "experts":  # equal by construction
        return None
    by_experts: dict[int, list[Tensor]] = {}
    for logits_TE in router_logits:
        by_experts.setdefault(logits_TE.shape[-1], []).append(logits_TE)
    losses = [
        load_balancing_loss_func(
            cast(tuple[Tensor], tuple(group)), experts, structure.experts.top_k, attention_mask
        )
        for experts, group in by_experts.items()
    ]
    return cast(Tensor, sum(losses) / len(losses)) if losses else None
