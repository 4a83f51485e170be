"""From a Plait run or model folder to one that transformers loads."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from plait.atomic import new_folder
from plait.config import BalanceConfig, ModelConfig, RouterConfig
from plait.config.files import to_dict
from plait.data.tokenizer import Tokenizer
from plait.interop.architectures import ARCHITECTURES, Architecture
from plait.interop.configuration import PlaitConfig
from plait.interop.importing import flat, nested, to_ours
from plait.interop.naming import Naming
from plait.interop.options import Option
from plait.interop.remote_code import AUTO_MAP, Code, write_code
from plait.interop.tokenization import hub_tokenizer
from plait.reading import inside, read_json
from plait.sharing import Sharing
from plait.storage.model_folder import copy_companions, read_state, read_tokenizer
from plait.storage.tensor_files import Shape, shard_names, write_index, write_tensors
from plait.surgery.banks import untied

SHARD_BYTES = 5_000_000_000
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Exported:
    """What an export wrote."""

    architecture: str
    """transformers' class"""
    bytes: int
    """of the weights"""


def export_model(
    source: Path,
    out: Path,
    untie: bool = False,
    shard_bytes: int = SHARD_BYTES,
    code: Code = "file",
    beside: Callable[[ModelConfig, str], Mapping[str, str]] | None = None,
) -> Exported:
    """Write a model as a folder that transformers loads.

    A structure that is one of transformers' own architectures is written as that; any other as
    `PlaitForCausalLM`, with its code: it loads with `trust_remote_code=True`, or where
    `plait.interop` was imported.

    Args:
        source: a run's folder or a model folder.
        out: folder to make.
        untie: give each depth a copy of the banks that it shares, so that more structures are one
            of transformers' own.
        shard_bytes: size at which the weights go on in another file.
        code: what goes with `PlaitForCausalLM`: a file that needs torch and transformers alone, or
            one that imports Plait.
        beside: gives further text files by name for the structure and class that are written, such
            as `plait.report.model_card`.
    """
    config, weights = read_state(source)
    if untie:
        config, weights = untied(config, weights)
    source = Path(source)
    tokenizer = own_tokenizer(source)
    special = special_tokens(source, tokenizer)
    architecture = match(config)
    if architecture is None:
        theirs: Any = PlaitConfig.of(config, **special)
        theirs.architectures = ["PlaitForCausalLM"]
        theirs.auto_map = AUTO_MAP
        tensors = {
            "lm_head.weight" if name == "head.weight" else f"model.{name}": tensor
            for name, tensor in weights.items()
        }
    else:
        plain = replace(canonical(config), balance=config.balance, init_std=config.init_std)
        options = nested(to_theirs(architecture, plain)) | special
        theirs = AutoConfig.for_model(architecture.model_type, **options)
        theirs.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[architecture.model_type]]
        tensors = dict(_split(Naming(plain, architecture.tensors), weights))
    kinds = {tensor.dtype for tensor in tensors.values()}
    theirs.dtype = kinds.pop() if len(kinds) == 1 else None
    with new_folder(Path(out)) as partial:
        theirs.save_pretrained(partial)
        if architecture is None:
            write_code(partial, code)
        size = _write(partial, tensors, shard_bytes)
        copy_companions(source, partial)
        if tokenizer is not None:
            hub_tokenizer(tokenizer, config.context).save_pretrained(partial)
        if not (partial / GENERATION).is_file():
            GenerationConfig.from_model_config(theirs).save_pretrained(partial)
        for name, text in (beside(config, theirs.architectures[0]) if beside else {}).items():
            (partial / name).write_text(text, encoding="utf-8")
    return Exported(theirs.architectures[0], size)


def own_tokenizer(source: Path) -> Tokenizer | None:
    """Return the tokenizer to describe for transformers; None where files go out as they came."""
    if (source / "tokenizer_config.json").is_file():
        return None
    try:
        return read_tokenizer(source)
    except (FileNotFoundError, ValueError):  # its corpus is gone, or it is of another kind
        return None


