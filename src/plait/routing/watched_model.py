"""A model whose routing can be seen and changed: what traces and perturbations are written for.

Whatever stands behind `WatchedModel` speaks our `Routing`, its experts ordered by router logit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from plait.model import Routing
from plait.routing.trace import TraceInfo

Decide = Callable[[int, Routing], Routing]


class WatchedModel(Protocol):
    """What traces and perturbations need of a model. Depths are those of `info.routed`."""

    info: TraceInfo

    def routings(self, tokens_BS: Tensor) -> tuple[Routing, ...]:
        """Run one forward and return the routing of each routed depth, T = B·S."""
        ...

    def loss(self, tokens_BS: Tensor, targets_BS: Tensor, decide: Decide | None = None) -> float:
        """Sum of the cross-entropy in nats over targets ≠ −100, `decide` changing the routing."""
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
