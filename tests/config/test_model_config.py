"""Configurations: written and read back unchanged, refused by name, hashed whole."""

import dataclasses
import math
import re
import types
import typing
import warnings
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
    OptimizerConfig,
    RopeScaling,
    RouterConfig,
    TrainConfig,
)
from plait.config.counts import count
from plait.config.files import config_hash, from_dict, load_yaml, save_yaml, to_dict
from plait.config.limits import MODEL_LIMITS, TRAINING_LIMITS
from plait.sharing import DEEPEST, Sharing

BASE = ModelConfig(vocab_size=64, depth=8, width=32)
LEARNABLE = CollaborationConfig(row_normalise=False)
YARN = RopeScaling(kind="yarn", factor=4.0, original_context=128)
STRETCHED = replace(BASE, attention=AttentionConfig(rope_scaling=YARN))
CHOOSING, FREE = RouterConfig(choice="experts"), BalanceConfig(switch=0.0)


def values(hint):
    """Any value of a declared type, as wide as the type itself."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(arguments)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return st.one_of([values(option) for option in arguments])
    if typing.get_origin(hint) is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return st.builds(hint, **{f.name: values(hints[f.name]) for f in dataclasses.fields(hint)})
    if hint is float:
        return st.floats(allow_nan=False)
    return st.from_type(hint)


PARTS = (AttentionConfig, ExpertConfig, RouterConfig, CollaborationConfig, BalanceConfig, Sharing)


@settings(deadline=None)
@given(st.one_of([values(part) for part in PARTS]))
def test_every_option_survives_yaml(tmp_path_factory, part):
    path = tmp_path_factory.getbasetemp() / "part.yaml"
    save_yaml(part, path)
    assert load_yaml(type(part), path) == part
    assert config_hash(load_yaml(type(part), path)) == config_hash(part)


def test_a_model_survives_its_dictionary_and_yaml(tmp_path):
    config = replace(
        BASE,
        experts=ExpertConfig(count=(1, 8, 16, 8), dense_first=1, dense_width=64, top_k=3),
        sharing=Sharing(experts="1 + 1x3 + 1x3 + 1", attention="2x4"),
        attention=AttentionConfig(heads=4, kv_heads=2, lora_rank=2, clip_qkv=8.0),
        collaboration=LEARNABLE,
        norm_eps=1e-6,
    )
    save_yaml(config, tmp_path / "config.yaml")
    assert load_yaml(ModelConfig, tmp_path / "config.yaml") == config
    assert from_dict(ModelConfig, to_dict(config)).plans == config.plans
    assert from_dict(ModelConfig, {"vocab_size": 64, "depth": 8, "width": 32}) == BASE


def test_an_exponent_without_a_point_is_a_number(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("{vocab_size: 64, depth: 8, width: 32, norm_eps: 1e-6}")
    assert load_yaml(ModelConfig, path).norm_eps == 1e-6


def leaves(config, prefix=()):
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value) and f.init:
            yield from leaves(value, (*prefix, f.name))
        elif f.init:
            yield (*prefix, f.name), value


def test_every_option_is_in_the_hash():
    """Two different runs can never meet in one folder."""
    plain = to_dict(replace(BASE, collaboration=LEARNABLE))
    hashes = {config_hash(plain)}
    for path, value in leaves(replace(BASE, collaboration=LEARNABLE)):
        changed = to_dict(plain)
        place = changed
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = not value if isinstance(value, bool) else f"{value}1"
        hashes.add(config_hash(changed))
    assert len(hashes) == 1 + len(list(leaves(replace(BASE, collaboration=LEARNABLE))))
    assert config_hash(BASE) == config_hash(replace(BASE))
    assert len(config_hash(BASE)) == 12


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"widht": 3}, ["'widht'", "'width'"]),
        ({"experts": {"topk": 3}}, ["'experts.topk'", "'top_k'"]),
        ({"collaboration": {"strenght": 1.0}}, ["'collaboration.strenght'", "'strength'"]),
        ({"qqq": 3}, ["'qqq'", "known: vocab_size"]),
        ({"plans": {}}, ["'plans'"]),
        ({"width": "32"}, ["width", "expected int", "'32'"]),
        ({"width": 32.0}, ["width", "expected int"]),
        ({"width": True}, ["width", "expected int"]),
        ({"dropout": "much"}, ["dropout", "expected float"]),
        ({"tied_head": 1}, ["tied_head", "expected bool"]),
        ({"norm": "batch"}, ["norm", "'batch'", "'rms'", "'layer'"]),
        ({"router": 3}, ["router", "expected options", "3"]),
        ({"experts": {"count": "many"}}, ["experts.count", "'many'"]),
        ({"attention": {"kv_heads": "two"}}, ["attention.kv_heads", "'two'"]),
        ({"depth": None}, ["depth", "expected int"]),
    ],
)
def test_wrong_options_are_named(data, says, tmp_path):
    whole = {"vocab_size": 64, "depth": 8, "width": 32} | data
    with pytest.raises(ValueError, match=r"expected|unknown|is not one of") as caught:
        from_dict(ModelConfig, whole)
    assert [word for word in says if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


def test_files_are_named_in_errors(tmp_path):
    path = tmp_path / "config.yaml"
    with pytest.raises(FileNotFoundError, match=r"config\.yaml"):
        load_yaml(ModelConfig, path)
    for text, says in (("a: [", "is not YAML"), ("", "expected options"), ("width: 1", "missing")):
        path.write_text(text)
        with pytest.raises(ValueError, match=says) as caught:
            load_yaml(ModelConfig, path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"depth": 0}, "depth is 0"),
        ({"attention": AttentionConfig(heads=0)}, "attention.heads is 0"),
        ({"attention": AttentionConfig(kv_heads=0)}, "attention.kv_heads is 0"),
        ({"attention": AttentionConfig(heads=5)}, "32 is not divisible by 5 heads"),
        ({"attention": AttentionConfig(kv_heads=3)}, "8 query heads.*3 key/value heads"),
        ({"attention": AttentionConfig(head_width=3)}, "even head width, not 3"),
        ({"attention": AttentionConfig(lora_rank=2)}, "sharing.attention shares nothing"),
        ({"attention": AttentionConfig(clip_qkv=0.0)}, "clip_qkv is 0"),
        ({"experts": ExpertConfig(count=())}, "experts.count is 0"),
        ({"experts": ExpertConfig(count=2, top_k=3)}, "top_k is 3, but depth 0 has only 2"),
        ({"experts": ExpertConfig(count=(8, 8))}, "names 2 banks, but the plan 'own' has 8"),
        ({"experts": ExpertConfig(dense_first=1)}, "dense_first or dense_at, and experts.dense_w"),
        ({"experts": ExpertConfig(dense_at=(3,))}, "dense_first or dense_at, and experts.dense_w"),
        (
            {"experts": ExpertConfig(dense_at=(8,), dense_width=8)},
            r"dense_at is \(8,\), depth is 8",
        ),
        (
            {
                "experts": ExpertConfig(dense_at=(3,), dense_width=8),
                "sharing": Sharing(experts="2x4"),
            },
            r"expert bank 1.*depths \[3\] are dense",
        ),
        ({"attention": AttentionConfig(scale=0.0)}, "attention.scale is 0"),
        ({"embedding_scale": 0.0}, "embedding_scale is 0"),
        ({"residual_scale": -1.0}, "residual_scale is -1"),
        ({"logit_divisor": 0.0}, "logit_divisor is 0"),
        ({"router": RouterConfig(top_groups=2)}, "top_groups is 2, but there are 1"),
        ({"router": RouterConfig(groups=3)}, "8 experts at depth 0 do not make 3 equal groups"),
        ({"router": RouterConfig(groups=8)}, "do not make 8 equal groups of two or more"),
        (
            {"router": RouterConfig(groups=4), "experts": ExpertConfig(top_k=3)},
            "top_k is 3, but router.top_groups leaves 2",
        ),
        ({"router": replace(CHOOSING, groups=2), "balance": FREE}, "router.groups needs the"),
        *(
            ({"attention": AttentionConfig(rope_scaling=scaling, position=position)}, says)
            for scaling, position, says in (
                (YARN, "learned", "rope_scaling needs rotary"),
                (replace(YARN, factor=0.5), "rope", "factor is 0.5: it must be 1 or more"),
                (
                    replace(YARN, original_context=None),
                    "rope",
                    "original_context is needed by yarn",
                ),
                (replace(YARN, kind="linear"), "rope", "linear has only a factor"),
                (replace(YARN, kind="llama3", amplitude=2.0), "rope", "amplitude and truncate are"),
                (replace(YARN, slow=40.0), "rope", "fast is 32.0, slow 40.0"),
                (replace(YARN, amplitude=0.0), "rope", "rope_scaling.amplitude is 0"),
            )
        ),
        ({"experts": ExpertConfig(shared_gate=True)}, "shared_gate needs a shared expert"),
        ({"experts": ExpertConfig(count=1, shared_width=8)}, "depth 0 is dense and has no shared"),
        (
            {
                "experts": ExpertConfig(dense_first=1, dense_width=8),
                "sharing": Sharing(experts="all"),
            },
            r"expert bank 0.*depths \[0\] are dense",
        ),
        (
            {
                "experts": ExpertConfig(count=(8,) * 4 + (16,) * 4),
                "sharing": Sharing(router="blocks(8)"),
            },
            "sharing.router: bank 0 serves depths with different expert counts",
        ),
        (
            {
                "experts": ExpertConfig(count=(8,) * 7 + (16,)),
                "sharing": Sharing(router="7 + 1", decision="6 + 1x2"),
            },
            "sharing.decision: bank 6 serves depths with different expert counts",
        ),
        (
            {
                "experts": ExpertConfig(count=(1,) + (8,) * 7),
                "sharing": Sharing(router="all", decision="all"),
            },
            "sharing.router: bank 0 begins at depth 0, which is dense",
        ),
        (
            {"sharing": Sharing(decision="blocks(4)")},
            "sharing.decision: bank 0.*name 4 routers.*set sharing.router to 'blocks",
        ),
        ({"sharing": Sharing(experts="2x3")}, "sharing.experts: plan '2x3' reaches depth 6"),
        ({"sharing": Sharing(collaboration="all")}, "there is no collaboration"),
        ({"router": RouterConfig(inner_width=4)}, "no meaning for a linear router"),
        ({"router": RouterConfig(gating="topk-softmax", renormalise=True)}, "sum to 1 already"),
        (
            {
                "router": RouterConfig(kind="low-rank"),
                "experts": ExpertConfig(count=(8,) * 7 + (16,)),
            },
            "low-rank router has one base",
        ),
        ({"balance": BalanceConfig(bias_rate=0.001)}, "set router.bias to True"),
        ({"balance": BalanceConfig(switch=-0.01)}, "balance.switch is -0.01"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"collaboration": replace(LEARNABLE, temperature=0.0)}, "temperature is 0.0"),
        ({"collaboration": CollaborationConfig(signed=True)}, "set row_normalise False"),
        ({"collaboration": replace(LEARNABLE, strength=0.0, routing_strength=0.0)}, "no effect"),
        ({"collaboration": CollaborationConfig(control="gate-scale")}, "has no topology"),
        (
            {
                "collaboration": CollaborationConfig(control="gate-scale", routing_strength=0.0),
                "sharing": Sharing(collaboration="all"),
            },
            "has no topology",
        ),
        (
            {
                "collaboration": replace(LEARNABLE, strength=0.0),
                "sharing": Sharing(router="all", decision="all"),
            },
            "acts only where a decision is made.*set sharing.collaboration to 'all'",
        ),
        ({"collaboration": LEARNABLE, "experts": ExpertConfig(count=1)}, "more than one expert"),
        ({"experts": ExpertConfig(expand=4)}, "ties no bank"),
        (
            {
                "experts": ExpertConfig(count=(8, 16), expand=2),
                "sharing": Sharing(experts="1x4 + 1x4"),
            },
            "multiplies one experts.count",
        ),
        ({"router": CHOOSING}, "balance.switch has no effect"),
        ({"router": replace(CHOOSING, renormalise=True), "balance": FREE}, "renormalise needs the"),
        ({"router": replace(CHOOSING, bias=True), "balance": FREE}, "router.bias needs the"),
        (
            {"router": CHOOSING, "balance": FREE, "collaboration": LEARNABLE},
            "collaboration needs the experts that a token chose",
        ),
        (
            {"router": CHOOSING, "balance": FREE, "experts": ExpertConfig(count=1)},
            "router.choice needs more than one expert",
        ),
    ],
)
def test_what_cannot_be_or_would_be_ignored_is_refused_by_name(changes, says):
    with pytest.raises(ValueError, match=says) as caught:
        replace(BASE, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MODEL_LIMITS)
def test_every_number_of_a_model_has_its_bounds(name):
    least, most = MODEL_LIMITS[name]
    for value, says in ((least - 1, "or more"), (most + 1, "at the most"), (10**5000, "at the")):
        data = to_dict(STRETCHED)
        *parts, last = name.split(".")
        place = data
        for part in parts:
            place = place[part]
        place[last] = [value] if isinstance(place[last], list) else value
        with pytest.raises(ValueError, match=f"{re.escape(name)} is .*{says}") as caught:
            from_dict(ModelConfig, data)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", TRAINING_LIMITS)
def test_every_number_of_a_run_has_its_bounds(name):
    least, most = TRAINING_LIMITS[name]
    for value, says in ((least - 1, "or more"), (most + 1, "at the most")):
        data = to_dict(TrainConfig(model=BASE))
        *parts, last = name.split(".")
        place = data
        for part in parts:
            place = place[part]
        place[last] = value
        if name == "schedule.decay" and value > most:
            place["name"] = "wsd"
        with pytest.raises(ValueError, match=f"{re.escape(name)}.*{says}"):
            from_dict(TrainConfig, data)


def test_no_whole_number_is_without_bounds():
    """A new option of a configuration needs a row in the table."""
    numbers = {
        ".".join(path)
        for path, _ in leaves(TrainConfig(model=BASE))
        if path[0] != "model" and "int" in str(hint_of(TrainConfig, path))
    }
    assert numbers == set(TRAINING_LIMITS)
    numbers = {
        ".".join(path) for path, _ in leaves(STRETCHED) if "int" in str(hint_of(ModelConfig, path))
    }
    assert numbers == set(MODEL_LIMITS)


def hint_of(cls, path):
    hint = typing.get_type_hints(cls)[path[0]]
    if len(path) > 1 and isinstance(hint, types.UnionType):
        hint = next(filter(dataclasses.is_dataclass, typing.get_args(hint)))
    return hint if len(path) == 1 else hint_of(hint, path[1:])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_every_other_number_is_finite(value):
    with pytest.raises(ValueError, match="norm_eps is"):
        replace(BASE, norm_eps=value)
    with pytest.raises(ValueError, match="rope_theta is"):
        replace(BASE, attention=AttentionConfig(rope_theta=value))
    with pytest.raises(ValueError, match="clip is"):
        TrainConfig(model=BASE, clip=value)
    with pytest.raises(ValueError, match="weight_decay is"):
        TrainConfig(model=BASE, optimizer=OptimizerConfig(weight_decay=value))
    with pytest.raises(ValueError, match="too large a number"):
        from_dict(ModelConfig, to_dict(BASE) | {"norm_eps": 10**400})


def test_a_model_is_no_larger_than_could_be_stored():
    with pytest.raises(ValueError, match=r"store up to 2\.2e\+21 numbers"):
        replace(BASE, depth=DEEPEST, width=2**20, experts=ExpertConfig(count=2**16, width=2**20))


def test_the_deepest_model_is_described_without_walking_over_depth_for_each_depth():
    """Its checks and counts look at each depth a few times: squared they would take minutes."""
    shared = Sharing(experts="(1x2 + 1)*3333 + 1", router="blocks(2)", decision="blocks(2)")
    deepest = replace(BASE, depth=DEEPEST, sharing=shared)
    assert len(deepest.deciding_depths) == DEEPEST // 2
    assert count(deepest).stored < count(deepest).total


@pytest.mark.parametrize(
    ("top_k", "options", "warns"),
    [
        (1, {}, True),
        (2, {}, True),
        (2, {"messages": "hidden"}, True),
        (3, {}, False),
        (2, {"row_normalise": False}, False),
        (2, {"self_loop": True}, False),
        (1, {"self_loop": True}, True),
        (2, {"strength": 0.0}, False),
        (2, {"control": "gate-scale", "routing_strength": 0.0}, False),
    ],
)
def test_a_topology_that_messages_cannot_teach_warns_once(top_k, options, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        replace(
            BASE,
            experts=ExpertConfig(top_k=top_k),
            collaboration=CollaborationConfig(**options),
        )
    assert len(caught) == warns
    if warns:
        assert f"top_k={top_k}" in str(caught[0].message)
        assert "S gets no gradient from messages" in str(caught[0].message)


def test_banks_may_differ_in_their_experts():
    config = replace(
        BASE,
        experts=ExpertConfig(count=(1, 8, 32, 8), dense_first=1, dense_width=64),
        sharing=Sharing(experts="1 + 1x2 + 1x4 + 1"),
    )
    assert [config.experts_at(depth) for depth in range(8)] == [1, 8, 8, 32, 32, 32, 32, 8]
    assert config.routed_depths == tuple(range(1, 8))


def test_only_banks_that_are_tied_expand():
    dense = {"dense_first": 2, "dense_width": 64}
    config = replace(
        BASE,
        experts=ExpertConfig(count=8, expand=4, **dense),
        sharing=Sharing(experts="1x2 + 1 + 1x4 + 1"),
    )
    assert [config.experts_at(depth) for depth in range(8)] == [1, 1, 8, 32, 32, 32, 32, 8]
    written = replace(config, experts=config.experts_by_bank)
    assert written.experts == ExpertConfig(count=(1, 8, 32, 8), **dense)
    assert count(written) == count(config)


def test_decisions_are_made_where_their_banks_begin():
    config = replace(BASE, sharing=Sharing(router="blocks(4)", decision="1x4 + 1x2 + 1x2"))
    assert config.deciding_depths == (0, 4, 6)
