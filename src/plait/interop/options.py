"""How an option of transformers is one of ours, and those of rotary embeddings, which all share."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from plait.reading import quoted

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Option:
    """An option whose value differs between the two sides.

    `read(value, theirs)` gives our value, raising a ValueError for one that we cannot express;
    `write(value, ours)` gives theirs. Both see all options, ours by dotted name.
    """

    ours: str
    read: Callable[[Any, Options], Any]
    write: Callable[[Any, Options], Any]


Translations = Mapping[str, str | tuple[str, ...] | Option]
"""their option → ours, or several of ours that are always alike"""


def product(one: Any, other: Any) -> Any:
    """Multiply what a stranger's file holds; a TypeError where it is no number."""
    if not isinstance(one, (int, float)) or not isinstance(other, (int, float)):
        raise TypeError
    return one * other


def _of_scaling(*kinds: str) -> Callable[[Any, Options], Any]:
    """Return what reads a number of these kinds of scaled rotary embedding, and of no other."""

    def read(value: Any, theirs: Options) -> Any:
        return value if theirs.get("rope_parameters.rope_type") in kinds else None

    return read


def _to_scaling(*kinds: str) -> Callable[[Any, Options], Any]:
    def write(value: Any, ours: Options) -> Any:
        return value if ours.get("attention.rope_scaling.kind") in kinds else None

    return write


def _scaled(ours: str, *kinds: str) -> Option:
    return Option(f"attention.rope_scaling.{ours}", _of_scaling(*kinds), _to_scaling(*kinds))


def _scaling_kind(value: Any, theirs: Options) -> Any:
    if value not in ("default", "linear", "yarn", "llama3"):
        raise ValueError(
            f"rope_parameters.rope_type = {quoted(value)} is not supported: only default, linear, "
            "yarn and llama3 are"
        )
    return None if value == "default" else value


def _factor(value: Any, theirs: Options) -> Any:
    """Return the factor; without a number it is by how much the context grew (DeepSeek-V3)."""
    if theirs.get("rope_parameters.rope_type") not in ("linear", "yarn", "llama3"):
        return None
    if value is None:
        grown: int = theirs["max_position_embeddings"]
        return grown / theirs["rope_parameters.original_max_position_embeddings"]
    return value


def _amplitude(value: Any, theirs: Options) -> Any:
    """Return YaRN's attention factor as DeepSeek's two numbers give it, where no other does."""
    both = value, theirs.get("rope_parameters.mscale_all_dim")
    if not all(both) or theirs.get("rope_parameters.attention_factor") is not None:
        return theirs.get("rope_parameters.attention_factor")
    rise = 0.1 * math.log(max(1.0, _factor(theirs["rope_parameters.factor"], theirs)))
    mscale, all_dim = (product(rise, number) + 1 for number in both)
    return mscale / all_dim


ROPE: Translations = {
    "rope_parameters.rope_theta": "attention.rope_theta",
    "rope_parameters.rope_type": Option(
        "attention.rope_scaling.kind", _scaling_kind, lambda value, ours: value or "default"
    ),
    "rope_parameters.factor": Option(
        "attention.rope_scaling.factor", _factor, _to_scaling("linear", "yarn", "llama3")
    ),
    "rope_parameters.original_max_position_embeddings": _scaled(
        "original_context", "yarn", "llama3"
    ),
    "rope_parameters.beta_slow": _scaled("slow", "yarn"),
    "rope_parameters.beta_fast": _scaled("fast", "yarn"),
    "rope_parameters.low_freq_factor": _scaled("slow", "llama3"),
    "rope_parameters.high_freq_factor": _scaled("fast", "llama3"),
    "rope_parameters.truncate": _scaled("truncate", "yarn"),
    "rope_parameters.attention_factor": _scaled("amplitude", "yarn"),
    "rope_parameters.mscale": Option(
        "attention.rope_scaling.amplitude", _amplitude, lambda value, ours: None
    ),
}
