"""Tying and untying a trained model: other plans of sharing for weights that exist."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from plait.config import ModelConfig
from plait.sharing import Sharing
from plait.storage.model_folder import built_model, read_state, save_model
from plait.surgery import alignment, text_loss
from plait.surgery.banks import MERGES, Weights, rebank, untied

logger = logging.getLogger(__name__)

NEAR_UNIFORM = 0.85
"""share of ln(vocabulary), the loss of guessing at random, from which on a merge is warned of"""
MATCHING_ELEMENTS = 64_000_000
"""outputs held at once when experts are matched by what they compute: experts × tokens × width"""


@dataclass(frozen=True)
class Tied:
    """What surgery made of a model."""

    config: ModelConfig
    parameters_before: int
    parameters_after: int
    """stored elements"""
    loss_before: float | None
    loss_after: float | None
    """mean cross-entropy on the text, nats per token; None without a tokenizer to read it"""
    text: str = ""
    """on which they were measured"""


def tie(
    folder: Path,
    out: Path,
    experts: str | None = None,
    router: str | None = None,
    merge: Literal["first", "mean", "aligned"] = "aligned",
    match: Literal["weights", "outputs"] = "weights",
    text: Path | None = None,
    tokens: int = 65_536,
    device: str | None = None,
) -> Tied:
    """Make a model whose layers share out of a trained one.

    Args:
        folder: a run's folder or a model folder.
        out: model folder to make; `plait train --from` goes on from it.
        experts: plan of the expert banks, for example "groups(4, skip=2)"; None: as it is.
        router: plan of the routers; None: as it is.
        merge: the first bank of each group; the mean of its banks; or the mean after each layer's
            experts, and the units inside them, were put into the order of the group's first.
        match: aligned experts are matched by their weights, or by their outputs on `text`.
        text: file of held-out text, on which the loss is measured before and after; None:
            docstrings of Python's standard library, where there is a tokenizer.
        tokens: of the text that are used, at the most.
        device: that models run on for it; None: CUDA where there is one, else the CPU.

    Raises:
        ValueError: a plan does not fit, or the model lacks what the options need.
    """
    config, weights = read_state(folder)
    windows = text_loss.windows(config, folder, text, tokens)
    if match == "outputs" and (text is None or merge != "aligned"):
        raise ValueError("match outputs: give text, and merge aligned")
    sharing = replace(
        config.sharing,
        experts=config.sharing.experts if experts is None else experts,
        router=config.sharing.router if router is None else router,
    )
    if sharing == config.sharing:
        raise ValueError("nothing to tie: give a plan of experts, of routers, or both")
    source = config, weights
    if merge == "aligned":
        source = _aligned(config, weights, sharing, windows if match == "outputs" else None)
    new, state = rebank(*source, sharing, MERGES["first" if merge == "first" else "mean"])
    return _finish(config, weights, new, state, folder, out, text, windows, device)


def untie(
    folder: Path,
    out: Path,
    text: Path | None = None,
    tokens: int = 65_536,
    device: str | None = None,
) -> Tied:
    """Give each depth copies of the banks that it shares: the same function, nothing shared.

    Arguments as for `tie`.
    """
    config, weights = read_state(folder)
    windows = text_loss.windows(config, folder, text, tokens)
    new, state = untied(config, weights)
    if new.plans.decision.count < new.depth:
        logger.warning("shared decisions stay shared: their depths have no routing of their own")
    return _finish(config, weights, new, state, folder, out, text, windows, device)


def _finish(
    config: ModelConfig,
    weights: Weights,
    new: ModelConfig,
    state: Weights,
    folder: Path,
    out: Path,
    text: Path | None,
    windows: Sequence[Tensor] | None,
    device: str | None,
) -> Tied:
    # banks that several depths were given are written once for each
    owned = {name: tensor.clone() for name, tensor in state.items()}
    save_model(out, new, owned, companions=folder)
    before = text_loss.loss(config, weights, windows, device)
    after = text_loss.loss(new, state, windows, device)
    uniform = math.log(config.vocab_size)
    if before is not None and after is not None and after > NEAR_UNIFORM * uniform > before:
        logger.warning(
            "%s guesses little better than at random: %.1f nats per token of ln(vocabulary) = "
            "%.1f, and %.1f before. Heal it with plait train --from, tie fewer depths, or try "
            "--merge first",
            out,
            after,
            uniform,
            before,
        )
    return Tied(
        new,
        sum(tensor.numel() for tensor in weights.values()),
        sum(tensor.numel() for tensor in state.values()),
        before,
        after,
        "docstrings" if text is None else str(text),
    )


# ------------------------------------------------------------------ aligning


def _aligned(
    config: ModelConfig, weights: Weights, sharing: Sharing, windows: Sequence[Tensor] | None
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the same function untied, each depth's experts in the order of its group's first."""
    plans = config.plans
    shared = {"decision": plans.decision, "router": plans.router}
    if config.collaboration is not None:
        shared["collaboration"] = plans.collaboration
    for kind, plan in shared.items():
        if plan.count < plan.depth:
            raise ValueError(
                f"merge aligned: this model shares {kind} over depths already, so their experts "
                "have one order and cannot be put into another one by one: use merge mean"
            )
    if config.router.kind == "low-rank":
        raise ValueError(
            "merge aligned: low-rank routers have a base for all depths, which knows the experts "
            "by one order: use merge mean"
        )
    target = sharing.plans(config.depth)
    own, state = untied(config, weights, keep=("attention", "norms"))
    inputs = _expert_inputs(own, state, windows) if windows else {}
    activation = config.experts.activation
    stacked = 2 if activation == "swiglu" else 1
    for depth in range(config.depth):
        bank, order_E = _bank(state, depth), None
        routed = own.experts_at(depth) > 1
        leader = target.experts.uses(target.experts.banks[depth])[0]
        routes = target.router.uses(target.router.banks[depth])[0]
        to = _bank(state, leader)
        if leader < depth and routed:
            if windows:
                h_TD = torch.cat((inputs[leader], inputs[depth]))
                similarity_EE = alignment.similarity_of_outputs(to, bank, h_TD, activation)
            else:
                similarity_EE = alignment.similarity_of_weights(to, bank, stacked)
            order_E = alignment.assignment(similarity_EE)
        elif routes < depth and routed:  # its experts stay its own: into the shared router's order
            order_E = alignment.assignment(
                _router_rows(state, routes) @ _router_rows(state, depth).T
            )
        if order_E is not None:
            bank = alignment.permuted(bank, order_E)
            _reorder(state, depth, order_E)
        if leader < depth:
            bank = alignment.units_aligned(bank, to, stacked)
        state.update({f"experts.{depth}.{name}": tensor for name, tensor in bank.items()})
    return own, state


