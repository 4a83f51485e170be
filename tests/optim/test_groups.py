import pytest
import torch

from plait.config import OptimizerConfig
from plait.model.parameters import OwnedParameter
from plait.optim.groups import build_optimizers, move
from plait.optim.muon import Muon


def owned(role, *shape, uses=1, stacked=1):
    parameter = torch.nn.Parameter(torch.zeros(shape))
    return OwnedParameter(f"{role}.{uses}", parameter, role, uses, stacked)


def settings(optimizers, one):
    """Optimizer, rate, decay and stacking that one parameter got; each parameter is met once."""
    [found] = [
        (type(optimizer), group["lr"], group["weight_decay"], group.get("stacked", 1))
        for optimizer in optimizers
        for group in optimizer.param_groups
        if any(parameter is one.parameter for parameter in group["params"])
    ]
    return found


PARTS = {
    "tied": owned("expert", 4, 6, 8, uses=4, stacked=2),
    "own": owned("expert", 4, 6, 8, stacked=2),
    "down": owned("expert", 4, 8, 3, uses=4),
    "router": owned("router", 4, 8, uses=4),
    "temperature": owned("router", 1),
    "attention": owned("matrix", 8, 8, uses=4),
    "bias": owned("bias", 8),
    "norm": owned("norm", 8),
    "topology": owned("topology", 4, 4),
    "embedding": owned("embedding", 30, 8),
}


def test_muon_takes_matrices_and_experts_and_adamw_the_rest():
    config = OptimizerConfig(name="muon", learning_rate=0.02, tied_divisor="sqrt")
    optimizers = build_optimizers(list(PARTS.values()), config)
    found = {name: settings(optimizers, one) for name, one in PARTS.items()}
    adamw = torch.optim.AdamW
    assert found == {
        "tied": (Muon, 0.01, 0.1, 2),
        "own": (Muon, 0.02, 0.1, 2),
        "down": (Muon, 0.01, 0.1, 1),
        "router": (adamw, pytest.approx(0.002), 0.1, 1),
        "temperature": (adamw, pytest.approx(0.002), 0, 1),
        "attention": (Muon, 0.02, 0.1, 1),
        "bias": (adamw, pytest.approx(0.002), 0, 1),
        "norm": (adamw, pytest.approx(0.002), 0, 1),
        "topology": (adamw, pytest.approx(0.2), 0, 1),
        "embedding": (adamw, pytest.approx(0.002), 0.1, 1),
    }


def test_a_number_divides_tied_banks_whatever_their_uses_and_adamw_may_have_its_own_decay():
    config = OptimizerConfig(name="muon", learning_rate=0.02, tied_divisor=1.6, adamw_decay=0.0)
    optimizers = build_optimizers(list(PARTS.values()), config)
    found = {name: settings(optimizers, one) for name, one in PARTS.items()}
    assert found["tied"][1] == found["down"][1] == pytest.approx(0.0125)
    assert found["own"][1] == found["attention"][1] == 0.02
    decays = {name: decay for name, (_, _, decay, _) in found.items() if decay}
    assert decays == dict.fromkeys(("tied", "own", "down", "attention"), 0.1)


def test_adamw_runs_divide_only_the_chosen_roles():
    config = OptimizerConfig(
        learning_rate=0.01, tied_divisor="linear", tied_roles=("expert", "router")
    )
    optimizers = build_optimizers(list(PARTS.values()), config)
    assert len(optimizers) == 1
    rates = {name: settings(optimizers, one)[1] for name, one in PARTS.items()}
    assert rates["tied"] == rates["router"] == 0.0025
    assert rates["own"] == rates["attention"] == rates["temperature"] == 0.01
    assert rates["topology"] == 1.0


@pytest.mark.parametrize(("name", "rate"), [("adamw", 0.02), ("muon", 0.002)])
def test_embeddings_and_head_may_be_faster_than_the_rest_of_adamw(name, rate):
    config = OptimizerConfig(name=name, learning_rate=0.02, embedding_factor=5.0)
    parts = PARTS | {"head": owned("head", 30, 8)}
    optimizers = build_optimizers(list(parts.values()), config)
    for part in ("embedding", "head"):
        assert settings(optimizers, parts[part])[1] == pytest.approx(5 * rate)
    assert settings(optimizers, parts["router"])[1] == pytest.approx(rate)


def test_the_schedule_multiplies_the_peaks_and_not_the_last_rates():
    optimizers = build_optimizers(list(PARTS.values()), OptimizerConfig(learning_rate=0.01))
    move(optimizers, 0.1)
    move(optimizers, 0.5)
    assert settings(optimizers, PARTS["own"])[1] == 0.005


def test_settings_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match=r"optimizer\.momentum has no meaning for adamw"):
        OptimizerConfig(momentum=0.9)
