"""Counts by arithmetic equal what is really built, and the papers' published sizes."""

from dataclasses import replace

import pytest
import torch

from plait.config import AttentionConfig, BalanceConfig, CollaborationConfig, RouterConfig
from plait.config.counts import count
from plait.model import LanguageModel
from plait.recipes import architectures, ct_moe, expert_tying, nano, pathmoe
from plait.sharing import Sharing

SHARINGS = (
    Sharing(),
    Sharing(router="blocks(3)", collaboration="all"),
    Sharing(
        experts="groups(4, skip=2)",
        router="blocks(4)",
        decision="blocks(4)",
        attention="2x4",
        norms="all",
    ),
)


@pytest.mark.parametrize("kind", ["linear", "cosine", "random-fixed", "recurrent", "low-rank"])
@pytest.mark.parametrize("sharing", SHARINGS, ids=lambda s: s.router)
@pytest.mark.parametrize("scope", ["layer", "bank"])
def test_stored_equals_the_built_models_elements(kind, sharing, scope):
    config = replace(
        nano.model(),
        router=RouterConfig(kind=kind, bias=True),
        sharing=sharing,
        balance=BalanceConfig(scope=scope),
        collaboration=CollaborationConfig(),
        attention=AttentionConfig(
            heads=4, kv_heads=2, qk_norm="width", lora_rank=4 if sharing.attention != "own" else 0
        ),
    )
    assert count(config).stored == _elements(config)


@pytest.mark.parametrize(
    "recipe",
    [
        architectures.olmoe,
        architectures.qwen3_moe,
        architectures.deepseek_moe,
        ct_moe.model,
        pathmoe.model_900m,
        pathmoe.model_16b,
        expert_tying.looped_32,
        nano.dense_model,
    ],
)
@pytest.mark.filterwarnings("ignore:collaboration with row-normalised")
def test_recipes_build_to_their_counts(recipe):
    config = recipe()
    assert count(config).stored == _elements(config)
    unshared = replace(config, sharing=Sharing())
    assert count(config).total == count(unshared).stored


def test_interleaved_dense_layers_and_all_biases_are_counted():
    config = replace(
        nano.model(),
        experts=replace(nano.model().experts, dense_first=1, dense_at=(3, 6), dense_width=80),
        attention=replace(nano.model().attention, qkv_bias=True, output_bias=True),
        norm_place="after",
    )
    assert [d for d in range(8) if config.experts_at(d) == 1] == [0, 3, 6]
    assert count(config).stored == _elements(config)


def _elements(config):
    with torch.device("meta"):
        model = LanguageModel(config)
    return sum(tensor.numel() for tensor in model.state_dict().values())


@pytest.mark.parametrize(
    ("group", "billions"), [("own", 7.12), ("groups(2, skip=2)", 4.71), ("groups(4, skip=2)", 3.50)]
)
def test_olmoe_tied_as_in_expert_tying(group, billions):
    config = replace(architectures.olmoe(), sharing=Sharing(experts=group))
    assert count(config).stored / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.filterwarnings("ignore:collaboration with row-normalised")
def test_published_sizes():
    assert count(ct_moe.model()).stored / 1e6 == pytest.approx(65.01, rel=0.01)
    assert count(pathmoe.model_16b()).total / 1e9 == pytest.approx(16.2, rel=0.01)
    assert count(pathmoe.model_16b()).active / 1e9 == pytest.approx(2.13, rel=0.01)
    assert count(pathmoe.model_900m()).stored / 1e9 == pytest.approx(0.88, rel=0.01)
    assert count(pathmoe.model_900m()).active / 1e9 == pytest.approx(0.37, rel=0.01)
