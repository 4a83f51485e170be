"""A run's folder: its name, the configuration that it belongs to, and what lies in it.

::

    runs/<study>/<variant>-s<seed>-<hash of the whole configuration>/
      config.yaml       the experiment, whole
      corpus.json       the manifest of the corpus: sources, licences, splits, fingerprint
      tokenizer.json    its tokenizer, so that the folder can be used where the corpus is not
      metrics.jsonl     one row for each step that is logged, and for each evaluation
      checkpoints/      see `plait.storage.checkpoint`
      checkpoints.json  where they are, if at an address: see `plait.storage.places`
      .lock, .lease-N   who trains in it: see `claim`
      log.txt           what the process of a study's run printed
      diverged.json     why the run gave up, where it did
      result.json       written last: it marks the run as finished
"""

import fcntl
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.atomic import sweep
from plait.config import TrainConfig
from plait.config.files import config_hash, load_yaml, save_yaml, to_dict
from plait.storage.lease import leased, newest
from plait.storage.metrics_file import read_rows
from plait.storage.result import RESULT, Result

CONFIG, METRICS, CHECKPOINTS, LOG = "config.yaml", "metrics.jsonl", "checkpoints", "log.txt"
AWAY = "checkpoints.json"
DIVERGED = "diverged.json"
CORPUS, TOKENIZER = "corpus.json", "tokenizer.json"
LOCK = ".lock"


class HeldError(ValueError):
    """Another process trains in the folder."""


@dataclass(frozen=True)
class RunFolder:
    """A run on disk, read when asked."""

    path: Path

    @property
    def finished(self) -> bool:
        """Whether the run wrote its result, which it does last and in one step."""
        return (self.path / RESULT).is_file()

    @property
    def diverged(self) -> bool:
        """Whether the run gave up, since its losses were not finite."""
        return (self.path / DIVERGED).is_file() and not self.finished

    @property
    def held(self) -> bool:
        """Whether a process trains in it now, on this machine or another; see `claim`."""
        try:
            with open(self.path / LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            pass
        return newest(self.path).live

    def config(self) -> TrainConfig:
        """Read the experiment."""
        return load_yaml(TrainConfig, self.path / CONFIG)

    def result(self) -> Result | None:
        """Read the result; None where the run is not finished."""
        return Result.load_from(self.path)

    def metrics(self) -> list[dict[str, Any]]:
        """Read the rows of the metrics so far; none where there is no file yet."""
        return read_rows(self.path / METRICS)


def run_folder(config: TrainConfig, root: Path, study: str, variant: str) -> Path:
    """Name a run's folder by study, variant, seed and the hash of the whole configuration."""
    return root / study / f"{variant}-s{config.seed}-{config_hash(config)}"


def study_and_variant(folder: Path) -> tuple[str, str]:
    """Read study and variant back from a folder that `run_folder` named, or make do."""
    folder = folder.resolve()
    match = re.fullmatch(r"(.+)-s\d+-[0-9a-f]{12}", folder.name)
    return folder.parent.name, match[1] if match else folder.name


@contextmanager
def claim(folder: Path, config: TrainConfig) -> Iterator[None]:
    """Make the folder this configuration's own, and this process the only one that trains in it.

    A lock, which goes with the process however it ends, keeps others of this machine out; a lease
    those of other machines, where the file system has no locks that reach so far.

    Raises:
        HeldError: another process trains in it.
        ValueError: it belongs to another configuration; the first option that differs is named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = HeldError(f"another process is training in {folder}: wait for it, or stop it first")
    with open(folder / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise held from None
        except OSError:  # a file system without locks: the lease is enough
            pass
        with leased(folder) as ours:
            if not ours:
                raise held
            sweep(folder)
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
