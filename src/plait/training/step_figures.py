"""What a step found out, on its way from the device to the host."""

from dataclasses import dataclass

import torch
from torch import Tensor

from plait.config import ModelConfig
from plait.evaluation.routing_meter import RoutingMeter


def steps_ahead(device: torch.device) -> int:
    """Return how many steps a device may be given before the figures of the first are read."""
    return 0 if device.type == "cpu" else 1


@dataclass(frozen=True)
class Found:
    """The figures of one step on the host, of all processes together."""

    loss: float
    balance_loss: float
    z_loss: float
    gradient_norm: float
    meter: RoutingMeter
    topology: Tensor
    """as `facts.topology` gives it"""


class StepFigures:
    """The figures of a step that was begun; `read` waits until the device has done it.

    Args:
        step: its number.
        tokens: that all steps up to it have seen.
        factor: on the learning rate.
        started: when it was begun, by `time.perf_counter`.
        sums: loss, balance loss, z-loss, gradient norm, and the meter's sums, as float64.
        topology: of the model after the step.
    """

    def __init__(
        self,
        step: int,
        tokens: int,
        factor: float,
        started: float,
        sums: Tensor,
        topology: Tensor,
    ) -> None:
        self.step, self.tokens, self.factor, self.started = step, tokens, factor, started
        self._sizes = [4, len(sums) - 4, len(topology)]
        self._figures = torch.cat((sums, topology)).to("cpu", non_blocking=True)
        self._copied: torch.Event | None = None
        if not sums.is_cpu:
            self._copied = torch.Event(sums.device)
            self._copied.record()

    def read(self, config: ModelConfig) -> Found:
        """Wait for the device, and return what it found."""
        if self._copied is not None:
            self._copied.synchronize()
        losses, counted, topology = torch.split(self._figures, self._sizes)
        meter = RoutingMeter(config, counted.device)
        meter.sums = counted
        loss, balance_loss, z_loss, gradient_norm = losses.tolist()
        return Found(loss, balance_loss, z_loss, gradient_norm, meter, topology)
