"""The architectures of transformers that Plait reads and writes, as data.

One description serves both directions. Options: their name and ours for the same value; what the
architecture always is, in our words; what must hold of theirs, in their words. Tensors: each of
ours is a row of theirs laid end to end, so reading is concatenating and writing is slicing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from plait.interop.options import ROPE, Option, Options, Translations, product


@dataclass(frozen=True)
class Architecture:
    """One architecture: how its options and its tensors are ours."""

    model_type: str
    options: Translations
    """their option → our dotted option, or several that are always alike"""
    always: Options
    """our dotted options, fixed by the architecture"""
    required: Options
    """their options that must have this value; in a list, each entry must be the one here"""
    tensors: Mapping[str, tuple[str, ...]]
    """our tensor → theirs, end to end; {d} is the depth, {e} runs over the experts"""
    ignored: frozenset[str] = field(default_factory=frozenset)
    """their options that change nothing, the required ones given"""

    @property
    def dense(self) -> bool:
        """Whether it has no experts."""
        return "experts.count" in self.always


def _tensors(
    block: str = "mlp", gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj",
    shared: str = "shared_expert",
    norms: tuple[str, str] = ("input_layernorm", "post_attention_layernorm"),
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    layer = "model.layers.{d}."
    moe, dense = f"{layer}{block}.", f"{layer}mlp."
    expert = moe + "experts.{e}."
    names = {
        "embedding.weight": ("model.embed_tokens.weight",),
        "final_norm.weight": ("model.norm.weight",),
        "head.weight": ("lm_head.weight",),
        "attention_norm.{d}.weight": (f"{layer}{norms[0]}.weight",),
        "expert_norm.{d}.weight": (f"{layer}{norms[1]}.weight",),
        "router.{d}.weight": (moe + "gate.weight",),
        "load_bias.depth{d}.bias_E": (moe + "gate.e_score_correction_bias",),
        "experts.{d}.up": (f"{expert}{gate}.weight", f"{expert}{up}.weight"),
        "experts.{d}.down": (f"{expert}{down}.weight",),
        "experts.{d}.shared.up": (
            f"{moe}{shared}.gate_proj.weight",
            f"{moe}{shared}.up_proj.weight",
        ),
        "experts.{d}.shared.down": (f"{moe}{shared}.down_proj.weight",),
        "experts.{d}.shared_gate.weight": (f"{moe}{shared}_gate.weight",),
        "dense.{d}.up": (f"{dense}gate_proj.weight", f"{dense}up_proj.weight"),
        "dense.{d}.down": (f"{dense}down_proj.weight",),
    }
    for part in ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight",
                 "q_proj.bias", "k_proj.bias", "v_proj.bias", "o_proj.bias",
                 "q_norm.weight", "k_norm.weight"):  # fmt: skip
        names[f"attention.{{d}}.{part}"] = (f"{layer}self_attn.{part}",)
    return names


FUSED = {
    "experts.{d}.up": ("model.layers.{d}.mlp.experts.gate_up_proj",),
    "experts.{d}.down": ("model.layers.{d}.mlp.experts.down_proj",),
    "router.{d}.weight": ("model.layers.{d}.mlp.gate.weight",),
}
"""where `save_pretrained(save_original_format=False)` puts what it otherwise splits by expert"""


def _dense_depths(theirs: Options) -> list[int]:
    """Return the depths that Qwen's options say are dense."""
    step, depth = theirs.get("decoder_sparse_step") or 1, theirs["num_hidden_layers"]
    between = [d for d in range(depth) if (d + 1) % step]
    return sorted({*between, *(theirs.get("mlp_only_layers") or ())})


def _leading(depths: list[int]) -> int:
    """Return how many depths from the first one on are in a sorted list."""
    return next((n for n, depth in enumerate(depths) if n != depth), len(depths))


