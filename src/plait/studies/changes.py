"""What a level of a factor or a size of a ladder changes of a training configuration."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

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
    share = tokens / config.tokens
    schedule, evaluation, checkpoint = config.schedule, config.evaluation, config.checkpoint
    return dataclasses.replace(
        config,
        tokens=tokens,
        schedule=dataclasses.replace(
            schedule,
            warmup=round(schedule.warmup * share),
            decay=max(round(schedule.decay * share), min(schedule.decay, 1)),
        ),
        evaluation=dataclasses.replace(
            evaluation, every=max(round(evaluation.every * share), min(evaluation.every, 1))
        ),
        checkpoint=dataclasses.replace(checkpoint, every=max(1, round(checkpoint.every * share))),
    )


def overlap(first: Change, second: Change) -> str | None:
    """Return an option that both changes set, where both say which they set."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for path in first:
            for other in second:
                if f"{other}.".startswith(f"{path}.") or f"{path}.".startswith(f"{other}."):
                    return max(path, other, key=len)
    return None
