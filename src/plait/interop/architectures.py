"""The mixture-of-experts architectures of transformers that Plait reads and writes, as data.

One description serves both directions. Options: their name and ours for the same value; what the
architecture always is, in our words; what must hold of theirs, in their words. Tensors: each of
ours is a row of theirs laid end to end, so reading is concatenating and writing is slicing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from plait.reading import quoted

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """An option whose value differs between the two sides.

    `read(value, theirs)` gives our value, raising a ValueError for one that we cannot express;
    `write(value, ours)` gives theirs. Both see all options, ours by dotted name.
    """

    ours: str
    read: Callable[[Any, Options], Any]
    write: Callable[[Any, Options], Any]


@dataclass(frozen=True)
class Architecture:
    """One architecture: how its options and its tensors are ours."""

    model_type: str
    options: Mapping[str, str | Option]
    """their option → our dotted option"""
    always: Options
    """our dotted options, fixed by the architecture"""
    required: Options
    """their options that must have this value; in a list, each entry must be the one here"""
    tensors: Mapping[str, tuple[str, ...]]
    """our tensor → theirs, end to end; {d} is the depth, {e} runs over the experts"""
    ignored: frozenset[str] = field(default_factory=frozenset)
    """their options that change nothing, the required ones given"""


def _tensors(
    block: str = "mlp", gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj",
    shared: str = "shared_expert",
) -> dict[str, tuple[str, ...]]:  # fmt: skip
    layer = "model.layers.{d}."
    moe, dense = f"{layer}{block}.", f"{layer}mlp."
    expert = moe + "experts.{e}."
    names = {
        "embedding.weight": ("model.embed_tokens.weight",),
        "final_norm.weight": ("model.norm.weight",),
        "head.weight": ("lm_head.weight",),
        "attention_norm.{d}.weight": (layer + "input_layernorm.weight",),
        "expert_norm.{d}.weight": (layer + "post_attention_layernorm.weight",),
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
                 "q_proj.bias", "k_proj.bias", "v_proj.bias",
                 "q_norm.weight", "k_norm.weight"):  # fmt: skip
        names[f"attention.{{d}}.{part}"] = (f"{layer}self_attn.{part}",)
    return names


FUSED = {
    "experts.{d}.up": ("model.layers.{d}.mlp.experts.gate_up_proj",),
    "experts.{d}.down": ("model.layers.{d}.mlp.experts.down_proj",),
    "router.{d}.weight": ("model.layers.{d}.mlp.gate.weight",),
}
"""where `save_pretrained(save_original_format=False)` puts what it otherwise splits by expert"""


def _product(one: Any, other: Any) -> Any:
    if not isinstance(one, (int, float)) or not isinstance(other, (int, float)):
        raise TypeError
    return one * other


def _leading_dense(layers: Any, theirs: Options) -> int:
    if list(layers) != list(range(len(layers))):
        raise ValueError(f"mlp_only_layers {quoted(layers)}: dense layers must be the first ones")
    return len(layers)


_OPTIONS: dict[str, str | Option] = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "depth",
    "hidden_size": "width",
    "max_position_embeddings": "context",
    "num_attention_heads": "attention.heads",
    "num_key_value_heads": "attention.kv_heads",
    "rope_parameters.rope_theta": "attention.rope_theta",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied_head",
    "initializer_range": "init_std",
    "num_experts_per_tok": "experts.top_k",
}
_AUXILIARY_LOSS: dict[str, str | Option] = {
    # theirs counts each of a token's K choices as a whole, so it is K where ours is 1
    "router_aux_loss_coef": Option(
        "balance.switch",
        read=lambda value, theirs: _product(value, theirs["num_experts_per_tok"]),
        write=lambda value, ours: value / ours["experts.top_k"],
    ),
}
_DENSE_WIDTH = Option(
    "experts.dense_width",
    read=lambda value, theirs: (
        value if theirs.get("mlp_only_layers") or theirs.get("first_k_dense_replace") else None
    ),
    write=lambda value, ours: value,
)
_QWEN: dict[str, str | Option] = {
    **_OPTIONS,
    **_AUXILIARY_LOSS,
    "moe_intermediate_size": "experts.width",
    "intermediate_size": _DENSE_WIDTH,
    "norm_topk_prob": "router.renormalise",
    "mlp_only_layers": Option(
        "experts.dense_first", read=_leading_dense, write=lambda value, ours: list(range(value))
    ),
}
_ALWAYS = {"norm": "rms", "attention.position": "rope", "experts.activation": "swiglu"}
_REQUIRED = {
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "rope_parameters.rope_type": "default",
}
_IGNORED = frozenset({
    "transformers_version", "architectures", "model_type", "_name_or_path", "dtype", "use_cache",
    "output_hidden_states", "output_attentions", "output_router_logits", "return_dict",
    "id2label", "label2id", "problem_type", "chunk_size_feed_forward", "is_encoder_decoder",
    "pad_token_id", "bos_token_id", "eos_token_id", "max_window_layers",
})  # fmt: skip

ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        Architecture(
            "olmoe",
            options={
                **_OPTIONS,
                **_AUXILIARY_LOSS,
                "num_experts": "experts.count",
                "intermediate_size": "experts.width",
                "norm_topk_prob": "router.renormalise",
                "clip_qkv": "attention.clip_qkv",
            },
            always={**_ALWAYS, "attention.qk_norm": "width"},
            required={**_REQUIRED, "attention_bias": False},
            tensors=_tensors(),
            ignored=_IGNORED,
        ),
        Architecture(
            "qwen3_moe",
            options={
                **_QWEN,
                "num_local_experts": "experts.count",
                "head_dim": "attention.head_width",
            },
            always={**_ALWAYS, "attention.qk_norm": "head"},
            required={
                **_REQUIRED,
                "attention_bias": False,
                "use_sliding_window": False,
                "decoder_sparse_step": 1,
            },
            tensors=_tensors(),
            ignored=_IGNORED | {"sliding_window"},
        ),
        Architecture(
            "mixtral",
            options={
                **_OPTIONS,
                **_AUXILIARY_LOSS,
                "num_local_experts": "experts.count",
                "intermediate_size": "experts.width",
                "head_dim": "attention.head_width",
            },
            always={**_ALWAYS, "router.renormalise": True},
            required={**_REQUIRED, "sliding_window": None, "router_jitter_noise": 0.0},
            tensors=_tensors("block_sparse_moe", "w1", "w3", "w2"),
            ignored=_IGNORED,
        ),
        Architecture(
            "qwen2_moe",
            options={
                **_QWEN,
                "num_experts": "experts.count",
                "shared_expert_intermediate_size": "experts.shared_width",
                "qkv_bias": "attention.qkv_bias",
                "head_dim": "attention.head_width",
            },
            always={**_ALWAYS, "experts.shared_gate": True},
            required={
                **_REQUIRED,
                "use_sliding_window": False,
                "decoder_sparse_step": 1,
                "layer_types": ["full_attention"],
            },
            tensors=_tensors(),
            ignored=_IGNORED | {"sliding_window"},
        ),
        Architecture(
            "dots1",
            options={
                **_OPTIONS,
                "n_routed_experts": "experts.count",
                "moe_intermediate_size": "experts.width",
                "intermediate_size": _DENSE_WIDTH,
                "first_k_dense_replace": "experts.dense_first",
                "norm_topk_prob": "router.renormalise",
                "routed_scaling_factor": "router.scale",
                "head_dim": "attention.head_width",
                "n_shared_experts": Option(
                    "experts.shared_width",
                    read=lambda value, theirs: _product(value, theirs["moe_intermediate_size"]),
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
            required={
                **_REQUIRED,
                "attention_bias": False,
                "n_group": 1,
                "topk_group": 1,
                "layer_types": ["full_attention"],
            },
            tensors=_tensors(shared="shared_experts"),
            ignored=_IGNORED | {"sliding_window"},
        ),
    )
}
