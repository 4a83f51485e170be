"""Claims about paths: every seed of their arms traced on the same held-out text."""

from collections.abc import Mapping, Sequence

from plait.report.numbers import interval, p_value, signed
from plait.report.study.routing_section import trace_run
from plait.routing.analysis import Analysis
from plait.studies.answers import LEAST_SEEDS
from plait.studies.claims import PathAnswer, PathContrast, PathMeasure, path_answers
from plait.studies.results import StudyResults

COVERED_BY = 100
"""paths whose share of the tokens is the coverage"""
WORDS: Mapping[PathMeasure, str] = {
    "coverage": f"Share of tokens on the {COVERED_BY} most frequent paths",
    "consistency": "Consistency of neighbouring depths above chance (Jaccard)",
    "one permutation": "Rise of the loss in nats under one permutation of the experts",
    "permutation per depth": "Rise of the loss in nats under a permutation at each depth",
}


def answer_paths(
    contrasts: Sequence[PathContrast],
    study: StudyResults,
    tokens: int,
    device: str | None,
) -> tuple[PathAnswer, ...]:
    """Trace every seed of the arms and answer the questions about their paths.

    Args:
        contrasts: the questions.
        study: its finished runs; one whose weights or corpus are gone is left out.
        tokens: held-out tokens to trace; a fifth of them are perturbed.
        device: as torch names it; None: CUDA where there is one, else the CPU.
    """
    measured: dict[str, dict[int, dict[PathMeasure, float]]] = {}
    for arm in dict.fromkeys(arm for c in contrasts for arm in (c.variant, c.against)):
        for run in study.of(arm):
            try:
                found = trace_run(run, tokens, device, tokens // 5)
            except FileNotFoundError:
                continue
            if found is not None:
                measured.setdefault(arm, {})[run.seed] = measures(found)
    return path_answers(contrasts, measured)


def measures(found: Analysis) -> dict[PathMeasure, float]:
    """Return what claims ask of a trace; a measure that it has no value for is left out."""
    rises = {one.kind: one.rise for one in found.robustness if one.setting is None}
    adjacent = found.consistency.adjacent
    above = None
    if adjacent is not None and adjacent.chance is not None:
        above = adjacent.value - adjacent.chance
    values: Mapping[PathMeasure, float | None] = {
        "coverage": float(found.coverage.curve[:COVERED_BY][-1]),
        "consistency": above,
        "one permutation": rises.get("one permutation"),
        "permutation per depth": rises.get("permutation per depth"),
    }
    return {name: value for name, value in values.items() if value is not None}


def sentence(answer: PathAnswer) -> str:
    """Say what came out of a question."""
    asked, found = answer.contrast, answer.difference
    name = f"{WORDS[asked.measure]}: {asked.variant} − {asked.against}"
    if found is None:
        return f"{name}: not traced."
    seeds = found.estimate.n
    said = f"{name}: {signed(found.estimate.value)}"
    if reach := interval(found.estimate, sign=True):
        said += f", 95 % interval {reach} over {seeds} seeds"
    if answer.p is None:
        return f"{said}; no verdict: under {LEAST_SEEDS} seeds."
    verdict = {True: "as claimed", False: "the other way", None: "undecided"}[answer.as_expected]
    return f"{said}: {verdict} ({p_value(answer.p)} after Holm's correction)."
