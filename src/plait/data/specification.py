"""What a corpus is to be made of: sources, splits, tokenizer, mixture; as a value and as YAML."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from plait.config.limits import LARGEST_VOCABULARY
from plait.data.packages import DebianPackage, PythonPackage
from plait.data.sources import (
    Files,
    HubDataset,
    PythonFunction,
    Source,
    StandardLibrary,
    StandardLibraryTopics,
)
from plait.reading import quoted, read_yaml

MOST_SHUFFLED = 1 << 30
"""tokens of a domain that may be held in memory"""

SOURCE_KINDS: dict[str, type[Source]] = {
    kind.kind: kind
    for kind in (
        StandardLibrary,
        StandardLibraryTopics,
        Files,
        PythonPackage,
        DebianPackage,
        HubDataset,
        PythonFunction,
    )
}


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """How a corpus is read from its sources while it trains, without a copy on the disk.

    Args:
        sample: characters of each source that are read beforehand, once: the tokenizer is trained
            on them, and the documents among them that are held out are those that are scored.
        shuffle: tokens of a domain, one block after the other, whose sequences are shuffled.
    """

    sample: int = 50_000_000
    shuffle: int = 1 << 20

    def __post_init__(self) -> None:
        if self.sample < 1 or not 1 <= self.shuffle <= MOST_SHUFFLED:
            raise ValueError(
                f"stream: sample {quoted(self.sample)} and shuffle {quoted(self.shuffle)} must be "
                f"1 or more, and shuffle {MOST_SHUFFLED:,} at the most, which are held in memory"
            )


@dataclass(frozen=True, kw_only=True)
class Specification:
    """What a corpus is to be made of.

    Args:
        name: of the corpus.
        sources: where its text comes from. Sources of one domain share that domain's shards.
        weights: share of each domain in training, such as `{"code": 75, "notes": 25}`;
            None mixes in proportion to size.
        vocab_size: entries of the byte-level BPE that is trained on the training split.
        tokenizer: a `tokenizer.json` to use instead, or `tiktoken:NAME`.
        validation: share of the documents, by hash, held out for validation.
        test: share of the documents, by hash, held out for the test.
        stream: read the training text from the sources while it trains; None: a copy is encoded
            on the disk. Several domains then need weights.
    """

    name: str
    sources: tuple[Source, ...]
    weights: Mapping[str, float] | None = None
    vocab_size: int | None = None
    tokenizer: str | None = None
    validation: float = 0.05
    test: float = 0.05
    stream: Streaming | None = None

    def __post_init__(self) -> None:
        for name in (self.name, *self.domains):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(
                    f"name {quoted(name)}: use letters, digits, '.', '_' and '-' for corpora and "
                    "domains"
                )
        if not self.sources:
            raise ValueError(f"corpus {self.name!r} has no sources: give at least one")
        if (self.vocab_size is None) == (self.tokenizer is None):
            raise ValueError(
                f"corpus {self.name!r}: give vocab_size (to train a tokenizer) or tokenizer "
                "(to load one), one of the two"
            )
        if not 1 <= (self.vocab_size or 1) <= LARGEST_VOCABULARY:
            raise ValueError(
                f"corpus {self.name!r}: vocab_size is {quoted(self.vocab_size)}: it must be 1 or "
                f"more, and {LARGEST_VOCABULARY:,} at the most"
            )
        if not (self.validation >= 0 <= self.test and self.validation + self.test < 1):
            raise ValueError(
                f"corpus {self.name!r}: validation {self.validation} and test {self.test} are "
                "shares of the documents: give two numbers from 0 that add up to less than 1"
            )
        if self.weights is not None and (
            set(self.weights) != set(self.domains)
            or not all(1e-6 <= weight <= 1e12 for weight in self.weights.values())
        ):
            raise ValueError(
                f"corpus {self.name!r}: weights {quoted(dict(self.weights))} must give a number "
                f"from 1e-6 to 1e12 to each domain ({quoted(', '.join(self.domains))}) and to no "
                "other"
            )
        if self.stream is not None and self.weights is None and len(self.domains) > 1:
            raise ValueError(
                f"corpus {self.name!r}: how large its domains are is not known of a stream: give "
                f"weights for {quoted(', '.join(self.domains))}"
            )

    @property
    def domains(self) -> tuple[str, ...]:
        """The sources' domains, in order of first appearance."""
        return tuple(dict.fromkeys(source.domain for source in self.sources))

    def anchored(self) -> "Specification":
        """Return the same with sources that are found from any working folder."""
        return replace(self, sources=tuple(source.anchored() for source in self.sources))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, from which `from_dict` makes the same specification."""
        data: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        data["sources"] = [_source_to_dict(source) for source in self.sources]
        data["weights"] = dict(self.weights) if self.weights else None
        data["stream"] = asdict(self.stream) if self.stream else None
        return {key: value for key, value in data.items() if value is not None}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Specification":
        """Make a specification from plain data.

        Raises:
            ValueError: naming the unknown or missing option and the nearest known one.
        """
        if isinstance(stream := data.get("stream"), Mapping):
            data = {**data, "stream": Streaming(**_options(Streaming, stream, "stream"))}
        checked = _options(cls, data, "corpus")
        if isinstance(checked["sources"], str):
            raise ValueError("sources: give a list, one entry per source")
        checked["sources"] = tuple(_source_from_dict(source) for source in checked["sources"])
        return cls(**checked)

    @classmethod
    def load(cls, path: str | Path) -> "Specification":
        """Read a YAML file; relative paths in it are relative to its folder.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: in one line, for what is not YAML or not a specification.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file: give the YAML file of a corpus")
        data = read_yaml(path)
        if not isinstance(data, dict):
            page = "docs/howto/own-text.md"
            raise ValueError(f"{path}: not the specification of a corpus: see {page}")
        try:
            given = cls.from_dict({"name": path.stem, **data})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        sources = tuple(
            replace(source, path=str(path.parent / Path(source.path).expanduser()))
            if isinstance(source, Files)
            else source
            for source in given.sources
        )
        tokenizer = given.tokenizer
        if tokenizer is not None and not tokenizer.startswith("tiktoken:"):
            tokenizer = str(path.parent / tokenizer)
        return replace(given, sources=sources, tokenizer=tokenizer)


