"""Recomputation in the backward pass changes nothing, and never chooses experts anew."""

import pytest
import torch
from tiny_model import shaken, tiny, tokens, whole_loss

from plait.config import AttentionConfig, CollaborationConfig, ExpertConfig, RouterConfig
from plait.sharing import Sharing

VARIANTS = {
    "plain": {},
    "dropout": {"dropout": 0.3},
    "shared decision, collaboration": {
        "sharing": Sharing(router="2 + 1x2", decision="2 + 1x2", experts="2x2"),
        "collaboration": CollaborationConfig(),
    },
    "hidden messages": {"collaboration": CollaborationConfig(messages="hidden")},
    "recurrent": {"router": RouterConfig(kind="recurrent", inner_width=8)},
    "dense first, shared experts, looped lora": {
        "experts": ExpertConfig(
            count=6,
            width=12,
            top_k=3,
            dense_first=1,
            dense_width=20,
            shared_width=8,
            shared_gate=True,
        ),
        "attention": AttentionConfig(heads=4, lora_rank=2),
        "sharing": Sharing(attention="2x2"),
    },
}


def run(changes, checkpointing):
    model = shaken(tiny(**changes))
    model.checkpointing = checkpointing
    torch.manual_seed(0)
    loss = whole_loss(model, tokens())
    loss.backward()
    return loss, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_loss_and_gradients_are_the_same(changes):
    kept_loss, kept = run(changes, False)
    loss, gradients = run(changes, True)
    assert torch.equal(loss, kept_loss)
    torch.testing.assert_close(gradients, kept, rtol=1e-6, atol=1e-8)


def test_activations_are_really_recomputed():
    model = shaken(tiny())
    model.checkpointing = True
    passes = []
    model.experts["3"].register_forward_pre_hook(lambda *_: passes.append(1))
    loss = whole_loss(model, tokens())
    assert len(passes) == 1
    loss.backward()
    assert len(passes) == 2


def test_recomputation_keeps_the_choice_though_the_logits_come_out_otherwise():
    """The worst rounding there is: in the backward pass a router says the opposite.

    The gate of a single chosen expert is 1 whatever its logit, so nothing else may change.
    """
    router = RouterConfig(gating="topk-softmax")
    config = tiny(router=router, experts=ExpertConfig(count=6, width=12, top_k=1))
    gradients = []
    for checkpointing in (False, True):
        model = shaken(config)
        model.checkpointing = checkpointing
        passes = []

        def opposite_when_recomputed(_module, _inputs, output, passes=passes):
            passes.append(1)
            return output if len(passes) == 1 else (-output[0], output[1])

        model.router["1"].register_forward_hook(opposite_when_recomputed)
        model(tokens(), tokens(seed=1)).loss.backward()
        assert len(passes) == 1 + checkpointing
        gradients.append({n: p.grad for n, p in model.named_parameters() if "router" not in n})
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-6, atol=1e-8)
