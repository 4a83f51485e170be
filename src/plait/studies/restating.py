"""A study as the command line changes it: options, tokens, seeds, variants, looks."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import yaml

from plait.reading import quoted
from plait.studies.changes import changed, with_tokens
from plait.studies.study import Study
from plait.studies.tuning import Tuning

LOOKS = 3
"""at equal distances; more cost power (see `plait.statistics.sequential`)"""


def restated(
    study: Study,
    *,
    options: Sequence[str] = (),
    tokens: float | None = None,
    seeds: str | None = None,
    variants: Sequence[str] = (),
    until_decided: bool = False,
    max_seeds: int | None = None,
    tune: bool = False,
) -> Study:
    """Return the study with what is asked changed in every variant.

    Args:
        study: as its function states it.
        options: of the training configuration, "data.batch=8".
        tokens: of every run; warm-up, decay and evaluations keep their share of it.
        seeds: "0..5", both ends included, or "0,1,2".
        variants: that are kept; none: all.
        until_decided: look at the study three times, and stop where all is decided.
        max_seeds: that it then has at the most.
        tune: first find each variant its own rate, at half, one and two times the baseline's; a
            study that states its tuning keeps it.

    Raises:
        ValueError: in one line, for what does not fit.
    """
    if variants:
        study = _of_variants(study, variants)
    configs = dict(study.variants)
    if options:
        change = dict(map(_option, options))
        configs = {name: changed(c, change, f"variant {name}") for name, c in configs.items()}
    if tokens is not None:
        if study.ladder is not None:
            raise ValueError(f"study {study.name}: its ladder says how many tokens each size has")
        configs = {name: with_tokens(c, _whole(tokens)) for name, c in configs.items()}
    chosen = study.seeds if seeds is None else _seeds(seeds)
    looks = study.looks
    if until_decided:
        wanted = max_seeds or max(len(chosen), 2 * LOOKS)
        further = (seed for seed in range(2**31) if seed not in chosen)
        chosen = (*chosen, *(next(further) for _ in range(wanted - len(chosen))))[:wanted]
        looks = _looks(len(chosen))
    elif max_seeds is not None:
        raise ValueError("--max-seeds belongs to --until decided: give both, or --seeds")
    elif looks and len(chosen) != len(study.seeds):
        looks = _looks(len(chosen))
    tuning = study.tuning
    if tune and tuning is None:
        tuning = Tuning.around(configs[study.baseline].optimizer.learning_rate)
    return dataclasses.replace(study, variants=configs, seeds=chosen, looks=looks, tuning=tuning)


def _of_variants(study: Study, names: Sequence[str]) -> Study:
    if study.factorial is not None or study.ladder is not None:
        raise ValueError(f"study {study.name}: its design needs all of its variants")
    unknown = [name for name in names if name not in study.variants]
    if unknown:
        raise ValueError(
            f"study {study.name} has no variant {', '.join(map(quoted, unknown))}: it has "
            f"{', '.join(study.variants)}"
        )
    if study.baseline not in names:
        raise ValueError(f"study {study.name}: keep its baseline, {study.baseline}")
    kept = {name: config for name, config in study.variants.items() if name in names}
    asked = tuple(c for c in study.contrasts if c.variant in kept and c.against in kept)
    if study.contrasts and not asked:
        raise ValueError(f"study {study.name}: none of its questions is about these variants alone")
    return dataclasses.replace(study, variants=kept, contrasts=asked)


def _option(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ValueError(f"{quoted(text)}: write an option as data.batch=8")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"{quoted(text)}: what stands behind = is no value") from None


def _seeds(text: str) -> tuple[int, ...]:
    between = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", text)
    if between:
        first, last = int(between[1]), int(between[2])
        if not first <= last < first + 10_000:
            raise ValueError(f"--seeds {text}: from the lower to the higher, 10,000 at the most")
        return tuple(range(first, last + 1))
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", text):
        raise ValueError(f"--seeds {quoted(text)}: write 0..5 or 0,1,2")
    return tuple(int(seed) for seed in text.split(","))


def _looks(seeds: int) -> tuple[int, ...]:
    sizes = (max(3, -(-seeds * (k + 1) // LOOKS)) for k in range(LOOKS))
    return tuple(dict.fromkeys(size for size in sizes if size <= seeds)) or (seeds,)


def _whole(tokens: float) -> int:
    if not (tokens >= 1 and tokens == tokens // 1):
        raise ValueError(f"--tokens is {tokens:g}: a whole number, 1 or more")
    return int(tokens)
