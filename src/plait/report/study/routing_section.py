"""The routing section of a study's report: each variant's first seed on the same tokens."""

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from plait.opening import open_model
from plait.report.figure import Section
from plait.report.palette import series
from plait.report.routing.routing_page import html_table
from plait.report.routing.sections import comparison_figures
from plait.report.routing.trace_report import perturbed
from plait.routing.analysis import Analysis, analyse, notes
from plait.routing.metrics.topology import topologies
from plait.routing.record import trace_model
from plait.routing.text import passages
from plait.routing.watching import watch
from plait.studies.results import FinishedRun, StudyResults, read_study


def study_section(folder: Path, tokens: int = 20_000, device: str | None = None) -> Section | None:
    """Trace the first seed of each finished variant and compare their routing.

    Variants without a router are left out, and so is, with a note, one whose weights or corpus are
    gone; None if nothing is left to say.

    Args:
        folder: of the study, `runs/<study>`.
        tokens: of the test split, over all domains.
        device: as torch names it; None: CUDA where there is one, else the CPU.
    """
    study = read_study(folder)
    found, missing = traced(study, tokens, device)
    if not found:
        return Section("Routing", missing) if missing else None
    names = [analysed.info.model for analysed in found]
    looks = [look for look in series(study.finished_variants, study.baseline) if look.name in names]
    seed = study.of(names[0])[0].seed
    text = [
        f"Where {found[0].tokens:,} held-out tokens went, seed {seed} of each variant. Intervals "
        "are over documents, chance is independent uniform choice.",
    ]
    below = [*[f"{names}: {note}" for names, note in notes(found)], *missing]
    html = all_metrics(found) + Markup("").join(
        Markup('<p class="under">{}</p>').format(said) for said in below
    )
    return Section(
        "Routing",
        text,
        comparison_figures(found, looks),
        html,
        folded=True,
        gist=f"paths, load and specialisation of {len(found)} variants, one seed of each",
    )


def all_metrics(found: Sequence[Analysis]) -> Markup:
    """Every metric of the traced models as a table that unfolds."""
    return Markup(
        '<details class="more"><summary>All metrics as a table</summary>{}</details>'
    ).format(html_table(found))


def traced(
    study: StudyResults, tokens: int, device: str | None, perturb_tokens: int = 0
) -> tuple[list[Analysis], list[str]]:
    """Trace the first seed of each finished variant; what could not be traced is said in a line."""
    found: list[Analysis] = []
    missing: list[str] = []
    for variant in study.finished_variants:
        try:
            one = trace_run(study.of(variant)[0], tokens, device, perturb_tokens)
        except FileNotFoundError as error:
            missing.append(f"{variant} was not traced: {error}")
            continue
        if one is not None:
            found.append(one)
    return found, missing


def trace_run(
    run: FinishedRun, tokens: int, device: str | None, perturb_tokens: int = 0
) -> Analysis | None:
    """Trace a finished run on its own held-out text.

    None where there is nothing to trace: it is dense, or its experts choose their tokens.

    Args:
        run: whose variant becomes the name of what is found.
        tokens: of the test split, over all domains.
        device: as torch names it; None: CUDA where there is one, else the CPU.
        perturb_tokens: of these, for the perturbations; 0: none.

    Raises:
        FileNotFoundError: its weights or its corpus are gone.
    """
    opened = open_model(run.folder, device, name=run.variant)
    assert opened.corpus is not None
    text_tokens = list(passages([opened.corpus], opened.tokenizer, opened.first, tokens))
    try:
        watched = watch(opened.model, run.variant, opened.tokenizer.encoding_fingerprint)
    except ValueError:
        return None
    trace = trace_model(watched, text_tokens)
    return analyse(
        trace,
        decode=opened.tokenizer.token,
        topologies=topologies(opened.model),
        robustness=perturbed(watched, trace, text_tokens, perturb_tokens) if perturb_tokens else (),
        draws=50,
    )
