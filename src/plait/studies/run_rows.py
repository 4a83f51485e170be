"""A study's runs as flat rows, one for each: for a DataFrame, or any table of your own."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from plait.config import TrainConfig
from plait.config.files import to_dict
from plait.storage.result import Result

MEASURES = {
    "loss": "loss_nats_per_token",
    "perplexity": "perplexity",
    "bits_per_byte": "bits_per_byte",
}
"""measure of a result: its column; of one domain, with the domain's name behind it"""


def run_measures(result: Result) -> dict[str, Any]:
    """Return what one finished run measured; names carry the units."""
    floors = result.floors or {}
    return {
        **{
            unit if domain == "all" else f"{unit}_{domain}": result.held_out(domain, measure)
            for domain in ("all", *(name for name in result.domains if name != "all"))
            for measure, unit in MEASURES.items()
        },
        **{
            f"{kind}_loss_nats_per_token": floors[kind]["all"]["loss"] if kind in floors else None
            for kind in ("unigram", "bigram")
        },
        **{f"parameters_{k}": result.parameters.get(k) for k in ("stored", "total", "active")},
        "training_flops_per_token": result.flops_per_token.get("training"),
        "tokens_seen": result.tokens,
        "seconds": result.seconds,
        "tokens_per_second": result.tokens_per_second,
        "gate_mass": result.gate_mass,
    }


def differing_options(configs: Sequence[TrainConfig]) -> list[dict[str, Any]]:
    """Return for each configuration the options that are not the same in all, by dotted path.

    The seed is not among them. An option of a part that a configuration lacks is None there.
    """
    flat = [dict(_leaves(to_dict(config))) for config in configs]
    paths = dict.fromkeys(path for one in flat for path in one if path != "seed")
    differ = [path for path in paths if len({repr(one.get(path)) for one in flat}) > 1]
    return [{path: one.get(path) for path in differ} for one in flat]


def data_frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    """Return rows as a pandas DataFrame.

    Raises:
        ModuleNotFoundError: pandas is not installed; the message names the extra that brings it.
    """
    try:
        import pandas  # of the extra `report`
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'a frame needs pandas, which the extra "report" brings: pip install "plait[report]"',
            name="pandas",
        ) from error
    return pandas.DataFrame(list(rows))


def _leaves(options: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield path + name, value
