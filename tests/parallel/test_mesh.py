import pytest

from plait.parallel import ParallelConfig


@pytest.mark.parametrize(
    ("text", "processes", "found"),
    [
        ("", 1, (1, 1, 1)),
        ("", 8, (1, 8, 1)),
        ("replicate=2", 8, (2, 4, 1)),
        ("shard=4", 8, (2, 4, 1)),
        ("expert=2", 8, (1, 4, 2)),
        ("shard=2, expert=2", 8, (2, 2, 2)),
        ("replicate=8", 8, (8, 1, 1)),
        ("expert=2 replicate=2 shard=2", 8, (2, 2, 2)),
        ("resident=0 shard=2", 2, (1, 2, 1)),
        ("resident=3", 2, (1, 2, 1)),
    ],
)
def test_what_is_not_said_is_found_from_the_number_of_processes(text, processes, found):
    sizes = ParallelConfig.parse(text).resolved(processes)
    assert (sizes.replicate, sizes.shard, sizes.expert) == found
    assert ParallelConfig.parse(str(sizes)) == sizes
    assert sizes.resident == ParallelConfig.parse(text).resident


@pytest.mark.parametrize(
    ("text", "processes"),
    [("shard=2", 1), ("replicate=3", 8), ("replicate=2 shard=2", 8), ("expert=16", 8)],
)
def test_a_product_that_is_not_the_number_of_processes_is_refused_in_a_line(text, processes):
    with pytest.raises(
        ValueError, match=f'mesh "{text}" does not fit {processes} process'
    ) as error:
        ParallelConfig.parse(text).resolved(processes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["shards=2", "shard", "shard=0", "shard=-1", "shard=2 shard=2", "2x2", "resident=half"],
)
def test_a_word_that_is_no_size_is_refused_by_itself(text):
    with pytest.raises(ValueError, match=r"is not one of replicate=N.* resident=N, each"):
        ParallelConfig.parse(text)


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="shard is 0"):
        ParallelConfig(shard=0)
    with pytest.raises(ValueError, match="resident is -1: 0 or more"):
        ParallelConfig(resident=-1)
