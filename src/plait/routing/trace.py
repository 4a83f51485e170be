"""A routing trace: which experts each token went to at each depth, and its file.

In the file (Parquet) one row is one token; rows stand in document order:

============ ============================= =============================================
column       type                          what
============ ============================= =============================================
`token`      int32                         token id
`document`   int32                         index of the document, counted over the trace
`domain`     int16                         index into `domains` of the metadata
`experts_03` fixed-size list of K          experts at depth 3, the top-1 first
`gates_03`   fixed-size list of K, float16 their gates
`entropy_03` float16                       entropy of the router's distribution, nats
`logits_03`  fixed-size list of E, float16 router logits, only when they were asked for
============ ============================= =============================================

The file's metadata holds a `TraceInfo` as JSON under `plait`. Shapes: N tokens, L depths with a
router, K experts per token, E experts.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from plait.atomic import new_file
from plait.config.files import from_dict
from plait.evaluation.choices import shared_labels
from plait.notebook.plan_picture import plan_picture
from plait.notebook.tables import table, titled
from plait.reading import parse_json
from plait.sharing import Plan

FORMAT = 1
NO_TOKENS = "the text gave no tokens: nothing was traced"
PARTS = ("expert", "router", "decision")
"""that give experts their labels, as `TraceInfo` names their plans"""


@dataclass(frozen=True, kw_only=True)
class TraceInfo:
    """What a trace was made from.

    `depth` counts all layers of the model and `routed` names those with a router, in order;
    `experts` holds their number of experts, in the same order. Plans are those of the whole depth.
    `context` is the longest window (tokens) that documents were cut into.
    """

    model: str
    tokenizer: str
    depth: int
    routed: tuple[int, ...]
    experts: tuple[int, ...]
    top_k: int
    context: int
    domains: tuple[str, ...] = ()
    expert_plan: str = "own"
    router_plan: str = "own"
    decision_plan: str = "own"

    def __post_init__(self) -> None:
        if not self.routed:
            raise ValueError(f"{self.model} has no depth with a router: there is nothing to trace")
        if len(self.routed) != len(self.experts) or not set(self.routed) <= set(range(self.depth)):
            raise ValueError(f"{self.model} has experts at depths without a router, or the reverse")

    @property
    def dense(self) -> tuple[int, ...]:
        """Depths without a router."""
        return tuple(depth for depth in range(self.depth) if depth not in self.routed)

    def banks(self, part: str) -> tuple[int, ...]:
        """Bank of each routed depth for `part`: "expert", "router" or "decision"."""
        text: str = getattr(self, f"{part}_plan")
        banks = Plan.parse(text, self.depth).banks
        return tuple(banks[depth] for depth in self.routed)

    @property
    def shared_labels_LL(self) -> npt.NDArray[np.bool_]:
        """Whether expert i means the same at two depths: same expert bank, router or decision."""
        return shared_labels(*map(self.banks, ("expert", "router", "decision")))

    @classmethod
    def from_json(cls, text: str | bytes) -> "TraceInfo":
        """Read what `to_json` wrote."""
        fix = "record it again with plait trace"
        fields: Any = parse_json(text, "this trace", fix)
        if not isinstance(fields, dict) or fields.pop("format", None) != FORMAT:
            raise ValueError(f"this trace has another format than {FORMAT}: {fix}")
        try:
            return from_dict(cls, fields)
        except ValueError as error:
            raise ValueError(f"this trace is damaged ({error}): {fix}") from None

    def to_json(self) -> str:
        """Write as one JSON object."""
        return json.dumps({"format": FORMAT, **asdict(self)})


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """A trace in memory, one column per array; L counts the depths in `info.routed`.

    The experts of a token are ordered by router logit, so `expert_ids_NLK[..., 0]` is the top-1.
    Columns that were not recorded or not read are None. `logits_NLE` is padded with −inf at depths
    with fewer experts.
    """

    info: TraceInfo
    token_ids_N: npt.NDArray[np.int32]
    document_N: npt.NDArray[np.int32]
    domain_N: npt.NDArray[np.int16]
    expert_ids_NLK: npt.NDArray[np.unsignedinteger]
    gates_NLK: npt.NDArray[np.floating] | None = None
    router_entropy_NL: npt.NDArray[np.floating] | None = None
    logits_NLE: npt.NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        expected = (len(self.token_ids_N), len(self.info.routed), self.info.top_k)
        assert self.expert_ids_NLK.shape == expected, (self.expert_ids_NLK.shape, expected)

    def __len__(self) -> int:
        return len(self.token_ids_N)

    def _repr_html_(self) -> str:
        info = self.info
        in_domain_D = np.bincount(self.domain_N, minlength=len(info.domains))
        sizes = zip(info.domains, in_domain_D, strict=True)
        rows = [
            ("tokens", f"{len(self):,}"),
            *((f"\u2003{domain}", f"{tokens:,}") for domain, tokens in sizes),
            ("documents", f"{len(np.unique(self.document_N)):,}"),
            ("depths with a router", f"{len(info.routed)} of {info.depth}"),
            ("experts at a depth", " to ".join(map(str, sorted({*info.experts})))),
            ("experts per token", str(info.top_k)),
        ]
        plans = {part: Plan.parse(getattr(info, f"{part}_plan"), info.depth) for part in PARTS}
        shared = [plan.row(part) for part, plan in plans.items() if plan.count < plan.depth]
        picture = plan_picture(shared) if shared else ""
        return titled(f"Routing of {info.model}", table(rows), picture)

    @property
    def top1_NL(self) -> npt.NDArray[np.unsignedinteger]:
        """The path of each token: its top-1 expert at each routed depth."""
        return self.expert_ids_NLK[:, :, 0]

    def select(self, rows: npt.NDArray[np.generic] | slice) -> "Trace":
        """Keep some tokens, by index, mask or slice."""
        optional: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[rows]
            for name in ("gates_NLK", "router_entropy_NL", "logits_NLE")
        }
        return replace(
            self,
            token_ids_N=self.token_ids_N[rows],
            document_N=self.document_N[rows],
            domain_N=self.domain_N[rows],
            expert_ids_NLK=self.expert_ids_NLK[rows],
            **optional,
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Trace"]) -> "Trace":
        """Join traces of one model, in order."""
        first = parts[0]

        def joined(name: str) -> Any:
            columns = [getattr(part, name) for part in parts]
            return None if columns[0] is None else np.concatenate(columns)

        names = [name for name in vars(first) if name != "info"]
        return cls(info=first.info, **{name: joined(name) for name in names})


class TraceWriter:
    """Write a trace part by part; memory is that of one part. The file appears when it is whole.

    Parts are traces of the same model with the same columns; only `info.domains` may grow from part
    to part. Used as a context manager: an error inside leaves no file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.info: TraceInfo | None = None
        self.tokens = 0
        self._whole = new_file(self.path)
        self._writer: Any = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = self._whole.__enter__()
        return self

    def append(self, part: Trace) -> None:
        """Write one part as one row group."""
        parquet = _parquet()
        table = _to_table(part)
        if self._writer is None:
            self._writer = parquet.ParquetWriter(
                self._partial, table.schema, compression="zstd", use_dictionary=False
            )
        self._writer.write_table(table)
        self.info = part.info
        self.tokens += len(part)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            if self.info is not None:
                self._writer.add_key_value_metadata({"plait": self.info.to_json()})
            self._writer.close()
        nothing = ValueError(NO_TOKENS)
        if error is None and self._writer is None:
            kind, error = ValueError, nothing
        self._whole.__exit__(kind, error, traceback)
        if error is nothing:
            raise nothing


