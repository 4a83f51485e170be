"""The language model: the walk over depth with a head, and the loss."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from plait import kernels
from plait.config import ModelConfig
from plait.kernels.processor import use_large_pages
from plait.model.attending import Cache, Positions, attend
from plait.model.experts import ExpertBank
from plait.model.parameters import (
    Held,
    OwnedParameter,
    as_it_is,
    initialise,
    linear,
    role_of,
    stacked,
)
from plait.model.rotary import rotary
from plait.model.routing import Routing
from plait.model.walk import Decide, Stage, Step, Walk, at_once, refuse_longer, refuse_parts
from plait.sharing import KIND_OF_MODULE


@dataclass(frozen=True)
class Output:
    """What a forward returns."""

    logits: Tensor | None
    """(B, S, V), or None when targets were given"""
    loss: Tensor | None
    """mean cross-entropy in nats per target, or None without targets"""
    routings: tuple[Routing | None, ...] = ()
    """one routing for each depth as its experts used it, None at dense ones; empty unless asked"""


class LanguageModel(Walk):
    """A decoder-only mixture-of-experts language model, its parts owned in banks.

    Args:
        config: the structure.
        seed: of the initial weights. A parameter's beginning depends on the seed and its own name
            only, so that two variants begin equal in what they have in common.
    """

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.build(config)
        self.checkpointing = False
        """recompute each depth in the backward pass instead of keeping its activations"""
        self.head: nn.Linear | None = None
        if not config.tied_head:
            self.head = linear(config.width, config.vocab_size, "head")
        if self.embedding.weight.device.type != "meta":
            use_large_pages(self.parameters())
            self.initialise(seed)

    def initialise(self, seed: int, held: Held = as_it_is) -> None:
        """Set the weights; `held` says what is here of those that processes divide."""
        c = self.config
        initialise(self, seed, c.init, c.init_std, c.depth, held=held)

    @property
    def config(self) -> ModelConfig:
        """The structure."""
        return self.structure

    def forward(
        self,
        tokens_BS: Tensor,
        targets_BS: Tensor | None = None,
        *,
        positions_BS: Tensor | None = None,
        mask_BS: Tensor | None = None,
        cache: Cache | None = None,
        routings: bool = False,
        decide: Decide | None = None,
        logits_to_keep: int = 0,
        stages: list[Stage] | None = None,
        start: Stage | None = None,
    ) -> Output:
        """Run the model.

        Args:
            tokens_BS: token ids.
            targets_BS: next tokens; −100 is ignored. With them the loss comes back, not the logits.
            positions_BS: place of each token in its sequence; None: counted, padding left out.
            mask_BS: True at real tokens, over the cached ones too; None: all are real.
            cache: keys and values of earlier tokens, extended in place.
            routings: return each depth's routing.
            decide: called as decide(depth, routing) before the experts; what it returns is used.
            logits_to_keep: logits of the last n positions only; 0: of all.
            stages: gets where this forward stood before each depth.
            start: a stage of an earlier forward over these tokens, to leave out what was before it.
        """
        refuse_parts(self.config, mask_BS, cache is not None)
        positions, positions_BS = self._positions(tokens_BS, positions_BS, mask_BS, cache)
        run = at_once
        if self.checkpointing and torch.is_grad_enabled():
            assert decide is None, "recomputation would call it twice"
            assert cache is None, "recomputation would extend it twice"
            run = _recomputed
        used: list[Routing | None] = []
        x_BSD = self.embedding(tokens_BS)
        attending = partial(attend, positions=positions, cache=cache)
        steps = self.walk(
            x_BSD, positions_BS, attending, run=run, decide=decide, stages=stages, start=start
        )
        for step in steps:
            x_BSD = step.x_BSD
            if routings:
                used.append(step.routing)
        h_BSD = self.final_norm(x_BSD)
        if self.config.logit_divisor != 1.0:
            h_BSD = h_BSD / self.config.logit_divisor
        weight = self.embedding.weight if self.head is None else self.head.weight
        if targets_BS is None:
            logits = kernels.linear(h_BSD[:, -logits_to_keep:], weight)
            return Output(logits, None, tuple(used))
        loss = kernels.linear_cross_entropy(h_BSD.flatten(0, 1), weight, targets_BS.reshape(-1))
        return Output(None, loss, tuple(used))

    def _positions(
        self,
        tokens_BS: Tensor,
        positions_BS: Tensor | None,
        mask_BS: Tensor | None,
        cache: Cache | None,
    ) -> tuple[Positions, Tensor]:
        length = tokens_BS.shape[1]
        past = cache.get_seq_length() if cache is not None else 0
        if positions_BS is None and mask_BS is not None:
            positions_BS = (mask_BS.long().cumsum(-1) - 1).clamp_min(0)[:, past:]
        elif positions_BS is None:
            positions_BS = torch.arange(past, past + length, device=tokens_BS.device)[None]
        refuse_longer(self.config, past + length)
        mask = None
        if mask_BS is not None or (past and length > 1):
            keys = torch.arange(past + length, device=tokens_BS.device)
            queries = keys[past:, None]
            mask = (keys <= queries)[None, None]
            if mask_BS is not None:
                # a padding query sees itself, so that no row is empty and gives NaN
                seen = mask_BS.bool()[:, None, None, :] | (keys == queries)
                mask = mask & seen
        cos, sin, a = None, None, self.config.attention
        if a.position == "rope":
            cos, sin = rotary(positions_BS, self.config.heads[2], a)
        return Positions(cos, sin, mask), positions_BS

    def parameters_by_role(self) -> list[OwnedParameter]:
        """Return every parameter with its role and the number of depths that use its bank."""
        owned = []
        for path, module in self.named_modules():
            part, _, rest = path.partition(".")
            uses = 1
            if part in KIND_OF_MODULE and rest:
                kind = KIND_OF_MODULE[part]
                banks = getattr(self.config.plans, kind).banks
                bank = int(rest.partition(".")[0])
                uses = sum(banks[depth] == bank for depth in self.config.depths_of(kind))
            elif part == "router_common":
                uses = len(self.config.deciding_depths)
            for name, parameter in module.named_parameters(recurse=False):
                role, stack = role_of(module, name), stacked(module, name)
                full = f"{path}.{name}"
                owned.append(OwnedParameter(full, parameter, role, uses, stack))
        return owned

    def expert_banks(self) -> list[ExpertBank]:
        """Return the banks of several experts."""
        return [bank for bank in self.experts.values() if isinstance(bank, ExpertBank)]

    def load_biases(self) -> dict[str, Tensor]:
        """Return the loss-free balancing biases by key; empty where there are none."""
        return {key: cast(Tensor, module.bias_E) for key, module in self.load_bias.items()}


def _recomputed(depth: Callable[..., Step], x_BSD: Tensor, memory_TM: Tensor | None) -> Step:
    """Run a depth, its activations computed anew in the backward pass."""
    return cast(Step, checkpoint(depth, x_BSD, memory_TM, use_reentrant=False))
