"""Commands on text: build a corpus, look into one; and the corpus that other commands need."""

from pathlib import Path

from plait.cli.output import console, progress, say
from plait.data import corpora
from plait.data.build import build
from plait.data.shards import SHARD_TOKENS
from plait.data.summary import inspect
from plait.report.terminal.corpus_table import corpus_tables


def data_build(
    corpus: str,
    /,
    out: Path | None = None,
    replace: bool = False,
    processes: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> None:
    """Fetch, clean, split and tokenize text into a corpus.

    Args:
        corpus: starter, starter-2k, papers, or a YAML file as in docs/howto/own-text.md.
        out: folder to build it in; by default under the cache folder (PLAIT_CACHE moves it).
        replace: replace a corpus of another specification that is there.
        processes: that read and encode side by side, where there is enough to do; None: one for
            each processor that may be used. The corpus is the same to the bit.
        shard_tokens: the most tokens of a file; the corpus' fingerprint does not depend on it.
    """
    specification = corpora.specification(corpus)
    path = out or corpora.default_path(specification.name)
    with progress() as shown:
        build(
            specification,
            path,
            shown,
            replace=replace,
            processes=processes,
            shard_tokens=shard_tokens,
        )
    console.print(corpus_tables(inspect(path, verify=False)))


def data_inspect(corpus: str, /) -> None:
    """Show what a corpus holds, and check every file against the manifest.

    Args:
        corpus: folder of a corpus, or the name of one in the cache folder.
    """
    folder = Path(corpus)
    path = folder if folder.is_dir() else corpora.default_path(corpus)
    console.print(corpus_tables(inspect(path)))


def ensure_corpus(name: str) -> None:
    """Build a named corpus with a progress bar, unless it is there; a folder is left alone."""
    if corpora.is_missing(name):
        say(f"building the corpus {name} in {corpora.default_path(name)}")
        with progress() as shown:
            corpora.ensure(name, shown)
