from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from plait.data.permutation import permute


@given(st.integers(1, 700), st.integers(0, 2**64 - 1))
def test_every_index_comes_once(size, key):
    assert sorted(permute(index, size, key) for index in range(size)) == list(range(size))


@given(st.integers(1, 10**15), st.integers(0, 2**64 - 1), st.data())
def test_it_stays_in_range_at_any_size(size, key, data):
    assert 0 <= permute(data.draw(st.integers(0, size - 1)), size, key) < size


def test_orders_look_shuffled():
    # over many keys the place of one index is uniform: chi-squared with 15 degrees of freedom
    # stays below its 1e-6 quantile, and neighbours do not stay together
    size, keys = 16, 4000
    for index in (0, 7):
        places = Counter(permute(index, size, key) for key in range(keys))
        expected = keys / size
        assert sum((places[p] - expected) ** 2 / expected for p in range(size)) < 56
    order = [permute(index, 10_000, 5) for index in range(10_000)]
    together = sum(abs(a - b) == 1 for a, b in pairwise(order))
    assert together < 20
