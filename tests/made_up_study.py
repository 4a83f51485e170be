"""Study folders as the trainer leaves them, with made-up numbers, for tests of table and report."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plait.config import CollaborationConfig, ExpertConfig, ModelConfig, ScheduleConfig, TrainConfig
from plait.config.files import save_yaml, to_dict
from plait.sharing import Sharing
from plait.studies.factorial import Factorial

DEPTH, EXPERTS = 4, 8
DOMAINS = {"code": 0.35, "encyclopaedia": -0.3}
BYTES_PER_TOKEN = 3.3


def write_study(
    root: Path,
    offsets: Mapping[str, Sequence[float]],
    *,
    name: str = "made-up",
    description: str = "Made-up numbers.",
    domains: Mapping[str, float] = DOMAINS,
    collaborating: Sequence[str] = (),
    missing: Sequence[str] = (),
    contrasts: Sequence[Mapping[str, Any]] = (),
    bigram: float | None = None,
    design: Mapping[str, Any] | None = None,
    flops: Mapping[str, float] | None = None,
) -> Path:
    """Write a study whose variants end at 4 + offset nats per token, one offset per seed.

    The first variant is the baseline; runs named in `missing` ("variant-s0") have no result.
    `bigram` is the floor in nats per token, None: the runs are of a version that did not count.
    `design` is what `study.json` says of a factorial design or a ladder; `flops` are for training
    by variant and token.
    """
    folder = root / name
    folder.mkdir(parents=True)
    runs = []
    for index, (variant, per_seed) in enumerate(offsets.items()):
        for seed, offset in enumerate(per_seed):
            run = folder / f"run{index}-s{seed}"
            collaboration = variant in collaborating
            per_token = 1.08e7 if flops is None else flops[variant]
            _write_run(run, seed, 4 + offset, domains, index, collaboration, bigram, per_token)
            if f"{variant}-s{seed}" in missing:
                (run / "result.json").unlink()
            runs.append({"variant": variant, "seed": seed, "folder": run.name})
    plan = {
        "name": name,
        "description": description,
        "baseline": next(iter(offsets)),
        "margin": 0.01,
        "contrasts": list(contrasts),
        **(design or {}),
        "runs": runs,
    }
    (folder / "study.json").write_text(json.dumps(plan))
    corpus = {
        "sources": [
            {
                "source": f"where {domain} comes from",
                "domain": domain,
                "licence": "PSF-2.0",
                "documents": 1632,
                "bytes": 12_200_000,
            }
            for domain in domains
        ],
        "splits": {
            split: {domain: {"tokens": tokens} for domain in domains}
            for split, tokens in {"train": 3_400_000, "validation": 90_000, "test": 91_000}.items()
        },
    }
    (folder / "corpus.json").write_text(json.dumps(corpus))
    return folder


def write_factorial(
    root: Path,
    effects: Mapping[tuple[str, ...], float],
    *,
    seeds: int = 3,
    noise: float = 0.002,
    missing: Sequence[str] = (),
    bigram: float | None = None,
) -> Path:
    """Write a study of router × experts × collaboration whose effects are stated, in nats."""
    design = Factorial(
        {
            "router": {"own": {}, "b4": {}},
            "experts": {"own": {}, "g4": {}},
            "collaboration": {"none": {}, "topology": {}},
        }
    ).design
    generator = random.Random(0)
    offsets: dict[str, list[float]] = {}
    for name, cell in design.cells.items():
        levels = {f"{f}={level}" for f, level in zip(design.factors, cell, strict=True)}
        shift = sum(value for names, value in effects.items() if levels.issuperset(names))
        offsets[name] = [shift + 0.05 * s + generator.gauss(0, noise) for s in range(seeds)]
    stored = {"factorial": to_dict(design)}
    return write_study(root, offsets, name="crossed", design=stored, missing=missing, bigram=bigram)


def write_ladder(
    root: Path,
    shifts: Mapping[str, float],
    *,
    sizes: Sequence[str] = ("s64", "s96", "s128", "s160"),
    seeds: int = 3,
    noise: float = 0.002,
    missing: Sequence[str] = (),
) -> Path:
    """Write a study on a ladder: loss 2 + 5·C^−0.3 plus each structure's shift, C from 1 by 4."""
    generator = random.Random(0)
    baseline = next(iter(shifts))
    offsets: dict[str, list[float]] = {f"{baseline}.{sizes[-1]}": []}
    flops = {}
    for structure, shift in shifts.items():
        for rank, size in enumerate(sizes):
            loss = 2 + 5 * (4.0**rank) ** -0.3 + shift
            name = f"{structure}.{size}"
            offsets[name] = [loss - 4 + 0.01 * s + generator.gauss(0, noise) for s in range(seeds)]
            flops[name] = 1e7 * 4.0**rank
    rungs = {name: name.split(".") for name in offsets}
    stored = {"ladder": {"sizes": list(sizes), "baseline": baseline, "rungs": rungs}}
    return write_study(root, offsets, name="rungs", design=stored, flops=flops, missing=missing)


