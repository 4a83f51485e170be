"""The training loop: one function, from a configuration and a folder to a result."""

import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from plait import kernels
from plait.atomic import write_json
from plait.config import TrainConfig
from plait.config.counts import count
from plait.config.files import config_hash, to_dict
from plait.data.corpora import open_corpus
from plait.data.corpus import Corpus
from plait.evaluation.heldout import evaluate
from plait.evaluation.routing_meter import RoutingMeter
from plait.kernels import processor
from plait.model.balance import BalanceLosses, balance_losses, update_bias
from plait.model.experts import kernel_name
from plait.optim import schedules
from plait.optim.clipping import clip_
from plait.optim.groups import set_rates
from plait.parallel import World, reduce_gradients, whole
from plait.storage.checkpoint import Checkpoints
from plait.storage.metrics_file import JsonLines, Row
from plait.storage.result import Result
from plait.storage.run_folder import (
    CHECKPOINTS,
    CORPUS,
    METRICS,
    TOKENIZER,
    RunFolder,
    claim,
    study_and_variant,
)
from plait.training.interruption import Interrupted, Interruption
from plait.training.state import TrainState
from plait.training.trackers import Sink, Tracker, open_trackers


class Diverged(ValueError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


def train(
    config: TrainConfig,
    folder: Path,
    *,
    progress: Callable[[Row], None] | None = None,
    stop: Callable[[], bool] | None = None,
    device: str | None = None,
    threads: int | None = None,
    track: Sequence[Tracker] = (),
) -> Result:
    """Train to the end of the configuration; go on where an earlier call in this folder stopped.

    Args:
        config: the experiment.
        folder: of the run, see `run_folder`. A finished one returns its result at once.
        progress: called with each row of the metrics.
        stop: asked between steps; True ends the run as Ctrl-C does.
        device: as torch names it; by default CUDA where there is one, else the CPU.
        threads: of torch in this process; None leaves torch's own number.
        track: sinks beside `metrics.jsonl`.

    Raises:
        Interrupted: on SIGINT, SIGTERM or `stop`, after a checkpoint was saved.
        Diverged: `skip_limit` steps in a row were not finite; the last checkpoint is good.
        CheckpointError: a checkpoint could not be written or read; earlier ones are intact.
        ValueError: the folder belongs to another configuration, or the corpus does not fit.

    """
    if threads is not None:
        torch.set_num_threads(threads)
    world = World.start(device)
    if world.device.type == "cpu":
        processor.configure()
    # before the folder is claimed, so that a run that cannot begin leaves nothing behind
    corpus = None if RunFolder(folder).finished else open_corpus(config.data.corpus)
    with (
        claim(folder, config) if world.is_main else nullcontext(),
        Interruption() as interruption,
    ):
        world.barrier()
        finished = Result.load_from(folder)
        if finished is not None:
            return finished
        run = _Run(
            config, corpus or open_corpus(config.data.corpus), folder, world, progress, track
        )
        try:
            while run.state.counters.step < config.steps:
                asked = interruption.requested or (stop is not None and stop())
                if world.any(asked):
                    run.interrupt()
                run.advance()
            return run.finish()
        finally:
            run.close()


class _Run:
    """What the loop holds: the state, where its figures go, and the clock."""

    def __init__(
        self,
        config: TrainConfig,
        corpus: Corpus,
        folder: Path,
        world: World,
        progress: Callable[[Row], None] | None,
        track: Sequence[Tracker],
    ) -> None:
        self.config, self.folder, self.world = config, folder, world
        if corpus.vocab_size > config.model.vocab_size:
            raise ValueError(
                f"model.vocab_size is {config.model.vocab_size}, but corpus {corpus.name} has "
                f"{corpus.vocab_size} token ids: make model.vocab_size at least that"
            )
        if world.is_main:
            _keep_corpus_facts(corpus, folder)
        self.state = TrainState(config, corpus, world)
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, config.checkpoint.keep, world)
        newest = self.checkpoints.newest()
        if newest is not None:
            self.state.restore(newest)
        self.began = time.perf_counter() - self.state.counters.seconds
        self.sinks: list[Sink] = []
        self.rows: JsonLines | None = None
        self.progress = progress
        if world.is_main:
            self.rows = JsonLines(folder / METRICS, after=self.state.counters.step)
            self.sinks = [self.rows, *open_trackers(track, folder, to_dict(config))]
        self.bytes_per_token = _bytes_per_token(corpus)
        self.saved_at = self.state.counters.step if newest is not None else -1

    # ------------------------------------------------------------------ one step

    def advance(self) -> None:
        """Take one optimizer step, and whatever is due after it."""
        config, counters = self.config, self.state.counters
        row = self._step()
        if counters.step % config.log_every == 0 or counters.step == config.steps:
            self._log(row)
        every = config.evaluation.every
        if every and (counters.step % every == 0 or counters.step == config.steps):
            self._evaluate()
        if counters.step % config.checkpoint.every == 0 or counters.step == config.steps:
            self.save()
        if counters.skipped_in_a_row >= config.skip_limit:
            self._give_up()

    def _step(self) -> Row:
        config, state, counters = self.config, self.state, self.state.counters
        started = time.perf_counter()
        state.model.train()
        meter = RoutingMeter(config.model, self.world.device)
        sums = torch.zeros(3, device=self.world.device)
        for micro_step in range(state.accumulation):
            reduce_gradients(state.model, now=micro_step == state.accumulation - 1)
            sums += self._forward_and_backward(meter)
        loss, switch, z = (self.world.mean(sums) / state.accumulation).tolist()
        for total in meter.sums.values():
            self.world.sum(total)

        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        gradient_norm = float(whole(kernels.total_norm(gradients)))
        counters.step += 1
        counters.tokens += config.tokens_per_step
        # Taken in the middle of the step, so that neither the first nor the last has a rate of 0.
        middle = counters.tokens - config.tokens_per_step // 2
        factor = schedules.factor(config.schedule, middle, config.steps * config.tokens_per_step)
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            if config.clip is not None:
                clip_(gradients, gradient_norm, config.clip)
            set_rates(state.optimizers, factor)
            for optimizer in state.optimizers:
                optimizer.step()
            if config.model.balance.bias_rate:
                update_bias(config.model, state.model.load_biases(), meter.loads())
            counters.skipped_in_a_row = 0
        else:
            counters.skipped_steps += 1
            counters.skipped_in_a_row += 1
        for optimizer in state.optimizers:
            optimizer.zero_grad(set_to_none=True)

        now = time.perf_counter()
        counters.training_seconds += now - started
        counters.seconds = now - self.began
        return {
            "step": counters.step,
            "tokens": counters.tokens,
            "loss": _finite(loss),
            "bits_per_byte": _finite(loss / math.log(2) / self.bytes_per_token),
            "learning_rate": factor * config.optimizer.learning_rate,
            "gradient_norm": _finite(gradient_norm),
            "skipped_steps": counters.skipped_steps,
            "tokens_per_second": config.tokens_per_step / (now - started),
            "balance_loss": _finite(switch),
            "z_loss": _finite(z),
            "load_max_over_mean": meter.load_max_over_mean(),
            "dead_experts": meter.dead_experts(),
            "router_entropy": [h if h is None else _finite(h) for h in meter.router_entropy()],
            **_topology(state),
        }

    def _forward_and_backward(self, meter: RoutingMeter) -> torch.Tensor:
        """Add one micro-batch's gradients; return its (loss, balance loss, z-loss)."""
        config, device = self.config, self.world.device
        tokens_BS, targets_BS = next(self.state.batches)
        with self._autocast():
            out = self.state.model(tokens_BS.to(device), targets_BS.to(device), routings=True)
        loss = out.loss
        balance = config.model.balance
        with torch.set_grad_enabled(bool(balance.switch or balance.z)):
            losses = balance_losses(config.model, out.routings)
        if losses is None:
            losses = BalanceLosses(loss.new_zeros(()), loss.new_zeros(()))
        (loss + losses.weighted(config.model)).div(self.state.accumulation).backward()
        meter.add(out.routings)
        return torch.stack((loss, losses.switch, losses.z)).detach()

    def _autocast(self) -> AbstractContextManager[Any]:
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=bf16)

    # ------------------------------------------------------------------ around the steps

    def _evaluate(self) -> None:
        evaluation, counters = self.config.evaluation, self.state.counters
        held_out = evaluate(
            self.state.model,
            self.state.corpus,
            "validation",
            sequence_length=self.config.data.sequence_length,
            tokens_per_domain=evaluation.tokens,
            batch_size=evaluation.batch,
            precision=self.config.precision,
        )
        row = {"step": counters.step, "tokens": counters.tokens, "evaluation": held_out.to_dict()}
        self._log(row)

    def _log(self, row: Row) -> None:
        for sink in self.sinks:
            sink.write(row)
        if self.progress is not None and self.world.is_main:
            self.progress(row)

    def save(self) -> None:
        """Write a checkpoint of this moment, once."""
        state = self.state
        if self.saved_at == state.counters.step:
            return
        state.counters.seconds = time.perf_counter() - self.began
        if self.rows is not None:
            self.rows.sync()
        self.checkpoints.save(state.counters.step, state.weights, state.tensors(), state.progress())
        self.saved_at = state.counters.step

    def interrupt(self) -> None:
        """Save, and say how to go on."""
        self.save()
        raise Interrupted(
            f"stopped after step {self.state.counters.step} of {self.config.steps}; a checkpoint "
            f"is in {self.folder / CHECKPOINTS}: run the same command again to go on from there"
        )

    def _give_up(self) -> None:
        raise Diverged(
            f"{self.config.skip_limit} steps in a row, up to step {self.state.counters.step}, had "
            f"a loss or gradient that is not finite; {self._last_good()}. Lower the learning rate "
            "or lengthen the warm-up"
        )

    def _last_good(self) -> str:
        newest = self.checkpoints.newest()
        return f"the last good checkpoint is {newest}" if newest else "there was no checkpoint yet"

    def finish(self) -> Result:
        """Score the test split, once, and write the result."""
        config, state, counters = self.config, self.state, self.state.counters
        held_out = evaluate(
            state.model,
            state.corpus,
            "test",
            sequence_length=config.data.sequence_length,
            tokens_per_domain=config.evaluation.final_tokens,
            batch_size=config.evaluation.batch,
            precision=config.precision,
        )
        counters.seconds = time.perf_counter() - self.began
        counts = count(config.model)
        study, variant = study_and_variant(self.folder)
        result = Result(
            study=study,
            variant=variant,
            seed=config.seed,
            config_hash=config_hash(config),
            steps=counters.step,
            tokens=counters.tokens,
            skipped_steps=counters.skipped_steps,
            evaluation={"split": "test", "domains": held_out.to_dict()},
            parameters={
                "total": counts.total,
                "stored": counts.stored,
                "active": counts.active,
            },
            flops_per_token={"forward": counts.flops_forward, "training": counts.flops_training},
            gate_mass=held_out.meter.gate_mass(),
            load=held_out.meter.shares(),
            seconds=counters.seconds,
            tokens_per_second=counters.tokens / max(counters.training_seconds, 1e-9),
            corpus_fingerprint=state.corpus.fingerprint,
            environment=_environment(self.world, self.config),
        )
        if self.world.is_main:
            result.save(self.folder)
        self.checkpoints.prune(keep=1)
        self.world.barrier()
        return result

    def close(self) -> None:
        """Close the sinks."""
        for sink in self.sinks:
            sink.close()


