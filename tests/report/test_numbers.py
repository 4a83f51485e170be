"""Numbers as people read them."""

import pytest

from plait.report.numbers import memory


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (57.1 * 2**20, "57.1 MiB"),
        (999 * 2**20, "999 MiB"),
        (1.25 * 2**30, "1.25 GiB"),
        (3 * 2**40, "3.00 TiB"),
    ],
)
def test_memory_has_three_figures_and_a_binary_prefix(count, said):
    assert memory(count) == said
