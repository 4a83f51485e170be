"""Matched controls: against brute force, and on a thousand random plans that have a match."""

import math
import random
import warnings
from dataclasses import replace
from itertools import combinations, product

import pytest

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
)
from plait.config import matching as matching_module
from plait.config.counts import count, kv_cache_bytes_per_token
from plait.config.matching import BUDGETS, FIELDS, match
from plait.recipes import architectures
from plait.sharing import Sharing

PLAIN = ModelConfig(
    vocab_size=256,
    depth=4,
    width=32,
    context=32,
    attention=AttentionConfig(heads=4),
    experts=ExpertConfig(count=8, width=24, top_k=2),
)
TIED = replace(PLAIN, sharing=Sharing(experts="groups(2, skip=1)"))


def costs(config):
    """What a model costs, by the counts that tests/config/test_counts.py holds to built models."""
    counts = count(config)
    kv = kv_cache_bytes_per_token(config)
    return dict(zip(BUDGETS, (counts.stored, counts.active, counts.flops_forward, kv), strict=True))


def numbers(config):
    experts = config.experts
    found = (experts.count, experts.width, experts.top_k, config.width, config.depth)
    return dict(zip(FIELDS, found, strict=True))


def changed(config, values):
    now = numbers(config) | values
    experts = replace(
        config.experts, count=now["experts"], width=now["expert-width"], top_k=now["top-k"]
    )
    return replace(config, experts=experts, width=now["width"], depth=now["depth"])


def residual(config, to, equal):
    return max(abs(costs(config)[name] / costs(to)[name] - 1) for name in equal)


def change(config, other):
    before, after = numbers(config), numbers(other)
    return sum(abs(math.log(after[field] / before[field])) for field in FIELDS)


def by_brute_force(config, to, equal, domains, tolerance):
    """Residual ÷ tolerance + change of the best there is, fields taken as `match` takes them."""
    for number in range(len(domains) + 1):
        for fields in combinations(domains, number):
            rated = []
            for values in product(*(domains[field] for field in fields)):
                try:
                    tried = changed(config, dict(zip(fields, values, strict=True)))
                except ValueError:  # more experts a token than there are
                    continue
                off = residual(tried, to, equal)
                if off <= tolerance:
                    rated.append(off / tolerance + change(config, tried))
            if rated:
                return min(rated)
    return None


DOMAINS = {
    "experts": range(2, 41),
    "expert-width": range(8, 161, 8),
    "top-k": range(1, 9),
    "width": range(8, 97, 8),
    "depth": range(2, 17),
}
"""wide enough for every match of these models, as the test itself makes sure of"""


@pytest.mark.parametrize(
    ("equal", "fields", "tolerance"),
    [
        ("stored", "experts", 0.05),
        ("stored", "experts,expert-width", 0.005),
        ("stored", "expert-width,experts", 0.0005),
        ("active", "expert-width,top-k", 0.01),
        ("active,kv", "top-k,expert-width", 0.05),
        ("flops", "depth,expert-width", 0.002),
        ("stored,active", "experts,expert-width,top-k", 0.02),
        ("stored,flops", "experts,width", 0.03),
        ("stored,active,flops,kv", "experts,expert-width,depth", 0.05),
        ("kv,active", "depth,width", 0.1),
    ],
)
@pytest.mark.parametrize("pair", [(PLAIN, TIED), (TIED, PLAIN), (PLAIN, replace(TIED, depth=6))])
def test_nothing_is_nearer_than_what_is_found(pair, equal, fields, tolerance):
    config, to = pair
    held, domains = equal.split(","), {field: DOMAINS[field] for field in fields.split(",")}
    best = by_brute_force(config, to, held, domains, tolerance)
    if best is None:
        with pytest.raises(ValueError, match="the nearest"):
            match(config, to, equal, fields, tolerance=tolerance)
        return
    found = match(config, to, equal, fields, tolerance=tolerance)
    assert all(numbers(found.config)[field] in domain for field, domain in domains.items())
    off = residual(found.config, to, held)
    assert off <= tolerance
    assert off / tolerance + change(config, found.config) == pytest.approx(best)


def test_what_is_said_is_what_was_done():
    found = match(PLAIN, TIED, ["stored"], tolerance=0.02)
    assert found.wanted == costs(TIED)
    assert found.found == costs(found.config)
    assert found.equal == ("stored",)
    for name, share in found.residuals.items():
        assert share == found.found[name] / found.wanted[name] - 1
    before, after = numbers(PLAIN), numbers(found.config)
    moved = {FIELDS[f]: (before[f], after[f]) for f in FIELDS if before[f] != after[f]}
    assert found.changes == moved
    assert changed(found.config, before) == PLAIN, "nothing else changed"


