"""From the files that transformers' `save_pretrained` writes to a Plait model folder."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from plait.atomic import new_folder
from plait.config import ModelConfig
from plait.config.files import from_dict, save_yaml
from plait.interop.architectures import ARCHITECTURES, FUSED, Architecture, Option
from plait.interop.naming import Naming
from plait.storage.checkpoint import WEIGHTS
from plait.storage.model_folder import COMPANIONS
from plait.storage.run_folder import CONFIG
from plait.storage.tensor_files import Shape, TensorFiles, write_tensors


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
    architecture, theirs = read_options(folder)
    config = to_ours(architecture, theirs)
    with TensorFiles(folder) as files, new_folder(out) as partial:
        naming = Naming(config, architecture.tensors)
        sources = _sources(naming, files)
        shapes = _checked(naming, sources, files)
        save_yaml(config, partial / CONFIG)
        write_tensors(partial / WEIGHTS, shapes, _pieces(sources, files))
        for name in COMPANIONS:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, partial / name)
    elements = sum(torch.Size(shape.size).numel() for shape in shapes.values())
    return Imported(architecture.model_type, config, elements, (out / WEIGHTS).stat().st_size)


def read_options(folder: Path) -> tuple[Architecture, dict[str, Any]]:
    """Read `config.json`: the architecture, and all its options, defaults filled in, flat."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there: give a folder that save_pretrained wrote")
    try:
        model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise ValueError(f"{path}: damaged: fetch or save it anew") from None
    if model_type not in ARCHITECTURES:
        raise ValueError(
            f"{path}: model_type {model_type!r} is not supported: known are "
            f"{', '.join(ARCHITECTURES)}"
        )
    try:
        options = AutoConfig.from_pretrained(folder, local_files_only=True).to_dict()
    except Exception as error:  # transformers' validation raises kinds of its own
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    return ARCHITECTURES[model_type], flat(options, only=("rope_parameters",))


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
    """Translate their flat options; an unsupported one raises a ValueError that names it."""
    ours = dict(architecture.always)
    for name, value in theirs.items():
        option = architecture.options.get(name)
        if isinstance(option, Option):
            ours[option.ours] = option.read(value, theirs)
        elif option is not None:
            ours[option] = value
        elif name in architecture.required:
            _require(name, value, architecture.required[name])
        elif name not in architecture.ignored:
            raise ValueError(
                f"option {name} = {value!r} is not supported for {architecture.model_type}: if it "
                "changes nothing, take it out of config.json"
            )
    return from_dict(ModelConfig, nested({k: v for k, v in ours.items() if v is not None}))


def _require(name: str, value: Any, wanted: Any) -> None:
    if value != wanted and not (isinstance(wanted, list) and set(value or ()) <= set(wanted)):
        raise ValueError(f"option {name} = {value!r} is not supported: only {wanted!r} is")


def _sources(naming: Naming, files: TensorFiles) -> dict[str, list[str]]:
    """Name for each of our tensors those of theirs that make it up, in order."""
    fused = Naming(naming.config, {**naming.tensors, **FUSED})
    split = {name: naming.theirs(name) for name in naming.sizes}
    return {
        name: theirs if set(theirs) <= files.names else fused.theirs(name)
        for name, theirs in split.items()
    }


def _checked(
    naming: Naming, sources: Mapping[str, list[str]], files: TensorFiles
) -> dict[str, Shape]:
    """Return our tensors' shapes, after making sure that the files fit the configuration."""
    named = {name for theirs in sources.values() for name in theirs}
    for problem, names in (
        ("is missing from the files", named - files.names),
        ("is in the files, but not in a model of this config.json", files.names - named),
    ):
        if names:
            first = min(names)
            raise ValueError(f"{first} {problem} ({len(names)} such): files and config.json differ")
    shapes = {}
    for name, theirs in sources.items():
        size = naming.sizes[name]
        found = [files.shape(source) for source in theirs]
        inner = {shape.size[-1] for shape in found}
        if inner != {size[-1]} or sum(map(_rows, found)) != _rows(Shape(found[0].dtype, size)):
            raise ValueError(
                f"{theirs[0]} is {found[0].size}, but config.json makes {name} {size}: the files "
                "and config.json are of different models"
            )
        kinds = {shape.dtype for shape in found}
        if len(kinds) > 1:
            raise ValueError(f"{theirs[0]} and its neighbours differ in type: {kinds}")
        shapes[name] = Shape(kinds.pop(), size)
    return shapes


def _rows(shape: Shape) -> int:
    return torch.Size(shape.size).numel() // shape.size[-1]


def _pieces(sources: Mapping[str, list[str]], files: TensorFiles) -> Iterator[Tensor]:
    for theirs in sources.values():
        for name in theirs:
            yield files.read(name)
