"""The routing section of a study's report: each variant's first seed on the same tokens."""

from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup

from plait.report.figure import Section
from plait.report.palette import series
from plait.routing.analysis import Analysis, analyse, notes, topologies
from plait.routing.figures import comparison_figures
from plait.routing.page import html_table
from plait.routing.record import trace_model
from plait.routing.subject import watch
from plait.routing.targets import open_target
from plait.routing.text import passages
from plait.studies.results import read_study


def study_section(
    folder: Path, tokens: int = 20_000, progress: Callable[[str], None] = lambda _: None
) -> Section | None:
    """Trace the first seed of each finished variant and compare their routing.

    Variants without a router are left out, and so is, with a note, one whose weights or corpus are
    gone; None if nothing is left to say.

    Args:
        folder: of the study, `runs/<study>`.
        tokens: of the test split, over all domains.
        progress: called with each variant's name.
    """
    study = read_study(folder)
    found: list[Analysis] = []
    missing: list[str] = []
    for variant in study.finished_variants:
        try:
            target = open_target(study.of(variant)[0].folder, variant)
        except FileNotFoundError as error:
            missing.append(f"{variant} was not traced: {error}")
            continue
        try:
            watched = watch(target.model, variant, target.tokenizer.encoding_fingerprint)
        except ValueError:
            continue  # dense
        progress(variant)
        trace = trace_model(watched, passages((), target, tokens))
        found.append(analyse(trace, topologies=topologies(target.model), draws=50))
    if not found:
        return Section("Routing", missing) if missing else None
    names = [analysed.info.model for analysed in found]
    looks = [look for look in series(study.finished_variants, study.baseline) if look.name in names]
    seed = study.of(names[0])[0].seed
    text = [
        f"Where {found[0].tokens:,} held-out tokens went, seed {seed} of each variant: value, 95 % "
        "interval over documents, and what independent uniform choice gives.",
    ]
    below = [*[f"{names}: {note}" for names, note in notes(found)], *missing]
    html = html_table(found) + Markup("").join(Markup("<p>{}</p>").format(said) for said in below)
    return Section("Routing", text, comparison_figures(found, looks), html)