def random_model(draw):
    """A model of any kind that has all that counts: routers, sharing, norms, collaboration."""
    heads = draw.choice([2, 4])
    shared = draw.choice(["own", "blocks(2)", "groups(2, skip=1)", "all"])
    sharing = Sharing(
        experts=shared,
        router=draw.choice(["own", shared]),
        norms=draw.choice(["own", "all"]),
        attention=draw.choice(["own", "blocks(2)"]),
    )
    return ModelConfig(
        vocab_size=draw.choice([64, 512, 4096]),
        depth=draw.randint(2, 4),
        width=8 * heads * draw.randint(1, 8),
        context=draw.choice([64, 256]),
        attention=AttentionConfig(
            heads=heads,
            kv_heads=draw.choice([None, 1]),
            head_width=draw.choice([None, None, 16]),
            qk_norm=draw.choice(["none", "head", "width"]),
        ),
        experts=ExpertConfig(
            count=draw.randint(4, 64),
            width=8 * draw.randint(1, 64),
            top_k=draw.randint(1, 4),
            activation=draw.choice(["swiglu", "gelu"]),
            shared_width=draw.choice([0, 0, 24]),
        ),
        router=RouterConfig(
            kind=draw.choice(["linear", "linear", "cosine", "recurrent", "low-rank"]),
            bias=draw.random() < 0.3,
        ),
        collaboration=CollaborationConfig(row_normalise=False) if draw.random() < 0.2 else None,
        balance=BalanceConfig(scope=draw.choice(["layer", "bank"])),
        sharing=sharing,
    )


MOVES = {
    "stored": {"experts", "expert-width", "width", "depth"},
    "active": {"expert-width", "top-k", "width", "depth"},
    "flops": {"expert-width", "top-k", "width", "depth"},
    "kv": {"depth"},
}


def random_pair(draw):
    """A model, another of the same kind at other numbers, budgets, and the fields that differ."""
    to = random_model(draw)
    equal = draw.sample(BUDGETS, draw.randint(1, 4))
    possible = [f for f in FIELDS if any(f in MOVES[name] for name in equal)]
    vary = draw.sample(possible, min(draw.choice([1, 1, 2, 2, 3]), len(possible)))
    others = {
        "experts": draw.randint(to.experts.top_k, 96),
        "expert-width": 8 * draw.randint(1, 96),
        "top-k": draw.randint(1, 4),
        "width": 8 * to.attention.heads * draw.randint(1, 10),
        "depth": draw.randint(2, 5),
    }
    return changed(to, {field: others[field] for field in vary}), to, equal, vary


def test_a_thousand_random_plans_are_matched(monkeypatch):
    """By construction each has a match, and since the search is exact, none is missed."""
    draw, counted, most = random.Random(0), [], 0
    monkeypatch.setattr(
        matching_module, "count", lambda config: counted.append(config) or count(config)
    )
    for _ in range(1000):
        config, to, equal, vary = random_pair(draw)
        counted.clear()
        found = match(config, to, equal, vary)
        most = max(most, len(counted))
        assert residual(found.config, to, equal) <= 0.005
        assert {path for path in found.changes} <= {FIELDS[field] for field in vary}
    assert most < 1500, (
        "a count takes a tenth of a millisecond, so that each took less than a second"
    )


def test_no_budget_falls_where_a_field_grows():
    """What the search builds on, for each kind of model and each field."""
    draw = random.Random(1)
    for _ in range(300):
        config = random_model(draw)
        for field, now in numbers(config).items():
            step = {"width": 2 * config.attention.heads}.get(field, 1)
            before, after = costs(config), costs(changed(config, {field: now + step}))
            assert all(before[name] <= after[name] for name in BUDGETS), (field, config)


