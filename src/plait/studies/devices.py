"""Devices of a study's runs: each sees its own GPUs and no others, with a process for each."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def visible_gpus(device: str | None) -> tuple[str, ...]:
    """Return the GPUs that workers may share out, as CUDA_VISIBLE_DEVICES names them.

    Args:
        device: as torch names it; None: CUDA where there is one. One of a certain number, or
            another kind, is for all workers alike, so that there is nothing to share out.
    """
    if device not in (None, "cuda"):
        return ()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip())
    import torch

    return tuple(str(number) for number in range(torch.cuda.device_count()))


def own_gpus(slot: int, each: int, gpus: Sequence[str]) -> dict[str, str]:
    """Return what the environment of the worker in a slot says of its GPUs, round robin.

    Args:
        slot: of the workers at a time, from 0.
        each: GPUs of a worker.
        gpus: of this machine; without any nothing is said.
    """
    if not gpus:
        return {}
    first = slot % (len(gpus) // each) * each
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[first : first + each])}


def require_gpus(each: int, gpus: Sequence[str], device: str | None) -> None:
    """Make sure that a run finds its GPUs on this machine; on the CPU they are processes.

    Raises:
        ValueError: there are too few.
    """
    if each < 1:
        raise ValueError(f"gpus_per_run is {each}: at least one")
    if each > 1 and device != "cpu" and len(gpus) < each:
        raise ValueError(
            f"a run wants {each} GPUs, and here are {len(gpus)}: lower --gpus-per-run"
            f"{', or say --device cpu' if not gpus else ''}"
        )


def worker_command(
    folder: Path,
    device: str | None = None,
    processes: int = 1,
    compile: bool = False,
    checkpoints: str | None = None,
    torchrun: Sequence[str] = (),
) -> list[str]:
    """Return the command that trains one run folder.

    Args:
        folder: of the run.
        device: as torch names it; None: CUDA where there is one, else the CPU.
        processes: on this machine that share the run; torchrun starts more than one.
        compile: each depth by torch.compile.
        checkpoints: address beneath which they are kept; None: in the folder.
        torchrun: its further options, such as where the other machines meet.
    """
    worker = ["-m", "plait.studies.worker", str(folder)]
    worker += [] if device is None else [f"--device={device}"]
    worker += ["--compile"] if compile else []
    worker += [] if checkpoints is None else [f"--checkpoints={checkpoints}"]
    if processes == 1 and not torchrun:
        return [sys.executable, *worker]
    how = torchrun or ["--standalone"]
    launch = ["-m", "torch.distributed.run", *how, "--nproc-per-node", str(processes)]
    return [sys.executable, *launch, *worker]


def ask_to_stop(process: "subprocess.Popen[bytes]", processes: int) -> None:
    """Ask what `worker_command` started, with a pipe for its input, to save its run and end.

    torchrun would give its processes 30 seconds, too few for a large checkpoint. They read from
    the same pipe, and where that closes they save and stop too.
    """
    if processes > 1:
        assert process.stdin is not None
        process.stdin.close()
    else:
        process.send_signal(signal.SIGTERM)