def _source_to_dict(source: Source) -> dict[str, Any]:
    data = {key: value for key, value in asdict(source).items() if value not in (None, (), [])}
    return {"kind": source.kind} | {
        key: list(value) if isinstance(value, tuple) else value for key, value in data.items()
    }


def _source_from_dict(data: Any) -> Source:
    named = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(named, str) or named not in SOURCE_KINDS:
        raise ValueError(f"source {quoted(data)}: give it a kind, one of {', '.join(SOURCE_KINDS)}")
    kind = SOURCE_KINDS[named]
    options = {key: value for key, value in data.items() if key != "kind"}
    checked = _options(kind, options, f"source of kind {kind.kind}")
    for field in fields(kind):
        if get_origin(field.type) is tuple and field.name in checked:
            value = checked[field.name]
            checked[field.name] = (value,) if isinstance(value, str) else tuple(value)
    return kind(**checked)


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value as YAML gives it may stand for a field of this type."""
    for one in get_args(annotation) if isinstance(annotation, UnionType) else (annotation,):
        kind = get_origin(one) or one
        # a list, or one string for a list of one; whole numbers are numbers too, but true is not
        given: Any = {tuple: (list, tuple, str), float: (int, float)}.get(kind, kind)
        if isinstance(value, given) and isinstance(value, bool) == (kind is bool):
            inner = value.values() if isinstance(value, Mapping) else value
            of = [argument for argument in get_args(one) if argument is not Ellipsis][-1:]
            return of not in ([str], [float]) or all(_fits(item, of[0]) for item in inner)
    return False


def _options(cls: type[Any], data: Mapping[str, Any], what: str) -> dict[str, Any]:
    known = {field.name: field for field in fields(cls)}
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f": did you mean {near[0]!r}?" if near else f": it has {', '.join(known)}"
            raise ValueError(f"{what}: unknown option {quoted(key)}{hint}")
    for name, field in known.items():
        if name not in data and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{what}: option {name!r} is missing: add it")
        if name in data and not _fits(data[name], field.type):
            wanted = getattr(field.type, "__name__", str(field.type))
            quotes = ": put it in quotes" if field.type is str else ""
            raise ValueError(f"{what}: {name} {quoted(data[name])} is not of type {wanted}{quotes}")
    return dict(data)
