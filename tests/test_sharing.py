"""The notation of sharing plans: what it means, its canonical text, and its errors."""

from contextlib import suppress
from itertools import count, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.plan_text import SEARCHED
from plait.sharing import DEEPEST, LONGEST, Plan, Sharing


@pytest.mark.parametrize(
    ("text", "banks"),
    [
        ("3", (0, 1, 2)),
        ("1x4", (0, 0, 0, 0)),
        ("2x3", (0, 1, 0, 1, 0, 1)),
        ("2×2 + 1", (0, 1, 0, 1, 2)),
        ("2 + 1x4 + 1x4 + 2", (0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 5)),
        ("2+2x7+2x7+2", (0, 1, *[2, 3] * 7, *[4, 5] * 7, 6, 7)),
        ("(1x4)*4", (0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)),
        ("((1x2 + 1)*2)*2", (0, 0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7)),
        (" ( 1 x 2 + 1 )\t* 2 ", (0, 0, 1, 2, 2, 3)),
        ("own", (0, 1, 2, 3)),
        ("all", (0, 0, 0, 0)),
        ("blocks(4)", (0, 0, 0, 0, 1, 1, 1, 1, 2, 2)),
        ("groups(4, skip=2)", (0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 5)),
        ("groups(4, skip=2)", (0, 1, 2, 2, 2, 2, 3, 3, 4, 5)),
        ("groups(3)", (0, 0, 0, 1)),
        ("groups(4, skip=1)", (0, 1)),
    ],
)
def test_notation(text, banks):
    assert Plan.parse(text, len(banks)).banks == banks


def _term(labels, kind):
    """One (text, walk) pair; `walk()` names the depths' banks anew each time it is called."""
    match kind:
        case int(n):
            return str(n), lambda: [next(labels) for _ in range(n)]
        case (int(n), int(times)):
            return f"{n}x{times}", lambda: [next(labels) for _ in range(n)] * times
        case (list(terms), int(times)):
            inside = [_term(labels, term) for term in terms]
            text = f"({' + '.join(text for text, _ in inside)})*{times}"
            return text, lambda: [b for _ in range(times) for _, walk in inside for b in walk()]
    raise AssertionError(kind)


small = st.integers(1, 4)
terms = st.recursive(
    small | st.tuples(small, small),
    lambda inner: st.tuples(st.lists(inner, min_size=1, max_size=3), st.integers(1, 3)),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.lists(terms, min_size=1, max_size=4))
def test_plans_mean_what_a_literal_walk_does_and_survive_their_text(kinds):
    labels = count()
    parts = [_term(labels, kind) for kind in kinds]
    text, banks = " + ".join(part for part, _ in parts), [b for _, walk in parts for b in walk()]
    plan = Plan.parse(text, len(banks))
    assert plan.banks == tuple(banks)
    assert list(dict.fromkeys(plan.banks)) == list(range(plan.count))
    used = [depth for bank in range(plan.count) for depth in plan.uses(bank)]
    assert sorted(used) == list(range(plan.depth))
    assert Plan.parse(str(plan), plan.depth) == plan
    assert str(Plan.parse(str(plan), plan.depth)) == str(plan)
    if plan.depth <= SEARCHED:
        assert len(str(plan)) <= max(len("own"), len(text))


repeats = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["1", "1x2", "1x3", "2x2"]), min_size=1), st.integers(1, 60)
    ),
    min_size=1,
)


