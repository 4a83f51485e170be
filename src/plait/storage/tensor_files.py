"""Reading tensors one by one from a folder of safetensors files, and writing them as they come."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from plait.atomic import new_file, write_json
from plait.config.files import load_json
from plait.parallel import World, owners, pieces
from plait.reading import inside, named, one_line

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FETCH = "fetch or save it anew"


@dataclass(frozen=True)
class _Index:
    weight_map: dict[str, str]
    """tensor → file"""


@dataclass(frozen=True)
class Shape:
    """What a file's header says of a tensor."""

    dtype: torch.dtype
    size: tuple[int, ...]


class TensorFiles:
    """The tensors of a model's folder, one file or shards with an index, read when asked for.

    Raises:
        FileNotFoundError: there is no such file, or a shard is missing.
        ValueError: a file or the index is damaged.
    """

    def __init__(self, folder: Path):
        self._stack = ExitStack()
        self._file_of: dict[str, Any] = {}
        for path in weight_files(weights_in(folder)):
            try:
                file = self._stack.enter_context(safe_open(path, framework="pt"))
                self._file_of.update({name: (file, path) for name in file.keys()})  # noqa: SIM118
            except (SafetensorError, OSError) as error:
                raise ValueError(
                    f"{path}: damaged or cut short ({one_line(error)}): {FETCH}"
                ) from None
        self.names = frozenset(self._file_of)

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def shape(self, name: str) -> Shape:
        """Return a tensor's type and size without reading it."""
        file, path = self._file_of[name]
        slice_ = file.get_slice(name)
        dtype = {named: dtype for dtype, named in _NAMES.items()}.get(slice_.get_dtype())
        if dtype is None:
            raise ValueError(
                f"{path}: {named(name)} is of type {slice_.get_dtype()}: save it as BF16"
            )
        return Shape(dtype, tuple(slice_.get_shape()))

    def read(self, name: str) -> Tensor:
        """Return a tensor, mapped from its file.

        Raises:
            ValueError: it holds a value that is not finite.
        """
        file, path = self._file_of[name]
        tensor: Tensor = file.get_tensor(name)
        if not _finite(tensor):
            raise ValueError(
                f"{path}: {named(name)} holds NaN or infinite values: nothing can be computed "
                "with it, so fetch it anew, or an earlier checkpoint"
            )
        return tensor


def _finite(tensor: Tensor) -> bool:
    """Whether all values are; in one pass, since NaN is both the least and the largest."""
    if not tensor.numel():
        return True
    least, largest = tensor.aminmax()
    return bool(least.isfinite() & largest.isfinite())


def weights_in(folder: Path) -> Path:
    """Return the file that leads to a folder's weights: the index of several, or the one.

    Raises:
        FileNotFoundError: there is neither.
    """
    for name in (INDEX, WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: no {WEIGHTS} nor {INDEX}: save it as safetensors")


def weight_files(path: Path) -> Sequence[Path]:
    """Return the files that an index names, or the one file that `path` is.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: the index is damaged, or leads out of its folder.
    """
    folder = path.parent
    if path.name != INDEX:
        return [inside(folder, path.name)]
    index = load_json(_Index, inside(folder, INDEX), FETCH)
    files = []
    for name in sorted(set(index.weight_map.values())):
        try:
            files.append(inside(folder, name))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{folder / name}: the shard is named in {INDEX} but missing: fetch it"
            ) from None
    return files


_NAMES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def shard_names(count: int) -> list[str]:
    """Name the files of weights in so many files, in Hugging Face's form."""
    if count == 1:
        return [WEIGHTS]
    return [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


def write_index(folder: Path, file_of: Mapping[str, str], total: int) -> None:
    """Write which file holds each tensor, `total` bytes together."""
    weight_map = dict(sorted(file_of.items()))
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_tensors(path: Path, tensors: Mapping[str, Shape], pieces: Iterator[Tensor]) -> None:
    """Write a safetensors file piece by piece, whole or not at all.

    Args:
        path: of the file.
        tensors: its content; the header is written from it, first.
        pieces: the tensors' elements in the same order, each tensor in one piece or more.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        begin, end = end, end + torch.Size(shape.size).numel() * shape.dtype.itemsize
        header[name] = {
            "dtype": _NAMES[shape.dtype],
            "shape": list(shape.size),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data
    with new_file(path, 8 + len(text) + end) as partial, partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for piece in pieces:
            file.write(piece.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        assert file.tell() == 8 + len(text) + end, "the pieces are not what the header says"


def write_divided(folder: Path, tensors: Mapping[str, Tensor], world: World) -> list[Path]:
    """Write tensors that processes hold parts of: each process writes some, whole, to one file.

    Returns:
        what this process wrote.
    """
    # as safetensors itself would lay them out
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    owner = dict(zip(order, owners([tensors[n].nbytes for n in order], world.size), strict=True))
    mine = {
        name: Shape(tensors[name].dtype, tuple(tensors[name].shape))
        for name in order
        if owner[name] == world.rank
    }
    files = shard_names(world.size)
    written = [folder / files[world.rank]]
    arriving = pieces({name: tensors[name] for name in order}, owner, world)
    try:
        write_tensors(written[0], mine, arriving)
    finally:
        for _ in arriving:  # the others' sends end, whatever happened here
            pass
    if world.is_main and world.size > 1:
        file_of = {name: files[rank] for name, rank in owner.items()}
        write_index(folder, file_of, sum(tensor.nbytes for tensor in tensors.values()))
        written.append(folder / INDEX)
    return written
