"""All that a run is at one moment, and its way into a checkpoint and back."""

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plait.config import TrainConfig
from plait.data.batches import Batches
from plait.data.corpus import Corpus
from plait.model import LanguageModel
from plait.optim.groups import build_optimizers
from plait.parallel import World, shard, whole
from plait.storage.checkpoint import STATE, WEIGHTS, read_progress
from plait.storage.sharded_state import load_shards, shard_shapes
from plait.storage.weights import find_weights, load_weights, read_weights

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

    def is_spike(self, loss: float) -> bool:
        """Count a finite loss that is far above the median of those before it; keep it for them."""
        enough = len(self.recent_losses) >= REMEMBERED // 2
        spike = enough and loss > statistics.median(self.recent_losses) + SPIKE
        self.loss_spikes += spike
        self.recent_losses = [*self.recent_losses, loss][-REMEMBERED:]
        return spike


class TrainState:
    """Model, optimizers, place in the data, random generators and counters of one run."""

    def __init__(self, config: TrainConfig, corpus: Corpus, world: World) -> None:
        self.config, self.corpus, self.world = config, corpus, world
        self.counters = Counters()
        self.model = LanguageModel(config.model, config.seed).to(world.device)
        self.model.checkpointing = config.activation_checkpointing
        if config.initial_weights is not None:
            source = find_weights(Path(config.initial_weights))
            load_weights(self.model, read_weights(source), source)
        shard(self.model, world)
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

    @property
    def micro_batch(self) -> int:
        """Sequences that go through the model at once, on this process."""
        return self.config.data.micro_batch or self.config.data.batch // self.world.data_size

    @property
    def accumulation(self) -> int:
        """Forwards per optimizer step, on each process."""
        batch, at_once = self.config.data.batch, self.micro_batch * self.world.data_size
        if at_once == 0 or batch % at_once:
            raise ValueError(
                f"data.batch {batch} is not a multiple of {self.world.data_size} processes × "
                f"micro_batch {self.micro_batch}: change one of them"
            )
        return batch // at_once

    def _batches(self, state: dict[str, Any] | None) -> Batches:
        data = self.config.data
        return Batches(
            self.corpus,
            "train",
            data.sequence_length,
            self.micro_batch,
            self.config.seed,
            rank=self.world.data_rank,
            world=self.world.data_size,
            state=state,
        )

    def weights(self) -> dict[str, Tensor]:
        """Gather the whole weights on the main rank's CPU, one name per stored tensor."""
        gathered = {}
        for name, tensor in self.model.state_dict().items():
            full = whole(tensor)  # all ranks take part
            if self.world.is_main:
                gathered[name] = full.cpu()
        return gathered

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the weights that is a tensor or a shard of one."""
        tensors = dict(self._optimizer_state())
        tensors[f"random.cpu.{self.world.rank}"] = torch.get_rng_state()
        if self.world.device.type == "cuda":
            tensors[f"random.cuda.{self.world.rank}"] = torch.cuda.get_rng_state()
        return tensors

    def progress(self) -> dict[str, Any]:
        """Everything that is a number or a word."""
        return {**asdict(self.counters), "loader": self.batches.state()}

    def restore(self, path: Path) -> None:
        """Become what was saved, bit for bit.

        Raises:
            ValueError: the corpus is another one than the run began with.

        """
        progress = read_progress(path)
        self.batches = self._batches(progress.pop("loader"))
        self.counters = Counters(**progress)
        load_weights(self.model, read_weights(path / WEIGHTS), path)

        shapes = shard_shapes(path / STATE)
        tensors: dict[str, Tensor] = {}
        for full, (size, dtype) in shapes.items():
            kind, _, rest = full.partition(".")
            if kind == "optimizer":
                name, _, key = rest.rpartition(".")
                parameter, optimizer = self._trained[name]
                if size == parameter.shape:
                    tensors[full] = torch.zeros_like(parameter, dtype=dtype)
                else:
                    tensors[full] = torch.zeros(size, dtype=dtype, device=parameter.device)
                optimizer.state[parameter][key] = tensors[full]
        for name in self._random_states():
            if name in shapes:
                tensors[name] = torch.empty(shapes[name][0], dtype=torch.uint8)
        load_shards(path / STATE, tensors, self.world)
        for name, set_state in self._random_states().items():
            if name in tensors:
                set_state(tensors[name])

    def skip_to(self, place: dict[str, Any]) -> None:
        """Go on in the data from where `batches.state()` was `place`."""
        self.batches = self._batches(place)

    def _random_states(self) -> dict[str, Any]:
        rank = self.world.rank
        setters: dict[str, Any] = {f"random.cpu.{rank}": torch.set_rng_state}
        if self.world.device.type == "cuda":
            setters[f"random.cuda.{rank}"] = torch.cuda.set_rng_state
        return setters

    def _optimizer_state(self) -> Iterator[tuple[str, Tensor]]:
        for name, (parameter, optimizer) in self._trained.items():
            for key, value in optimizer.state.get(parameter, {}).items():
                yield f"optimizer.{name}.{key}", value
