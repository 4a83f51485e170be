"""Counting scores what it should: by hand, by brute force, and on the tokens that runs see."""

import math

import numpy as np
import pytest

from plait.evaluation.floors import Counts, floors
from tiny_corpus import tiny


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("corpora") / "tiny")


def test_probabilities_sum_to_one_behind_every_token():
    sequences = np.random.default_rng(0).integers(0, 7, (20, 9))
    sequences[sequences == 6] = 5  # 6 never comes, and nothing is seen behind it
    counts = Counts(sequences, 7)
    for first in range(7):
        nats = [counts.bigram_nats(np.array([first]), np.array([b])) for b in range(7)]
        assert sum(math.exp(-n) for n in nats) == pytest.approx(1.0)
    nats = [counts.unigram_nats(np.array([b])) for b in range(7)]
    assert sum(math.exp(-n) for n in nats) == pytest.approx(1.0)


def test_by_hand():
    counts = Counts(np.array([[0, 1, 0, 1, 0, 2]]), 3)
    # behind 0: 1, 1, 2, so c = 3, t = 2; p(1) = (2 + 1) / (5 + 3)
    expected = -math.log((2 + 2 * 3 / 8) / 5)
    assert counts.bigram_nats(np.array([0]), np.array([1])) == pytest.approx(expected)
    # behind 2 nothing was seen: the unigram, p(0) = (2 + 1) / 8
    assert counts.bigram_nats(np.array([2]), np.array([0])) == pytest.approx(-math.log(3 / 8))


def test_the_bigram_beats_the_unigram_and_both_are_kept(corpus):
    asked = {"sequence_length": 64, "training_tokens": 40_000, "tokens_per_domain": 4096}
    found = floors(corpus, **asked)
    assert found.loss("bigram") < found.loss("unigram") < math.log(corpus.vocab_size)
    assert set(found.bigram) == {"code", "prose", "all"}
    assert found.bigram["all"].tokens == found.unigram["all"].tokens <= 2 * 4096
    assert (corpus.path / "floors.json").is_file()
    assert floors(corpus, **asked) == found
    more = floors(corpus, **asked | {"training_tokens": 4_000})
    assert more.loss("bigram") > found.loss("bigram"), "less text, worse counts"
