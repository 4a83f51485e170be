"""All that a run is at one moment, and its way into a checkpoint and back."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plait.config import DataConfig, TrainConfig
from plait.config.files import from_json
from plait.config.limits import MOST_TOKENS
from plait.data.corpus import Corpus
from plait.data.stream import TrainingBatches, training_batches
from plait.kernels.precision import compute_type
from plait.model import LanguageModel
from plait.optim.groups import build_optimizers, state_keys
from plait.parallel import World, held, parallelise
from plait.reading import named, quoted
from plait.storage.manifest import PROGRESS, STATE, TRY_ANOTHER, read_progress
from plait.storage.sharded_state import (
    CheckpointError,
    Shapes,
    load_shards,
    reason,
    shard_shapes,
)
from plait.storage.weights import load_weights, read_weights

REMEMBERED = 64
"""steps whose losses a spike is measured against"""
SPIKE = 2.0
"""nats per token above their median: no batch of text is so much harder than another"""


@dataclass
class Counters:
    """How far a run is."""

    step: int = 0
    """optimizer steps, skipped ones included"""
    tokens: int = 0
    skipped_steps: int = 0
    """steps whose loss or gradient was not finite"""
    skipped_in_a_row: int = 0
    loss_spikes: int = 0
    """steps whose loss was finite and far above those before it"""
    recoveries: list[dict[str, int]] = field(default_factory=list)
    """times that the run went back: {"step", "back_to", "tokens_skipped"}"""
    recent_losses: list[float] = field(default_factory=list)
    """of the last steps that were taken, in nats per token: what a spike is measured against"""
    seconds: float = 0.0
    """since the run began, interruptions left out"""
    training_seconds: float = 0.0
    """of these, in optimizer steps"""

    def __post_init__(self) -> None:
        for name, count in asdict(self).items():
            if not isinstance(count, list) and not 0 <= count <= MOST_TOKENS:
                raise ValueError(f"{name} is {quoted(count)}")

    def is_spike(self, loss: float) -> bool:
        """Count a finite loss that is far above the median of those before it; keep it for them."""
        enough = len(self.recent_losses) >= REMEMBERED // 2
        spike = enough and loss > statistics.median(self.recent_losses) + SPIKE
        self.loss_spikes += spike
        self.recent_losses = [*self.recent_losses, loss][-REMEMBERED:]
        return spike


def micro_batch(data: DataConfig, processes: int) -> int:
    """Return how many sequences go through the model at once, on each process."""
    return data.micro_batch or data.batch // processes


def accumulation(data: DataConfig, processes: int) -> int:
    """Return how many forwards an optimizer step has on each process.

    Raises:
        ValueError: the batch does not divide.
    """
    at_once = micro_batch(data, processes) * processes
    if at_once == 0 or data.batch % at_once:
        raise ValueError(
            f"data.batch {data.batch} is not a multiple of {processes} processes × "
            f"micro_batch {micro_batch(data, processes)}: change one of them"
        )
    return data.batch // at_once


class TrainState:
    """Model, optimizers, place in the data, random generators and counters of one run."""

    def __init__(
        self, config: TrainConfig, corpus: Corpus, world: World, compile: bool = False
    ) -> None:
        self.config, self.corpus, self.world = config, corpus, world
        self.counters = Counters()
        self.model = self._divided_model(compile)
        self.optimizers = build_optimizers(self.model.parameters_by_role(), config.optimizer)
        # Kept, since FSDP shows other parameters under these names while a bank is gathered.
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        self._trained = {
            names[parameter]: (parameter, optimizer)
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        self.batches = self._batches(None)
        # Each rank drops out other units of its own tokens.
        torch.manual_seed(config.seed + world.rank)

    def _divided_model(self, compile: bool) -> LanguageModel:
        """Make a model of which this process never holds more than its share."""
        config = self.config
        with torch.device("meta"):
            model = LanguageModel(config.model)
        dtype = compute_type(self.world.device.type, config.precision)
        parallelise(model, self.world, config.activation_checkpointing, dtype, compile)
        model.to_empty(device=self.world.device)
        if config.initial_weights is None:
            model.initialise(config.seed, held)
        else:
            source = Path(config.initial_weights)
            load_weights(model, read_weights(source), source)
        return model

    @property
    def micro_batch(self) -> int:
        """Sequences that go through the model at once, on this process."""
        return micro_batch(self.config.data, self.world.size)

    @property
    def accumulation(self) -> int:
        """Forwards per optimizer step, on each process."""
        return accumulation(self.config.data, self.world.size)

    def _batches(self, state: dict[str, Any] | None) -> TrainingBatches:
        data = self.config.data
        return training_batches(
            self.corpus,
            data.sequence_length,
            self.micro_batch,
            self.config.seed,
            rank=self.world.rank,
            world=self.world.size,
            state=state,
        )

    def weights(self) -> dict[str, Tensor]:
        """Return the weights, or this process' shards of them, by the name of the stored tensor."""
        return self.model.state_dict()

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the weights that is a tensor or a shard of one."""
        tensors = dict(self._optimizer_state())
        return tensors | {name: now for name, (now, _) in self._random_states().items()}

    def progress(self) -> dict[str, Any]:
        """Everything that is a number or a word."""
        return {
            **asdict(self.counters),
            "loader": self.batches.state(),
            "optimizer_tensors": sum(1 for _ in self._optimizer_state()),
        }

    def restore(self, path: Path) -> None:
        """Become what was saved, bit for bit.

        Raises:
            ValueError: the corpus is another one than the run began with, or what is in the files
                is not the state of this run.

        """
        progress = read_progress(path)
        self.counters = from_json(Counters, progress, path / PROGRESS, TRY_ANOTHER)
        self.skip_to(progress.get("loader") or {})
        load_weights(self.model, read_weights(path), path)
        shapes = shard_shapes(path / STATE)
        tensors: dict[str, Tensor] = {}
        try:
            at, tokens = self.counters.step, self.counters.tokens
            _require(at <= self.config.steps, f"step {at}", "beyond the run's end")
            seen = self.batches.state()["tokens_seen"]
            # a run that went back has left out batches, so its data stands further on
            fits = seen >= tokens if self.counters.recoveries else seen == tokens
            _require(fits, f"{tokens} tokens", f"the data stands at {seen}")
            self._make_optimizer_state(shapes, tensors, progress.get("optimizer_tensors"))
            for name, (now, _) in self._random_states().items():
                if name in shapes:
                    _require(shapes[name] == (now.shape, now.dtype), name, "no generator's state")
                    tensors[name] = torch.empty_like(now)
            load_shards(path / STATE, tensors, self.world)
            for name, (_, set_state) in self._random_states().items():
                if name in tensors:
                    set_state(tensors[name])
        except (ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {path} does not hold the state of this run ({reason(error)}): "
                f"{TRY_ANOTHER}"
            ) from None

    def skip_to(self, place: dict[str, Any]) -> None:
        """Go on in the data from where `batches.state()` was `place`."""
        self.batches.close()
        self.batches = self._batches(place)

    def _make_optimizer_state(
        self, shapes: Shapes, tensors: dict[str, Tensor], expected: object
    ) -> None:
        """Give each parameter's optimizer the tensors that it had, still to be filled."""
        found = [full for full in shapes if full.startswith("optimizer.")]
        # written since there are checkpoints that say so: a tensor less would go unnoticed
        _require(expected in (None, len(found)), f"{len(found)} optimizer tensors", "not all")
        for optimizer in self.optimizers:
            optimizer.state.clear()
        for full in found:
            name, _, key = full.removeprefix("optimizer.").rpartition(".")
            _require(name in self._trained, full, "of no parameter")
            parameter, optimizer = self._trained[name]
            size, dtype = shapes[full]
            wanted = torch.Size() if key == "step" else parameter.shape
            _require(size == wanted and dtype.is_floating_point, full, "of another shape")
            if size == parameter.shape:  # like it, and so sharded as it is
                tensors[full] = torch.zeros_like(parameter, dtype=dtype)
            else:
                tensors[full] = torch.zeros(size, dtype=dtype, device=parameter.device)
            optimizer.state[parameter][key] = tensors[full]
        for name, (parameter, optimizer) in self._trained.items():
            if parameter in optimizer.state:
                whole = set(optimizer.state[parameter]) == state_keys(optimizer)
                _require(whole, f"optimizer.{name}", "a tensor is missing or too much")

    def _random_states(self) -> dict[str, tuple[Tensor, Callable[[Tensor], None]]]:
        """The state of each random generator as it is now, and what sets another."""
        rank = self.world.rank
        states: dict[str, tuple[Tensor, Callable[[Tensor], None]]] = {
            f"random.cpu.{rank}": (torch.get_rng_state(), torch.set_rng_state)
        }
        if self.world.device.type == "cuda":
            states[f"random.cuda.{rank}"] = torch.cuda.get_rng_state(), torch.cuda.set_rng_state
        return states

    def _optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        for name, (parameter, optimizer) in self._trained.items():
            for key, value in optimizer.state.get(parameter, {}).items():
                yield f"optimizer.{name}.{key}", value


def _require(holds: bool, what: str, problem: str) -> None:
    if not holds:
        raise ValueError(f"{named(what)}: {problem}")
