"""Recipes: the papers' configurations and ours, a file for each source, and their names."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from plait.calling import called, parted
from plait.config import ModelConfig, TrainConfig
from plait.config.files import load_yaml
from plait.reading import quoted, read_yaml
from plait.recipes import (
    architectures,
    combinations,
    ct_moe,
    expert_tying,
    nano,
    nano_studies,
    pathmoe,
)
from plait.studies.claims import Paper, Scale
from plait.studies.study import Study


@dataclass(frozen=True)
class Recipe:
    """A named model and the way it is trained."""

    model: Callable[[], ModelConfig]
    training: Callable[[ModelConfig], TrainConfig]


def _sizes(name: str, model: Callable[[architectures.Size], ModelConfig]) -> dict[str, Recipe]:
    train = expert_tying.architecture_training
    return {
        name: Recipe(partial(model, "regular"), train),
        f"{name}-small": Recipe(partial(model, "small"), train),
        f"{name}-tiny": Recipe(partial(model, "tiny"), train),
    }


RECIPES: dict[str, Recipe] = {
    "nano": Recipe(nano.model, nano.training),
    "nano-dense": Recipe(nano.dense_model, nano.training),
    **_sizes("olmoe", architectures.olmoe),
    **_sizes("qwen3-moe", architectures.qwen3_moe),
    **_sizes("deepseek-moe", architectures.deepseek_moe),
    **_sizes("deepseek-as-published", architectures.deepseek_as_published),
    "ct-moe-65m": Recipe(ct_moe.model, ct_moe.training),
    "pathmoe-0.9b": Recipe(pathmoe.model_900m, pathmoe.training),
    "pathmoe-16b": Recipe(pathmoe.model_16b, pathmoe.training_16b),
    **{
        f"looped-32-{grain}": Recipe(
            partial(expert_tying.looped_32, grain), expert_tying.looped_training
        )
        for grain in expert_tying.GRAINS
    },
}

STUDIES: dict[str, Callable[[], Study]] = {
    "demo": nano_studies.demo_study,
    "nano": nano_studies.nano_study,
    "nano-ladder": nano_studies.nano_ladder,
    "factorial-nano": combinations.factorial,
    "worth-nano": combinations.worth,
    "ct-moe-k2-nano": partial(ct_moe.ablation, 2, "nano"),
    "ct-moe-k3-nano": partial(ct_moe.ablation, 3, "nano"),
    "pathmoe-nano": partial(pathmoe.study, "nano"),
    "tied-nano": partial(expert_tying.tied_study, size="nano"),
    "looped-nano": partial(expert_tying.looped_study, "nano"),
    "ct-moe-k2": partial(ct_moe.ablation, 2),
    "ct-moe-k3": partial(ct_moe.ablation, 3),
    "pathmoe-tiny": partial(pathmoe.study, "tiny"),
    "pathmoe": partial(pathmoe.study, "paper"),
    **{
        f"tied-{name}-{size}": partial(expert_tying.tied_study, name, size)
        for name in expert_tying.ARCHITECTURES
        for size in ("regular", "small", "tiny")
    },
    "looped": expert_tying.looped_study,
}

PAPERS: dict[str, Callable[[Scale], Paper]] = {
    "ct-moe": ct_moe.paper,
    "pathmoe": pathmoe.paper,
    "expert-tying": expert_tying.paper,
    "combinations": combinations.paper,
}


def paper(name: str, scale: Scale) -> Paper:
    """Return a paper's claims, tables and figures at a scale."""
    if name not in PAPERS:
        raise ValueError(f"no paper is called {quoted(name)}: choose {', '.join(PAPERS)}")
    return PAPERS[name](scale)


def model_config(name: str) -> ModelConfig:
    """Return the model that a recipe's name or a YAML file (of a model or a run) stands for."""
    if _is_yaml(name):
        return load_yaml(ModelConfig, Path(name), part="model")
    return _recipe(name).model()


def train_config(name: str) -> TrainConfig:
    """Return the training run that a recipe's name or a YAML file stands for."""
    if _is_yaml(name):
        return load_yaml(TrainConfig, Path(name))
    recipe = _recipe(name)
    return recipe.training(recipe.model())


def with_model(name: str, model: ModelConfig) -> TrainConfig | ModelConfig:
    """Return the run of this name with another model; where the name has no run, that model."""
    if _is_yaml(name) and "model" not in read_yaml(Path(name)):
        return model
    return replace(train_config(name), model=model)


def study(name: str) -> Study:
    """Return the study of this name, or the one that `FILE.py:FUNCTION` returns."""
    if name in STUDIES:
        return STUDIES[name]()
    if name.endswith(".py"):
        raise ValueError(f"{name}: name the function in it that returns the study, {name}:FUNCTION")
    parts = parted(name)
    if parts is None:
        raise _unknown("study", name, STUDIES, "or FILE.py:FUNCTION")
    made = called(name)
    if not isinstance(made, Study):
        path, function = parts
        raise ValueError(f"{name}: {function} is no function of {path} that returns a Study")
    return made


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise _unknown("model", name, RECIPES)
    return RECIPES[name]


def _is_yaml(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _unknown(kind: str, name: str, known: Iterable[str], more: str = "or FILE.yaml") -> ValueError:
    near = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"choose {', '.join(known)}, {more}"
    return ValueError(f"no {kind} is called {quoted(name)}: {advice}")
