"""The corpus that a command needs, built where it is not yet."""

from plait.cli.output import progress, say
from plait.data import corpora
from plait.data.build import build
from plait.data.corpus import MANIFEST


def ensure_corpus(name: str) -> None:
    """Build a named corpus with a progress bar, unless it is there; a folder is left alone."""
    if name not in corpora.NAMED:
        return
    path = corpora.default_path(name)
    if not (path / MANIFEST).is_file():
        say(f"building the corpus {name} in {path}")
        with progress() as shown:
            build(corpora.specification(name), path, shown)
