"""Held-out loss by domain, on the same tokens whatever the run and the batch size."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any, Literal

import torch

from plait.config import ModelConfig
from plait.config.counts import forward_bytes_per_token
from plait.data.batches import IGNORED, evaluation_batches
from plait.data.corpus import Corpus
from plait.evaluation.path_meter import PathMeter
from plait.evaluation.routing_meter import RoutingMeter
from plait.kernels.precision import Precision, autocast
from plait.model import LanguageModel
from plait.parallel import World

LONGEST_WINDOW = 2048
"""tokens of a sequence unless told otherwise, where a model's context is longer"""
BUDGET = 2**30
"""bytes that the sequences of a batch may hold at once, unless told otherwise"""


@dataclass(frozen=True)
class Score:
    """Summed loss of a text, and its three readings."""

    nats: float
    tokens: int
    bytes: int

    def __add__(self, other: "Score") -> "Score":
        return Score(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    def to_dict(self) -> dict[str, float]:
        """Give loss (nats per token), perplexity, bits per byte, and what was counted."""
        loss = self.nats / self.tokens
        return {
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "bits_per_byte": self.nats / math.log(2) / self.bytes,
            "tokens": self.tokens,
            "bytes": self.bytes,
        }


@dataclass(frozen=True)
class HeldOut:
    """The scores of one split, and what routing did on it."""

    split: str
    scores: dict[str, Score]
    meter: RoutingMeter
    paths: PathMeter

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Give each domain's readings, and those of all their tokens together as `all`."""
        domains = {name: score.to_dict() for name, score in self.scores.items()}
        return {**domains, "all": sum(self.scores.values(), Score(0.0, 0, 0)).to_dict()}

    def routing(self) -> dict[str, Any]:
        """Give what routing did on all its tokens, and the paths of some; empty without routers."""
        paths = self.paths.figures()
        return {**self.meter.figures(), **paths} if paths else {}


@torch.no_grad()
def evaluate(
    model: LanguageModel,
    corpus: Corpus,
    split: Literal["train", "validation", "test"] = "test",
    *,
    sequence_length: int,
    tokens_per_domain: int,
    batch_size: int = 16,
    precision: Precision = "fp32",
    between: Callable[[], None] = lambda: None,
    world: World | None = None,
) -> HeldOut:
    """Score the first `tokens_per_domain` tokens of each domain of a split.

    Processes take the batches in turn, and each returns what all of them found.

    Args:
        model: in any mode; it is evaluated in eval mode and left as it was.
        corpus: the text.
        split: which part of it.
        sequence_length: tokens that are predicted in one pass, each from those before it in there.
        tokens_per_domain: targets; fewer where the domain is smaller.
        batch_size: sequences at once; it does not change which tokens are scored.
        precision: of the computation.
        between: called before each batch, or one of each process; what it raises ends the scoring.
        world: the processes that call it together; None: this one alone.

    Raises:
        ValueError: the corpus has tokens that the model does not know.
    """
    if corpus.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"corpus {corpus.name} has {corpus.vocab_size} token ids, but the model knows "
            f"{model.config.vocab_size}: score it on the corpus that it was trained on"
        )
    device = next(model.parameters()).device
    world = world or World(device)
    scores = dict.fromkeys(corpus.domains, Score(0.0, 0, 0))
    meter = RoutingMeter(model.config, device)
    paths = PathMeter(model.config, len(scores), device=device)
    batches = evaluation_batches(corpus, split, sequence_length, batch_size, tokens_per_domain)
    with _in_eval_mode(model):
        number, done = -1, 0
        for number, (domain, tokens_BS, targets_BS, target_bytes) in enumerate(batches):
            if number % world.size == 0:
                between()
            keep_T = (targets_BS != IGNORED).flatten()
            count = int(keep_T.sum())
            if number % world.size != world.rank:
                paths.skip(domain, count)
                continue
            with autocast(device.type, precision):
                out = model(tokens_BS.to(device), targets_BS.to(device), routings=True)
            done += 1
            keep = None if count == len(keep_T) else keep_T.to(device)
            meter.add(out.routings, keep)
            paths.add(domain, out.routings, keep)
            scores[domain] += Score(float(out.loss) * count, count, int(target_bytes))
        if done * world.size <= number:
            # what comes of it is left out: a sharded model needs all processes for each forward
            with autocast(device.type, precision):
                model(tokens_BS[:1].to(device), targets_BS[:1].to(device))
    return HeldOut(split, _of_all_processes(world, scores, meter, paths), meter, paths)


def _of_all_processes(
    world: World, scores: dict[str, Score], meter: RoutingMeter, paths: PathMeter
) -> dict[str, Score]:
    """Add up what each process counted, in one sum; domains without a token have no score."""
    counted = [number for score in scores.values() for number in astuple(score)]
    mine = (
        torch.tensor(counted, dtype=torch.float64, device=meter.sums.device),
        meter.sums,
        paths.ids.flatten().double(),
    )
    sums = torch.split(world.sum(torch.cat(mine)), [len(part) for part in mine])
    meter.sums, paths.ids = sums[1], sums[2].long().view_as(paths.ids)
    found = zip(scores, sums[0].view(-1, 3).tolist(), strict=True)
    return {name: Score(nats, int(n), int(size)) for name, (nats, n, size) in found if n}


def fitting_batch(config: ModelConfig, sequence_length: int) -> int:
    """Return how many sequences fit `BUDGET` by estimate; 1 at the least."""
    return max(1, BUDGET // (sequence_length * forward_bytes_per_token(config)))


@contextmanager
def _in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
