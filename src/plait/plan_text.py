"""The text of a plan, made from its terms: what is repeated becomes a group.

A plan of up to `SEARCHED` terms gets the shortest text that there is; of a longer one the repeats
are first written once, greedily, so that no plan takes long.
"""

import re
from collections import Counter

SEARCHED = 128
"""terms of which the shortest text is searched for"""
ROUNDS = 12
"""times that repeats are looked for in a longer plan, and periods that are tried each time"""


def text_of(terms: list[str]) -> str:
    """Return the text of a sum of terms; "1", a depth with a bank of its own, may be added up."""
    if len(terms) > SEARCHED:
        terms = _with_repeats_once(terms)
    return _shortest_sum(terms) if len(terms) <= SEARCHED else _sum(terms)


def _sum(terms: list[str]) -> str:
    """The text of a sum as it stands, but for depths with a bank of their own, which are added."""
    parts: list[str] = []
    own = 0
    for term in [*terms, ""]:
        if term == "1":
            own += 1
            continue
        if own:
            parts.append(str(own))
        own = 0
        parts.append(term)
    return " + ".join(parts[:-1])


def _shortest_sum(terms: list[str], groups: dict[tuple[str, ...], str] | None = None) -> str:
    """The shortest text of a sum of terms, repeats written as groups (ties: fewest summands).

    From left to right it finds the best text of the first `end` terms: that of the first `start`,
    and behind it one summand for the rest, where the rest is depths with a bank of their own, one
    term, or a group that is repeated.

    Args:
        terms: the summands.
        groups: the texts of groups that are known already, by their terms.
    """
    groups = {} if groups is None else groups

    def group(inner: tuple[str, ...]) -> str:
        """The text of a group; empty for one that is a repeat itself, and so no shortest way."""
        if inner not in groups:
            twice = inner * 2
            whole = all(twice[p : p + len(inner)] != inner for p in range(1, len(inner)))
            groups[inner] = f"({_shortest_sum(list(inner), groups)})" if whole else ""
        return groups[inner]

    best: list[tuple[int, int, int, int, str]] = [(-3, 0, 0, 0, "")]
    """characters, summands, start and period of the last summand, its text"""
    own = 0  # depths with a bank of their own up to here
    alike = [0] * (len(terms) + 1)  # by period: terms up to here that equal those a period before
    for end, term in enumerate(terms, 1):
        ways: list[tuple[int, int, str]] = [(end - 1, 1, term)]
        own = own + 1 if term == "1" else 0
        ways += [(end - count, 1, str(count)) for count in range(2, own + 1)]
        for period in range(1, end):
            alike[period] = alike[period] + 1 if term == terms[end - 1 - period] else 0
            if alike[period] >= period > own:  # else it is depths with a bank of their own
                text = group(tuple(terms[end - period : end]))
                most = alike[period] // period + 1
                for times in range(2, most + 1 if text else 0):
                    ways.append((end - times * period, period, f"{text}*{times}"))
        best.append(
            min(
                (best[start][0] + 3 + len(text), best[start][1] + 1, start, period, text)
                for start, period, text in ways
            )
        )
    summands = []
    end = len(terms)
    while end:
        _, _, start, _, text = best[end]
        summands.append(text)
        end = start
    return " + ".join(reversed(summands))


def _with_repeats_once(terms: list[str]) -> list[str]:
    """Write what stands there several times in a row as one term, greedily, short periods first.

    Each different term is a character here, so that looking for repeats is a search in a text.
    """
    names = list(dict.fromkeys(["1", *terms]))  # by character
    characters = {name: chr(at) for at, name in enumerate(names)}
    text = "".join(characters[term] for term in terms)

    def once(found: re.Match[str]) -> str:
        inner = [names[ord(character)] for character in found[1]]
        short = _shortest_sum(inner) if len(inner) <= SEARCHED // 4 else _sum(inner)
        name = f"({short})*{len(found[0]) // len(inner)}"
        if name not in characters:
            characters[name] = chr(len(names))
            names.append(name)
        return characters[name]

    for _ in range(ROUNDS):
        if len(text) <= SEARCHED:
            break
        for period in _periods(text):
            # a text of `period` characters, other than depths with a bank of their own, repeated
            shorter = re.sub(rf"(?s)((?!\0{{{period}}}).{{{period}}})\1+", once, text)
            if shorter != text:
                break
        else:
            break
        text = shorter
    return [names[ord(character)] for character in text]


def _periods(text: str) -> list[int]:
    """How far apart equal characters stand: the distances that cover most of it, in order."""
    last: dict[str, int] = {}
    distances: Counter[int] = Counter()
    for at, character in enumerate(text):
        if character in last:
            distances[at - last[character]] += 1
        last[character] = at
    by_cover = sorted(distances, key=lambda distance: -distance * distances[distance])
    return sorted(by_cover[:ROUNDS])
