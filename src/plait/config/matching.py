"""Matched controls: the settings at which one structure costs what another one does.

A structure that shares stores less, or can be wider for what it stores, so a fair comparison has a
control of equal cost: fields of one model change until the budgets that are named agree with those
of the other. Nothing is built; budgets are counted (`plait.config.counts`).
"""

import warnings
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product
from math import inf, lcm

from plait.config.counts import count, kv_cache_bytes_per_token
from plait.config.limits import MODEL_LIMITS
from plait.config.model import ModelConfig
from plait.config.nearest import Point, nearest
from plait.config.parts import ExpertConfig
from plait.reading import quoted

BUDGETS = ("stored", "active", "flops", "kv")
"""stored and active parameters, FLOPs of a forward and bytes of key/value cache per token"""
FIELDS = {
    "experts": "experts.count",
    "expert-width": "experts.width",
    "top-k": "experts.top_k",
    "width": "width",
    "depth": "depth",
}
"""what may vary, and its path in a configuration"""
NATURAL = {
    "stored": ("experts", "expert-width"),
    "active": ("expert-width", "top-k"),
    "flops": ("expert-width", "top-k"),
    "kv": ("depth", "width"),
}
"""the fields that meet a budget and leave most of the structure as it is"""
TOLERANCE = 0.005
DEEPER = 4
"""a depth varies up to so many times that of the deeper model"""

_AFFINE = ("expert-width", "top-k")
"""fields in each of which every budget is affine, so that two counts tell all others"""


@dataclass(frozen=True)
class Match:
    """A model whose budgets agree with another's, and what changed for it."""

    config: ModelConfig
    equal: tuple[str, ...]
    """the budgets that were to agree"""
    wanted: dict[str, int]
    """all budgets of the other model"""
    found: dict[str, int]
    """all budgets of this one"""
    changes: dict[str, tuple[int, int]]
    """before and after of each field that changed, by its path"""

    @property
    def residuals(self) -> dict[str, float]:
        """Found ÷ wanted − 1 of all budgets, also of those that were not to agree."""
        return {name: self.found[name] / wanted - 1 for name, wanted in self.wanted.items()}


def budgets(config: ModelConfig) -> dict[str, int]:
    """Count what a model costs: each of `BUDGETS`."""
    counts = count(config)
    sizes = (counts.stored, counts.active, counts.flops_forward, kv_cache_bytes_per_token(config))
    return dict(zip(BUDGETS, sizes, strict=True))