def _bank(state: Weights, depth: int) -> dict[str, Tensor]:
    prefix = f"experts.{depth}."
    return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def _router_rows(state: Weights, depth: int) -> Tensor:
    """Return what a router has for each expert: (E, …)."""
    name = f"router.{depth}.embeddings"
    return (state[name] if name in state else state[f"router.{depth}.weight"]).float()


def _reorder(state: dict[str, Tensor], depth: int, order_E: Tensor) -> None:
    """Permute what knows the experts of a depth by their number."""
    for name in ("weight", "embeddings"):
        key = f"router.{depth}.{name}"
        if key in state:
            state[key] = state[key][order_E]
    for key in (f"load_bias.depth{depth}.bias_E", f"load_bias.bank{depth}.bias_E"):
        if key in state:
            state[key] = state[key][order_E]
    key = f"collaboration.{depth}.raw"
    if key in state:
        state[key] = state[key][order_E][:, order_E]


@torch.no_grad()
def _expert_inputs(
    config: ModelConfig, state: Weights, windows: Sequence[Tensor]
) -> dict[int, Tensor]:
    """Return by depth what the experts of an untied model receive, for the first tokens of text."""
    experts = max(config.experts_at(depth) for depth in range(config.depth))
    enough = max(1, MATCHING_ELEMENTS // (2 * experts * config.width))
    model = built_model(config, state)
    kept: dict[int, Tensor] = {}
    for name, bank in model.experts.items():
        bank.register_forward_pre_hook(
            lambda _, inputs, depth=int(name): kept.__setitem__(depth, inputs[0].flatten(0, -2))
        )
    model(windows[0][None, :enough])
    return kept
