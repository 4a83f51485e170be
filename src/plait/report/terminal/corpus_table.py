"""What is in a corpus, as tables; text from the corpus is never read as markup."""

from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from plait.data.summary import Summary


def corpus_tables(corpus: Summary) -> Group:
    """Return the splits by domain, the sources with their licences, and a sample of each domain."""
    splits = Table("split", "domain")
    for column in ("documents", "MB", "tokens", "bytes/token"):
        splits.add_column(column, justify="right")
    for row in corpus.rows:
        splits.add_row(
            row["split"],
            row["domain"],
            f"{row['documents']:,}",
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['tokens']:,}",
            f"{row['bytes_per_token']:.2f}",
        )
    sources = Table("source", "domain", "licence")
    sources.add_column("documents", justify="right")
    sources.add_column("MB", justify="right")
    sources.add_column("dropped")
    for source in corpus.sources:
        sources.add_row(
            Text(source["source"]),
            source["domain"],
            Text(source["licence"]),
            f"{source['documents']:,}",
            f"{source['bytes'] / 1e6:.2f}",
            _dropped(source),
        )
    stream = "a stream: the figures are of what was read beforehand, training reads the sources"
    return Group(
        Text(f"{corpus.name}  {corpus.path}", style="bold"),
        *([Text(stream)] if corpus.streamed else []),
        Text(f"fingerprint {corpus.fingerprint} · {corpus.mixture}\n{corpus.tokenizer}"),
        splits,
        sources,
        *(Panel(Text(text), title=domain) for domain, text in corpus.samples.items()),
    )


def _dropped(source: dict[str, Any]) -> str:
    reasons = {"short": "short", "duplicates": "duplicate", "not_text": "not UTF-8"}
    return ", ".join(f"{source[key]:,} {why}" for key, why in reasons.items() if source[key])
