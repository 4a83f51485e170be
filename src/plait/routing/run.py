"""`plait trace`: traces, metrics, perturbations and figures of models, into a folder."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from plait.report.figure import Format, write_figures
from plait.routing.analysis import Analysis, analyse, table, topologies
from plait.routing.figures import sections
from plait.routing.metrics.paths import most_frequent
from plait.routing.page import page
from plait.routing.perturb import ALLOWED, NOISE, Robustness, robustness
from plait.routing.record import Passage, trace_to_file
from plait.routing.subject import Subject, watch
from plait.routing.targets import Target, open_targets
from plait.routing.text import passages
from plait.routing.trace import Trace, read_trace


def run_trace(
    targets: Sequence[str | Path],
    text: Sequence[str] = (),
    out: str | Path = "routing",
    *,
    tokens: int = 100_000,
    split: str = "test",
    context: int | None = None,
    logits: bool = False,
    perturb_tokens: int = 10_000,
    draws: int = 3,
    noise: Sequence[float] = NOISE,
    formats: Sequence[Format] = ("svg", "png"),
    device: str = "cpu",
    console: Console | None = None,
) -> list[Analysis]:
    """Trace models over text and write what their routing does.

    Writes into `out`: a `trace.parquet` (in a folder of its own for each of several models),
    `routing.json` ({"models": [one summary each]}), `routing.html` (one self-contained page) and
    `figures/`; prints the summary table.

    Args:
        targets: folders of runs, or of Hugging Face MoE models; several are compared on the same
            tokens.
        text: see `plait.routing.text.passages`; empty takes the first run's own corpus.
        out: folder.
        tokens: number of tokens to trace, over all domains.
        split: of a corpus.
        context: window that documents are cut into, tokens; None takes the shortest of the models'.
        logits: also record the full router logits.
        perturb_tokens: held-out tokens for the perturbations (every second document); 0: none.
        draws: of each random perturbation.
        noise: σ values of the noise perturbation.
        formats: of the figure files; () writes none.
        device: torch device.
        console: where the table and progress are printed.

    Raises:
        ValueError, FileNotFoundError: in one line, with the fix.
    """
    printed = console or Console()
    folder = Path(out)
    opened = open_targets([Path(target) for target in targets], device)
    text_tokens = list(passages(text, opened[0], tokens, split))
    watched = [watch(t.model, t.name, t.tokenizer.fingerprint) for t in opened]
    window = min(context or 2**31, *[subject.info.context for subject in watched], 2**31)
    analyses = []
    for target, subject in zip(opened, watched, strict=True):
        place = folder / _slug(target.name) if len(opened) > 1 else folder
        with printed.status(Text(f"{target.name}: tracing")) as status:

            def progress(stage: str, name: str = target.name) -> None:
                status.update(Text(f"{name}: {stage}"))

            path = trace_to_file(
                subject,
                text_tokens,
                place / "trace.parquet",
                context=window,
                logits=logits,
            )
            trace = read_trace(path, columns=("entropy",))
            changed: list[Robustness] = []
            if perturb_tokens:
                changed = _perturb(
                    subject, trace, text_tokens, perturb_tokens, draws, noise, progress
                )
            analyses.append(
                analyse(
                    trace,
                    topologies=topologies(target.model, trace),
                    robustness=changed,
                    progress=progress,
                )
            )
        printed.print(f"{target.name}: {len(trace):,} tokens in {path}", markup=False)
    return _written(analyses, opened[0], folder, formats, printed)


def _perturb(
    subject: Subject,
    trace: Trace,
    text_tokens: Sequence[Passage],
    limit: int,
    draws: int,
    noise: Sequence[float],
    progress: Callable[[str], None],
) -> list[Robustness]:
    """Perturb every second document; frequent paths are counted on the others."""
    counted = trace.select(trace.document_N % 2 == 0)
    held_out, left = [], limit
    for passage in text_tokens[1::2] or text_tokens[:1]:
        if left <= 0:
            break
        held_out.append(Passage(passage.token_ids[:left], passage.domain))
        left -= len(passage.token_ids)
    frequent, _ = most_frequent(counted, max(ALLOWED))
    return robustness(
        subject,
        held_out,
        frequent_paths=frequent if len(text_tokens) > 1 else None,
        noise=noise if subject.can_reroute else (),
        draws=draws,
        progress=progress,
    )


def _written(
    analyses: list[Analysis],
    target: Target,
    folder: Path,
    formats: Sequence[Format],
    printed: Console,
) -> list[Analysis]:
    printed.print(table(analyses))
    for analysed in analyses:
        for note in analysed.notes:
            printed.print(f"{analysed.info.model}: {note}", markup=False, highlight=False)
    decode = target.tokenizer.token
    summary = {"models": [analysed.to_dict(decode) for analysed in analyses]}
    (folder / "routing.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    (folder / "routing.html").write_text(page(analyses, decode), encoding="utf-8")
    if formats:
        figures = [f for section in sections(analyses, decode) for f in section.figures]
        with printed.status(f"{len(figures)} figures"):
            write_figures(figures, folder / "figures", formats)
    printed.print(f"page: {folder / 'routing.html'}", markup=False)
    return analyses


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "model"
