"""The notation for sharing over depth: which bank each depth of a model uses.

A model is a walk over depth; every kind of part (experts, router, …) owns *banks*, and a *plan*
names the bank that each depth picks. Plans are written as text:

================== ======================================================= =================
text               meaning                                                 banks, by depth
================== ======================================================= =================
`3`                three depths, each with a bank of its own               0 1 2
`1x4`              one bank, used at four consecutive depths               0 0 0 0
`2x3`              two banks walked three times in turn                    0 1 0 1 0 1
`2 + 1x4 + 2`      one after the other                                     0 1 2 2 2 2 3 4
`(1x2 + 1)*2`      a group repeated, with new banks each time              0 0 1 2 2 3
`own`              no sharing                                              0 1 2 3 …
`all`              one bank for every depth                                0 0 0 0 …
`blocks(4)`        one bank for each 4 depths, the last block may be short 0 0 0 0 1 1 1 1 …
`groups(4,skip=2)` blocks of 4, but the first and last 2 depths keep own   0 1 2 2 2 2 … 8 9
================== ======================================================= =================

Sources: the sums and products are the topologies of Expert Tying (arXiv 2606.16825), `blocks` is
PathMoE (arXiv 2603.18297), `groups` is Expert Tying.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

from plait.notebook.plan_picture import DRAWN, Row, plan_picture
from plait.notebook.tables import note
from plait.plan_text import text_of
from plait.reading import quoted

DEEPEST = 10_000
"""depths of the deepest model that can be described"""
LONGEST = 4 * DEEPEST
"""characters of a plan: as many as "1 + 1 + …" needs for the deepest model"""
NESTED = 20
"""groups in groups; each that repeats doubles the depth at the least"""

_SHORTHAND = re.compile(r"(blocks|groups)\((\d{1,6})(?:,skip=(\d{1,6}))?\)$")


@dataclass(frozen=True)
class Plan:
    """A map from depth to bank: `banks[depth]`, numbered from 0 in order of first use."""

    banks: tuple[int, ...]

    def __post_init__(self) -> None:
        seen = list(dict.fromkeys(self.banks))
        if not self.banks or seen != list(range(len(seen))):
            raise ValueError(
                f"banks {quoted(self.banks)} are not numbered in order of first use: start at 0 "
                "and count up by one at each new bank"
            )

    @classmethod
    def parse(cls, text: str, depth: int) -> "Plan":
        """Read a plan for a model of `depth` depths.

        Raises:
            ValueError: in one line, with the place in the text and the depth that it reaches.
        """
        said = f"plan {quoted(text)}"
        if not 1 <= depth <= DEEPEST:
            raise ValueError(
                f"{said}: the model has depth {quoted(depth)}, it must be 1 or more, and "
                f"{DEEPEST:,} at the most"
            )
        if len(text) > LONGEST:
            raise ValueError(
                f"{said} has {len(text):,} characters: write repeats as groups, in {LONGEST:,} "
                "at the most"
            )
        compact = re.sub(r"\s+", "", text)
        if compact == "own":
            return cls(tuple(range(depth)))
        if compact == "all":
            return cls((0,) * depth)
        if match := _SHORTHAND.match(compact):
            return cls._of_blocks(said, depth, match)
        segments = _Reader(text).read()
        length = sum(count * times for count, times in segments)
        if length != depth:
            raise ValueError(
                f"{said} reaches depth {length}, but the model has depth {depth}: "
                f"{'remove' if length > depth else 'add'} {abs(length - depth)}"
            )
        return cls(_walk(segments))

    @classmethod
    def _of_blocks(cls, said: str, depth: int, match: re.Match[str]) -> "Plan":
        kind, size, skip = match[1], int(match[2]), int(match[3] or 0)
        if kind == "blocks" and match[3] is not None:
            raise ValueError(f"{said}: blocks takes no skip; write groups({size}, skip={skip})")
        if size == 0:
            raise ValueError(f"{said}: a block of 0 depths reaches depth 0; write 1 or more")
        if 2 * skip > depth:
            raise ValueError(
                f"{said} skips {2 * skip} depths, but the model has depth {depth}: "
                f"write skip={depth // 2} or less"
            )
        middle, inner = [], depth - 2 * skip
        while inner > 0:
            middle.append((1, min(size, inner)))
            inner -= size
        return cls(_walk([(skip, 1), *middle, (skip, 1)]))

    @property
    def depth(self) -> int:
        """Number of depths that the plan covers."""
        return len(self.banks)

    @cached_property
    def count(self) -> int:
        """Number of different banks."""
        return max(self.banks) + 1

    @cached_property
    def _uses(self) -> tuple[tuple[int, ...], ...]:
        uses: list[list[int]] = [[] for _ in range(self.count)]
        for depth, bank in enumerate(self.banks):
            uses[bank].append(depth)
        return tuple(map(tuple, uses))

    def uses(self, bank: int) -> tuple[int, ...]:
        """Return the depths that use `bank`, in order."""
        return self._uses[bank]

    def __str__(self) -> str:
        return self._text

    def _repr_html_(self) -> str:
        return plan_picture([self.row()])

    def row(self, name: str = "") -> Row:
        """Return what a picture shows of the plan, under a name."""
        try:
            return Row(name, self.banks, str(self))
        except ValueError:  # the notation has no text for it
            return Row(name, self.banks, "")

    @cached_property
    def _text(self) -> str:
        if self.count == self.depth:
            return "own"
        if self.count == 1:
            return "all"
        return text_of(self._terms())

    def _terms(self) -> list[str]:
        """Cut the plan into its terms; depths with a bank of their own stay apart as "1"."""
        terms = []
        start = first = 0
        while start < self.depth:
            uses = self.uses(self.banks[start])
            times = len(uses)
            period = uses[1] - start if times > 1 else 1
            cycle = tuple(range(first, first + period))  # of new banks, as every term is
            if uses[0] < start or self.banks[start : start + period * times] != cycle * times:
                raise ValueError(
                    f"banks {quoted(self.banks)} cannot be written as a plan: no cycle from depth "
                    f"{start} on"
                )
            terms.append("1" if times == 1 else f"{period}x{times}")
            start += period * times
            first += period
        return terms


def _walk(segments: list[tuple[int, int]]) -> tuple[int, ...]:
    """Bank indices of consecutive segments (a banks, walked b times), each with new banks."""
    banks: list[int] = []
    first = 0
    for count, times in segments:
        banks.extend(list(range(first, first + count)) * times)
        first += count
    return tuple(banks)


class _Reader:
    """Reads `sum = term {"+" term}`; `term = n | n x n | ( sum ) [* n]`, on a stack of its own."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = [(m[0], m.start()) for m in re.finditer(r"\d+|[^\s\d]", text)]
        self.at = 0
        self.reached = 0

    def read(self) -> list[tuple[int, int]]:
        """Return the segments of the text, each so many banks walked so many times."""
        sums: list[tuple[int, list[tuple[int, int]]]] = [(0, [])]  # each from a depth on; open ones
        while True:
            if self._take("("):
                if len(sums) > NESTED:
                    raise self._error(f"it nests deeper than {NESTED} groups: write it flat")
                sums.append((self.reached, []))
                continue
            sums[-1][1].extend(self._walks())
            while len(sums) > 1 and self._take(")"):
                start, inside = sums.pop()
                times = self._number() if self._take("*") else 1
                self._reach(start + (self.reached - start) * times)
                sums[-1][1].extend(inside * times)
            if self._take("+"):
                continue
            if len(sums) > 1:
                raise self._error("expected '+' or ')'")
            if self.at < len(self.tokens):
                raise self._error("expected '+' or the end")
            return sums[0][1]

    def _walks(self) -> list[tuple[int, int]]:
        """Read `n` or `n x n`."""
        count, times = self._number(), 1
        if self._peek() in ("x", "×", "X"):
            self.at += 1
            times = self._number()
        self._reach(self.reached + count * times)
        return [(count, times)]

    def _reach(self, depth: int) -> None:
        if depth > DEEPEST:
            self.at -= 1
            raise self._error("no model is that deep")
        self.reached = depth

    def _take(self, sign: str) -> bool:
        taken = self._peek() == sign
        self.at += taken
        return taken

    def _peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def _number(self) -> int:
        digits = self._peek()
        if not digits.isdecimal():
            raise self._error("expected a number")
        if len(digits) > 6:
            raise self._error("no model is that deep")
        if int(digits) == 0:
            raise self._error("a number here must be 1 or more")
        self.at += 1
        return int(digits)

    def _error(self, expected: str) -> ValueError:
        end = ("the end", len(self.text))
        found, place = self.tokens[self.at] if self.at < len(self.tokens) else end
        return ValueError(
            f"plan {quoted(self.text, place)}: {expected}, found {quoted(found)} at character "
            f"{place + 1}, after depth {self.reached}; write for example '2 + 1x4 + 2', 'own', "
            "'all', 'blocks(4)' or 'groups(4, skip=2)'"
        )