def special_tokens(source: Path, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the ids that begin, end and pad, as far as they are known."""
    names = [f"{kind}_token_id" for kind in ("bos", "eos", "pad")]
    if tokenizer is not None:
        return dict.fromkeys(names, tokenizer.end_of_text)
    if (source / GENERATION).is_file():
        path = inside(source, GENERATION)
        known = read_json(path, "mend it, or take it away")
        return {name: known[name] for name in names if name in known}
    return {}


def match(config: ModelConfig) -> Architecture | None:
    """Return the architecture of transformers that a structure is, or None.

    It is one if its options, said in their words and back, are the same.
    """
    plain = canonical(config)
    routed = len(config.routed_depths)
    odd = routed not in (0, config.depth - len(config.dense_depths))
    if odd or not isinstance(plain.experts.count, int):
        return None
    for architecture in ARCHITECTURES.values():
        if architecture.dense == bool(routed):
            continue
        try:
            if canonical(to_ours(architecture, to_theirs(architecture, plain))) == plain:
                return architecture
        except ValueError:
            continue
    return None


def canonical(config: ModelConfig) -> ModelConfig:
    """Return the configuration with one spelling for one function, and training's options unset."""
    plans = config.plans
    kinds = (plans.experts, plans.router, plans.decision, plans.attention, plans.norms)
    heads, kv_heads, head_width = config.heads
    router, count, top_k = config.router, config.experts.count, config.experts.top_k
    if not config.routed_depths:
        router, top_k = RouterConfig(), 1
    if config.experts.expand > 1:
        count = config.experts_by_bank.count
    if router.gating == "topk-softmax":
        router = replace(router, gating="softmax-topk", renormalise=True)
    if not isinstance(count, int) and len(set(count)) == 1:
        count = count[0]
    return replace(
        config,
        sharing=Sharing() if all(p.count == p.depth for p in kinds) else config.sharing,
        attention=replace(
            config.attention,
            kv_heads=kv_heads,
            head_width=None if head_width * heads == config.width else head_width,
            scale=None if config.attention.scale == head_width**-0.5 else config.attention.scale,
        ),
        router=replace(router, top_groups=1) if router.groups == 1 else router,
        experts=replace(config.experts, count=count, expand=1, top_k=top_k, **_dense(config)),
        balance=BalanceConfig(switch=0.0, scope=config.balance.scope if router.bias else "layer"),
        dropout=0.0,
        init="normal",
        init_std=0.02,
    )


def _dense(config: ModelConfig) -> dict[str, Any]:
    """Say which depths are dense with as many first ones as there are."""
    first = next(d for d in range(config.depth + 1) if d not in config.dense_depths)
    at = tuple(sorted(depth for depth in config.dense_depths if depth > first))
    return {"dense_first": first, "dense_at": at}


def to_theirs(architecture: Architecture, config: ModelConfig) -> dict[str, Any]:
    """Return the flat options of `config` in their words, as far as they have words for them."""
    ours = flat(to_dict(config))
    theirs: dict[str, Any] = {}
    for name, option in architecture.options.items():
        if isinstance(option, Option):
            theirs[name] = option.write(ours.get(option.ours), ours)
        else:
            theirs[name] = ours[option if isinstance(option, str) else option[0]]
    for name, wanted in architecture.required.items():
        theirs[name] = wanted * config.depth if isinstance(wanted, list) else wanted
    return {name: value for name, value in theirs.items() if value is not None}


def _split(naming: Naming, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Cut each of our tensors into theirs."""
    for name, tensor in weights.items():
        theirs = naming.theirs(name)
        if len(theirs) == 1:
            yield theirs[0], tensor
        else:
            rows = tensor.reshape(-1, tensor.shape[-1])
            yield from zip(theirs, rows.chunk(len(theirs)), strict=True)


def _write(folder: Path, tensors: Mapping[str, Tensor], shard_bytes: int) -> int:
    """Write the weights in files of at most `shard_bytes`, with an index if there are several."""
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    files = shard_names(len(shards))
    if len(shards) > 1:
        places = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        write_index(folder, places, total)
    for file, shard in zip(files, shards, strict=True):
        shapes = {name: Shape(tensor.dtype, tuple(tensor.shape)) for name, tensor in shard.items()}
        write_tensors(folder / file, shapes, iter(shard.values()))
    return total
