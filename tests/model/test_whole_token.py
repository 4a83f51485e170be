"""A token in one operation: what it gives is what the model's own forward gives."""

from dataclasses import replace

import pytest
import torch
from test_generate import STRUCTURES as OTHERS
from test_generate import WIDE
from tiny_model import shaken

from plait.config import AttentionConfig, ExpertConfig, RouterConfig
from plait.kernels.native.build import load
from plait.model import LanguageModel
from plait.model.decoding import Decoder
from plait.model.generate import generate
from plait.sharing import Sharing

pytestmark = pytest.mark.skipif(load() is not None, reason="the C++ kernels cannot run here")

LENGTH = 75
"""tokens, more than a cache has room for at first"""
COVERED = {
    "plain": {},
    "own head, norm per head": {
        "tied_head": False,
        "attention": AttentionConfig(heads=4, kv_heads=2, head_width=32, qk_norm="head"),
    },
    "no norm of queries, renormalised": {
        "attention": AttentionConfig(heads=2, rope_theta=500.0),
        "router": RouterConfig(renormalise=True),
    },
    "top-k before softmax": {"router": RouterConfig(gating="topk-softmax")},
    "sigmoid with a bias": {
        "router": RouterConfig(gating="sigmoid", bias=True, renormalise=True, scale=1.5),
    },
    "fixed router, gelu, dense first": {
        "router": RouterConfig(kind="random-fixed"),
        "experts": ExpertConfig(
            count=6, width=32, top_k=2, activation="gelu", dense_first=1, dense_width=48
        ),
    },
    "all shared": {
        "sharing": Sharing(attention="all", router="blocks(2)", experts="groups(2)", norms="all")
    },
    "one expert of each bank": {"experts": ExpertConfig(count=1, width=32, top_k=1)},
}
NOT_COVERED = {
    **{
        name: OTHERS[name]
        for name in OTHERS
        if name not in ("plain", "shared routers, tied banks, one norm")
    },
    "norms behind": {"norm_place": "after"},
    "scaled branches": {"residual_scale": 0.5},
    "groups of experts": {"router": RouterConfig(groups=2, top_groups=2)},
    "an odd vocabulary": {"vocab_size": 61},
    "narrow heads": {"attention": AttentionConfig(heads=4)},
}


def text(vocabulary: int = 64) -> list[int]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(vocabulary, (LENGTH,), generator=generator).tolist()


def model_of(changes) -> LanguageModel:
    model = shaken(replace(WIDE, **changes)).eval()
    for bias_E in model.load_biases().values():
        bias_E.copy_(torch.linspace(-0.2, 0.2, len(bias_E)))
    return model


def read(decoder: Decoder, tokens: list[int], prompt: int = 4) -> torch.Tensor:
    """The logits after the prompt and after each further token."""
    found = [decoder.logits_after(tokens[:prompt])]
    found += [decoder.logits_after([token]).clone() for token in tokens[prompt:]]
    return torch.stack(found)


@torch.inference_mode()
@pytest.mark.parametrize("changes", COVERED.values(), ids=COVERED)
def test_it_equals_the_whole_forward_in_plain_operations(changes, monkeypatch):
    model, tokens = model_of(changes), text()
    decoder = Decoder(model)
    assert decoder.stack is not None
    got = read(decoder, tokens)
    monkeypatch.setenv("PLAIT_KERNEL", "reference")
    want = model(torch.tensor([tokens])).logits[0, 3:]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)


@torch.inference_mode()
@pytest.mark.parametrize("changes", NOT_COVERED.values(), ids=NOT_COVERED)
def test_other_structures_are_read_by_the_model_itself(changes):
    assert Decoder(model_of(changes)).stack is None


def in_operations(model: LanguageModel) -> Decoder:
    """Reads by the model's forward."""
    decoder = Decoder(model)
    decoder.stack = None
    return decoder


@torch.inference_mode()
def test_in_bfloat16_it_is_nearer_to_exact_than_operations_are():
    model, exact = model_of({}).to(torch.bfloat16), model_of({})
    exact.load_state_dict(model.state_dict())  # its weights are rounded, nothing else is
    decoder = Decoder(model)
    assert decoder.stack is not None
    got, others, want = (
        read(d, text(), prompt=1)[1:] for d in (decoder, in_operations(model), Decoder(exact))
    )
    assert got.dtype == torch.float32
    assert (got - want).norm() < (others.float() - want).norm() < 0.1 * want.norm()


@torch.inference_mode()
def test_the_number_of_threads_changes_no_bit():
    model, threads = model_of({}), torch.get_num_threads()
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(read(Decoder(model), text()))
    torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@torch.inference_mode()
def test_weights_that_change_meanwhile_count():
    model = model_of({})
    decoders = Decoder(model), in_operations(model), Decoder(model)
    before = [read(decoder, text()[:6])[-1] for decoder in decoders]
    unchanged = decoders[2].logits_after([7])
    model.load_state_dict(shaken(WIDE, seed=1).state_dict())
    got, want, _ = (decoder.logits_after([7]) for decoder in decoders)
    torch.testing.assert_close(before[0], before[1], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)
    assert not torch.allclose(got, unchanged, rtol=1e-2)


@torch.inference_mode()
def test_what_looks_at_a_forward_gets_one(monkeypatch):
    model = model_of({})
    assert Decoder(model).stack is not None
    assert Decoder(model_of({}).train()).stack is None
    assert Decoder(model.double()).stack is None
    model.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert Decoder(model).stack is None
    seen = []
    hook = model.final_norm.register_forward_hook(lambda *_: seen.append(1))
    assert len(list(generate(model, [1, 2], max_new_tokens=5))) == len(seen) == 5
    hook.remove()
    monkeypatch.setenv("PLAIT_KERNEL", "reference")
    assert Decoder(model).stack is None


@torch.inference_mode()
def test_a_token_of_no_vocabulary_is_refused():
    decoder = Decoder(model_of({}))
    decoder.logits_after([1, 2])
    for token in (64, -1):
        with pytest.raises(IndexError, match="token"):
            decoder.logits_after([token])


def test_greedy_text_is_that_of_transformers():
    pytest.importorskip("transformers")
    from plait.bench.contestants import their_model
    from plait.bench.shapes import SHAPES

    shape, prompt = SHAPES["tiny"], [3, 1, 4, 1, 5]
    mine, theirs = LanguageModel(shape.config()).eval(), their_model(shape).eval()
    assert Decoder(mine).stack is not None
    ids = torch.tensor([prompt])
    want = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=80,
        min_new_tokens=80,
        do_sample=False,
        pad_token_id=0,
    )
    assert list(generate(mine, prompt, max_new_tokens=80, temperature=0)) == want[0, 5:].tolist()