@dataclass(frozen=True)
class Kind:
    """A kind of part that can be shared over depth."""

    modules: tuple[str, ...]
    """the model's own modules that hold its banks, each bank under its number"""
    where: Literal["every", "routed", "deciding"]
    """depths that have such a part: every one, those with a router in front of their experts, or
    of these the ones where a decision is made and not taken over"""


KINDS = {
    "experts": Kind(("experts",), "every"),
    "router": Kind(("router",), "deciding"),
    "decision": Kind((), "routed"),
    "attention": Kind(("attention",), "every"),
    "norms": Kind(("attention_norm", "expert_norm"), "every"),
    "collaboration": Kind(("collaboration",), "routed"),
}
"""every kind of part that has a plan; the fields of `Sharing` and `Plans` are these"""
KIND_OF_MODULE = {module: name for name, kind in KINDS.items() for module in kind.modules}


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What is shared over depth: one plan text for each kind of part."""

    experts: str = "own"
    """plan of the expert banks"""
    router: str = "own"
    """plan of the router parameters"""
    decision: str = "own"
    """plan of the routing decisions: made at a bank's first depth, kept at its others"""
    attention: str = "own"
    """plan of the attention banks"""
    norms: str = "own"
    """plan of the two norms in front of attention and experts"""
    collaboration: str = "own"
    """plan of the collaboration topologies"""

    def plans(self, depth: int) -> "Plans":
        """Parse every plan for a model of `depth` depths; a ValueError names the kind of part."""
        parsed = {}
        for field in fields(self):
            try:
                parsed[field.name] = Plan.parse(getattr(self, field.name), depth)
            except ValueError as error:
                raise ValueError(f"sharing.{field.name}: {error}") from None
        return Plans(**parsed)

    def drawn(self, depth: int, kinds: Iterable[str] = KINDS) -> str:
        """Draw what is shared in a model of `depth` depths, in HTML, and name what is not.

        Args:
            depth: of the model.
            kinds: of part, that it has.
        """
        plans = self.plans(depth)
        rows = [Row(kind, getattr(plans, kind).banks, getattr(self, kind)) for kind in kinds]
        return _drawn(rows)

    def _repr_html_(self) -> str:
        for depth in (8, *range(1, DRAWN + 1)):  # where no plan names another, 8 will do
            try:
                return self.drawn(depth) + note(f"as in a model of depth {depth}")
            except ValueError:
                continue
        return note(str(self))


@dataclass(frozen=True, kw_only=True)
class Plans:
    """The parsed plans of one model, one for each kind of part."""

    experts: Plan
    router: Plan
    decision: Plan
    attention: Plan
    norms: Plan
    collaboration: Plan

    def decider(self, depth: int) -> int:
        """Return the depth at which the routing decision that `depth` uses is made."""
        return self.decision.uses(self.decision.banks[depth])[0]

    def _repr_html_(self) -> str:
        return _drawn([getattr(self, kind).row(kind) for kind in KINDS])


def _drawn(rows: Sequence[Row]) -> str:
    shared = [row for row in rows if len(set(row.banks)) < len(row.banks)]
    rest = ", ".join(row.name for row in rows if row not in shared)
    if not shared:
        return note(f"nothing is shared: {rest}")
    return plan_picture(shared) + note(rest and f"not shared: {rest}")
