"""Rotary positions (RoPE, arXiv 2104.09864), and their stretching for longer contexts."""

import math

import torch
from torch import Tensor

from plait.config import AttentionConfig, RopeScaling


def rotary(
    positions_BS: Tensor, head_width: int, attention: AttentionConfig
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (B, S, head_width), the two halves equal."""
    steps = torch.arange(0, head_width, 2, device=positions_BS.device, dtype=torch.float32)
    frequencies = attention.rope_theta ** (-steps / head_width)
    amplitude = 1.0
    if attention.rope_scaling is not None:
        frequencies = stretched(frequencies, attention.rope_theta, attention.rope_scaling)
        amplitude = _amplitude(attention.rope_scaling)
    angles = positions_BS[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * amplitude, angles.sin() * amplitude


def stretched(frequencies: Tensor, theta: float, scaling: RopeScaling) -> Tensor:
    """Divide frequencies, in radians per token, by the factor: all of them, or those that are slow.

    Between slow and fast lies a ramp: over the dimensions (YaRN, 2309.00071 eq. 23), or over the
    turns that a frequency makes in the original context (Llama 3, as in transformers).
    """
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    assert scaling.original_context is not None
    if scaling.kind == "llama3":
        turns = scaling.original_context * frequencies / (2 * math.pi)
        kept = (turns - scaling.slow) / (scaling.fast - scaling.slow)
    else:
        pairs = len(frequencies)
        first, last = (
            pairs * math.log(scaling.original_context / (turns * 2 * math.pi)) / math.log(theta)
            for turns in (scaling.fast, scaling.slow)
        )
        if scaling.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * pairs - 1)
        pair = torch.arange(pairs, device=frequencies.device, dtype=torch.float32)
        kept = 1 - (pair - first) / (last - first or 0.001)
    kept = kept.clamp(0, 1)
    return frequencies / scaling.factor * (1 - kept) + frequencies * kept


def _amplitude(scaling: RopeScaling) -> float:
    if scaling.kind != "yarn":
        return 1.0
    return 0.1 * math.log(scaling.factor) + 1 if scaling.amplitude is None else scaling.amplitude
