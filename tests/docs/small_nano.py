"""The recipe `nano` at toy size, under its own names: for the notebooks of `examples/`."""

from dataclasses import replace

import toys

from plait.config import ModelConfig, TrainConfig


def model() -> ModelConfig:
    return toys.small_run().model


def training(model: ModelConfig, tokens: int) -> TrainConfig:
    """Two steps, however many tokens the notebook asks for."""
    return replace(toys.small_run(), model=model)
