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

from plait.atomic import new_file
from plait.config.files import load_json
from plait.reading import inside, named, one_line
from plait.storage.checkpoint import WEIGHTS

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
        for path in _files(folder):
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


def _files(folder: Path) -> Sequence[Path]:
    if not (folder / INDEX).is_file():
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder}: no {WEIGHTS} nor {INDEX}: save it as safetensors")
        return [inside(folder, WEIGHTS)]
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