def match(
    config: ModelConfig,
    to: ModelConfig,
    equal: str | Iterable[str] = "stored",
    vary: str | Iterable[str] | None = None,
    *,
    tolerance: float = TOLERANCE,
    multiple: int = 8,
) -> Match:
    """Change fields of a model until it costs what another one does.

    The fields are tried in their order, each alone, then two together, and so on; the first with
    which all budgets meet the tolerance are taken. Of their numbers it is those of the least
    residual ÷ tolerance + change: the residual is the largest |found ÷ wanted − 1| of the budgets,
    the change the sum over the fields of |log(after ÷ before)|.

    Args:
        config: the model that changes.
        to: the model whose budgets are wanted.
        equal: of `BUDGETS`, several or one text with commas.
        vary: of `FIELDS`, likewise; None: those that are `NATURAL` for the budgets, for kv only
            where it does not agree from the start.
        tolerance: the largest residual that counts as equal, as a share.
        multiple: new widths are multiples of this, a model's width also of what its heads need.

    Raises:
        ValueError: an unknown name, a field that cannot vary or moves none of the budgets, or
            nothing within the tolerance; the message says how near it came and what else may vary.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}: give a share between 0 and 1, such as 0.005")
    if not 1 <= multiple <= MODEL_LIMITS["width"][1]:
        raise ValueError(f"multiple is {quoted(multiple)}: no width is a multiple of that")
    held = _names(equal, {name: name for name in BUDGETS}, "budget")
    with warnings.catch_warnings(action="ignore"):  # of each model that is tried
        family = _Family(config, to, held, multiple)
        if vary is None:
            fields = family.natural(tolerance)
        else:
            fields = _names(vary, FIELDS, "field")
            for field in fields:
                family.require(field)
        found = family.first(fields, tolerance)
        if found is None:
            raise ValueError(family.nothing_within(fields, tolerance))
    made = _with(config, found)
    now = family.now
    changes = {FIELDS[f]: (now[f], after) for f, after in found.items() if after != now[f]}
    return Match(made, held, family.wanted, budgets(made), changes)


def _names(given: str | Iterable[str], known: Mapping[str, str], kind: str) -> tuple[str, ...]:
    """Read names, or the paths that they have in a configuration."""
    by_path = {path.replace("_", "-"): name for name, path in known.items()}
    words = given.split(",") if isinstance(given, str) else given
    names = (word.strip().replace("_", "-") for word in words)
    found = tuple(dict.fromkeys(by_path.get(name, name) for name in names))
    for name in found:
        if name not in known:
            raise ValueError(f"no {kind} is called {quoted(name)}: choose {', '.join(known)}")
    if not found:
        raise ValueError(f"no {kind} is given: choose {', '.join(known)}")
    return found


def _with(config: ModelConfig, values: Mapping[str, int]) -> ModelConfig:
    """Return the configuration with other numbers in some of its fields."""
    paths = {FIELDS[field]: value for field, value in values.items()}
    inner = {path.partition(".")[2]: value for path, value in paths.items() if "." in path}
    outer = {path: value for path, value in paths.items() if "." not in path}
    return replace(config, experts=replace(config.experts, **inner), **outer)  # type: ignore[arg-type]


def _unchecked(config: ModelConfig, width: int, experts: ExpertConfig) -> ModelConfig:
    """Return a model to be counted; checks would take most of the time, and what is found has them.

    It keeps what is cached of `config`, its plans and the depths that are routed, which stay.
    """
    made = copy(config)
    vars(made).pop("_experts", None)
    vars(made).update(width=width, experts=experts)
    return made


class _Family:
    """A model with all the other numbers that may stand in its fields, and what each costs."""

    def __init__(
        self, config: ModelConfig, to: ModelConfig, held: tuple[str, ...], multiple: int
    ) -> None:
        self.config, self.held, self.multiple = config, held, multiple
        self.deepest = DEEPER * max(config.depth, to.depth)
        self.cost, self.wanted = budgets(config), budgets(to)
        self.fewest = min(map(config.experts_at, config.routed_depths), default=1)
        given = config.experts.count
        self.now = {
            "experts": given if isinstance(given, int) else self.fewest,
            "expert-width": config.experts.width,
            "top-k": config.experts.top_k,
            "width": config.width,
            "depth": config.depth,
        }
        self._counts: dict[Point, Point] = {}

    def first(self, fields: Sequence[str], tolerance: float) -> dict[str, int] | None:
        """Return numbers within the tolerance for the first of the fields that have some."""
        for number in range(len(fields) + 1):
            for some in combinations(fields, number):
                found = self._nearest(some, tolerance, tolerance)
                if found is not None:
                    return found
        return None

    def nothing_within(self, fields: Sequence[str], tolerance: float) -> str:
        """Say that there is no match, how near it comes, and what else may vary."""
        best = self._nearest(fields, tolerance, inf)
        assert best is not None
        costs = budgets(_with(self.config, best))
        off = {name: costs[name] / self.wanted[name] - 1 for name in self.held}
        worst = max(off, key=lambda name: abs(off[name]))
        paths = ", ".join(f"{FIELDS[field]} {value}" for field, value in best.items())
        others = [field for field in FIELDS if field not in fields and self._may_vary(field)]
        advice = f"vary {', '.join(others)} too, or " if others else ""
        return (
            f"no {', '.join(fields) or 'field'} makes {', '.join(self.held)} equal to within "
            f"{tolerance:.2%}: the nearest, {paths or 'as it is'}, is {off[worst]:+.2%} off in "
            f"{worst}: {advice}allow a larger tolerance or a smaller multiple"
        )

    def natural(self, tolerance: float) -> tuple[str, ...]:
        """Return the fields to vary where none are named."""
        kv = self.cost["kv"] / self.wanted["kv"] - 1
        asked = [name for name in self.held if name != "kv" or abs(kv) > tolerance]
        fields = dict.fromkeys(field for name in asked for field in NATURAL[name])
        return tuple(filter(self._may_vary, fields))

    def require(self, field: str) -> None:
        """Raise a ValueError where a field cannot vary, or moves none of the budgets."""
        domain, now = self._domain(field, (field,)), self.now[field]
        at = bisect_left(domain, now)
        beside = domain[max(0, at - 1) : at + 2]
        if all(self._costs({field: value}) == self._costs({}) for value in beside):
            raise ValueError(f"{field} moves nothing of {', '.join(self.held)}: do not vary it")

    def _may_vary(self, field: str) -> bool:
        try:
            self.require(field)
        except ValueError:
            return False
        return True

    def _domain(self, field: str, fields: Sequence[str]) -> Sequence[int]:
        """Return the rising numbers that a field may have where all these vary."""
        config, most = self.config, MODEL_LIMITS[FIELDS[field]][1]
        if field in ("experts", "top-k") and not config.routed_depths:
            raise ValueError(f"{field} cannot vary: the model is dense, and stays so")
        if field == "experts":
            if not isinstance(config.experts.count, int):
                raise ValueError(
                    "experts cannot vary: experts.count is a list, one for each bank; give it as "
                    "one number"
                )
            return range(2 if "top-k" in fields else max(2, config.experts.top_k), most + 1)
        if field == "top-k":
            return range(1, (most if "experts" in fields else self.fewest) + 1)
        if field == "depth":
            return tuple(self._at_depth)
        unit = self.multiple
        if field == "width" and config.attention.head_width is None:
            unit = lcm(unit, config.attention.heads * (1 + (config.attention.position == "rope")))
        multiples, now = range(unit, most + 1, unit), self.now[field]
        return multiples if now % unit == 0 else sorted((*multiples, now))

    @cached_property
    def _at_depth(self) -> Mapping[int, ModelConfig]:
        """The model at every depth that its plans can be read for."""
        config, found, problem = self.config, {}, ""
        for depth in range(1, self.deepest + 1):
            try:
                found[depth] = replace(config, depth=depth)
            except ValueError as error:
                problem = str(error)
        routed = bool(config.routed_depths)
        found = {d: model for d, model in found.items() if bool(model.routed_depths) == routed}
        if len(found) == 1:
            raise ValueError(
                f"depth cannot vary ({problem}): plans of own, all, blocks and groups fit any depth"
            )
        return found

    def _nearest(
        self, fields: Sequence[str], tolerance: float, within: float
    ) -> dict[str, int] | None:
        def with_names(point: Point) -> dict[str, int]:
            return dict(zip(fields, point, strict=True))

        def possible(least: Point, most: Point) -> bool:
            few, many = with_names(least), with_names(most)
            return few.get("top-k", 1) <= many.get("experts", inf)

        point = nearest(
            lambda point: self._costs(with_names(point)),
            tuple(self.wanted[name] for name in self.held),
            [self._domain(field, fields) for field in fields],
            tuple(self.now[field] for field in fields),
            tolerance=tolerance,
            within=within,
            possible=possible,
        )
        return None if point is None else with_names(point)

    def _costs(self, values: Mapping[str, int]) -> Point:
        """Return the budgets of the model with these numbers."""
        numbers = {**self.now, **values}
        ends = [(1, 2) if f in values and f in _AFFINE else (numbers[f],) for f in FIELDS]
        costs = [self._count(corner) for corner in product(*ends)]
        for field in FIELDS:
            if field in values and field in _AFFINE:
                half, steps = len(costs) // 2, values[field] - 1
                costs = [
                    tuple(a + steps * (b - a) for a, b in zip(one, two, strict=True))
                    for one, two in zip(costs[:half], costs[half:], strict=True)
                ]
        return costs[0]

    def _count(self, numbers: Point) -> Point:
        if numbers not in self._counts:
            count, expert_width, top_k, width, depth = numbers
            config = self._at_depth[depth] if depth != self.config.depth else self.config
            experts = replace(config.experts, width=expert_width, top_k=top_k)
            if isinstance(experts.count, int):
                experts = replace(experts, count=count)
            found = budgets(_unchecked(config, width, experts))
            self._counts[numbers] = tuple(found[name] for name in self.held)
        return self._counts[numbers]
