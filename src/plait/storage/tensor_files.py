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
from plait.storage.checkpoint import WEIGHTS

INDEX = "model.safetensors.index.json"


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
                    f"{path}: damaged or cut short ({_line(error)}): fetch or save it anew"
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
            raise ValueError(f"{path}: {name} is of type {slice_.get_dtype()}: save it as BF16")
        return Shape(dtype, tuple(slice_.get_shape()))

    def read(self, name: str) -> Tensor:
        """Return a tensor, mapped from its file."""
        file, _ = self._file_of[name]
        tensor: Tensor = file.get_tensor(name)
        return tensor


def _files(folder: Path) -> Sequence[Path]:
    if not (folder / INDEX).is_file():
        if not (folder / WEIGHTS).is_file():
            raise FileNotFoundError(f"{folder}: no {WEIGHTS} nor {INDEX}: save it as safetensors")
        return [folder / WEIGHTS]
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = [folder / name for name in sorted(set(index["weight_map"].values()))]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{folder / INDEX}: damaged: fetch or save it anew") from None
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: the shard is named in {INDEX} but missing: fetch it")
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
            piece.contiguous().reshape(-1).view(torch.uint8).numpy().tofile(file)
        assert file.tell() == 8 + len(text) + end, "the pieces are not what the header says"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
