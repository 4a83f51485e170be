"""The training loop: one function, from a configuration and a folder to a result."""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from plait.atomic import write_json
from plait.config import TrainConfig
from plait.config.counts import count
from plait.config.files import config_hash, to_dict
from plait.data.corpora import open_corpus
from plait.data.corpus import Corpus
from plait.data.stream import require_sources
from plait.evaluation.heldout import evaluate
from plait.kernels import processor
from plait.parallel import ParallelConfig, World, require_compiler, require_divisible
from plait.storage.checkpoint import Checkpoints
from plait.storage.metrics_file import JsonLines, Row
from plait.storage.places import Place, place_of
from plait.storage.result import Result
from plait.storage.run_folder import (
    CHECKPOINTS,
    DIVERGED,
    METRICS,
    RunFolder,
    claim,
    study_and_variant,
)
from plait.training.facts import (
    bytes_per_token,
    counted_floors,
    environment,
    finite,
    keep_corpus_facts,
    topology,
    topology_figures,
)
from plait.training.interruption import Interrupted, Interruption
from plait.training.state import TrainState, accumulation
from plait.training.step import begin_step
from plait.training.step_figures import StepFigures, steps_ahead
from plait.training.trackers import Sink, Tracker, open_trackers

MOST_THREADS = 4096


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
    parallel: ParallelConfig | None = None,
    compile: bool = False,
    track: Sequence[Tracker] = (),
    checkpoints: str | None = None,
) -> Result:
    """Train to the end of the configuration; go on where an earlier call in this folder stopped.

    Args:
        config: the experiment.
        folder: of the run, see `run_folder`. A finished one returns its result at once.
        progress: called with each row of the metrics.
        stop: asked between steps; True ends the run as Ctrl-C does.
        device: as torch names it; by default CUDA where there is one, else the CPU.
        threads: of torch in this process; None leaves torch's own number.
        parallel: how several processes are laid out; None: all of them shard everything.
        compile: each depth by torch.compile, in steps of training.
        track: sinks beside `metrics.jsonl`.
        checkpoints: address that fsspec knows, beneath which they are kept; None: in the folder, or
            where those of the run are already.

    Raises:
        Interrupted: on SIGINT, SIGTERM or `stop`, after a checkpoint was saved.
        Diverged: `skip_limit` steps in a row were not finite; the last checkpoint is good.
        CheckpointError: a checkpoint could not be written or read; earlier ones are intact.
        ValueError: the folder belongs to another configuration, the corpus or the layout of
            processes does not fit, or torch.compile has no compiler.

    """
    if threads is not None:
        if not 1 <= threads <= MOST_THREADS:
            raise ValueError(f"threads is {threads}: it must be from 1 to {MOST_THREADS:,}")
        torch.set_num_threads(threads)
    world = World.start(device, parallel)
    if world.device.type == "cpu":
        processor.configure()
    # before the folder is claimed, so that a run that cannot begin leaves nothing behind
    require_divisible(config.model, world.layout)
    accumulation(config.data, world.size)
    if compile:
        require_compiler(world.device)
    corpus = None if RunFolder(folder).finished else open_corpus(config.data.corpus)
    if corpus is not None:
        require_sources(corpus)
        place_of(folder, checkpoints)
    with (
        claim(folder, config) if world.is_main else nullcontext(),
        Interruption() as interruption,
    ):
        world.barrier()
        finished = world.broadcast(Result.load_from(folder))
        if finished is not None:
            return finished

        def asked() -> bool:
            return world.any(interruption.requested or (stop is not None and stop()))

        corpus = corpus or open_corpus(config.data.corpus)
        place = world.broadcast(place_of(folder, checkpoints))
        run = _Run(config, corpus, folder, world, asked, progress, track, place, compile)
        try:
            while run.state.counters.step < config.steps:
                run.stop_if_asked()
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
        asked_to_stop: Callable[[], bool],
        progress: Callable[[Row], None] | None,
        track: Sequence[Tracker],
        place: Place,
        compile: bool,
    ) -> None:
        self.config, self.folder, self.world, self.compile = config, folder, world, compile
        self.asked_to_stop = asked_to_stop
        if corpus.vocab_size > config.model.vocab_size:
            raise ValueError(
                f"model.vocab_size is {config.model.vocab_size}, but corpus {corpus.name} has "
                f"{corpus.vocab_size} token ids: make model.vocab_size at least that"
            )
        if world.is_main:
            keep_corpus_facts(corpus, folder)
        self.state = TrainState(config, corpus, world, compile)
        keep = config.checkpoint.keep
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, keep, world, place)
        with self.checkpoints.newest() as newest:
            if newest is not None:
                self.state.restore(newest)
        self.began = time.perf_counter() - self.state.counters.seconds
        self.sinks: list[Sink] = []
        self.rows: JsonLines | None = None
        self.progress = progress
        if world.is_main:
            self.rows = JsonLines(folder / METRICS, after=self.state.counters.step)
            after = self.state.counters.step
            self.sinks = [self.rows, *open_trackers(track, folder, to_dict(config), after)]
        self.bytes_per_token = bytes_per_token(corpus)
        self.saved_at = self.state.counters.step if newest is not None else -1
        self.save_due = False
        self.unread: deque[StepFigures] = deque()
        self.read_at = 0.0
        self.first_step: float | None = None
        """its seconds, where they are those of compiling"""
        if compile:
            self._show({"step": self.state.counters.step, "compiling": world.device.type})

    # ------------------------------------------------------------------ one step

    def advance(self) -> None:
        """Begin one optimizer step, and do whatever is due after it.

        The figures of a step are read when the device has begun the next one, so that it never
        waits for the host, or at once where something is due that builds on them. A CPU has done a
        step when it comes back, so there they are read at once.
        """
        config, counters = self.config, self.state.counters
        self.checkpoints.check()
        self.unread.append(begin_step(self.state))
        every, last = config.evaluation.every, counters.step == config.steps
        scored = bool(every) and (counters.step % every == 0 or last)
        self.save_due |= last or counters.step % config.checkpoint.every == 0
        self._read(0 if scored or self.save_due else steps_ahead(self.world.device))
        if counters.skipped_in_a_row >= config.skip_limit or (last and counters.skipped_in_a_row):
            self._recover()
            return
        if scored:
            self._evaluate()
        if self.save_due and not counters.skipped_in_a_row:
            self.save()

    def _read(self, ahead: int = 0) -> None:
        """Count and log what the steps found, but for the newest `ahead`, or until it is lost."""
        limit = self.config.skip_limit
        while len(self.unread) > ahead and self.state.counters.skipped_in_a_row < limit:
            self._note(self.unread.popleft())

    def _note(self, figures: StepFigures) -> None:
        config, counters = self.config, self.state.counters
        found = figures.read(config.model)
        spike = False
        if math.isfinite(found.loss) and math.isfinite(found.gradient_norm):
            spike = counters.is_spike(found.loss)
            counters.skipped_in_a_row = 0
        else:
            counters.skipped_steps += 1
            counters.skipped_in_a_row += 1
        now = time.perf_counter()
        seconds = now - max(figures.started, self.read_at)
        self.read_at = now
        counters.training_seconds += seconds
        counters.seconds = now - self.began
        if self.compile and self.first_step is None:
            self.first_step = seconds
            self._show({"step": figures.step, "first_step_seconds": seconds})
        if not (figures.step % config.log_every == 0 or figures.step == config.steps or spike):
            return
        self._log(
            {
                "step": figures.step,
                "tokens": figures.tokens,
                "loss": finite(found.loss),
                "bits_per_byte": finite(found.loss / math.log(2) / self.bytes_per_token),
                "learning_rate": figures.factor * config.optimizer.learning_rate,
                "gradient_norm": finite(found.gradient_norm),
                "skipped_steps": counters.skipped_steps,
                "tokens_per_second": config.tokens_per_step / seconds,
                "balance_loss": finite(found.balance_loss),
                "z_loss": finite(found.z_loss),
                **found.meter.figures(),
                **topology_figures(self.state.model, found.topology),
                **({"loss_spike": True} if spike else {}),
            }
        )

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
            world=self.world,
        )
        row = {"step": counters.step, "tokens": counters.tokens, "evaluation": held_out.to_dict()}
        if routing := held_out.routing():
            row["routing"] = {
                **routing,
                **topology_figures(self.state.model, topology(self.state.model)),
            }
        self._log(row)

    def _log(self, row: Row) -> None:
        for sink in self.sinks:
            sink.write(row)
        self._show(row)

    def _show(self, row: Row) -> None:
        if self.progress is not None and self.world.is_main:
            self.progress(row)

    def save(self) -> None:
        """Begin to write a checkpoint of this moment, once."""
        self._read()
        state = self.state
        # weights that lead to steps which are not finite are no checkpoint to go back to
        if self.saved_at == state.counters.step or state.counters.skipped_in_a_row:
            return
        self.save_due = False
        state.counters.seconds = time.perf_counter() - self.began
        if self.rows is not None:
            self.rows.sync()
        self.checkpoints.save(
            state.counters.step, state.weights(), state.tensors(), state.progress()
        )
        self.saved_at = state.counters.step

    def stop_if_asked(self) -> None:
        """Save and raise, saying how to go on, once a signal came."""
        if not self.asked_to_stop():
            return
        self.save()
        self.checkpoints.wait()
        raise Interrupted(
            f"stopped after step {self.state.counters.step} of {self.config.steps}; a checkpoint "
            f"is in {self.checkpoints.place}: run the same command again to go on from there"
        )

    def _recover(self) -> None:
        """Go back to the last checkpoint, or the beginning, and on past the batches since then."""
        counters, here = self.state.counters, self.state.batches.state()
        self.unread.clear()
        if len(counters.recoveries) >= self.config.recoveries:
            self._give_up()
        before = counters.recoveries
        with self.checkpoints.newest() as newest:
            if newest is None:
                self.state.batches.close()
                self.state = TrainState(self.config, self.state.corpus, self.world, self.compile)
            else:
                self.state.restore(newest)
        back_to = self.state.counters.step
        skipped = here["tokens_seen"] - self.state.batches.state()["tokens_seen"]
        happened = {"step": counters.step, "back_to": back_to, "tokens_skipped": skipped}
        self.state.counters.recoveries = [*before, happened]
        self.state.skip_to(here)
        if self.rows is not None:
            self.rows.cut(back_to)
        self._log({"step": back_to, "tokens": self.state.counters.tokens, "recovery": happened})
        # at once, so that a run which is stopped now does not walk into the same batches again
        self.saved_at = -1
        self.save()

    def _give_up(self) -> None:
        turns = len(self.state.counters.recoveries)
        gone_back = f" after going back {turns} times" if turns else ""
        message = (
            f"{self.state.counters.skipped_in_a_row} steps in a row, up to step "
            f"{self.state.counters.step}, had a loss or gradient that is not finite{gone_back}; "
            f"{self._last_good()}. Lower the learning rate or lengthen the warm-up"
        )
        if self.world.is_main:
            reason = {"step": self.state.counters.step, "message": message}
            write_json(self.folder / DIVERGED, reason)
        raise Diverged(message)

    def _last_good(self) -> str:
        last = self.checkpoints.last()
        return f"the last good checkpoint is {last}" if last else "there was no checkpoint yet"

    def finish(self) -> Result:
        """Score the test split (or the one that is set), once, and write the result."""
        config, state, counters = self.config, self.state, self.state.counters
        held_out = evaluate(
            state.model,
            state.corpus,
            config.evaluation.final_split,
            sequence_length=config.data.sequence_length,
            tokens_per_domain=config.evaluation.final_tokens,
            batch_size=config.evaluation.batch,
            precision=config.precision,
            between=self.stop_if_asked,
            world=self.world,
        )
        self.checkpoints.wait()
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
            evaluation={"split": held_out.split, "domains": held_out.to_dict()},
            parameters={"total": counts.total, "stored": counts.stored, "active": counts.active},
            flops_per_token={"forward": counts.flops_forward, "training": counts.flops_training},
            gate_mass=held_out.meter.gate_mass(),
            load=held_out.meter.shares(),
            seconds=counters.seconds,
            tokens_per_second=counters.tokens / max(counters.training_seconds, 1e-9),
            corpus_fingerprint=state.corpus.fingerprint,
            environment=environment(self.world, self.config, self.compile, self.first_step),
            recoveries=counters.recoveries,
            loss_spikes=counters.loss_spikes,
            floors=counted_floors(config, state.corpus) if self.world.is_main else None,
            checkpoint=self.checkpoints.hash_of(counters.step) if self.world.is_main else None,
        )
        if self.world.is_main:
            result.save(self.folder)
        self.checkpoints.prune(keep=1)
        self.world.barrier()
        return result

    def close(self) -> None:
        """Close the sinks, and end the reading ahead and the writing behind."""
        self.checkpoints.close()
        self.state.batches.close()
        for sink in self.sinks:
            sink.close()
