"""Recipes: the papers' configurations and ours, as plain functions, and their names."""

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from plait.config import ModelConfig
from plait.config_file import load_yaml
from plait.recipes import models

if TYPE_CHECKING:
    from plait.studies.study import Study
    from plait.training.config import TrainConfig

MODELS: dict[str, Callable[[], ModelConfig]] = {
    "nano": models.nano,
    "nano-dense": models.nano_dense,
    "olmoe": models.olmoe,
    "olmoe-small": partial(models.olmoe, "small"),
    "olmoe-tiny": partial(models.olmoe, "tiny"),
    "qwen3-moe": models.qwen3_moe,
    "qwen3-moe-small": partial(models.qwen3_moe, "small"),
    "qwen3-moe-tiny": partial(models.qwen3_moe, "tiny"),
    "deepseek-moe": models.deepseek_moe,
    "deepseek-moe-small": partial(models.deepseek_moe, "small"),
    "deepseek-moe-tiny": partial(models.deepseek_moe, "tiny"),
    "ct-moe-65m": models.ct_moe_65m,
    "pathmoe-0.9b": models.pathmoe_900m,
    "pathmoe-16b": models.pathmoe_16b,
    "looped-32-fine": partial(models.looped_32, "fine"),
    "looped-32-coarse": partial(models.looped_32, "coarse"),
    "looped-32-dense": partial(models.looped_32, "dense"),
}


def model_config(name: str) -> ModelConfig:
    """Return the model that a recipe's name or a YAML file (of a model or a run) stands for."""
    if name in MODELS:
        return MODELS[name]()
    if _is_yaml(name):
        return load_yaml(ModelConfig, Path(name), part="model")
    raise _unknown("model", name, MODELS)


def train_config(name: str) -> "TrainConfig":
    """Return the training run that a recipe's name or a YAML file stands for."""
    from plait.recipes import training
    from plait.training.config import TrainConfig

    if _is_yaml(name):
        return load_yaml(TrainConfig, Path(name))
    model = model_config(name)
    if name.startswith("ct-moe"):
        return training.ct_moe(model)
    if name.startswith("pathmoe"):
        return training.pathmoe(model)
    if name.startswith("nano"):
        return training.nano(model)
    if name.startswith("looped"):
        return training.tying(model, sequence_length=512, tokens_per_step=131_072, steps=10_000)
    return training.tying(model, sequence_length=2048, tokens_per_step=524_288, steps=10_000)


def study(name: str) -> "Study":
    """Return the study of this name, or the one that ``FILE.py:FUNCTION`` returns."""
    from plait.recipes import studies
    from plait.studies.study import Study

    named = {
        "demo": studies.demo,
        "nano": studies.nano,
        "ct-moe": studies.ct_moe_ablation,
        "expert-tying": studies.expert_tying,
        "looped": studies.looped,
    }
    if name in named:
        return named[name]()
    file, _, function = name.partition(".py:")
    if not function:
        raise _unknown("study", name, named, "or FILE.py:FUNCTION")
    path = Path(f"{file}.py")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: a study is named FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = getattr(module, function, lambda: None)()
    if not isinstance(made, Study):
        raise ValueError(f"{name}: {function} is no function of {path} that returns a Study")
    return made


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _unknown(kind: str, name: str, known: object, more: str = "or FILE.yaml") -> ValueError:
    assert isinstance(known, dict)
    return ValueError(f"no {kind} is called {name!r}: choose {', '.join(known)}, {more}")