def made_up_config(
    seed: int = 0, *, tied: bool = False, collaboration: bool = False
) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig(
            vocab_size=512,
            depth=DEPTH,
            width=128,
            experts=ExpertConfig(count=EXPERTS, top_k=3),
            collaboration=CollaborationConfig() if collaboration else None,
            sharing=Sharing(experts="groups(2)" if tied else "own"),
        ),
        tokens=2_000_000,
        schedule=ScheduleConfig(warmup=100_000),
        seed=seed,
    )


def measures(loss: float) -> dict[str, float]:
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": loss / math.log(2) / BYTES_PER_TOKEN,
        "tokens": 65536,
        "bytes": int(65536 * BYTES_PER_TOKEN),
    }


def _evaluation(loss: float, domains: Mapping[str, float]) -> dict[str, Any]:
    return {
        **{domain: measures(loss + shift) for domain, shift in domains.items()},
        "all": measures(loss),
    }


def _routing(step: int, noise: random.Random, *, tied: bool, collaboration: bool) -> dict[str, Any]:
    """What an evaluation records: load evens out, routers grow sure, paths multiply."""

    def by_depth(value: float) -> list[float]:
        return [value + noise.gauss(0, 0.02) for _ in range(DEPTH)]

    done = step / 500
    recorded: dict[str, Any] = {
        "load_max_over_mean": by_depth(2.2 - done),
        "dead_experts": [round(2 * (1 - done))] * DEPTH,
        "router_entropy": by_depth(math.log(EXPERTS) - 0.4 * done),
        "path_entropy": 4 + done + noise.gauss(0, 0.1),
        "paths": 300,
        "path_tokens": 4096,
        "consistency": 0.26 + 0.2 * done * tied,
        "consistency_in_blocks": 0.26 + 0.4 * done if tied else None,
        "agreement": 0.2 + 0.3 * done if tied else None,
    }
    if collaboration:
        even = math.log(EXPERTS - 1)
        recorded |= {
            "topology_entropy": [even - 0.1 * done] * DEPTH,
            "topology_max": [1 / (EXPERTS - 1) + 0.2 * done] * DEPTH,
        }
    return recorded


def _write_run(
    folder: Path,
    seed: int,
    loss: float,
    domains: Mapping[str, float],
    index: int,
    collaboration: bool,
    bigram: float | None,
    training_flops: float,
) -> None:
    noise = random.Random(1000 * index + seed)
    folder.mkdir()
    save_yaml(
        made_up_config(seed, tied=index == 1, collaboration=collaboration), folder / "config.yaml"
    )
    rows = []
    for step in range(10, 501, 10):
        tokens = step * 4000
        now = loss + 5 * math.exp(-step / 90)
        rows.append(
            {
                "step": step,
                "tokens": tokens,
                "loss": now + noise.gauss(0, 0.05),
                "tokens_per_second": 9000 + noise.gauss(0, 200),
                "learning_rate": 1e-3,
                "load_max_over_mean": [1.2] * DEPTH,
            }
        )
        if step % 100 == 0:
            rows.append(
                {
                    "step": step,
                    "tokens": tokens,
                    "evaluation": _evaluation(now, domains),
                    "routing": _routing(step, noise, tied=index == 1, collaboration=collaboration),
                }
            )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loads = []
    for _ in range(DEPTH):
        raw = [noise.lognormvariate(0, 0.4) for _ in range(EXPERTS)]
        loads.append([value / sum(raw) for value in raw])
    result = {
        "study": folder.parent.name,
        "variant": "as in study.json",
        "seed": seed,
        "config_hash": "0" * 12,
        "steps": 500,
        "tokens": 2_000_000,
        "skipped_steps": 0,
        "evaluation": {"split": "test", "domains": _evaluation(loss, domains)},
        "parameters": {
            "total": 3_400_000,
            "stored": 3_400_000 if index != 1 else 2_100_000,
            "active": 1_700_000,
        },
        "flops_per_token": {"forward": training_flops / 3, "training": training_flops},
        "gate_mass": 0.62 * (1.5 if collaboration else 1),
        "floors": bigram
        and {
            "unigram": _evaluation(bigram + 2, domains),
            "bigram": _evaluation(bigram, domains),
        },
        "load": [None, *loads[1:]] if index == 3 else loads,
        "seconds": 214.0,
        "tokens_per_second": 9345.0,
        "corpus_fingerprint": "c0ffee123456",
        "environment": {"python": "3.11.7", "torch": "2.13.0", "processor": "2 cores"},
    }
    (folder / "result.json").write_text(json.dumps(result))