@settings(deadline=None)
@given(repeats)
def test_a_plan_of_any_length_survives_its_text(kinds):
    terms = [term for inner, times in kinds for term in inner * times]
    sizes = {"1": 1, "1x2": 2, "1x3": 3, "2x2": 4}
    depth = sum(sizes[term] for term in terms)
    if depth > DEEPEST:
        return
    plan = Plan.parse("+".join(terms), depth)
    assert Plan.parse(str(plan), depth) == plan
    assert len(str(plan)) <= LONGEST


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("2 + (1x4)*499 + 2", 2000),
        ("((1x2 + 1)*9 + 2x3)*90", 2970),
        ("(30 + 1x2)*300", 9600),
        ("9998 + 1x2", DEEPEST),
    ],
)
def test_repeats_of_a_long_plan_are_written_once(text, depth):
    assert str(Plan.parse(text, depth)) == text


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 20))
def test_shorthands_equal_arithmetic_on_depths(depth, size, skip):
    assert Plan.parse(f"blocks({size})", depth).banks == tuple(d // size for d in range(depth))
    if 2 * skip > depth:
        with pytest.raises(ValueError, match=f"skips {2 * skip} depths.*depth {depth}"):
            Plan.parse(f"groups({size}, skip={skip})", depth)
        return
    plan = Plan.parse(f"groups({size}, skip={skip})", depth)
    inner = range(skip, depth - skip)
    for first in range(depth):
        for second in range(first + 1, depth):
            shared = first in inner and second in inner
            shared = shared and (first - skip) // size == (second - skip) // size
            assert (plan.banks[first] == plan.banks[second]) == shared
    assert Plan.parse(str(plan), depth) == plan


@pytest.mark.parametrize(
    ("banks", "text"),
    [
        ((0, 1, 2), "own"),
        ((0, 0, 0), "all"),
        ((0, 1, 0, 1), "2x2"),
        ((0, 1, 2, 2, 2, 2, 3, 4), "2 + 1x4 + 2"),
        ((0, 0, 1, 1, 2, 2, 3), "(1x2)*3 + 1"),
        ((0, 0, 1, 2, 2, 3), "(1x2 + 1)*2"),
    ],
)
def test_text_is_the_shortest(banks, text):
    assert str(Plan(banks)) == text


@pytest.mark.parametrize("depth", range(1, 8))
def test_a_map_has_a_text_that_means_it_or_none(depth):
    """Every map of a depth: what is neither a sum nor a cycle is refused, and never misread."""
    written = 0
    for banks in product(*(range(place + 1) for place in range(depth))):
        if list(dict.fromkeys(banks)) != list(range(len(set(banks)))):
            continue
        with suppress(ValueError):
            assert Plan.parse(str(Plan(banks)), depth).banks == banks
            written += 1
    sums = [1]  # of terms a x b, those of a x 1 being sums of 1 x 1
    for length in range(1, depth + 1):
        terms = [(1, 1)] + [(a, b) for a in range(1, depth + 1) for b in range(2, depth + 1)]
        sums.append(sum(sums[length - a * b] for a, b in terms if a * b <= length))
    assert written == sums[depth]


@pytest.mark.parametrize(
    ("text", "depth", "says"),
    [
        ("2 + 1x4", 8, ["reaches depth 6", "has depth 8", "add 2"]),
        ("(1x4)*3", 8, ["reaches depth 12", "has depth 8", "remove 4"]),
        ("2 + foo", 4, ["found 'f'", "character 5", "after depth 2"]),
        ("2 + 0x4", 4, ["1 or more", "found '0'", "character 5", "after depth 2"]),
        ("2x0", 4, ["1 or more", "character 3"]),
        ("(1x4)*", 4, ["expected a number", "the end", "character 7"]),
        ("(1x4", 4, ["expected '+' or ')'", "the end", "after depth 4"]),
        ("1x4)", 4, ["found ')'", "character 4", "after depth 4"]),
        ("1.5", 2, ["found '.'", "character 2", "after depth 1"]),
        ("2 2", 4, ["found '2'", "character 3"]),
        ("-2", 2, ["found '-'", "character 1"]),
        ("²", 2, ["found '²'", "character 1"]),
        ("", 2, ["the end", "character 1", "'2 + 1x4 + 2'"]),
        ("2\n+ y", 2, ["found 'y'", "character 5"]),
        ("blocks(0)", 4, ["block of 0", "1 or more"]),
        ("blocks(4, skip=1)", 8, ["groups(4, skip=1)"]),
        ("blocks()", 8, ["found 'b'", "'blocks(4)'"]),
        ("99999x99999", 8, ["no model is that deep"]),
        ("9" * 5000, 8, ["no model is that deep"]),
        ("(" * 5000, 8, ["nests deeper"]),
        ("own", 0, ["depth 0", "1 or more"]),
        ("own", 10**20, ["1 or more, and 10,000 at the most"]),
        ("1+" * 50_000 + "1", 50_001, ["10,000 at the most"]),
        ("1+" * 50_000 + "1", 8, ["100,001 characters", "as groups"]),
        ("(1)*9999+" * 3 + "1", 8, ["no model is that deep", "found '9999' at character 14"]),
        ("1 + " * 2000 + "y" + " + 1" * 2000, 8, ["1 + y + 1", "found 'y' at character 8001"]),
    ],
)
def test_errors_are_one_line_with_place_and_reached_depth(text, depth, says):
    with pytest.raises(ValueError, match="plan") as caught:
        Plan.parse(text, depth)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    assert [word for word in says if word not in message] == []


def test_groups_beside_each_other_are_not_nested():
    text = " + ".join(["(1x2 + 1)*2"] * 30)
    assert Plan.parse(text, 180).count == 120


def test_banks_out_of_order_are_refused():
    with pytest.raises(ValueError, match="order of first use"):
        Plan((1, 0))
    with pytest.raises(ValueError, match="no cycle from depth 0"):
        str(Plan((0, 1, 0)))


def test_an_error_names_the_kind_of_part():
    with pytest.raises(ValueError, match=r"sharing\.attention: plan '3' reaches depth 3"):
        Sharing(attention="3").plans(4)


def test_a_shared_decision_is_made_at_the_first_depth_of_its_bank():
    plans = Sharing(router="blocks(2)", decision="blocks(2)").plans(5)
    assert [plans.decider(depth) for depth in range(5)] == [0, 0, 2, 2, 4]
