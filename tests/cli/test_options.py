"""Options by their dotted path reach the configuration, or fail in one line."""

import pytest

from plait.cli.overrides import UsageError, override, split_options
from plait.config import CollaborationConfig
from plait.recipes import nano


@pytest.mark.parametrize(
    ("arguments", "read", "expected"),
    [
        (["--experts.top-k", "4"], lambda c: c.experts.top_k, 4),
        (["--experts.count=[8,8,8,8,8,8,8,4]"], lambda c: c.experts.count, (8,) * 7 + (4,)),
        (["--norm_eps", "1e-6"], lambda c: c.norm_eps, 1e-6),
        (["--no-tied-head"], lambda c: c.tied_head, False),
        (["--attention.clip-qkv", "8"], lambda c: c.attention.clip_qkv, 8.0),
        (["--attention.kv-heads", "null"], lambda c: c.attention.kv_heads, None),
        (["--sharing.experts", "2 + 1x4 + 2"], lambda c: str(c.plans.experts), "2 + 1x4 + 2"),
        (
            ["--collaboration.strength", "1"],
            lambda c: c.collaboration,
            CollaborationConfig(strength=1.0),
        ),
    ],
)
def test_sets_an_option(arguments, read, expected):
    assert read(override(nano.model(), arguments)) == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sharing.expert", "own"], "did you mean 'experts'"),
        (["--experts.top_k", "many"], "experts.top_k: expected int, found 'many'"),
        (["--norm", "batch"], "'batch' is not one of 'rms', 'layer'"),
        (["experts.top_k", "4"], "options begin with --"),
        (["--depth.more", "4"], "depth has no options of its own"),
        (["--sharing.experts", "2 + 1x5"], "reaches depth 7, but the model has depth 8: add 1"),
        (["--experts.top_k", "17"], "top_k is 17"),
    ],
)
def test_refuses_in_one_line(arguments, says):
    with pytest.raises(UsageError) as caught:
        override(nano.model(), arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_splits_options_with_their_values():
    mine, others = split_options(["--a.b", "1", "--name", "x", "--name=y", "--c"], ("--name",))
    assert mine == ["--name", "x", "--name=y"]
    assert others == ["--a.b", "1", "--c"]
