"""Weights on disk: where a run or a model keeps them, and their way into a model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from plait.model import LanguageModel
from plait.parallel import fill
from plait.reading import named
from plait.storage.checkpoint import newest_whole
from plait.storage.places import place_of
from plait.storage.sharded_state import CheckpointError, reason
from plait.storage.tensor_files import weight_files, weights_in


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
            problem = f"has {named(name)}, which this model does not"
        elif weights[name].shape != own[name].shape:
            shapes = tuple(weights[name].shape), tuple(own[name].shape)
            problem = f"has {name} as {shapes[0]}, this model as {shapes[1]}"
        else:
            continue
        raise ValueError(f"{source} {problem}: use weights of the same model configuration")
    for name, tensor in own.items():
        fill(tensor, weights[name])


def read_weights(source: Path) -> dict[str, Tensor]:
    """Read the weights of a safetensors file, an index of several, a checkpoint or a run's folder.

    They are mapped from the disk: what nobody reads takes no memory.

    Raises:
        FileNotFoundError: there are none.
        CheckpointError: a file is missing or damaged.
    """
    with _found(source) as path:
        weights: dict[str, Tensor] = {}
        try:
            for part in weight_files(path):
                with safe_open(part, framework="pt") as file:
                    weights |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"cannot read weights {path}: {reason(error)}") from None
    return weights


@contextmanager
def _found(source: Path) -> Iterator[Path]:
    """Give the safetensors file, or the index of several, of what `read_weights` takes."""
    path = source if source.is_file() else None
    with suppress(FileNotFoundError):
        path = path or weights_in(source)
    if path is not None:
        yield path
        return
    with newest_whole(place_of(source), lambda _: None, state=False) as (_, newest):
        if newest is None:
            raise FileNotFoundError(
                f"no weights at {source}: give a .safetensors file, a checkpoint or a run's folder"
            )
        yield weights_in(newest)
