"""Who owns which parameter, in which role, and how it begins."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import BASE, shaken, tiny, tokens

from plait.config import AttentionConfig, CollaborationConfig, ExpertConfig, RouterConfig
from plait.model import LanguageModel
from plait.sharing import Sharing

EVERYTHING = tiny(
    depth=5,
    norm="layer",
    tied_head=False,
    attention=AttentionConfig(
        heads=4, position="learned", qk_norm="head", qkv_bias=True, lora_rank=2
    ),
    experts=ExpertConfig(
        count=6, width=12, dense_first=1, dense_width=20, shared_width=8, shared_gate=True, top_k=3
    ),
    router=RouterConfig(kind="recurrent", bias=True),
    collaboration=CollaborationConfig(),
    sharing=Sharing(
        experts="1 + 2x2",
        router="2 + 1x2 + 1",
        decision="2 + 1x2 + 1",
        attention="all",
        norms="1x2 + 1x3",
        collaboration="1 + 1x4",
    ),
)


def owned(model):
    return {entry.name: entry for entry in model.parameters_by_role()}


def test_every_parameter_is_owned_once_in_the_order_of_the_model():
    model = LanguageModel(EVERYTHING)
    entries = model.parameters_by_role()
    named = list(model.named_parameters(remove_duplicate=False))
    assert sorted(entry.name for entry in entries) == sorted(name for name, _ in named)
    assert all(entry.parameter is dict(named)[entry.name] for entry in entries)
    assert len({id(parameter) for _, parameter in named}) == len(named)


@pytest.mark.parametrize(
    ("name", "role", "uses", "stacked"),
    [
        ("embedding.weight", "embedding", 1, 1),
        ("position_embedding.weight", "embedding", 1, 1),
        ("head.weight", "head", 1, 1),
        ("final_norm.bias", "norm", 1, 1),
        ("attention.0.q_proj.weight", "matrix", 5, 1),
        ("attention.0.q_proj.bias", "bias", 5, 1),
        ("attention.0.q_norm.weight", "norm", 5, 1),
        ("lora.3.query.up", "matrix", 1, 1),
        ("attention_norm.0.weight", "norm", 2, 1),
        ("expert_norm.1.bias", "norm", 3, 1),
        ("experts.0.up", "matrix", 1, 2),
        ("experts.1.up", "expert", 2, 2),
        ("experts.2.down", "expert", 2, 1),
        ("experts.2.shared.up", "matrix", 2, 2),
        ("experts.2.shared_gate.weight", "router", 2, 1),
        ("router.1.weight", "router", 1, 1),
        ("router.2.weight", "router", 1, 1),  # two depths, but one decision
        ("router_common.weight_hh", "router", 3, 1),
        ("collaboration.1.raw", "topology", 4, 1),
    ],
)
def test_roles_uses_and_stacks(name, role, uses, stacked):
    entry = owned(LanguageModel(EVERYTHING))[name]
    assert (entry.role, entry.uses, entry.stacked) == (role, uses, stacked)


def test_uses_are_how_often_a_forward_passes_the_bank():
    model = shaken(EVERYTHING)
    passes = dict.fromkeys(owned(model), 0)
    for path, module in model.named_modules():
        names = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if names:

            def count(*_, names=names):
                for name in names:
                    passes[name] += 1

            module.register_forward_hook(count)
    model(tokens())
    assert {name for name, times in passes.items() if times != owned(model)[name].uses} == {
        "head.weight"  # applied as a function, since it may be the embedding
    }


def test_what_two_variants_have_in_common_begins_equal():
    plain, shared = (
        LanguageModel(tiny(sharing=sharing), seed=7)
        for sharing in (Sharing(), Sharing(experts="2x2", router="all", attention="2 + 1x2"))
    )
    torch.manual_seed(1)
    again, other = LanguageModel(BASE, seed=7), LanguageModel(BASE, seed=8)
    state = plain.state_dict()
    assert shared.state_dict().keys() < state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in shared.state_dict().items())
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert not torch.equal(other.state_dict()["router.0.weight"], state["router.0.weight"])
    assert not torch.equal(state["router.1.weight"], state["router.0.weight"])


@pytest.mark.parametrize("depth", [2, 6])
def test_depth_scaled_xavier_is_uniform_within_its_bound(depth):
    """Each expert's matrix by itself, and gate and up apart: fan-in and fan-out are theirs."""
    width, inner = 64, 48
    model = LanguageModel(
        tiny(
            depth=depth,
            width=width,
            vocab_size=4000,
            experts=ExpertConfig(count=6, width=inner),
            init="xavier-depth",
        )
    )
    fans = {
        "experts.1.up": (width, inner),
        "experts.1.down": (inner, width),
        "attention.0.k_proj.weight": (width, width // 2),
        "router.0.weight": (width, 6),
    }
    state = model.state_dict()
    for name, (fan_in, fan_out) in fans.items():
        bound = math.sqrt(6 / (fan_in + fan_out)) / math.sqrt(3 * depth)
        assert 0.98 * bound < state[name].abs().max() <= bound * (1 + 1e-6), name
        assert state[name].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert abs(state[name].mean()) < 0.1 * bound
    assert state["embedding.weight"].std().item() == pytest.approx(0.3, rel=0.02)
    assert (state["final_norm.weight"] == 1).all()


@pytest.mark.parametrize("tied_head", [True, False])
def test_one_name_per_stored_parameter(tmp_path, tied_head):
    """Safetensors refuses shared memory: that it saves shows that nothing is aliased."""
    sharing = Sharing(
        experts="2x2", router="all", attention="all", norms="all", collaboration="all"
    )
    config = tiny(sharing=sharing, tied_head=tied_head, collaboration=CollaborationConfig())
    model = shaken(config)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    loaded = load_file(tmp_path / "model.safetensors")
    assert ("head.weight" in loaded) is not tied_head
    twin = LanguageModel(config, seed=1)
    twin.load_state_dict(loaded)
    assert torch.equal(twin(tokens()).logits, model(tokens()).logits)


def test_a_model_on_the_meta_device_allocates_nothing():
    with torch.device("meta"):
        model = LanguageModel(EVERYTHING)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