def read_info(path: str | os.PathLike[str]) -> TraceInfo:
    """Read a trace's metadata alone.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a trace.
    """
    return _open(path)[1]


def read_parts(
    path: str | os.PathLike[str], columns: Iterable[str] = ("gates", "entropy")
) -> Iterator[Trace]:
    """Read a trace part by part, as it was written.

    Args:
        path: the Parquet file.
        columns: which of "gates", "entropy", "logits" to read beside token, document, domain and
            experts.
    """
    file, info = _open(path)
    wanted = set(columns)
    names = ["token", "document", "domain"]
    for name in file.schema_arrow.names:
        if name.startswith("experts_") or name.rsplit("_", 1)[0] in wanted:
            names.append(name)
    for group in range(file.num_row_groups):
        yield _from_table(file.read_row_group(group, columns=names), info)


def read_trace(
    path: str | os.PathLike[str], columns: Iterable[str] = ("gates", "entropy")
) -> Trace:
    """Read a whole trace; `columns` as for `read_parts`. Leave out what is not needed."""
    file, _ = _open(path)
    tokens = file.metadata.num_rows
    whole: Trace | None = None
    filled = 0
    for part in read_parts(path, columns):
        if whole is None:
            whole = _empty(part, tokens)
        for name, column in vars(part).items():
            if isinstance(column, np.ndarray):
                getattr(whole, name)[filled : filled + len(part)] = column
        filled += len(part)
    assert whole is not None
    assert filled == tokens
    return whole


