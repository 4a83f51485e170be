"""File formats: the texts inside one file, whatever its format, in bounded memory."""

import ast
import gzip
import io
import itertools
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from plait.data.documents import pieces
from plait.reading import named, parse_json, quoted

TEXT_SUFFIXES = (".txt", ".md", ".rst", ".tex")
RECORD_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")
MEND = "repair it or leave it out"


def known(path: Path) -> bool:
    """Whether a folder's reader takes this file: a known suffix, perhaps followed by `.gz`."""
    return _suffix(path) in TEXT_SUFFIXES + RECORD_SUFFIXES


def texts(path: Path, fields: Sequence[str] = ("text",), cut: int | None = None) -> Iterator[str]:
    """Give the texts in a file: one for a text file, one per row for records.

    Args:
        path: a text file of any suffix, `.jsonl` (one object a line), `.json` (a list of
            objects, or an object of them; read whole) or `.parquet`; all but the last
            also as `.gz`.
        fields: the fields that make up a record's text, in order; dots lead into nested ones.
        cut: characters at which every text is cut into several; by default only a text of more
            than 1 Mi characters is cut, into pieces of 32 Ki.

    Raises:
        ValueError: naming the file, for a damaged file, a record that is not JSON or lacks a field.
    """
    return (text for _, _, text in placed_texts(path, fields, cut))


def placed_texts(
    path: Path, fields: Sequence[str] = ("text",), cut: int | None = None, first: int = 0
) -> Iterator[tuple[int, int, str]]:
    """Give (record, piece of it, text), both numbered from 0; see `texts`.

    Args:
        path: as for `texts`.
        fields: as for `texts`.
        cut: as for `texts`.
        first: the record to begin with; those before it are passed over as fast as the format
            allows. A text file is one record.
    """
    suffix = _suffix(path)
    if suffix in RECORD_SUFFIXES:
        for number, record in _records(path, suffix, fields, first):
            for piece, text in enumerate(pieces(record_text(record, fields, str(path)), cut)):
                yield number, piece, text
    elif first == 0:
        # newline="": line ends are cleaned with the rest
        with (
            _open(path) as raw,
            io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="") as stream,
        ):
            for piece, text in enumerate(pieces(stream, cut)):
                yield 0, piece, text


def record_text(record: Mapping[str, Any], fields: Sequence[str], where: str) -> str:
    """Join the named fields of a record with blank lines; `where` names it in errors."""
    try:
        return "\n\n".join(flatten(_lookup(record, field, where)) for field in fields)
    except RecursionError:
        raise ValueError(f"{where}: a record nests too deep: {MEND}") from None


def flatten(value: Any) -> str:
    """Write a nested value as text: strings in reading order, with blank lines between.

    A mapping of equally long lists is a table by columns and is read by rows, so that
    `{"section": [s1, s2], "paragraphs": [[a, b], [c]]}` reads s1, a, b, s2, c.
    """
    return "\n\n".join(_strings(value))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, Mapping):
        columns = list(value.values())
        if columns and all(isinstance(c, list) and len(c) == len(columns[0]) for c in columns):
            # names before contents: the column of plain strings is the heading
            columns.sort(key=lambda c: not all(isinstance(item, str) for item in c))
            yield from _strings(list(zip(*columns, strict=True)))
        else:
            yield from _strings(columns)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
    elif value is not None:
        yield str(value)


def _lookup(record: Any, field: str, where: str) -> Any:
    value = record
    for key in field.split("."):
        if isinstance(value, str):  # a nested record that was stored as its Python repr
            value = _literal(value)
        if not isinstance(value, Mapping) or key not in value:
            has = ", ".join(map(str, value)) if isinstance(value, Mapping) else type(value).__name__
            raise ValueError(f"{where}: no field {field!r} (there is: {named(has)}): set `fields`")
        value = value[key]
    nested = "." in field and isinstance(value, str) and value.startswith("{")
    return _literal(value) if nested else value


def _literal(text: str) -> Any:
    try:
        with warnings.catch_warnings():  # of odd escapes in somebody's text
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _records(
    path: Path, suffix: str, fields: Sequence[str], first: int
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if suffix == ".parquet":
        yield from _parquet(path, fields, first)
    elif suffix == ".json":
        with _open(path) as raw:
            data = parse_json(raw.read(), path, MEND)
        if not isinstance(data, (dict, list)):
            raise ValueError(f"{path}: not a list of records, but {quoted(data)}: {MEND}")
        records = data.values() if isinstance(data, dict) else data
        yield from itertools.islice(enumerate(records), first, None)
    else:
        with _open(path) as raw:
            for number, line in itertools.islice(enumerate(raw), first, None):
                if line.isspace():
                    continue
                yield number, parse_json(line, f"{path}: line {number + 1}", MEND)


def _parquet(
    path: Path, fields: Sequence[str], first: int
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise ValueError(f"{path}: reading parquet needs pyarrow: pip install pyarrow") from None
    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(
            f"{path}: not parquet ({str(error).splitlines()[0]}): fetch it anew or leave it out"
        ) from None
    with file:
        wanted = {field.split(".")[0] for field in fields}
        if missing := wanted - set(file.schema_arrow.names):
            raise ValueError(
                f"{path}: no field {min(missing)!r} (there is: "
                f"{', '.join(file.schema_arrow.names)}): set `fields`"
            )
        number = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number + rows <= first:
                number += rows
                continue
            batches = file.iter_batches(256, row_groups=[group], columns=sorted(wanted))
            for record in (record for batch in batches for record in batch.to_pylist()):
                if number >= first:
                    yield number, record
                number += 1


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    if not path.name.lower().endswith(".gz"):
        with path.open("rb") as file:
            yield file
        return
    try:
        with gzip.open(path, "rb") as unzipped:
            yield cast(BinaryIO, unzipped)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}): fetch it anew") from None
