"""One optimizer step: forward, backward, balance, update. It asks the device for no value.

Whether a step is taken is decided where its loss and gradient are, so that a GPU can be given the
next one before the host knows what this one found.
"""

import time

import torch
from torch import Tensor

from plait.evaluation.routing_meter import RoutingMeter
from plait.kernels.precision import autocast
from plait.model.balance import BalanceLosses, balance_losses, update_bias
from plait.optim import schedules
from plait.optim.clipping import clip_
from plait.optim.groups import move
from plait.parallel import World, local, reduce_gradients, squared_norm
from plait.training.facts import topology
from plait.training.state import TrainState
from plait.training.step_figures import StepFigures


def begin_step(state: TrainState) -> StepFigures:
    """Give the device one optimizer step; where loss or gradient is not finite, nothing changes.

    All that is summed over processes is summed at once, between the last backward and the update.
    """
    config, counters, world = state.config, state.counters, state.world
    started = time.perf_counter()
    state.model.train()
    meter = RoutingMeter(config.model, world.device)
    losses = torch.zeros(3, device=world.device)
    for micro_step in range(state.accumulation):
        reduce_gradients(state.model, now=micro_step == state.accumulation - 1)
        losses += forward_and_backward(state, meter)
    gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
    losses = (losses / state.accumulation).double() / world.size
    sums = world.sum(torch.cat((losses, squared_norm(gradients)[None], meter.sums)))
    loss, gradient_norm, meter.sums = sums[0], sums[3].sqrt_(), sums[4:]
    taken = (loss.isfinite() & gradient_norm.isfinite()).float()

    counters.step += 1
    counters.tokens += config.tokens_per_step
    # Taken in the middle of the step, so that neither the first nor the last has a rate of 0.
    middle = counters.tokens - config.tokens_per_step // 2
    factor = schedules.factor(config.schedule, middle, config.steps * config.tokens_per_step)
    if config.clip is not None:
        clip_([local(one) for one in gradients], gradient_norm, config.clip)
    move(state.optimizers, factor, left_out=1 - taken)
    if config.model.balance.bias_rate:
        # a step that is left out loads no expert, and without load no bias moves
        loads = ((depth, load_E * taken) for depth, load_E in meter.loads())
        update_bias(config.model, state.model.load_biases(), loads)
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
    place = counters.step, counters.tokens
    return StepFigures(*place, factor, started, sums, topology(state.model))


def forward_and_backward(state: TrainState, meter: RoutingMeter) -> Tensor:
    """Add one micro-batch's gradients; return its (loss, balance loss, z-loss)."""
    config, world = state.config, state.world
    tokens_BS, targets_BS = (_sent(part, world) for part in next(state.batches))
    with autocast(world.device.type, config.precision):
        out = state.model(tokens_BS, targets_BS, routings=True)
    loss = out.loss
    balance = config.model.balance
    with torch.set_grad_enabled(bool(balance.switch or balance.z)):
        # without micro-batches the whole batch is one group, however many processes share it
        pool = world.sum if config.data.micro_batch is None else None
        losses = balance_losses(config.model, out.routings, pool=pool)
    if losses is None:
        losses = BalanceLosses(loss.new_zeros(()), loss.new_zeros(()))
    (loss + losses.weighted(config.model)).div(state.accumulation).backward()
    meter.add(out.routings)
    return torch.stack((loss, losses.switch, losses.z)).detach()


def _sent(tokens: Tensor, world: World) -> Tensor:
    """Send a part of a batch to the device, behind what it still has to do."""
    if world.device.type == "cuda":
        tokens = tokens.pin_memory()  # from any other memory the copy would be waited for
    return tokens.to(world.device, non_blocking=True)