def _empty(like: Trace, tokens: int) -> Trace:
    columns = {
        name: np.empty((tokens, *column.shape[1:]), dtype=column.dtype)
        for name, column in vars(like).items()
        if isinstance(column, np.ndarray)
    }
    return Trace(info=like.info, **columns)


def _open(path: str | os.PathLike[str]) -> tuple[Any, TraceInfo]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no trace at {path}: record one with plait trace")
    try:
        file = _parquet().ParquetFile(path)
    except Exception as error:
        raise ValueError(f"{path} is not a Parquet file, or is damaged: {error}") from None
    metadata = file.metadata.metadata or {}
    if b"plait" not in metadata:
        raise ValueError(f"{path} is no routing trace: its metadata has no entry 'plait'")
    return file, TraceInfo.from_json(metadata[b"plait"])


def _to_table(part: Trace) -> Any:
    import pyarrow as pa

    def lists(column_NX: npt.NDArray[np.generic]) -> Any:
        flat = pa.array(np.ascontiguousarray(column_NX).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, column_NX.shape[1])

    columns: dict[str, Any] = {
        "token": pa.array(part.token_ids_N.astype(np.int32, copy=False)),
        "document": pa.array(part.document_N.astype(np.int32, copy=False)),
        "domain": pa.array(part.domain_N.astype(np.int16, copy=False)),
    }
    for row, depth in enumerate(part.info.routed):
        columns[f"experts_{depth:02d}"] = lists(part.expert_ids_NLK[:, row])
        if part.gates_NLK is not None:
            gates_NK = part.gates_NLK[:, row].astype(np.float16, copy=False)
            columns[f"gates_{depth:02d}"] = lists(gates_NK)
        if part.router_entropy_NL is not None:
            entropy_N = part.router_entropy_NL[:, row].astype(np.float16)
            columns[f"entropy_{depth:02d}"] = pa.array(entropy_N)
        if part.logits_NLE is not None:
            logits_NE = part.logits_NLE[:, row, : part.info.experts[row]].astype(np.float16)
            columns[f"logits_{depth:02d}"] = lists(logits_NE)
    return pa.table(columns)


def _from_table(table: Any, info: TraceInfo) -> Trace:
    def array(name: str, width: int | None = None) -> npt.NDArray[Any]:
        column = table.column(name).combine_chunks()
        if width is None:
            return np.asarray(column.to_numpy())
        return np.asarray(column.flatten().to_numpy()).reshape(-1, width)

    def stacked(kind: str, widths: Sequence[int | None]) -> npt.NDArray[Any] | None:
        names = [f"{kind}_{depth:02d}" for depth in info.routed]
        if names[0] not in table.column_names:
            return None
        columns = [array(name, width) for name, width in zip(names, widths, strict=True)]
        if kind == "logits":
            widest = max(info.experts)
            columns = [
                np.pad(c, ((0, 0), (0, widest - c.shape[1])), constant_values=-np.inf)
                for c in columns
            ]
        return np.stack(columns, axis=1)

    top_k = [info.top_k] * len(info.routed)
    experts = stacked("experts", top_k)
    assert experts is not None
    return Trace(
        info=info,
        token_ids_N=array("token"),
        document_N=array("document"),
        domain_N=array("domain"),
        expert_ids_NLK=experts,
        gates_NLK=stacked("gates", top_k),
        router_entropy_NL=stacked("entropy", [None] * len(info.routed)),
        logits_NLE=stacked("logits", info.experts),
    )


def _parquet() -> Any:
    import pyarrow.parquet  # of the extra `report`

    return pyarrow.parquet
