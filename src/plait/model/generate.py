"""Text from the model: one token after another, with a key/value cache."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from plait.model.decoding import Decoder
from plait.model.language_model import LanguageModel


@torch.inference_mode()
def generate(
    model: LanguageModel,
    prompt: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    end_of_text: int | None = None,
) -> Iterator[int]:
    """Yield up to `max_new_tokens` token ids that continue the prompt.

    Args:
        model: in eval mode.
        prompt: at least one token id.
        max_new_tokens: how many at the most.
        temperature: divides the logits; 0 takes the most probable token each time.
        top_k: sample among this many most probable tokens; None: among all.
        seed: of the sampling.
        end_of_text: stop at this token.

    Raises:
        ValueError: the prompt is empty, or a setting is out of range.
    """
    if not prompt:
        raise ValueError("the prompt is empty: give at least one character")
    if not 0 <= temperature < math.inf or (top_k is not None and top_k < 1):
        raise ValueError("temperature must be a number from 0 on, and top_k 1 or more")
    device = model.embedding.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    decoder, tokens = Decoder(model), prompt
    for _ in range(max_new_tokens):
        logits_V = decoder.logits_after(tokens).float()
        token = _sample(logits_V, temperature, top_k, generator)
        if token == end_of_text:
            return
        yield token
        tokens = [token]


def _sample(
    logits_V: Tensor, temperature: float, top_k: int | None, generator: torch.Generator
) -> int:
    if temperature == 0:
        return int(logits_V.max(-1).indices)  # argmax takes more than twice as long
    if top_k is not None and top_k < len(logits_V):
        logits_V = logits_V.masked_fill(logits_V < logits_V.topk(top_k).values[-1], -torch.inf)
    probabilities = (logits_V / temperature).softmax(-1)
    return int(torch.multinomial(probabilities, 1, generator=generator))
