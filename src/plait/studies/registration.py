"""What a study said that it would do, written before its first run, and what became of it.

`plan.json` holds variants, seeds, questions, analysis and stopping rule, with a hash of them. It is
not rewritten once a run has begun; whatever the study is changed into later is told beside its
results.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from plait.atomic import write_json
from plait.config.files import config_hash, to_dict
from plait.reading import read_json
from plait.storage.run_folder import METRICS
from plait.studies.study import Study

PLAN = "plan.json"
ANALYSIS = (
    "held-out loss on the test split, paired by seed; Student's t, 95 % intervals; p values and "
    "two one-sided tests of equivalence after Holm's correction over all contrasts; at least 3 "
    "seeds for a verdict, none for a variant above the bigram"
)
EFFECTS_ANALYSIS = (
    "main effects and two-way interactions by least squares over all cells within each seed that "
    "finished them all; Student's t over seeds, 95 % intervals; p values and two one-sided tests "
    "of equivalence after Holm's correction over all effects; at least 3 seeds for a verdict, none "
    "where a cell is above the bigram"
)
LADDER_ANALYSIS = (
    "loss against training FLOPs × tokens by structure, E + A·C^−α; the largest size predicted "
    "from the others with a 90 % interval; compute at the lowest loss that both curves reach where "
    "they were measured, with a 95 % interval over seeds; share of pairs whose order at a size is "
    "that at the largest"
)
_DAMAGED = "put it back, or delete it and the study has no plan"


def design_of(study: Study) -> dict[str, Any]:
    """The names of a study's factorial design or ladder; nothing where it has neither."""
    if study.factorial_design is not None:
        return {"factorial": to_dict(study.factorial_design)}
    return {} if study.ladder_design is None else {"ladder": to_dict(study.ladder_design)}


def plan_of(study: Study) -> dict[str, Any]:
    """What is written down: only what the runs and their analysis depend on."""
    design = design_of(study)
    if "factorial" in design:
        design["factorial"] |= {"margin": study.margin, "analysis": EFFECTS_ANALYSIS}
    elif "ladder" in design:
        design["ladder"] |= {"analysis": LADDER_ANALYSIS}
    plan: dict[str, Any] = {
        "variants": {
            name: config_hash(dataclasses.replace(config, seed=0))
            for name, config in study.variants.items()
        },
        "baseline": study.baseline,
        "seeds": list(study.seeds),
        "contrasts": [to_dict(contrast) for contrast in study.questions],
        "analysis": ANALYSIS,
        **design,
    }
    if study.looks:
        plan["looks"] = list(study.looks)
    if study.tuning is not None:
        plan["tuning"] = to_dict(study.tuning)
    return plan


def register(study: Study, folder: Path) -> None:
    """Write `plan.json`, unless a run of the study has begun."""
    begun = any(folder.glob(f"*/{METRICS}"))
    if not begun:
        plan = plan_of(study)
        write_json(folder / PLAN, {"plan": plan, "sha256": digest(plan)})


def registered(folder: Path) -> dict[str, Any] | None:
    """Read the plan of a study; None where none was written before its first run.

    Raises:
        ValueError: it is damaged, or was changed since it was written.
    """
    path = folder / PLAN
    if not path.is_file():
        return None
    data = read_json(path, _DAMAGED)
    plan = data.get("plan")
    if not isinstance(plan, dict) or digest(plan) != data.get("sha256"):
        raise ValueError(f"{path}: its hash does not fit, so it was changed since: {_DAMAGED}")
    return plan


def digest(plan: Mapping[str, Any]) -> str:
    """SHA-256 of a plan in canonical form."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()


def deviations(plan: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Say in a phrase each where the study as it is now departs from its plan."""
    return tuple(_deviations(plan, now))


def _deviations(plan: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    before, after = plan.get("variants", {}), now.get("variants", {})
    yield from _moved("variants", list(before), list(after))
    changed = [name for name in before if name in after and before[name] != after[name]]
    if changed:
        yield f"variants changed: {', '.join(changed)}"
    yield from _moved("seeds", plan.get("seeds", []), now.get("seeds", []))
    stated = {contrast["name"]: contrast for contrast in plan.get("contrasts", [])}
    asked = {contrast["name"]: contrast for contrast in now.get("contrasts", [])}
    yield from _moved("contrasts", list(stated), list(asked))
    for name in stated:
        if name in asked and stated[name] != asked[name]:
            what = [key for key, value in asked[name].items() if stated[name].get(key) != value]
            yield f"contrast {name}: {', '.join(what)} changed"
    for key in sorted({*plan, *now} - {"variants", "seeds", "contrasts"}):
        if plan.get(key) != now.get(key):
            if isinstance(plan.get(key), dict) or isinstance(now.get(key), dict):
                yield f"{key} design {_how(plan.get(key), now.get(key))}"
            else:
                yield f"{key} changed: {plan.get(key)} before, {now.get(key)} now"


def _moved(what: str, before: Sequence[Any], after: Sequence[Any]) -> Iterator[str]:
    added = [str(one) for one in after if one not in before]
    dropped = [str(one) for one in before if one not in after]
    if added:
        yield f"{what} added: {', '.join(added)}"
    if dropped:
        yield f"{what} dropped: {', '.join(dropped)}"


def _how(before: object, after: object) -> str:
    if before is None:
        return "added"
    return "dropped" if after is None else "changed"
