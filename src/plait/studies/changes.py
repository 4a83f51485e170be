"""What a level of a factor or a size of a ladder changes of a training configuration."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, cast

from plait.config import TrainConfig
from plait.config.files import from_dict, to_dict
from plait.reading import quoted

Change = Mapping[str, Any] | Callable[[TrainConfig], TrainConfig]
"""options by their dotted path, `{"model.sharing.router": "blocks(4)"}`, or a function"""


def changed(config: TrainConfig, change: Change, who: str) -> TrainConfig:
    """Apply a change; a part that is None gets the options it is given and defaults for the rest.

    Raises:
        ValueError: an option that there is not, a value that does not fit, a function that returns
            something else; the message begins with `who` asked.
    """
    if not isinstance(change, Mapping):
        found = change(config)
        if not isinstance(found, TrainConfig):
            raise ValueError(f"{who}: its function returns {quoted(found)}, and not a TrainConfig")
        return found
    options = to_dict(config)
    for path, value in change.items():
        *parts, last = path.split(".")
        place = options
        for part in parts:
            inner = place.get(part)
            if inner is None:
                inner = place[part] = {}
            if not isinstance(inner, dict):
                raise ValueError(f"{who}: unknown option {quoted(path)}: {part} has no parts")
            place = inner
        place[last] = to_dict(value)
    try:
        return from_dict(TrainConfig, options)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None


def with_tokens(config: TrainConfig, tokens: int) -> TrainConfig:
    """Train on so many tokens; warm-up, decay, evaluations and checkpoints keep their share."""
    parts = {
        part: dataclasses.replace(getattr(config, part), **values)
        for part, values in kept_shares(config, tokens).items()
    }
    return dataclasses.replace(config, tokens=tokens, **cast(Any, parts))


def kept_shares(config: TrainConfig, tokens: int) -> dict[str, dict[str, int]]:
    """Return the options that keep their share of a run, were it of so many tokens."""

    def share(value: int, least: int) -> int:
        return max(round(value * (tokens / config.tokens)), least)

    schedule, every = config.schedule, config.evaluation.every
    return {
        "schedule": {
            "warmup": share(schedule.warmup, 0),
            "decay": share(schedule.decay, min(schedule.decay, 1)),
        },
        "evaluation": {"every": share(every, min(every, 1))},
        "checkpoint": {"every": share(config.checkpoint.every, 1)},
    }


def overlap(first: Change, second: Change) -> str | None:
    """Return an option that both changes set, where both say which they set."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for path in first:
            for other in second:
                if f"{other}.".startswith(f"{path}.") or f"{path}.".startswith(f"{other}."):
                    return max(path, other, key=len)
    return None
