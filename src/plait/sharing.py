"""The notation for sharing over depth: which bank each depth of a model uses.

A model is a walk over depth; every kind of part (experts, router, …) owns *banks*, and a *plan*
names the bank that each depth picks. Plans are written as text:

=================== ======================================================= ==================
text                meaning                                                 banks, by depth
=================== ======================================================= ==================
`3`               three depths, each with a bank of its own               0 1 2
`1x4`             one bank, used at four consecutive depths               0 0 0 0
`2x3`             two banks walked three times in turn                    0 1 0 1 0 1
`2 + 1x4 + 2`     one after the other                                     0 1 2 2 2 2 3 4
`(1x2 + 1)*2`     a group repeated, with new banks each time              0 0 1 2 2 3
`own`             no sharing                                              0 1 2 3 …
`all`             one bank for every depth                                0 0 0 0 …
`blocks(4)`       one bank for each 4 depths, the last block may be short 0 0 0 0 1 1 1 1 …
`groups(4,skip=2)`blocks of 4, but the first and last 2 depths keep own   0 1 2 2 2 2 … 8 9
=================== ======================================================= ==================

Sources: the sums and products are the topologies of Expert Tying (arXiv 2606.16825), `blocks` is
PathMoE (arXiv 2603.18297), `groups` is Expert Tying.
"""

import re
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Literal

_SHORTHAND = re.compile(r"(blocks|groups)\((\d{1,6})(?:,skip=(\d{1,6}))?\)$")