def test_a_budget_is_met_by_its_most_natural_field():
    olmoe = architectures.olmoe()
    tied = replace(olmoe, sharing=Sharing(experts="groups(4, skip=2)"))
    assert match(olmoe, tied).changes == {"experts.count": (64, 28)}
    assert match(tied, olmoe).changes == {"experts.count": (64, 146)}
    finer = replace(olmoe, experts=replace(olmoe.experts, width=1024 // 2))
    assert match(olmoe, finer, "active").changes == {"experts.width": (1024, 512)}
    assert match(olmoe, finer, "flops", "top-k").changes == {"experts.top_k": (8, 4)}
    deeper = replace(olmoe, depth=20)
    assert match(olmoe, deeper, "kv").changes == {"depth": (16, 20)}
    wider = replace(olmoe, width=4096)
    assert match(olmoe, wider, "kv", ("width",)).changes == {"width": (2048, 4096)}
    assert match(olmoe, tied, "active, flops, kv").changes == {}, "they agree as they are"


def test_fields_are_taken_in_their_order_and_by_either_name():
    few = replace(PLAIN, experts=replace(PLAIN.experts, count=12))
    wide = replace(PLAIN, experts=replace(PLAIN.experts, width=48))
    for vary in (
        "experts,expert-width",
        ["experts.count", "experts.width"],
        "experts,expert_width",
    ):
        assert set(match(PLAIN, few, vary=vary, tolerance=0.1).changes) == {"experts.count"}
    found = match(PLAIN, wide, vary="expert-width,experts", tolerance=0.1)
    assert set(found.changes) == {"experts.width"}


def test_new_widths_are_multiples_and_the_old_one_stays_allowed():
    odd = replace(PLAIN, width=24, experts=replace(PLAIN.experts, width=23))
    assert match(odd, odd, "stored", "width,expert-width").changes == {}
    for multiple in (1, 8, 64):
        to = replace(PLAIN, width=192, experts=replace(PLAIN.experts, width=256))
        found = match(odd, to, "stored,active", "width,expert-width", multiple=multiple)
        assert found.config.width % math.lcm(multiple, 2 * 4) == 0
        assert found.config.experts.width % multiple == 0


DENSE = replace(PLAIN, experts=ExpertConfig(count=1, width=24, top_k=1))
LISTED = replace(TIED, experts=replace(TIED.experts, count=(8, 16, 8)))
WRITTEN = replace(PLAIN, sharing=Sharing(experts="1 + 1x2 + 1"))


def test_a_dense_model_stays_dense():
    found = match(DENSE, PLAIN, tolerance=0.05)
    assert set(found.changes) == {"experts.width"}
    assert not found.config.routed_depths


def test_banks_of_different_sizes_keep_their_experts():
    found = match(LISTED, PLAIN, "stored,active", "expert-width,top-k,width", tolerance=0.1)
    assert found.config.experts.count == (8, 16, 8)


@pytest.mark.parametrize(
    ("config", "options", "says"),
    [
        (PLAIN, {"equal": "size"}, "no budget is called 'size': choose stored, active, flops, kv"),
        (PLAIN, {"equal": ""}, "no budget is called ''"),
        (PLAIN, {"equal": []}, "no budget is given"),
        (PLAIN, {"vary": "heads"}, "no field is called 'heads': choose experts, expert-width"),
        (PLAIN, {"vary": "top-k"}, "top-k moves nothing of stored"),
        (PLAIN, {"equal": "kv", "vary": "experts,depth"}, "experts moves nothing of kv"),
        (PLAIN, {"tolerance": 0.0}, "tolerance is 0.0: give a share"),
        (PLAIN, {"tolerance": math.nan}, "tolerance is nan: give a share"),
        (PLAIN, {"multiple": 0}, "multiple is 0"),
        (PLAIN, {"multiple": 10**30}, "multiple is 1000"),
        (DENSE, {"vary": "experts"}, "experts cannot vary: the model is dense"),
        (DENSE, {"equal": "active", "vary": "top-k"}, "top-k cannot vary: the model is dense"),
        (LISTED, {"vary": "experts"}, "experts.count is a list, one for each bank"),
        (WRITTEN, {"vary": "depth"}, "depth cannot vary .*'1 [+] 1x2 [+] 1'.*blocks and groups"),
        (
            PLAIN,
            {"equal": "stored,kv", "vary": "depth"},
            r"no depth makes stored, kv equal to within 0\.50%: the nearest, depth 9, is [-+]\d.*% "
            "off in .*: vary experts, expert-width, width too",
        ),
    ],
)
def test_what_cannot_be_is_one_line(config, options, says):
    with pytest.raises(ValueError, match=says) as caught:
        match(config, replace(PLAIN, depth=7, width=40), **options)
    assert "\n" not in str(caught.value)


def test_a_warning_is_of_what_is_found_alone():
    collaborating = replace(
        PLAIN,
        experts=replace(PLAIN.experts, top_k=3),
        collaboration=CollaborationConfig(),
    )
    to = replace(collaborating, experts=replace(PLAIN.experts, top_k=4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = match(collaborating, to, "active", "top-k")
        assert not caught
        with_two = match(collaborating, replace(to, experts=PLAIN.experts), "active", "top-k")
    assert found.config.experts.top_k == 4
    assert with_two.config.experts.top_k == 2
    assert any("S gets no gradient" in str(warning.message) for warning in caught)


def test_banks_that_widen_by_rule_are_matched_by_the_count_they_widen():
    plain = ModelConfig(vocab_size=64, depth=4, width=32, experts=ExpertConfig(count=8, width=32))
    wide = replace(
        plain, experts=replace(plain.experts, expand=2), sharing=Sharing(experts="blocks(2)")
    )
    found = match(wide, plain, "stored", "experts", tolerance=0.05)
    counts = {n: costs(with_count(wide, n))["stored"] for n in range(2, 40)}
    nearest = min(counts, key=lambda n: abs(counts[n] / found.wanted["stored"] - 1))
    assert found.config.experts.count == nearest
    assert found.config.experts_at(0) == 2 * nearest


def with_count(config, experts):
    return replace(config, experts=replace(config.experts, count=experts))
