"""What runs in the process of a page: its commands and its blocks of Python, in order.

python page_process.py STEPS.json   in the folder where the page's names stand for something
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from plait.studies import throughput


def run(step: dict[str, Any], namespace: dict[str, Any]) -> None:
    """Do what a page shows; anything but success ends the process."""
    if step["port"] is not None:
        threading.Thread(target=look_and_interrupt, args=(step["port"],), daemon=True).start()
    if step["kind"] == "python":
        exec(compile(step["code"], step["shown"], "exec"), namespace)
    elif step["words"][0] != "plait":
        subprocess.run(step["words"], check=True)
    else:  # in this process, which has read torch and all else once
        from plait.cli import INTERRUPTED, main

        if step["words"][1:3] == ["study", "run"] and len(step["words"]) == 4:
            all_but_one(step["words"][3])
        try:
            main(step["words"][1:])
        except SystemExit as end:
            if end.code not in (0, None) if step["port"] is None else end.code != INTERRUPTED:
                sys.exit(f"it ended with {end.code}")


def all_but_one(name: str) -> None:
    """Train what a study needs here, so that one worker is left to start, and not each in turn."""
    from plait import recipes
    from plait.studies.plan import planned_runs, write_plan
    from plait.training import train

    study = recipes.study(name)
    write_plan(study, Path("runs"))
    for planned in planned_runs(study, Path("runs"))[:-1]:
        train(planned.config, planned.folder)


def look_and_interrupt(port: int) -> None:
    """Ask a server for its page as soon as it answers, then end it as Ctrl-C does."""
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
                assert b"<html" in answer.read()
            break
        except OSError:
            time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def measured_here(configuration: Path, processes: int) -> float:
    """What `throughput` measures in processes of its own, in this one."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        throughput.main(configuration)
    return processes * float(said.getvalue())


if __name__ == "__main__":
    throughput._tokens_per_second = measured_here
    plan = json.loads(Path(sys.argv[1]).read_text())
    for module in plan["hidden"]:
        sys.modules[module] = None  # type: ignore[assignment]
    names: dict[str, Any] = {"__name__": "page"}
    for step in plan["steps"]:
        print(f"\n──── {step['shown']}", flush=True)
        started = time.perf_counter()
        run(step, names)
        print(f"──── {time.perf_counter() - started:.1f} s", flush=True)
