"""Experts that choose their tokens, against a literal loop."""

from dataclasses import replace

import pytest
import torch
from tiny_model import BASE, shaken, tokens, whole_loss

from plait.config import BalanceConfig, RouterConfig
from plait.evaluation.routing_meter import RoutingMeter
from plait.kernels.moe import reference
from plait.model import KVCache
from plait.model.routing import choose_tokens

EXPERTS, TOP_K = 6, 3
CONFIG = replace(
    BASE, router=RouterConfig(choice="experts"), balance=BalanceConfig(switch=0.0, z=0.001)
)


def literal(logits_TE: torch.Tensor, sequences: int, top_k: int) -> dict[tuple[int, int], float]:
    """Gate of each (token, expert) pair: each expert of each sequence ranks its tokens."""
    gates = logits_TE.softmax(-1)
    tokens, experts = gates.shape
    length = tokens // sequences
    pairs = {}
    for first in range(0, tokens, length):
        for expert in range(experts):
            place = range(first, first + length)
            best = sorted(place, key=lambda t: -float(gates[t, expert]))
            for token in best[: max(1, length * top_k // experts)]:
                pairs[token, expert] = float(gates[token, expert])
    return pairs


@pytest.mark.parametrize(("sequences", "length", "top_k"), [(1, 12, 3), (4, 9, 2), (3, 1, 1)])
def test_each_expert_takes_its_best_tokens_of_each_sequence(sequences, length, top_k):
    generator = torch.Generator().manual_seed(length)
    logits = torch.randn(sequences * length, EXPERTS, generator=generator)
    routing = choose_tokens(logits, RouterConfig(choice="experts"), top_k, sequences)
    assert routing.tokens_N is not None
    rows = zip(routing.tokens_N, routing.expert_ids_TK, routing.weights_TK, strict=True)
    found = {(int(token), int(expert)): float(gate) for token, expert, gate in rows}
    assert found == pytest.approx(literal(logits, sequences, top_k))
    kept = choose_tokens(
        -logits, RouterConfig(choice="experts"), top_k, sequences, routing.tokens_N
    )
    assert torch.equal(kept.tokens_N, routing.tokens_N)


def test_the_layer_is_the_sum_over_the_pairs():
    model = shaken(CONFIG)
    bank = model.parts_at(0).experts
    h_TD = torch.randn(18, CONFIG.width)
    logits = torch.randn(18, EXPERTS)
    routing = choose_tokens(logits, CONFIG.router, TOP_K, sequences=2)
    y_TD = torch.zeros_like(h_TD)
    for (token, expert), gate in literal(logits, 2, TOP_K).items():
        one = torch.tensor([[expert]])
        whole = torch.ones(1, 1)
        x_TD = h_TD[token : token + 1]
        y_TD[token] += gate * reference.experts(x_TD, one, whole, bank.up, bank.down, "swiglu")[0]
    y = bank(h_TD, routing.expert_ids_TK, routing.weights_TK, routing.tokens_N)
    torch.testing.assert_close(y, y_TD)


def test_a_sequence_does_not_see_the_batch_beside_it():
    model = shaken(CONFIG).eval()
    batch = tokens(3, 12)
    together = model(batch).logits
    for row, alone in enumerate(batch):
        torch.testing.assert_close(model(alone[None]).logits[0], together[row])


def test_earlier_tokens_see_later_ones():
    """The fact that docs/methods.md states."""
    model = shaken(CONFIG).eval()
    batch = tokens(1, 12)
    changed = batch.clone()
    changed[0, -1] = (changed[0, -1] + 1) % CONFIG.vocab_size
    assert not torch.equal(model(batch).logits[0, :-1], model(changed).logits[0, :-1])


def test_recomputation_gives_the_same_gradients():
    batch = tokens(2, 13)
    gradients = []
    for checkpointing in (False, True):
        model = shaken(CONFIG)
        model.checkpointing = checkpointing
        whole_loss(model, batch).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert gradients[0][0].abs().sum() > 0
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)


def test_the_load_is_equal_and_padding_is_none():
    model = shaken(CONFIG).eval()
    out = model(tokens(2, 12), routings=True)
    meter = RoutingMeter(CONFIG, torch.device("cpu"))
    meter.add(out.routings)
    assert all(load == 1 for load in meter.load_max_over_mean())
    keep_T = torch.arange(24) < 12
    half = RoutingMeter(CONFIG, torch.device("cpu"))
    half.add(out.routings, keep_T)
    first = out.routings[0]
    own = [int(e) for t, e in zip(first.tokens_N, first.expert_ids_TK[:, 0], strict=True) if t < 12]
    _, load_E = half.loads()[0]
    assert load_E.tolist() == [own.count(expert) for expert in range(EXPERTS)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"cache": KVCache()}, "neither generates"),
        ({"mask_BS": torch.tensor([[True] * 8 + [False]])}, "padding"),
    ],
)
def test_what_needs_a_part_of_a_sequence_is_refused(arguments, says):
    model = shaken(CONFIG).eval()
    with pytest.raises(ValueError, match=says):
        model(tokens(1, 9), **arguments)
