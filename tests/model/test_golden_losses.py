"""Losses of five small trainings, kept: a refactor that moves them is a bug.

After a change that is meant to move them, write them anew and say why in the commit:
`python tests/model/test_golden_losses.py`.
"""

import json
from pathlib import Path

import pytest
import torch
from tiny_model import tiny, whole_loss

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
)
from plait.model import LanguageModel
from plait.model.balance import load, update_bias
from plait.sharing import Sharing

GOLDEN = Path(__file__).with_name("golden.json")
MODELS: dict[str, ModelConfig] = {
    "olmoe": tiny(  # widths that compiled kernels take
        width=32,
        attention=AttentionConfig(heads=2, head_width=32, qk_norm="width", clip_qkv=3.0),
        experts=ExpertConfig(count=6, width=32, top_k=3),
    ),
    "everything shared": tiny(
        depth=6,
        experts=ExpertConfig(count=8, width=12, top_k=3),
        sharing=Sharing(
            experts="groups(2, skip=1)", router="blocks(3)", decision="blocks(3)", norms="2x3"
        ),
        collaboration=CollaborationConfig(),
        balance=BalanceConfig(switch=0.1, z=0.01, scope="bank"),
        router=RouterConfig(renormalise=True),
    ),
    "ct-moe": tiny(
        attention=AttentionConfig(heads=4, position="learned"),
        experts=ExpertConfig(count=6, width=12, top_k=3, activation="gelu"),
        norm="layer",
        collaboration=CollaborationConfig(messages="hidden", row_normalise=False),
    ),
    "deepseek": tiny(
        attention=AttentionConfig(heads=4, kv_heads=2, qk_norm="head"),
        experts=ExpertConfig(
            count=8, width=12, top_k=2, dense_first=1, dense_width=24, shared_width=10
        ),
        router=RouterConfig(gating="sigmoid", renormalise=True, scale=1.5, bias=True),
        balance=BalanceConfig(switch=0.0, bias_rate=0.05),
        tied_head=False,
    ),
    "looped": tiny(
        sharing=Sharing(experts="2x2", attention="2x2"),
        attention=AttentionConfig(heads=4, kv_heads=2, lora_rank=2),
        router=RouterConfig(kind="recurrent", gating="topk-softmax", inner_width=8),
        init="xavier-depth",
    ),
}


def train(config: ModelConfig, steps: int = 5) -> list[float]:
    """Losses before each of `steps` steps of SGD with momentum, in fp32."""
    model = LanguageModel(config, seed=3)
    batch = torch.randint(config.vocab_size, (4, 17), generator=torch.Generator().manual_seed(5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = whole_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if config.balance.bias_rate:
            with torch.no_grad():
                routings = model(batch[:, :-1], routings=True).routings
            loads = [(depth, load(routing)) for depth, routing in enumerate(routings) if routing]
            update_bias(config, model.load_biases(), loads)
    return losses


@pytest.mark.parametrize("name", MODELS)
def test_losses_are_what_they_were(name):
    expected = json.loads(GOLDEN.read_text())[name]
    losses = train(MODELS[name])
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < 0.9 * losses[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    written = {name: train(config) for name, config in MODELS.items()}
    GOLDEN.write_text(json.dumps(written, indent=1) + "\n")
