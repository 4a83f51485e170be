"""A model whose routing can be seen and changed: what traces and perturbations are written for.

Whatever stands behind `WatchedModel` speaks our `Routing`, its experts ordered by router logit.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from plait.model import Routing
from plait.routing.trace import TraceInfo

Decide = Callable[[int, Routing], Routing]


@dataclass(frozen=True)
class Plain:
    """What an unchanged forward gave, for changes of its routing to be compared with."""

    loss: float
    """sum of the cross-entropy in nats over targets ≠ −100"""
    routings: tuple[Routing, ...]
    """of each routed depth"""
    stages: Mapping[int, Any]
    """where it stood before a routed depth, for `WatchedModel.loss` to go on from; some or none"""


class WatchedModel(Protocol):
    """What traces and perturbations need of a model. Depths are those of `info.routed`."""

    info: TraceInfo

    def routings(self, tokens_BS: Tensor) -> tuple[Routing, ...]:
        """Run one forward and return the routing of each routed depth, T = B·S."""
        ...

    def plain(self, tokens_BS: Tensor, targets_BS: Tensor) -> Plain:
        """Run one forward and return its loss, its routings and where it stood in between."""
        ...

    def loss(
        self,
        tokens_BS: Tensor,
        targets_BS: Tensor,
        decide: Decide | None = None,
        start: Any = None,
    ) -> float:
        """Sum of the cross-entropy in nats over targets ≠ −100, `decide` changing the routing.

        With a stage of `plain` over these tokens as `start`, depths before it are left out.
        """
        ...

    @property
    def can_reroute(self) -> bool:
        """Whether the model's rule from logits to gates is known at every depth."""
        ...

    def reroute(self, depth: int, logits_TE: Tensor) -> Routing:
        """Choose experts and gates from logits by the model's own rule at a depth."""
        ...


def vocabulary(model: nn.Module) -> int:
    """Return how many tokens a model knows, ours or any other."""
    return next(m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; the mode is put back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