_OPTIONS: Translations = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "depth",
    "hidden_size": "width",
    "max_position_embeddings": "context",
    "num_attention_heads": "attention.heads",
    "num_key_value_heads": "attention.kv_heads",
    **ROPE,
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied_head",
    "initializer_range": "init_std",
}
_HEAD_WIDTH: Translations = {"head_dim": "attention.head_width"}
_HEAD_WIDTH_SAID: Translations = {
    "head_dim": Option(
        "attention.head_width",
        read=lambda value, theirs: value,
        # without it Qwen3's is 128, whatever the width
        write=lambda value, ours: value or ours["width"] // ours["attention.heads"],
    )
}
_BIAS: Translations = {"attention_bias": ("attention.qkv_bias", "attention.output_bias")}
_ROUTED: Translations = {
    **_OPTIONS,
    "num_experts_per_tok": "experts.top_k",
    # theirs counts each of a token's K choices as a whole, so it is K where ours is 1
    "router_aux_loss_coef": Option(
        "balance.switch",
        read=lambda value, theirs: product(value, theirs["num_experts_per_tok"]),
        write=lambda value, ours: value / ours["experts.top_k"],
    ),
}
_DENSE_WIDTH = Option(
    "experts.dense_width",
    read=lambda value, theirs: (
        value if theirs.get("first_k_dense_replace") or _dense_depths(theirs) else None
    ),
    write=lambda value, ours: value,
)
_QWEN: Translations = {
    **_ROUTED,
    "moe_intermediate_size": "experts.width",
    "intermediate_size": _DENSE_WIDTH,
    "norm_topk_prob": "router.renormalise",
    "mlp_only_layers": Option(
        "experts.dense_first",
        read=lambda value, theirs: _leading(_dense_depths(theirs)),
        write=lambda value, ours: [*range(value), *ours["experts.dense_at"]],
    ),
    "decoder_sparse_step": Option(
        "experts.dense_at",
        read=lambda value, theirs: _dense_depths(theirs)[_leading(_dense_depths(theirs)) :],
        write=lambda value, ours: 1,
    ),
}
_ALWAYS = {"norm": "rms", "attention.position": "rope", "experts.activation": "swiglu"}
_GRANITE = "model.layers.{d}.block_sparse_moe."
_DENSE: Translations = {**_OPTIONS, "intermediate_size": "experts.width"}
_ALWAYS_DENSE = {**_ALWAYS, "experts.count": 1, "experts.top_k": 1, "balance.switch": 0.0}
_REQUIRED = {"hidden_act": "silu", "attention_dropout": 0.0}
_UNWINDOWED = {"use_sliding_window": False, "layer_types": ["full_attention"]}
_IGNORED = frozenset({
    "transformers_version", "architectures", "model_type", "_name_or_path", "dtype", "use_cache",
    "output_hidden_states", "output_attentions", "output_router_logits", "return_dict",
    "id2label", "label2id", "problem_type", "chunk_size_feed_forward", "is_encoder_decoder",
    "pad_token_id", "bos_token_id", "eos_token_id", "max_window_layers", "pretraining_tp",
    "rope_parameters.type", "rope_parameters.mscale_all_dim", "is_llama_config",
    "transformers.js_config",
})  # fmt: skip

ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        Architecture(
            "llama",
            options={**_DENSE, **_HEAD_WIDTH, **_BIAS},
            always=_ALWAYS_DENSE,
            required={**_REQUIRED, "mlp_bias": False},
            tensors=_tensors(),
            ignored=_IGNORED,
        ),
        Architecture(
            "qwen2",
            options=_DENSE,
            always={**_ALWAYS_DENSE, "attention.qkv_bias": True},
            required={**_REQUIRED, **_UNWINDOWED},
            tensors=_tensors(),
            ignored=_IGNORED | {"sliding_window"},
        ),
        Architecture(
            "qwen3",
            options={**_DENSE, **_HEAD_WIDTH_SAID, **_BIAS},
            always={**_ALWAYS_DENSE, "attention.qk_norm": "head"},
            required={**_REQUIRED, **_UNWINDOWED},
            tensors=_tensors(),
            ignored=_IGNORED | {"sliding_window"},
        ),
        Architecture(
            "olmoe",
            options={
                **_ROUTED,
                **_BIAS,
                "num_experts": "experts.count",
                "intermediate_size": "experts.width",
                "norm_topk_prob": "router.renormalise",
                "clip_qkv": "attention.clip_qkv",
            },
            always={**_ALWAYS, "attention.qk_norm": "width"},
            required=_REQUIRED,
            tensors=_tensors(),
            ignored=_IGNORED,
        ),
        Architecture(
            "flex_olmo",
            options={
                **_ROUTED,
                **_BIAS,
                "num_experts": "experts.count",
                "intermediate_size": "experts.width",
                "norm_topk_prob": "router.renormalise",
            },
            always={**_ALWAYS, "attention.qk_norm": "width", "norm_place": "after"},
            required=_REQUIRED,
            tensors=_tensors(norms=("post_attention_layernorm", "post_feedforward_layernorm")),
            ignored=_IGNORED,
        ),
        Architecture(
            "qwen3_moe",
            options={
                **_QWEN,
                **_HEAD_WIDTH,
                **_BIAS,
                "num_local_experts": "experts.count",
            },
            always={**_ALWAYS, "attention.qk_norm": "head"},
            required={**_REQUIRED, "use_sliding_window": False},
            tensors=_tensors(),
            ignored=_IGNORED | {"sliding_window"},
        ),
        Architecture(
            "mixtral",
            options={
                **_ROUTED,
                **_HEAD_WIDTH,
                "num_local_experts": "experts.count",
                "intermediate_size": "experts.width",
            },
            always={**_ALWAYS, "router.renormalise": True},
            required={**_REQUIRED, "sliding_window": None, "router_jitter_noise": 0.0},
            tensors=_tensors("block_sparse_moe", "w1", "w3", "w2"),
            ignored=_IGNORED,
        ),
        Architecture(
            "granitemoe",
            options={
                **_ROUTED,
                **_BIAS,
                "num_local_experts": "experts.count",
                "intermediate_size": "experts.width",
                "embedding_multiplier": "embedding_scale",
                "residual_multiplier": "residual_scale",
                "logits_scaling": "logit_divisor",
                "attention_multiplier": Option(
                    "attention.scale",
                    read=lambda value, theirs: value,
                    write=lambda value, ours: (
                        (ours["width"] / ours["attention.heads"]) ** -0.5
                        if value is None
                        else value
                    ),
                ),
            },
            always={**_ALWAYS, "router.renormalise": True},
            required=_REQUIRED,
            tensors={
                **_tensors(),
                "router.{d}.weight": (f"{_GRANITE}router.layer.weight",),
                "experts.{d}.up": (f"{_GRANITE}input_linear.weight",),
                "experts.{d}.down": (f"{_GRANITE}output_linear.weight",),
            },
            ignored=_IGNORED,
        ),
        Architecture(
            "qwen2_moe",
            options={
                **_QWEN,
                **_HEAD_WIDTH,
                "num_experts": "experts.count",
                "shared_expert_intermediate_size": "experts.shared_width",
                "qkv_bias": "attention.qkv_bias",
            },
            always={**_ALWAYS, "experts.shared_gate": True},
            required={**_REQUIRED, **_UNWINDOWED},
            tensors=_tensors(),
            ignored=_IGNORED | {"sliding_window"},
        ),
        Architecture(
            "dots1",
            options={
                **_OPTIONS,
                **_HEAD_WIDTH,
                **_BIAS,
                "num_experts_per_tok": "experts.top_k",
                "n_routed_experts": "experts.count",
                "moe_intermediate_size": "experts.width",
                "intermediate_size": _DENSE_WIDTH,
                "first_k_dense_replace": "experts.dense_first",
                "norm_topk_prob": "router.renormalise",
                "routed_scaling_factor": "router.scale",
                "n_group": "router.groups",
                "topk_group": "router.top_groups",
                "n_shared_experts": Option(
                    "experts.shared_width",
                    read=lambda value, theirs: product(value, theirs["moe_intermediate_size"]),
                    write=lambda value, ours: value // ours["experts.width"],
                ),
            },
            always={
                **_ALWAYS,
                "attention.qk_norm": "head",
                "router.gating": "sigmoid",
                "router.bias": True,
                "balance.switch": 0.0,
            },
            required={**_REQUIRED, "layer_types": ["full_attention"]},
            tensors=_tensors(shared="shared_experts"),
            ignored=_IGNORED | {"sliding_window"},
        ),
    )
}
