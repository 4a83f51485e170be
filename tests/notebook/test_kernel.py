"""A study in a real kernel: shown in place, stopped by the notebook's button, taken up again."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from tiny_corpus import tiny

STUDY = """
from plait.config import *
from plait.studies.runner import run_study
from plait.studies.study import Study

config = TrainConfig(
    model=ModelConfig(
        vocab_size=512, depth=2, width=32, context=64, experts=ExpertConfig(count=4, width=32)
    ),
    data=DataConfig(corpus="tiny", sequence_length=64, batch=4),
    tokens=60_000,
    schedule=ScheduleConfig(warmup=1000),
    evaluation=EvaluationConfig(tokens=512, final_tokens=512),
    checkpoint=CheckpointConfig(every=1000),
)
study = Study(name="small", baseline="only", variants={"only": config})
"""
RUN = "results = run_study(study)"


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[tuple[KernelManager, Any]]:
    manager = KernelManager(kernel_name="python3")
    threads = {"OMP_NUM_THREADS": "1", "PLAIT_KERNEL": "reference"}
    manager.start_kernel(cwd=str(tmp_path), env=os.environ | threads)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def reply(client: Any, asked: str) -> dict[str, Any]:
    while (said := client.get_shell_msg(timeout=240))["parent_header"].get("msg_id") != asked:
        pass
    content: dict[str, Any] = said["content"]
    return content


@pytest.mark.slow
def test_a_cell_that_is_stopped_saves_and_goes_on(
    kernel: tuple[KernelManager, Any], tmp_path: Path
) -> None:
    manager, client = kernel
    tiny(tmp_path / "tiny")
    assert reply(client, client.execute(STUDY))["status"] == "ok"

    asked = client.execute(RUN, stop_on_error=False)  # else what follows at once may be aborted
    deadline = time.monotonic() + 120
    while not any(path.stat().st_size for path in tmp_path.glob("runs/small/*/metrics.jsonl")):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    manager.interrupt_kernel()
    assert reply(client, asked)["ename"] == "KeyboardInterrupt"
    assert list(tmp_path.glob("runs/small/*/checkpoints/step-*"))
    assert not list(tmp_path.glob("runs/small/*/result.json"))

    assert reply(client, client.execute(RUN))["status"] == "ok"
    asked = client.execute("results")
    assert reply(client, asked)["status"] == "ok"
    kinds, shown = set(), ""
    while not shown:
        message = client.get_iopub_msg(timeout=60)
        kinds.add(message["msg_type"])
        if message["parent_header"].get("msg_id") == asked:
            shown = message["content"].get("data", {}).get("text/html", "")
    assert {"display_data", "update_display_data"} <= kinds
    assert "Study small" in shown
    assert "not finished" not in shown
