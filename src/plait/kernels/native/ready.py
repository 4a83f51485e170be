"""Libraries compiled beforehand, which a wheel carries: no compiler and no minute are needed then.

`python -m plait.kernels.native` compiles one for each kind of processor, against the torch that
is installed, into the folder that `make wheel` packs. What is taken from there is tried in a
process of its own first, as what is compiled here is.
"""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from plait.atomic import write_json
from plait.kernels import processor

FOLDER = Path(__file__).parent / "compiled"
LIBRARY, RECORD = "plait.so", "record.json"


@dataclass(frozen=True)
class Kind:
    """A kind of processor.

    Attributes:
        name: of its folder.
        architecture: that the compiler makes code for.
        units: options that say what products run on.
        needs: flags that the processor must have.
    """

    name: str
    architecture: str
    units: tuple[str, ...]
    needs: frozenset[str]

    @property
    def fits(self) -> bool:
        """Whether this processor is of this kind, or of a better one."""
        if "-DPLAIT_TILES" in self.units:
            able = processor.use_tiles()
        else:
            able = "-DPLAIT_LANES" in self.units or processor.has_long_vectors()
        return able and self.needs <= set(processor.flags().split())


_LANES = frozenset(("avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"))
_LONG = _LANES | {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd"}
_TILES = _LONG | {"amx_tile", "amx_bf16", "avx512_bf16", "avx512_fp16", "avx512vbmi", "gfni"}

KINDS = (
    Kind("amx", "sapphirerapids", ("-DPLAIT_TILES",), _TILES),
    Kind("avx512", "x86-64-v4", (), _LONG),
    Kind("avx2", "x86-64-v3", ("-DPLAIT_LANES",), _LANES),
)
"""the best first"""


def library(sources: str, torch: str) -> Path | None:
    """Return a library for this processor, from these sources and for this torch, or None."""
    for kind in KINDS:
        folder = FOLDER / kind.name
        try:
            record = json.loads((folder / RECORD).read_bytes())
            whole = record["sha256"] == _sha256(folder / LIBRARY)
            same = record["sources"] == sources and record["torch"] == torch
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if whole and same and kind.fits:
            return folder / LIBRARY
    return None


def store(compiled: Path, kind: Kind, sources: str, torch: str) -> None:
    """Put a compiled library where `library` looks."""
    folder = FOLDER / kind.name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(compiled, folder / LIBRARY)
    found = {"sha256": _sha256(folder / LIBRARY), "sources": sources, "torch": torch}
    write_json(folder / RECORD, found)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
