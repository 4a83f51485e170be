"""`plait bench`: our speed against transformers' on this machine, in one run.

Every figure is a ratio of medians from one process, interleaved step by step, a fresh batch at
every step, with the same mathematics, weights, optimizer and clipping on both sides.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from plait.bench import measuring
from plait.bench.contestants import IMPLEMENTATIONS, Trained, ours, settings, their_model, theirs
from plait.bench.expected import Clock, expected_seconds
from plait.bench.memory import peak_above_model
from plait.bench.shapes import SHAPES, STANDARD, Shape, require_shapes
from plait.config.counts import count
from plait.kernels import processor
from plait.kernels.precision import compute_type
from plait.model import LanguageModel
from plait.model.generate import generate
from plait.parallel import default_device
from plait.report.terminal.bench_table import bench_table

PRECISIONS = ("fp32", "bf16")
NEW_TOKENS = 32
WIDE = 155
"""characters that the table needs"""

Result = dict[str, Any]


def run(
    shapes: Sequence[str] = STANDARD,
    precisions: Sequence[str] = PRECISIONS,
    json_path: Path | None = None,
    rounds: int = 5,
    memory: bool = True,
    extras: bool = True,
    device: str = "cpu",
    console: Console | None = None,
    compiled: bool = False,
) -> Result:
    """Measure, print a line for each shape and the table; return what `json_path` would hold.

    Args:
        shapes: names from `SHAPES`.
        precisions: "fp32" (full accuracy) and "bf16" (products in bf16 over fp32 weights).
        json_path: file to write the result to.
        rounds: timed steps of each contestant.
        memory: measure peak memory as well, each side in a process of its own.
        extras: measure decoding, tied and shared twins and collaboration as well.
        device: as torch names it.
        console: where lines and table go; None prints to the terminal.
        compiled: measure both sides under torch.compile as well; on CUDA they always are.

    Raises:
        ValueError: a shape or precision is unknown, or transformers is not installed.
    """
    require_shapes(shapes)
    for name in precisions:
        if name not in PRECISIONS:
            raise ValueError(f"no precision is called {name!r}; choose {' or '.join(PRECISIONS)}")
    console = console or Console()
    place = default_device(device)
    compiled = compiled or place.type == "cuda"
    found = processor.configure()
    if "bf16" in precisions and compute_type(place.type, "bf16") != torch.bfloat16:
        precisions = ("fp32",)
        console.print("this processor has no units for bf16: what asks for it is trained in fp32")
    result: Result = {
        "machine": {**measuring.machine(place), "fp32_setting": found.fp32_setting},
        "shapes": {},
    }
    how = precisions, rounds, memory, extras, place, compiled
    clock = Clock({name: expected_seconds(SHAPES[name], *how) for name in shapes})
    console.print(f"{clock.begin()}, with a line for each shape that is done")
    for name in dict.fromkeys(shapes):
        shape = SHAPES[name]
        entry: Result = {}
        with measuring.threads(shape.threads):
            for precision in precisions:
                first, *others = shape.optimizers
                with console.status(f"shape {name}, {precision}: {rounds} rounds"):
                    entry[precision] = _speed(shape, precision, rounds, place, first, compiled)
                for other in others:
                    with console.status(f"shape {name}, {precision}, {other}: {rounds} rounds"):
                        entry[precision][other] = _speed(shape, precision, rounds, place, other)
                if memory:
                    with console.status(f"shape {name}, {precision}: memory"):
                        best = entry[precision]["best"]
                        entry[precision] |= _memory(name, precision, best, device)
            if extras:
                with console.status(f"shape {name}: decoding"):
                    entry["decoding_ratio"] = _decoding(shape, place)
                with console.status(f"shape {name}: shared parts"):
                    entry["shared"] = _shared(shape, precisions[-1], rounds, place)
        result["shapes"][name] = entry
        ratios = ", ".join(f"{entry[p]['ratio']:.2f} × transformers in {p}" for p in precisions)
        said = f"shape {name}: {ratios} ({clock.done(name)})"
        console.print(said, soft_wrap=True, highlight=False)
        if json_path is not None:
            json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not console.is_terminal:
        console.width = max(console.width, WIDE)  # a file has no edge
    console.print(bench_table(result))
    return result


def _speed(
    shape: Shape,
    precision: str,
    rounds: int,
    device: torch.device,
    optimizer: str,
    compiled: bool = False,
) -> Result:
    """Time whole training steps; seconds per step by contestant are in "seconds"."""
    batches = shape.batches()
    config = shape.config()
    mine = ours(config, precision, device, optimizer)
    other = theirs(shape, precision, device, optimizer)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    ceilings: list[float] = []
    product = measuring.product(dtype, device)

    def ceiling() -> None:
        with settings(tuned=True):
            ceilings.append(product())

    # Ours last: as the order alternates it then never follows a change of settings, at which kept
    # memory is given back; growing it anew takes three or four steps.
    contestants: dict[str, Callable[[], object]] = {}
    for way in (*IMPLEMENTATIONS, "plait"):
        contestants[f"transformers {way}"] = _timed(other, batches, False, way)
    if device.type == "cpu":  # the settings are of a processor and its memory
        for way in IMPLEMENTATIONS:
            contestants[f"transformers {way}, our settings"] = _timed(other, batches, True, way)
    contestants |= {"ceiling": ceiling, "plait": _timed(mine, batches, tuned=True)}
    seconds = measuring.interleaved(contestants, rounds)
    del seconds["ceiling"]
    best = min(IMPLEMENTATIONS, key=lambda way: seconds[f"transformers {way}"])

    def fastest(suffix: str) -> float:
        return min(seconds[f"transformers {way}{suffix}"] for way in IMPLEMENTATIONS)

    flops = count(config).flops_training * shape.tokens
    result = {
        "ratio": fastest("") / seconds["plait"],
        "ratio_experts_in_transformers": fastest("") / seconds["transformers plait"],
        "ceiling_share": flops / seconds["plait"] / max(ceilings),
        "ceiling_gflops": max(ceilings) / 1e9,
        "tokens_per_second": shape.tokens / seconds["plait"],
        "best": best,
        "seconds": seconds,
    }
    if device.type == "cpu":
        result["ratio_our_settings"] = fastest(", our settings") / seconds["plait"]
    if compiled:
        result |= _compiled(mine, other, batches, rounds)
    if precision == "bf16" and optimizer == "adamw":
        # in a run of their own, beside ours again: a third model's memory would not fit everywhere
        del other, contestants
        pure = theirs(shape, "pure-bf16", device)
        contestants = {"plait": _timed(mine, batches, tuned=True)}
        contestants |= {way: _timed(pure, batches, True, way) for way in IMPLEMENTATIONS}
        again = measuring.interleaved(contestants, rounds)
        result["ratio_pure_bf16"] = min(again[way] for way in IMPLEMENTATIONS) / again["plait"]
        result["seconds_pure_bf16"] = again
    return result


def _compiled(mine: Trained, other: Trained, batches: Any, rounds: int) -> Result:
    """Compare the better of ours, compiled or not, with their best way compiled."""
    whole = other.compiled()
    contestants = {way: _timed(whole, batches, True, way) for way in IMPLEMENTATIONS}
    contestants["plait, compiled"] = _timed(mine.compiled(), batches, tuned=True)
    contestants["plait"] = _timed(mine, batches, tuned=True)
    seconds = measuring.interleaved(contestants, rounds)
    best = min(seconds[way] for way in IMPLEMENTATIONS)
    ratio = best / min(seconds["plait"], seconds["plait, compiled"])
    return {"ratio_compiled": ratio, "seconds_compiled": seconds}


def interleaved_steps(
    shapes: Mapping[str, Shape], precision: str, device: torch.device, rounds: int = 5
) -> dict[str, float]:
    """Return the median seconds of our whole training step at each shape."""
    contestants = {
        name: _timed(ours(shape.config(), precision, device), shape.batches(), tuned=True)
        for name, shape in shapes.items()
    }
    return measuring.interleaved(contestants, rounds)


def _timed(
    trained: Trained, batches: Any, tuned: bool, way: str | None = None
) -> Callable[[], object]:
    def step() -> None:
        if way is not None:
            trained.model.set_experts_implementation(way)  # type: ignore[operator]
        with settings(tuned):
            trained.step(*next(batches))

    return step


def _memory(shape: str, precision: str, best: str, device: str) -> Result:
    mine = peak_above_model("plait", shape, precision, device)
    other = peak_above_model(best, shape, precision, device)
    return {"memory_ratio": mine / other, "memory_bytes": {"plait": mine, "transformers": other}}


def _decoding(shape: Shape, device: torch.device) -> float:
    """Return tokens/s over transformers' `generate`: greedy, one sequence, with a cache, fp32."""
    mine = LanguageModel(shape.config()).to(device).eval()
    other = their_model(shape).to(device).eval()
    prompt = list(range(1, 9))

    def plait() -> None:
        assert len(list(generate(mine, prompt, max_new_tokens=NEW_TOKENS, temperature=0))) > 0

    def transformers(way: str) -> None:
        other.set_experts_implementation(way)
        tokens = torch.tensor([prompt], device=device)
        other.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=0,
        )

    contestants: dict[str, Callable[[], object]] = {"plait": plait}
    contestants |= {way: lambda way=way: transformers(way) for way in IMPLEMENTATIONS}  # type: ignore[misc]
    seconds = measuring.interleaved(contestants, rounds=3)
    return min(seconds[way] for way in IMPLEMENTATIONS) / seconds["plait"]


def _shared(shape: Shape, precision: str, rounds: int, device: torch.device) -> dict[str, float]:
    """Return the speed of variants over the plain model's; collaboration's cost is 1 − that."""
    batches = shape.batches()
    configs = {"plain": shape.config(), **shape.variants()}
    contestants = {
        name: _timed(ours(config, precision, device), batches, tuned=True)
        for name, config in configs.items()
    }
    seconds = measuring.interleaved(contestants, rounds)
    return {name: seconds["plain"] / seconds[name] for name in configs if name != "plain"}
