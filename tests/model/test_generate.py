"""Generation: the cached walk says what the whole forward says."""

import pytest
import torch
from tiny_model import BASE, shaken

from plait.model.generate import generate

PROMPT = [3, 1, 4, 1, 5]


def test_greedy_text_is_the_uncached_models():
    model = shaken(BASE).eval()
    expected = list(PROMPT)
    for _ in range(12):
        logits = model(torch.tensor([expected])).logits
        expected.append(int(logits[0, -1].argmax()))
    found = list(generate(model, PROMPT, max_new_tokens=12, temperature=0))
    assert found == expected[5:]
    assert list(generate(model, PROMPT, max_new_tokens=12, top_k=1)) == found
    end = found[4]
    stopped = list(generate(model, PROMPT, max_new_tokens=12, temperature=0, end_of_text=end))
    assert stopped == found[: found.index(end)]


def test_samples_follow_the_probabilities_and_the_seed():
    model = shaken(BASE).eval()
    probabilities = model(torch.tensor([PROMPT])).logits[0, -1].softmax(-1)
    drawn = [next(generate(model, PROMPT, max_new_tokens=1, seed=seed)) for seed in range(300)]
    best = int(probabilities.argmax())
    assert drawn.count(best) / 300 == pytest.approx(probabilities[best].item(), abs=0.12)
    few = {next(generate(model, PROMPT, max_new_tokens=1, seed=s, top_k=3)) for s in range(60)}
    assert few <= set(probabilities.topk(3).indices.tolist())
    once, again = (list(generate(model, PROMPT, max_new_tokens=9, seed=4)) for _ in range(2))
    assert once == again


def test_what_cannot_be_generated_is_refused():
    model = shaken(BASE)
    for prompt, options in (([], {}), (PROMPT, {"temperature": -1.0}), (PROMPT, {"top_k": 0})):
        with pytest.raises(ValueError, match=r"empty|temperature"):
            next(generate(model, prompt, max_new_tokens=1, **options))
