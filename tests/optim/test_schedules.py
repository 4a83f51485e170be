import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.optim.schedules import constant, cosine, linear, wsd

amounts = st.integers(1, 10**12)


@given(total=amounts, share=st.floats(0, 0.9), floor=st.floats(0, 1), at=st.floats(0, 1))
def test_factors_stay_between_zero_and_one_and_end_on_the_floor(total, share, floor, at):
    warmup, tokens = int(total * share), int(total * at)
    decay = max(1, (total - warmup) // 2)
    for schedule in (
        lambda t: cosine(t, total=total, warmup=warmup, floor=floor),
        lambda t: linear(t, total=total, warmup=warmup, floor=floor),
        lambda t: wsd(t, total=total, warmup=warmup, decay=decay, floor=floor),
    ):
        assert 0 <= schedule(tokens) <= 1 + 1e-12
        assert schedule(total) == pytest.approx(floor)
        assert schedule(2 * total) == pytest.approx(floor)
    assert constant(total, warmup=warmup) == 1


def test_known_points():
    assert cosine(500, total=10_000, warmup=1_000) == 0.5
    assert cosine(1_000, total=10_000, warmup=1_000) == 1
    assert cosine(5_500, total=10_000, warmup=1_000, floor=0.1) == pytest.approx(0.55)
    assert linear(500, total=10_000, warmup=1_000) == 0.5
    assert linear(5_500, total=10_000, warmup=1_000, floor=0.1) == pytest.approx(0.55)
    assert linear(7_750, total=10_000, warmup=1_000) == pytest.approx(0.25)
    assert wsd(7_999, total=10_000, warmup=1_000, decay=2_000) == 1
    assert wsd(9_000, total=10_000, warmup=1_000, decay=2_000, floor=0.2) == pytest.approx(0.6)
    assert constant(250, warmup=1_000) == 0.25
