"""From a Plait run or model folder to one GGUF file, which llama.cpp runs.

llama.cpp has OLMoE and Qwen3-MoE as fixed graphs, so a structure must be one of the two to the last
option; what shares must be untied first.
"""

# mypy: allow-untyped-calls

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from plait.atomic import new_file
from plait.config import ModelConfig
from plait.data.tokenizer import read_backend
from plait.interop.exporting import Exported, match, own_tokenizer, special_tokens
from plait.interop.gguf_vocabulary import pre_tokenizer, vocabulary
from plait.interop.tokenization import hub_tokenizer
from plait.reading import one_line
from plait.storage.model_folder import copy_companions, read_state
from plait.storage.run_folder import TOKENIZER
from plait.surgery.banks import Weights, untied

ARCHITECTURES = {"olmoe": gguf.MODEL_ARCH.OLMOE, "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE}
"""transformers' architectures that are written, as llama.cpp's"""
_TENSORS = {
    "embedding.weight": ("TOKEN_EMBD",),
    "final_norm.weight": ("OUTPUT_NORM",),
    "head.weight": ("OUTPUT",),
    "attention_norm.{d}.weight": ("ATTN_NORM",),
    "attention.{d}.q_proj.weight": ("ATTN_Q",),
    "attention.{d}.k_proj.weight": ("ATTN_K",),
    "attention.{d}.v_proj.weight": ("ATTN_V",),
    "attention.{d}.o_proj.weight": ("ATTN_OUT",),
    "attention.{d}.q_norm.weight": ("ATTN_Q_NORM",),
    "attention.{d}.k_norm.weight": ("ATTN_K_NORM",),
    "expert_norm.{d}.weight": ("FFN_NORM",),
    "router.{d}.weight": ("FFN_GATE_INP",),
    "experts.{d}.up": ("FFN_GATE_EXP", "FFN_UP_EXP"),
    "experts.{d}.down": ("FFN_DOWN_EXP",),
}
"""our tensor → llama.cpp's, whose rows are laid end to end in ours; {d} is the depth"""
_TYPES = {
    torch.float32: (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    torch.float16: (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    torch.bfloat16: (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}


def export_gguf(source: Path, out: Path, untie: bool = False, licence: str = "unknown") -> Exported:
    """Write a model as a GGUF file with its tokenizer, in the weights' own precision.

    Norms and routers are float32, as llama.cpp wants them.

    Args:
        source: a run's folder or a model folder.
        out: file to make; it must not be there yet.
        untie: give each depth a copy of the banks that it shares.
        licence: of the weights, as the hub names it.

    Raises:
        ValueError: llama.cpp has no graph for the structure or no pre-tokenizer that splits as its
            tokenizer does; the message says what it is and what to do instead.
        FileNotFoundError: the model has no tokenizer.
    """
    source, out = Path(source), Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already: choose another place, or remove it")
    config, weights = read_state(source)
    if untie:
        config, weights = untied(config, weights)
    architecture = _architecture(source, config, weights)
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(out.stem)
    if licence != "unknown":
        writer.add_license(licence)
    _add_options(writer, config)
    _add_tokenizer(writer, source, config)
    pieces = list(_pieces(architecture, config, weights))
    kinds = {tensor.dtype for _, tensor in pieces if tensor.dim() > 1} - {torch.float32}
    writer.add_file_type(_TYPES[kinds.pop() if kinds else torch.float32][1])
    for name, tensor in pieces:
        kind = _TYPES[tensor.dtype][0]
        writer.add_tensor_info(name, tensor.shape, _array(tensor).dtype, tensor.nbytes, kind)
    size = sum(tensor.nbytes for _, tensor in pieces)
    out.parent.mkdir(parents=True, exist_ok=True)
    with new_file(out, size) as partial, closing(writer):
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, tensor in pieces:
            writer.write_tensor_data(np.ascontiguousarray(_array(tensor)))
    return Exported(f"{writer.arch} (GGUF)", size)


def _architecture(source: Path, config: ModelConfig, weights: Weights) -> gguf.MODEL_ARCH:
    """Return the architecture of llama.cpp that a structure is; an error says why none."""
    found = match(config)
    if found is None:
        raise ValueError(f"{source}: {_why_none(config, weights)}")
    problem = {
        "olmoe": {
            "attention.clip_qkv": config.attention.clip_qkv is not None,
            "router.renormalise": config.router.renormalise,
            "attention.kv_heads below attention.heads": config.heads[0] != config.heads[1],
        },
        "qwen3_moe": {
            "gates that router.renormalise leaves as they are": not _renormalised(config),
            "experts.dense_first": config.experts.dense_first > 0,
        },
    }.get(found.model_type)
    if problem is None:
        raise ValueError(
            f"{source}: it is of the architecture {found.model_type}, and GGUF is written for "
            f"{' and '.join(ARCHITECTURES)}: export a folder, and let llama.cpp's own "
            "convert_hf_to_gguf.py convert that"
        )
    for name, has in problem.items():
        if has:
            raise ValueError(
                f"{source}: llama.cpp's {found.model_type} has no {name}: export a folder for "
                "transformers, by an OUT that does not end in .gguf"
            )
    return ARCHITECTURES[found.model_type]


def _renormalised(config: ModelConfig) -> bool:
    return config.router.renormalise or config.router.gating == "topk-softmax"


def _why_none(config: ModelConfig, weights: Weights) -> str:
    """Say why a structure is none of transformers' architectures, and what to do."""
    decided = config.plans.decision.count < config.depth
    if not decided and match(untied(config, weights)[0]) is not None:
        return "its depths share banks, and llama.cpp's do not: add --untie"
    counts = {config.experts_at(depth) for depth in config.routed_depths}
    if decided:
        what = "a routing decision that depths share"
    elif config.collaboration is not None:
        what = "experts that collaborate"
    elif len(counts) > 1:
        what = f"depths with different numbers of experts ({', '.join(map(str, sorted(counts)))})"
    else:
        what = "this structure, which is neither OLMoE's nor Qwen3-MoE's"
    return (
        f"llama.cpp has no graph for {what}: export a folder for transformers, by an OUT that does "
        "not end in .gguf"
    )


def _add_options(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    heads, kv_heads, head_width = config.heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.depth)
    writer.add_feed_forward_length(config.experts.width)
    writer.add_expert_feed_forward_length(config.experts.width)
    writer.add_expert_count(config.experts_at(0))
    writer.add_expert_used_count(config.experts.top_k)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_width)
    writer.add_value_length(head_width)
    writer.add_rope_dimension_count(head_width)
    writer.add_rope_freq_base(config.attention.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)


def _add_tokenizer(writer: gguf.GGUFWriter, source: Path, config: ModelConfig) -> None:
    """Add tokens, merges, special tokens and chat template, as transformers' files have them.

    Behind a tokenizer of ours text stands behind an end-of-text token, as documents did in training
    and as it does in `plait generate`.
    """
    own = own_tokenizer(source)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy_companions(source, folder)
        if own is not None:
            hub_tokenizer(own, config.context).save_pretrained(folder)
        if not (folder / TOKENIZER).is_file():
            raise FileNotFoundError(
                f"{source}: no {TOKENIZER}, without which llama.cpp reads no text: put it there"
            )
        read = source if own is None else folder
        said = json.loads(read_backend(read / TOKENIZER).to_str())
        try:
            special = gguf.SpecialVocab(folder, load_merges=True, n_vocab=config.vocab_size)
        except Exception as error:  # it takes the files for whole
            problem = f"its tokenizer_config.json is damaged ({one_line(error)})"
            raise ValueError(f"{source}: {problem}: fetch it anew") from None
    try:
        name = pre_tokenizer(said)
        tokens, types = vocabulary(said, config.vocab_size)
    except ValueError as error:
        raise ValueError(f"{source / TOKENIZER}: {error}") from None
    for kind, ids in special_tokens(source, own).items():
        first = ids[0] if isinstance(ids, list) else ids
        if first is not None:
            special.special_token_ids.setdefault(kind.removesuffix("_token_id"), first)
    special.add_special_token.setdefault("bos", own is not None)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    special.add_to_gguf(writer, quiet=True)


def _pieces(
    architecture: gguf.MODEL_ARCH, config: ModelConfig, weights: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Give llama.cpp's tensors as views of ours; OLMoE's head is always one of its own."""
    if config.tied_head and architecture == gguf.MODEL_ARCH.OLMOE:
        weights = {**weights, "head.weight": weights["embedding.weight"]}
    for name, tensor in weights.items():
        depth = re.search(r"\d+", name)
        kinds = _TENSORS[name.replace(depth[0], "{d}", 1) if depth else name]
        if tensor.dtype not in _TYPES or tensor.dim() == 1 or "FFN_GATE_INP" in kinds:
            tensor = tensor.float()
        for kind, rows in zip(
            kinds, tensor.chunk(len(kinds), dim=max(tensor.dim() - 2, 0)), strict=True
        ):
            pattern: Any = gguf.TENSOR_NAMES[gguf.MODEL_TENSOR[kind]]
            yield f"{pattern.format(bid=depth and depth[0])}.weight", rows


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    """The same numbers for numpy, which knows no bfloat16 and takes it as whole numbers."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