@dataclass(frozen=True)
class Plan:
    """A map from depth to bank: `banks[depth]`, numbered from 0 in order of first use."""

    banks: tuple[int, ...]

    def __post_init__(self) -> None:
        seen = list(dict.fromkeys(self.banks))
        if not self.banks or seen != list(range(len(seen))):
            raise ValueError(
                f"banks {self.banks} are not numbered in order of first use: start at 0 and "
                "count up by one at each new bank"
            )

    @classmethod
    def parse(cls, text: str, depth: int) -> "Plan":
        """Read a plan for a model of `depth` depths.

        Raises:
            ValueError: in one line, with the place in the text and the depth that it reaches.
        """
        if depth < 1:
            raise ValueError(f"plan {text!r}: the model has depth {depth}, it must be 1 or more")
        compact = re.sub(r"\s+", "", text)
        if compact == "own":
            return cls(tuple(range(depth)))
        if compact == "all":
            return cls((0,) * depth)
        if match := _SHORTHAND.match(compact):
            return cls._of_blocks(text, depth, match)
        if text.count("(") > 20:
            raise ValueError(f"plan {text[:40]!r}… nests deeper than 20 groups: write it flat")
        reader = _Reader(text)
        length, segments = reader.read()
        if length != depth:
            raise ValueError(
                f"plan {text!r} reaches depth {length}, but the model has depth {depth}: "
                f"{'remove' if length > depth else 'add'} {abs(length - depth)}"
            )
        return cls(_walk(segments))

    @classmethod
    def _of_blocks(cls, text: str, depth: int, match: re.Match[str]) -> "Plan":
        kind, size, skip = match[1], int(match[2]), int(match[3] or 0)
        if kind == "blocks" and match[3] is not None:
            raise ValueError(
                f"plan {text!r}: blocks takes no skip; write groups({size}, skip={skip})"
            )
        if size == 0:
            raise ValueError(f"plan {text!r}: a block of 0 depths reaches depth 0; write 1 or more")
        if 2 * skip > depth:
            raise ValueError(
                f"plan {text!r} skips {2 * skip} depths, but the model has depth {depth}: "
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

    @property
    def count(self) -> int:
        """Number of different banks."""
        return max(self.banks) + 1

    def uses(self, bank: int) -> tuple[int, ...]:
        """Return the depths that use `bank`, in order."""
        return tuple(depth for depth, used in enumerate(self.banks) if used == bank)

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        if self.count == self.depth:
            return "own"
        if self.count == 1:
            return "all"
        return _shortest_sum(tuple(_segments(self.banks)))


def _walk(segments: list[tuple[int, int]]) -> tuple[int, ...]:
    """Bank indices of consecutive segments (a banks, walked b times), each with new banks."""
    banks: list[int] = []
    first = 0
    for count, times in segments:
        banks.extend(list(range(first, first + count)) * times)
        first += count
    return tuple(banks)


def _segments(banks: tuple[int, ...]) -> list[str]:
    """Cut a plan into its terms; depths with a bank of their own stay apart as "1"."""
    terms = []
    start = 0
    while start < len(banks):
        times = banks.count(banks[start])
        period = banks.index(banks[start], start + 1) - start if times > 1 else 1
        cycle = banks[start : start + period]
        if banks[start : start + period * times] != cycle * times:
            raise ValueError(
                f"banks {banks} cannot be written as a plan: no cycle from depth {start} on"
            )
        terms.append("1" if times == 1 else f"{period}x{times}")
        start += period * times
    return terms


@cache
def _shortest_sum(terms: tuple[str, ...]) -> str:
    """The shortest text of a sum of terms, repeats written as groups (ties: fewest groups)."""
    best: list[list[str] | None] = [None] * (len(terms) + 1)  # best[i]: the text of terms[:i]
    best[0] = []
    for end in range(1, len(terms) + 1):
        candidates = []
        for start in range(end):
            before = best[start]
            assert before is not None
            for text in _ways(terms[start:end]):
                candidates.append([*before, text])
        best[end] = min(candidates, key=lambda parts: (len(" + ".join(parts)), len(parts)))
    assert best[-1] is not None
    return " + ".join(best[-1])


def _ways(terms: tuple[str, ...]) -> list[str]:
    """Texts for a run of terms as one summand: own depths, a term, or a repeated group."""
    if set(terms) == {"1"}:
        return [str(len(terms))]
    if len(terms) == 1:
        return list(terms)
    ways = []
    for period in range(1, len(terms) // 2 + 1):
        times, rest = divmod(len(terms), period)
        if rest == 0 and terms == terms[:period] * times:
            ways.append(f"({_shortest_sum(terms[:period])})*{times}")
    return ways


class _Reader:
    """Recursive descent over `sum = term {"+" term}`; `term = n | n x n | ( sum ) * n`."""

    def __init__(self, text: str):
        self.text = text
        self.tokens = [(m[0], m.start()) for m in re.finditer(r"\d+|[^\s\d]", text)]
        self.at = 0
        self.reached = 0

    def read(self) -> tuple[int, list[tuple[int, int]]]:
        """Return the depth that the text reaches, and its segments."""
        length, segments = self._sum()
        if self.at < len(self.tokens):
            raise self._error("expected '+' or the end")
        return length, segments

    def _peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def _error(self, expected: str) -> ValueError:
        found, place = (
            self.tokens[self.at] if self.at < len(self.tokens) else ("the end", len(self.text))
        )
        return ValueError(
            f"plan {self.text!r}: {expected}, found {found!r} at character {place + 1}, "
            f"after depth {self.reached}; write for example '2 + 1x4 + 2', 'own', 'all', "
            "'blocks(4)' or 'groups(4, skip=2)'"
        )

    def _number(self) -> int:
        if not self._peek().isdecimal():
            raise self._error("expected a number")
        if len(self._peek()) > 6:
            raise self._error("no model is that deep")
        if int(self._peek()) == 0:
            raise self._error("a number here must be 1 or more")
        self.at += 1
        return int(self.tokens[self.at - 1][0])

    def _sum(self) -> tuple[int, list[tuple[int, int]]]:
        length, segments = self._term()
        while self._peek() == "+":
            self.at += 1
            more, further = self._term()
            length, segments = length + more, segments + further
        return length, segments

    def _term(self) -> tuple[int, list[tuple[int, int]]]:
        before = self.reached
        if self._peek() == "(":
            self.at += 1
            length, segments = self._sum()
            if self._peek() != ")":
                raise self._error("expected '+' or ')'")
            self.at += 1
            times = 1
            if self._peek() == "*":
                self.at += 1
                times = self._number()
        else:
            length, times = self._number(), 1
            segments = [(length, 1)]
            if self._peek() in ("x", "×", "X"):
                self.at += 1
                walks = self._number()
                segments, length = [(length, walks)], length * walks
        if length * times > 100_000:
            self.at -= 1
            raise self._error("no model is that deep")
        self.reached = before + length * times
        return length * times, segments * times


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
        return self.decision.banks.index(self.decision.banks[depth])
