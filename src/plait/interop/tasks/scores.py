"""Scores of a task from the questions that lm-eval logged, each with its interval and chance."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plait.statistics import Estimate, mean_interval, wilson

ACCURACIES = ("acc", "exact_match", "acc_norm")
"""shares of right answers; a task's accuracy is the first that it has"""
LIKELIHOODS = ("log_p_per_character", "p_among_choices")

_Questions = Sequence[Mapping[str, float]]


def question_scores(task: Any, samples: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return what each question of a task scored.

    Args:
        task: lm-eval's.
        samples: what lm-eval logged of its questions; of several filters the first counts.

    Returns:
        For each question those of lm-eval's `ACCURACIES` that the task has, `chance` (1 ÷ choices,
        0 where the answer is open), and, where answers were scored and not generated,
        `log_p_per_character`: ln p(right answer | question) ÷ its characters without the space in
        front, nats; `p_among_choices`: p(right answer) ÷ the sum over the choices, where there are
        some; `log_p`: ln p(right answer), nats, where lm-eval takes its perplexity.
    """
    samples = list(samples)
    return [_scores(task, s) for s in samples if s["filter"] == samples[0]["filter"]]


def _scores(task: Any, sample: Mapping[str, Any]) -> dict[str, float]:
    scores = {name: float(sample[name]) for name in ACCURACIES if name in sample}
    scores["chance"] = 0.0
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(sample["doc"])
        scores["chance"] = 1 / len(choices)
        # where the choices are contexts, as in WinoGrande, the index stands for the question
        right = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
        right = choices.index(right) if right in choices else right
        if not isinstance(right, int) or not 0 <= right < len(choices):
            return scores
    elif task.OUTPUT_TYPE == "loglikelihood":
        choices, right = [None], 0
    else:
        return scores
    log_p = [float(value) for value, _ in sample["filtered_resps"][: len(choices)]]
    if characters := len(sample["arguments"][right][1].strip()):
        scores["log_p_per_character"] = log_p[right] / characters
    if len(choices) > 1:
        highest = max(log_p)
        weights = [math.exp(value - highest) for value in log_p]
        scores["p_among_choices"] = weights[right] / sum(weights)
    if "perplexity" in sample:
        scores["log_p"] = log_p[right]
    return scores


def task_scores(questions: _Questions) -> dict[str, Any]:
    """Return a task's scores from those of its questions, with 95 % intervals.

    Returns:
        {"documents", "chance", and of `ACCURACIES`, `LIKELIHOODS` and "perplexity" what there is:
        {"value", "interval": [low, high]}}. Intervals are Wilson's for accuracies, Student's over
        questions for likelihoods, and for perplexity that of its logarithm; None with one question.
    """
    chance = math.fsum(question["chance"] for question in questions) / len(questions)
    scores: dict[str, Any] = {"documents": len(questions), "chance": chance}
    for name in (*ACCURACIES, *LIKELIHOODS, "log_p"):
        values = [question[name] for question in questions if name in question]
        if not values:
            continue
        mean = mean_interval(values)
        if name in ACCURACIES:
            scores[name] = _record(wilson(mean.value, len(values)))
        elif name in LIKELIHOODS:
            scores[name] = _record(mean)
        else:
            scores["perplexity"] = _record(_perplexity(mean))
    return scores


def accuracy(scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the accuracy that a task is known by: `acc`, or exact match of what was generated."""
    return next((scores[name] for name in ACCURACIES if name in scores), None)


def macro_average(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean accuracy over tasks of equal weight; their errors are independent."""
    shares = []
    for name, scores in tasks.items():
        found = accuracy(scores)
        if found is None:
            raise ValueError(f"{name}: lm-eval gives no accuracy to average")
        shares.append((found["value"], scores["documents"]))
    value = math.fsum(share for share, _ in shares) / len(shares)
    half = 1.96 * math.sqrt(math.fsum(p * (1 - p) / n for p, n in shares)) / len(shares)
    chance = math.fsum(scores["chance"] for scores in tasks.values()) / len(tasks)
    return {
        "tasks": list(tasks),
        "value": value,
        "interval": [value - half, value + half],
        "chance": chance,
    }


def _perplexity(log_p: Estimate) -> Estimate:
    value, n = _exp(-log_p.value), log_p.n
    if log_p.low is None or log_p.high is None:
        return Estimate(value=value, n=n)
    return Estimate(value=value, low=_exp(-log_p.high), high=_exp(-log_p.low), n=n)


def _exp(power: float) -> float:
    return math.exp(power) if power < 700 else math.inf  # two questions bound almost nothing


def _record(estimate: Estimate) -> dict[str, Any]:
    low_high = None if estimate.low is None else [estimate.low, estimate.high]
    return {"value": estimate.value, "interval": low_high}
