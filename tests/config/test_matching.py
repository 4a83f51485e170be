"""Matched controls: against brute force, and on a thousand random plans that have a match."""

import math
import random
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
        depth=draw.randint(2, 6),
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
    vary = draw.sample(possible, draw.randint(1, min(3, len(possible))))
    step = to.width // math.gcd(to.width, 8 * to.attention.heads * to.width)
    others = {
        "experts": draw.randint(to.experts.top_k, 96),
        "expert-width": 8 * draw.randint(1, 96),
        "top-k": draw.randint(1, 4),
        "width": 8 * to.attention.heads * draw.randint(1, 10) * step,
        "depth": draw.randint(2, 8),
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
        try:
            found = match(config, to, equal, vary)
        except ValueError as error:
            pytest.fail(f"{equal} {vary} {numbers(config)} → {numbers(to)}: {error}")
        most = max(most, len(counted))
        assert residual(found.config, to, equal) <= 0.005
    assert most < 2000, "a count takes about 0.3 ms, so that is less than a second"
