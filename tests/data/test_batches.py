import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plait.data import Batches, evaluation_batches
from plait.data.batches import Order

LENGTH = 64


def rows(batches, count):
    """The first `count` batches of one rank, one row of tokens and targets per sequence."""
    return [torch.cat(batch, dim=1) for batch in itertools.islice(batches, count)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 99))
def test_each_epoch_visits_every_window_once(windows, seed):
    order = Order(windows, windows, seed)
    everything = {(d, w) for d, count in enumerate(windows) for w in range(count)}
    total = len(everything)
    for epoch in range(3):
        assert {order[epoch * total + n] for n in range(total)} == everything


@given(st.lists(st.integers(1, 90), min_size=1, max_size=4), st.integers(0, 99))
def test_weights_are_met_at_every_moment(weights, seed):
    windows = [7] * len(weights)
    order = Order(windows, weights, seed)
    seen = [[] for _ in weights]
    for n in range(300):
        domain, window = order[n]
        seen[domain].append(window)
        for count, weight in zip(seen, weights, strict=True):
            assert abs(len(count) - Fraction((n + 1) * weight, sum(weights))) <= len(weights)
    for visits in seen:  # and inside a domain, each pass is a permutation
        for start in range(0, len(visits) - 6, 7):
            assert sorted(visits[start : start + 7]) == list(range(7))


def test_epochs_and_seeds_differ():
    order = Order([500], [500], 1)
    first = [order[n] for n in range(500)]
    assert first != [order[500 + n] for n in range(500)]
    assert first != [Order([500], [500], 2)[n] for n in range(500)]


def test_targets_are_the_next_tokens_and_all_lie_in_the_shards(tiny):
    tokens, targets = next(Batches(tiny, "train", LENGTH, 8, seed=3))
    assert tokens.dtype == targets.dtype == torch.int64
    assert tokens.shape == targets.shape == (8, LENGTH)
    assert torch.equal(tokens[:, 1:], targets[:, :-1])
    text = {domain: tiny.tokens("train", domain) for domain in tiny.domains}
    for row in torch.cat([tokens, targets[:, -1:]], dim=1).numpy():
        assert any(
            np.array_equal(shard[start : start + LENGTH + 1], row)
            for shard in text.values()
            for start in range(0, len(shard) - LENGTH, LENGTH)
        )


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 3)), max_size=4),
    st.integers(0, 5),
)
def test_resuming_at_any_world_and_batch_size_continues_one_order(tiny, legs, seed):
    seen, state = [], None
    for world, batch, steps in legs:
        ranks = [
            Batches(tiny, "train", LENGTH, batch, seed, rank, world, state) for rank in range(world)
        ]
        for _ in range(steps):
            for rank in ranks:
                seen += rows(rank, 1)
        assert all(rank.state() == ranks[0].state() for rank in ranks)
        state = ranks[0].state()
        assert state["tokens_seen"] == sum(map(len, seen)) * LENGTH
    if seen:
        found = torch.cat(seen)
        one = rows(Batches(tiny, "train", LENGTH, len(found), seed=seed), 1)
        assert torch.equal(found, one[0])


def test_a_later_epoch_is_resumed_exactly(tiny):
    batches = Batches(tiny, "train", 1024, 50, seed=0, weights={"code": 1, "prose": 3})
    for _ in range(20):
        next(batches)
    state = batches.state()
    assert state == {
        "seed": 0,
        "epoch": 1000 * 1024 // batches.epoch_tokens,
        "tokens_seen": 1000 * 1024,
        "fingerprint": tiny.fingerprint,
    }
    assert state["epoch"] >= 2
    resumed = Batches(tiny, "train", 1024, 50, 0, state=state, weights={"code": 1, "prose": 3})
    assert torch.equal(next(resumed)[0], next(batches)[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "0" * 16}, "was trained on the corpus '0000"),
        ({"seed": 1}, "has seed 1, not 0"),
        ({"tokens_seen": 100}, "do not fit sequences of 64"),
        ({"epoch": 5}, "do not fit"),
        ({"extra": 1}, "unknown option 'loader.extra'"),
        ({"seed": "0"}, "loader.seed: expected int, found '0'"),
        ({"tokens_seen": None}, "loader.tokens_seen: expected int, found None"),
        ({"tokens_seen": -64}, "do not fit"),
    ],
)
def test_a_foreign_state_is_refused_in_one_line(tiny, change, message):
    state = Batches(tiny, "train", LENGTH, 2, seed=0).state() | change
    with pytest.raises(ValueError, match=message) as caught:
        Batches(tiny, "train", LENGTH, 2, seed=0, state=state)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_drawn_is_refused(tiny):
    with pytest.raises(ValueError, match="shorter than a sequence"):
        Batches(tiny, "validation", 10**6, 1, seed=0)
    with pytest.raises(ValueError, match="one per domain"):
        Batches(tiny, "train", LENGTH, 1, seed=0, weights={"code": 1})
    with pytest.raises(ValueError, match="rank"):
        Batches(tiny, "train", LENGTH, 1, seed=0, rank=2, world=2)


@pytest.mark.parametrize("limit", [1, 1000, None])
def test_evaluation_sees_the_same_targets_at_any_batch_size_and_length(tiny, limit):
    found = []
    for length, batch in [(64, 1), (64, 7), (100, 3)]:
        targets = {domain: [] for domain in tiny.domains}
        size = dict.fromkeys(tiny.domains, 0)
        for domain, tokens_BS, targets_BS, target_bytes in evaluation_batches(
            tiny, "validation", length, batch, limit
        ):
            assert tokens_BS.shape == targets_BS.shape
            assert len(tokens_BS) <= batch
            real = targets_BS != -100
            assert torch.equal(tokens_BS[:, 1:][real[:, 1:]], targets_BS[:, :-1][real[:, 1:]])
            targets[domain] += targets_BS[real].tolist()
            size[domain] += target_bytes
        found.append((targets, size))
    assert found[0] == found[1] == found[2]
    for domain, ids in found[0][0].items():
        shard = tiny.tokens("validation", domain)
        assert ids == shard[1 : 1 + (limit or len(shard))].tolist()


def test_evaluation_counts_the_bytes_of_the_whole_split(tiny):
    total = dict.fromkeys(tiny.domains, 0)
    for domain, _, _, target_bytes in evaluation_batches(tiny, "test", 50, 4):
        total[domain] += target_bytes
    assert total == {
        domain: shard["bytes"] for domain, shard in tiny.manifest["splits"]["test"].items()
    }
