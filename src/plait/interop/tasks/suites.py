"""The sets of tasks that papers average, and how many examples each task is asked with."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """Tasks whose accuracies are averaged, each with the same weight."""

    shots: Mapping[str, int]
    """lm-eval's task → examples before each question"""
    basis: str
    """where the composition is from, and what of it is inferred"""


_TYING = ("arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "openbookqa")
_PATHS = (
    "arc_easy", "boolq", "hellaswag", "lambada_openai", "openbookqa", "piqa", "social_iqa",
    "winogrande",
)  # fmt: skip
_MORE_PATHS = ("arc_challenge", "commonsense_qa", "mmlu")

SUITES = {
    "expert-tying-6": Suite(
        dict.fromkeys(_TYING, 3), "as arXiv 2606.16825 states: 3-shot, mean of acc"
    ),
    "pathmoe-8": Suite(
        dict.fromkeys(_PATHS, 0),
        "0.9B table of arXiv 2603.18297: tasks second-hand, from summaries of the paper; "
        "lm-eval's variants of them, acc and 0-shot are inferred",
    ),
    "pathmoe-12": Suite(
        {**dict.fromkeys((*_PATHS, *_MORE_PATHS), 0), "triviaqa": 5},
        "16B table of arXiv 2603.18297: tasks second-hand, from summaries of the paper, and so is "
        "TriviaQA's 5-shot exact match; lm-eval's variants, acc and 0-shot are inferred",
    ),
}
