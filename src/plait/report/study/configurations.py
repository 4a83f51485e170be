"""What differs between configurations, option by option."""

from collections.abc import Mapping
from typing import Any

Change = tuple[str, str, str]
"""option with its path, value in the baseline, value in the variant"""


def changes(baseline: Mapping[str, Any], variant: Mapping[str, Any]) -> list[Change]:
    """Options whose values differ, by path; a part that only one side has is one change."""
    return list(_walk(baseline, variant, ""))


def _walk(old: Any, new: Any, where: str) -> list[Change]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found: list[Change] = []
        for key in dict.fromkeys((*old, *new)):
            found += _walk(old.get(key), new.get(key), f"{where}.{key}" if where else str(key))
        return found
    return [] if old == new else [(where, _shown(old), _shown(new))]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(item) for item in value)
    return str(value)
