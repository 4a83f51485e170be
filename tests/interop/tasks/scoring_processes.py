"""What `test_divided_tasks.py` asks of one process and of several."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from made_up_tasks import MadeUpPackage

from plait.interop.tasks import downstream, scorer, task_files
from plait.opening import open_model
from plait.parallel import World

TASKS = ("social_iqa", "lambada_openai", "boolq")
PROMPTS = ["Question: who?", "what is it?", "Answer: the", "where is the answer?", "it is"]


class Noted(MadeUpPackage):
    """A package that writes down where it is unpacked."""

    def unpack(self, cache: Path, folder: Path) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "unpacked.txt").open("a") as out:
            out.write("".join(f"{name}\n" for name in self.include))
        super().unpack(cache, folder)


def small_batches(setattr: Callable[[object, str, object], None] = setattr) -> None:
    """Make several batches of few questions, of made-up packages."""
    setattr(scorer, "BATCH_TOKENS", 100)
    setattr(task_files, "PythonPackage", Noted)


def score(folder: Path, cache: Path, out: Path, world: World | None = None) -> dict[str, Any]:
    """Score tasks and write some text; count the forwards of this process."""
    model = open_model(folder, "cpu").ours
    forwards: list[object] = []
    model.embedding.register_forward_hook(lambda *_: forwards.append(None))
    options: dict[str, Any] = {"shots": 0, "cache": cache, "out": out, "world": world}
    scores = downstream.evaluate_tasks(folder, model, TASKS, **options)
    few = downstream.evaluate_tasks(folder, model, ["boolq"], limit=1, **options)
    scored = len(forwards)
    how = {"until": ["."], "max_gen_toks": 8, "do_sample": False}
    requests = [
        Instance("generate_until", {}, (prompt, how), number)
        for number, prompt in enumerate(PROMPTS)
    ]
    lm = downstream._scorer(folder, model, world or World(torch.device("cpu")))
    return {
        "scores": scores,
        "few": few,
        "written": lm.generate_until(requests),
        "scoring": scored,
        "writing": len(forwards) - scored,
    }


def be_rank(rank: int, folder: Path, cache: Path, out: Path) -> None:
    """Do the above with the other processes, and keep what this one has."""
    small_batches()
    found = score(folder, cache, out / f"{rank}.json", World.of_copies("cpu"))
    torch.save(found, out / f"{rank}.pt")