def _keep_corpus_facts(corpus: Corpus, folder: Path) -> None:
    """Make the run's folder complete: it is read on machines where the corpus is not."""
    if not (folder / CORPUS).exists():
        write_json(folder / CORPUS, corpus.manifest)
    if not (folder / TOKENIZER).exists():
        corpus.tokenizer.save(folder / TOKENIZER)


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _bytes_per_token(corpus: Corpus) -> float:
    """Average of the training text, domains weighted as they are drawn."""
    domains = corpus.manifest["splits"]["train"]
    weights = corpus.weights or {name: entry["tokens"] for name, entry in domains.items()}
    mean = sum(w * domains[name]["bytes"] / domains[name]["tokens"] for name, w in weights.items())
    return float(mean / sum(weights.values()))


@torch.no_grad()
def _topology(state: TrainState) -> dict[str, list[float | None]]:
    """By depth: mean row entropy of S in nats, and its largest entry; nothing without S."""
    entropy: dict[str, float] = {}
    largest: dict[str, float] = {}
    for key, bank in state.model.collaboration.items():
        s_EE = whole(bank()).abs()
        rows_EE = s_EE / s_EE.sum(-1, keepdim=True).clamp_min(1e-20)
        entropy[key] = float(torch.special.entr(rows_EE).sum(-1).mean())
        largest[key] = float(s_EE.max())
    if not entropy:
        return {}
    config = state.config.model
    banks = [str(bank) for bank in config.plans.collaboration.banks]
    keys = [bank if d in config.routed_depths else "" for d, bank in enumerate(banks)]
    return {
        "topology_entropy": [entropy.get(key) for key in keys],
        "topology_max": [largest.get(key) for key in keys],
    }


def _environment(world: World, config: TrainConfig) -> dict[str, Any]:
    on_cuda = world.device.type == "cuda"
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return {
        "plait": version("plait"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if on_cuda else platform.machine(),
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "kernel": kernel_name(config.model, world.device, dtype),
    }
