"""A model on disk: a training run's folder, or one with just configuration and weights.

A model folder holds `config.yaml` (a `ModelConfig`), `model.safetensors` and, where there is text
to encode, `tokenizer.json`; an imported one also what else transformers keeps beside it. Imports
and surgery write it, `initial_weights` of a run starts from it, and what reads a run reads it too.
"""

import contextlib
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from plait.atomic import new_file, new_folder
from plait.config import ModelConfig, TrainConfig
from plait.config.files import load_yaml, save_yaml
from plait.data.corpora import open_corpus
from plait.data.tokenizer import Tokenizer
from plait.model import LanguageModel
from plait.reading import inside, named, read_yaml
from plait.storage.run_folder import CONFIG, TOKENIZER
from plait.storage.tensor_files import WEIGHTS
from plait.storage.weights import read_weights

logger = logging.getLogger(__name__)

COMPANIONS = (
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""files that go along unread when a model is imported, changed or exported"""
CHAT_TEMPLATES = "additional_chat_templates"
"""folder of named templates, which go along too"""


def read_config(folder: Path) -> ModelConfig:
    """Read the model's configuration from a run's folder or a model folder."""
    trained = read_training(folder)
    return load_yaml(ModelConfig, Path(folder) / CONFIG) if trained is None else trained.model


def read_training(folder: Path) -> TrainConfig | None:
    """Read how a run's folder was trained; None for a model folder.

    Raises:
        FileNotFoundError: it is neither.
        ValueError: its `config.yaml` is damaged or has unknown options.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there: give a run's folder or a model folder")
    data = read_yaml(path)
    of_a_run = isinstance(data, dict) and "model" in data
    return load_yaml(TrainConfig, path) if of_a_run else None


def read_tokenizer(folder: Path) -> Tokenizer | None:
    """Read the tokenizer in a folder, or that of the corpus that an older run was trained on."""
    folder = Path(folder)
    if (folder / TOKENIZER).is_file():
        return Tokenizer.load(folder)
    trained = read_training(folder)
    return None if trained is None else open_corpus(trained.data.corpus).tokenizer


def copy_files(source: Path, target: Path) -> None:
    """Copy those of the files that go along which are there; errors as for `copy_companions`."""
    more = (source / CHAT_TEMPLATES).glob("*.jinja")
    for name in (*COMPANIONS, *(f"{CHAT_TEMPLATES}/{path.name}" for path in more)):
        (target / name).parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(inside(source, name), target / name)


def copy_companions(source: Path, target: Path) -> None:
    """Copy the files that go along; a run's tokenizer is that of its corpus.

    Raises:
        ValueError: one of them is a link that leads out of its folder.
    """
    copy_files(source, target)
    if not (target / TOKENIZER).is_file():
        try:
            tokenizer = read_tokenizer(source)
        except FileNotFoundError as error:
            logger.warning("written without a tokenizer: %s", error)
            return
        if tokenizer is not None:
            tokenizer.save(target / TOKENIZER)


def read_state(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read configuration and weights, mapped from the disk, and make sure that they fit.

    Raises:
        ValueError: a tensor is missing, left over or of another shape; the first is named.
    """
    config = read_config(folder)
    source = Path(folder)
    weights = read_weights(source)
    plans = config.plans
    banks = max(plan.count for plan in (plans.experts, plans.attention, plans.norms))
    if banks > len(weights):  # before so many are made, though without memory
        raise ValueError(
            f"{source}: holds {len(weights)} tensors, but {CONFIG} has {banks} banks: the two are "
            "of different models"
        )
    with torch.device("meta"):
        expected = {name: t.shape for name, t in LanguageModel(config).state_dict().items()}
    for name in (*expected, *weights):
        if name not in weights or name not in expected or weights[name].shape != expected[name]:
            found = tuple(weights[name].shape) if name in weights else "missing"
            wanted = tuple(expected[name]) if name in expected else "unknown"
            raise ValueError(
                f"{source}: {named(name)} is {found}, but {wanted} in {CONFIG}: the two are of "
                "different models"
            )
    return config, weights


def load_model(
    folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """Load a model, in eval mode, from a run's newest whole checkpoint or a model folder."""
    return built_model(*read_state(folder), device, dtype)


def built_model(
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LanguageModel:
    """Return a model, in eval mode, that holds these very weights where they need no conversion."""
    with torch.device("meta"):
        model = LanguageModel(config)
    model.load_state_dict({n: t.to(device, dtype) for n, t in weights.items()}, assign=True)
    return model.eval()


def save_model(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Path | None = None,
    companions: Path | None = None,
) -> None:
    """Write a model folder, whole or not at all; it must not be there yet.

    Args:
        folder: to make.
        config: of the model.
        weights: its state.
        tokenizer: a `tokenizer.json` to copy.
        companions: the run's or model's folder whose tokenizer and the like to copy.
    """
    with new_folder(Path(folder)) as partial:
        save_yaml(config, partial / CONFIG)
        own = {name: tensor.contiguous() for name, tensor in weights.items()}
        with new_file(partial / WEIGHTS, sum(tensor.nbytes for tensor in own.values())) as file:
            save_file(own, file, metadata={"format": "pt"})
        if tokenizer is not None:
            shutil.copyfile(tokenizer, partial / TOKENIZER)
        if companions is not None:
            copy_companions(companions, partial)
