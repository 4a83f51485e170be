"""The loss of a model's weights on a text file: what surgery reports before and after."""

import importlib
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from plait.config import ModelConfig
from plait.data import formats
from plait.data.tokenizer import read_backend, require_vocabulary
from plait.evaluation.heldout import LONGEST_WINDOW
from plait.parallel import default_device
from plait.storage.model_folder import built_model, read_tokenizer
from plait.storage.run_folder import TOKENIZER
from plait.surgery.banks import Weights

logger = logging.getLogger(__name__)

DOCUMENTED = ("textwrap", "statistics", "heapq", "shutil", "calendar", "random", "tempfile")
"""modules of Python's standard library that say much in plain sentences"""

DOCSTRING_TOKENS = 4096
"""of the docstrings that stand in for a text, at the most"""


def windows(
    config: ModelConfig, folder: Path, text: Path | None, tokens: int
) -> list[Tensor] | None:
    """Cut a text into sequences of the model's context, one token of overlap.

    Without a text, docstrings of Python's standard library are taken, and where the model's folder
    has no tokenizer that can be read, nothing.
    """
    if text is not None:
        return _windows(config, folder, text, _documents(text), tokens)
    try:
        return _windows(config, folder, "docstrings", docstrings(), min(tokens, DOCSTRING_TOKENS))
    except (ValueError, FileNotFoundError) as error:
        logger.warning("the loss is not measured: %s", error)
        return None


def docstrings() -> Iterator[str]:
    """Give what some modules of Python's standard library say of themselves, one text each."""
    for name in DOCUMENTED:
        module = importlib.import_module(name)
        members = [getattr(module, member) for member in sorted(module.__all__)]
        documented = [one for one in members if inspect.isroutine(one) or inspect.isclass(one)]
        texts = map(inspect.getdoc, (module, *documented))
        yield "\n\n".join(dict.fromkeys(filter(None, texts)))


def _windows(
    config: ModelConfig,
    folder: Path,
    text: object,
    documents: Iterable[str],
    tokens: int,
) -> list[Tensor]:
    encode = _encoder(folder)
    stream: list[int] = []
    for document in documents:
        stream += encode(document)
        if len(stream) > tokens:
            break
    if len(stream) < 2:
        raise ValueError(f"{text}: no text to measure the loss on")
    require_vocabulary(stream, config.vocab_size, folder)
    ids = torch.tensor(stream[: tokens + 1])
    length = min(config.context, LONGEST_WINDOW)
    return [ids[cut : cut + length + 1] for cut in range(0, len(ids) - 1, length)]


def _encoder(folder: Path) -> Callable[[str], list[int]]:
    """Return what turns a document into tokens, the mark of its beginning included."""
    try:
        own = read_tokenizer(folder)
    except ValueError:  # of a kind that bits per byte cannot be had for; here it will do
        theirs = read_backend(Path(folder) / TOKENIZER)
        return lambda text: list(theirs.encode(text).ids)
    if own is None:
        raise ValueError(f"{folder} has no tokenizer.json to read the text with: add it")
    return lambda text: [own.end_of_text, *own.encode(text)]


def _documents(text: Path) -> Iterable[str]:
    if not Path(text).is_file():
        raise FileNotFoundError(f"{text}: no such text file")
    return formats.texts(Path(text))


@torch.no_grad()
def loss(
    config: ModelConfig,
    state: Weights,
    windows: Sequence[Tensor] | None,
    device: str | None = None,
) -> float | None:
    """Return the mean cross-entropy in nats per token."""
    if windows is None:
        return None
    model = built_model(config, state, str(default_device(device)))
    total, count = 0.0, 0
    for window in (window.to(model.embedding.weight.device) for window in windows):
        output = model(window[None, :-1], window[None, 1:])
        assert output.loss is not None
        total += output.loss.item() * (len(window) - 1)
        count += len(window) - 1
    return total / count
