"""From the files that transformers' `save_pretrained` writes to a Plait model folder."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from plait.atomic import new_folder
from plait.config import ModelConfig
from plait.config.files import from_dict, save_yaml
from plait.interop.architectures import ARCHITECTURES, FUSED, Architecture
from plait.interop.naming import Naming
from plait.interop.options import Option
from plait.reading import inside, named, one_line, quoted, read_json
from plait.sharing import DEEPEST
from plait.storage.model_folder import copy_files
from plait.storage.run_folder import CONFIG
from plait.storage.tensor_files import FETCH, WEIGHTS, Shape, TensorFiles, write_tensors

_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_FUSED = ("experts.gate_up_proj", "block_sparse_moe.input_linear.weight")
_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
_COMPUTED = "rotary_emb.inv_freq"
"""what older files store although it follows from the options"""
MOST_PROBLEMS = 6
"""that an error spells out"""


@dataclass(frozen=True)
class Imported:
    """What an import read and wrote."""

    architecture: str
    config: ModelConfig
    parameters: int
    """elements stored"""
    bytes: int
    """size of the weights file"""


def import_model(folder: Path, out: Path) -> Imported:
    """Turn a transformers model's folder into a Plait one, tensor by tensor.

    Args:
        folder: with `config.json` and safetensors files, of an architecture in `ARCHITECTURES`.
        out: folder to make: `config.yaml`, `model.safetensors` (in the files' own precision), and
            the tokenizer's files where there are any.

    Raises:
        ValueError, FileNotFoundError: an architecture or option that is not supported (by name), a
            damaged or missing file, or files that do not fit their `config.json`.
    """
    folder, out = Path(folder), Path(out)
    path = folder / "config.json"
    architecture, theirs = read_options(folder)
    try:
        config = to_ours(architecture, theirs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    with TensorFiles(folder) as files, new_folder(out) as partial:
        _require_same_model(path, config, files)
        naming = Naming(config, architecture.tensors)
        sources = _sources(naming, files)
        extra = _without_effect(config, files)
        shapes = _checked(naming, sources, files, extra)
        save_yaml(config, partial / CONFIG)
        write_tensors(partial / WEIGHTS, shapes, _pieces(sources, files))
        copy_files(folder, partial)
    elements = sum(torch.Size(shape.size).numel() for shape in shapes.values())
    return Imported(architecture.model_type, config, elements, (out / WEIGHTS).stat().st_size)


def read_options(folder: Path) -> tuple[Architecture, dict[str, Any]]:
    """Read `config.json`: the architecture, and all its options, defaults filled in, flat."""
    try:
        path = inside(folder, "config.json")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{folder / 'config.json'}: not there: give a folder that save_pretrained wrote"
        ) from None
    options = read_json(path, FETCH)
    model_type = options.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise ValueError(
            f"{path}: model_type {quoted(model_type)} is not supported: known are "
            f"{', '.join(ARCHITECTURES)}"
        )
    depth = options.get("num_hidden_layers", 1)
    if type(depth) is not int or not 1 <= depth <= DEEPEST:  # transformers lists its layers
        raise ValueError(
            f"{path}: num_hidden_layers is {quoted(depth)}: it must be a number from 1 to "
            f"{DEEPEST:,}"
        )
    for name in ("num_labels", "id2label", "label2id"):  # and as many labels as it is told
        options.pop(name, None)
    try:
        options = CONFIG_MAPPING[model_type].from_dict(options).to_dict()
    except Exception as error:  # transformers' validation raises kinds of its own
        raise ValueError(f"{path}: {one_line(error)}") from None
    return ARCHITECTURES[model_type], flat(options, only=("rope_parameters",))


def _require_same_model(path: Path, config: ModelConfig, files: TensorFiles) -> None:
    """Compare numbers of layers and experts, before names are made for each of each."""
    layers = {match[1] for name in files.names if (match := _LAYER.match(name))}
    single = {match[1] for name in files.names if (match := _EXPERT.search(name))}
    fused = {files.shape(name).size[:1] for name in files.names if name.endswith(_FUSED)}
    experts = {(len(single),)} if single else fused
    problem = ""
    if len(layers) != config.depth:
        problem = f"{config.depth} layers, but the files have {len(layers)}"
    elif config.routed_depths and experts != {(config.experts.count,)}:
        found = ", ".join(str(*size) for size in sorted(experts)) or "none"
        problem = f"{config.experts.count} experts, but the files have {found}"
    if problem:
        raise ValueError(f"{path}: it says {problem}: they are of different models")


def flat(options: Mapping[str, Any], only: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return nested options by dotted name; `only` these names are opened."""
    result = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and (only is None or name in only):
            result.update({f"{name}.{key}": item for key, item in flat(value).items()})
        else:
            result[name] = value
    return result


def nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted options as nested dictionaries."""
    result: dict[str, Any] = {}
    for name, value in options.items():
        *path, last = name.split(".")
        place = result
        for step in path:
            place = place.setdefault(step, {})
        place[last] = value
    return result


def to_ours(architecture: Architecture, theirs: Mapping[str, Any]) -> ModelConfig:
    """Translate their flat options; a ValueError names all that are not supported."""
    ours, problems = dict(architecture.always), []
    for name, value in theirs.items():
        try:
            for own, translated in _translated(architecture, name, value, theirs):
                if translated is not None:
                    ours[own] = translated
        except ValueError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - MOST_PROBLEMS} more" if problems[MOST_PROBLEMS:] else ""
        raise ValueError("; ".join(problems[:MOST_PROBLEMS]) + more)
    return from_dict(ModelConfig, nested(ours))


def _translated(
    architecture: Architecture, name: str, value: Any, theirs: Mapping[str, Any]
) -> list[tuple[str, Any]]:
    """Return our options for one of theirs; one that is off and of no architecture gives none."""
    option = architecture.options.get(name)
    if isinstance(option, Option):
        try:
            return [(option.ours, option.read(value, theirs))]
        except (TypeError, KeyError, ArithmeticError):
            raise ValueError(f"option {name} = {quoted(value)} is of a wrong type") from None
    if option is not None:
        return [(own, value) for own in ((option,) if isinstance(option, str) else option)]
    if name in architecture.required:
        _require(name, value, architecture.required[name])
    elif name not in architecture.ignored and value:
        raise ValueError(
            f"option {named(name)} = {quoted(value)} is not supported for "
            f"{architecture.model_type}: if it changes nothing, take it out"
        )
    return []


def _require(name: str, value: Any, wanted: Any) -> None:
    each = value if isinstance(wanted, list) and isinstance(value, list) else [value]
    if value is None and isinstance(wanted, list):
        return
    if value != wanted and not (isinstance(wanted, list) and all(one in wanted for one in each)):
        raise ValueError(f"option {name} = {quoted(value)} is not supported: only {wanted!r} is")


def _sources(naming: Naming, files: TensorFiles) -> dict[str, list[str]]:
    """Name for each of our tensors those of theirs that make it up, in order."""
    fused = Naming(naming.config, {**naming.tensors, **FUSED})
    split = {name: naming.theirs(name) for name in naming.sizes}
    return {
        name: theirs if set(theirs) <= files.names else fused.theirs(name)
        for name, theirs in split.items()
    }


def _without_effect(config: ModelConfig, files: TensorFiles) -> set[str]:
    """Return tensors that say nothing new: a tied head stored again, rotary frequencies.

    Raises:
        ValueError: the head should be the embedding, and is not.
    """
    extra = {name for name in files.names if name.endswith(_COMPUTED)}
    if config.tied_head and {_HEAD, _EMBEDDING} <= files.names:
        if not torch.equal(files.read(_HEAD), files.read(_EMBEDDING)):
            raise ValueError(
                f"{_HEAD} is not {_EMBEDDING}, although config.json says that they are tied: set "
                "tie_word_embeddings to false there"
            )
        extra.add(_HEAD)
    return extra


def _checked(
    naming: Naming, sources: Mapping[str, list[str]], files: TensorFiles, extra: set[str]
) -> dict[str, Shape]:
    """Return our tensors' shapes, after making sure that the files fit the configuration."""
    wanted = {name for theirs in sources.values() for name in theirs}
    for problem, names in (
        ("is missing from the files", wanted - files.names),
        ("is in the files, but not in a model of this config.json", files.names - wanted - extra),
    ):
        if names:
            first = min(names)
            raise ValueError(
                f"{named(first)} {problem} ({len(names)} such): files and config.json differ"
            )
    shapes = {}
    for name, theirs in sources.items():
        size = naming.sizes[name]
        found = [files.shape(source) for source in theirs]
        wide = all(shape.size[-1:] == size[-1:] for shape in found)
        elements = sum(torch.Size(shape.size).numel() for shape in found)
        if not wide or elements != torch.Size(size).numel():
            raise ValueError(
                f"{theirs[0]} is {found[0].size}, but config.json makes {name} {size}: the files "
                "and config.json are of different models"
            )
        kinds = {shape.dtype for shape in found}
        if len(kinds) > 1:
            raise ValueError(f"{theirs[0]} and its neighbours differ in type: {kinds}")
        shapes[name] = Shape(kinds.pop(), size)
    return shapes


def _pieces(sources: Mapping[str, list[str]], files: TensorFiles) -> Iterator[Tensor]:
    for theirs in sources.values():
        for name in theirs:
            yield files.read(name)
