"""A run's folder: its name, the configuration that it belongs to, its result, its weights."""

import fcntl
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from plait.config_file import config_hash, load_yaml, save_yaml, to_dict
from plait.model import LanguageModel
from plait.training.checkpoint import WEIGHTS, newest_whole, read_weights, write_json
from plait.training.config import TrainConfig
from plait.training.distributed import fill

CONFIG, METRICS, CHECKPOINTS, RESULT = "config.yaml", "metrics.jsonl", "checkpoints", "result.json"
LOCK = ".lock"


@dataclass(frozen=True)
class Result:
    """What a finished run says of itself; ``result.json`` holds just these names."""

    study: str
    variant: str
    seed: int
    config_hash: str
    steps: int
    tokens: int
    skipped_steps: int
    evaluation: dict[str, Any]
    """{"split", "domains": {name: {"loss", "perplexity", "bits_per_byte", "tokens", "bytes"}}}"""
    parameters: dict[str, int]
    """total as if nothing were shared, stored, active per token"""
    flops_per_token: dict[str, float]
    """forward, training"""
    gate_mass: float | None
    """mean sum of a token's gates on the test split; None without routers"""
    load: list[list[float] | None]
    """by depth: each expert's share of the test split's load"""
    seconds: float
    tokens_per_second: float
    corpus_fingerprint: str
    environment: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write ``result.json``: last of all, so that it marks the run as finished."""
        write_json(folder / RESULT, asdict(self))

    @classmethod
    def load_from(cls, folder: Path) -> "Result | None":
        """Read ``result.json``; None where the run is not finished."""
        path = folder / RESULT
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise ValueError(f"{path} is damaged: delete it and run again") from None


def run_folder(config: TrainConfig, root: Path, study: str, variant: str) -> Path:
    """Name a run's folder by study, variant, seed and the hash of the whole configuration."""
    return root / study / f"{variant}-s{config.seed}-{config_hash(config)}"


def study_and_variant(folder: Path) -> tuple[str, str]:
    """Read study and variant back from a folder that ``run_folder`` named, or make do."""
    folder = folder.resolve()
    match = re.fullmatch(r"(.+)-s\d+-[0-9a-f]{12}", folder.name)
    return folder.parent.name, match[1] if match else folder.name


@contextmanager
def claim(folder: Path, config: TrainConfig) -> Iterator[None]:
    """Make the folder this configuration's own, and this process the only one that trains in it.

    The lock goes with the process, however it ends.

    Raises:
        ValueError: another process trains in it, or it belongs to another configuration; the first
            option that differs is named.

    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process is training in {folder}: wait for it, or stop it first"
            ) from None
        _check_config(folder, config)
        yield


def _check_config(folder: Path, config: TrainConfig) -> None:
    path = folder / CONFIG
    if not path.exists():
        save_yaml(config, path)
        return
    stored = dict(_options(to_dict(load_yaml(TrainConfig, path))))
    wanted = dict(_options(to_dict(config)))
    for name in (*wanted, *stored):
        if stored.get(name) != wanted.get(name):
            raise ValueError(
                f"{folder} was begun with {name} = {stored.get(name)}, not {wanted.get(name)}: "
                "restore the option to resume it, or choose another folder"
            )


def _options(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from _options(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def find_weights(source: Path) -> Path:
    """Find the safetensors file that a file, a checkpoint or a run's folder stands for.

    Raises:
        FileNotFoundError: there is none.

    """
    if source.is_file():
        return source
    if (source / WEIGHTS).is_file():
        return source / WEIGHTS
    newest = newest_whole(source / CHECKPOINTS)
    if newest is None:
        raise FileNotFoundError(
            f"no weights at {source}: give a .safetensors file, a checkpoint or a run's folder"
        )
    return newest / WEIGHTS


def load_weights(model: LanguageModel, weights: Mapping[str, Tensor], source: object) -> None:
    """Fill a model, sharded or not, from whole tensors.

    Raises:
        ValueError: a tensor is missing, left over, or of another shape: the first is named.

    """
    own = model.state_dict()
    for name in (*own, *weights):
        if name not in weights:
            problem = f"lacks {name}"
        elif name not in own:
            problem = f"has {name}, which this model does not"
        elif weights[name].shape != own[name].shape:
            shapes = tuple(weights[name].shape), tuple(own[name].shape)
            problem = f"has {name} as {shapes[0]}, this model as {shapes[1]}"
        else:
            continue
        raise ValueError(f"{source} {problem}: use weights of the same model configuration")
    for name, tensor in own.items():
        fill(tensor, weights[name])


def load_run(folder: Path, device: str = "cpu") -> tuple[TrainConfig, LanguageModel]:
    """Read a run's configuration, and its model with the newest whole checkpoint's weights."""
    config = load_yaml(TrainConfig, folder / CONFIG)
    model = LanguageModel(config.model, config.seed).to(device)
    source = find_weights(folder)
    load_weights(model, read_weights(source), source)
    return config, model.eval()
