"""The main job runs on the core and the extra `report` alone: no further extra is imported."""

import subprocess
import sys

OTHERS = (
    "transformers",
    "datasets",
    "lm_eval",
    "starlette",
    "uvicorn",
    "peft",
    "tiktoken",
    "submitit",
)
MAIN_JOB = (
    "plait.cli",
    "plait.studies.runner",
    "plait.studies.launchers",
    "plait.studies.worker",
    "plait.training",
    "plait.surgery.tying",
    "plait.report.study.study_report",
    "plait.report.study.routing_section",
    "plait.report.routing.trace_report",
)


def test_main_job_needs_no_other_extra():
    block = f"import sys; sys.modules.update(dict.fromkeys({OTHERS!r}))"
    load = "; ".join(f"import {module}" for module in MAIN_JOB)
    done = subprocess.run(
        [sys.executable, "-c", f"{block}; {load}"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
