"""The topologies that collaboration learned, beside the untrained one that they began as."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from plait.config import CollaborationConfig
from plait.config_file import from_dict
from plait.model.collaboration import topology
from plait.report.figure import Figure, Section
from plait.report.figures import heatmap, variant_and_seed
from plait.studies.results import StudyResults

SHOWN = 8
"""banks shown for a run: evenly spread where it has more"""
Matrix = npt.NDArray[np.float32]


def topology_section(study: StudyResults) -> Section | None:
    """Heatmaps of S for the first seed of each collaborating variant; None where there is none."""
    found: dict[str, Matrix] = {}
    for variant in study.finished_variants:
        run = study.of(variant)[0]
        collaboration = run.config["model"].get("collaboration")
        raw = _raw_topologies(run.folder) if collaboration else {}
        config = from_dict(CollaborationConfig, collaboration or {})
        for bank in _spread(sorted(raw)):
            untrained = _topology(torch.zeros_like(raw[bank]), config)
            found.setdefault(f"Untrained, {len(untrained)} experts", untrained)
            label = f"{variant_and_seed(study, run)}, bank {bank}"
            found[label] = _topology(raw[bank], config)
    if not found:
        return None
    lowest = min(float(np.nanmin(s)) for s in found.values())
    highest = max(float(np.nanmax(s)) for s in found.values())
    text = (
        "S says how much each expert (row) listens to each other one (column). It begins uniform, "
        "1/(E − 1) off the diagonal: only what differs from the untrained picture was learned. All "
        "on one colour scale."
    )
    figures = [
        Figure(
            f"topology-{index}",
            label,
            heatmap(_cells(s), "from", "to", "weight", "S", (lowest, highest or 1.0), height=210),
            _entropy(s),
            span="quarter",
        )
        for index, (label, s) in enumerate(found.items())
    ]
    return Section("Collaboration: who listens to whom", [text], figures)


def _raw_topologies(run_folder: Path) -> dict[int, torch.Tensor]:
    """The topology parameters by bank, from the newest checkpoint that holds weights."""
    weights = [
        path
        for path in run_folder.glob("checkpoints/step-*/model.safetensors")
        if path.parent.name.removeprefix("step-").isdigit()
    ]
    if not weights:
        return {}
    newest = max(weights, key=lambda path: int(path.parent.name.removeprefix("step-")))
    with safe_open(newest, framework="pt") as file:
        names = [n.split(".") for n in file.keys() if n.startswith("collaboration.")]  # noqa: SIM118
        return {int(n[1]): file.get_tensor(".".join(n)) for n in names if n[2:] == ["raw"]}


def _topology(raw: torch.Tensor, config: CollaborationConfig) -> Matrix:
    """S as numbers, NaN on the diagonal where experts do not send to themselves."""
    s: Matrix = topology(raw, config).numpy()
    if not config.self_loop:
        np.fill_diagonal(s, np.nan)
    return s


def _entropy(s: Matrix) -> str:
    """Mean row entropy beside its ceiling; empty for a signed S, whose rows are no distribution."""
    if np.nanmin(s) < 0 or not np.allclose(np.nansum(s, 1), 1, atol=1e-4):
        return ""
    entropy = float(np.mean(-np.nansum(s * np.log(np.maximum(s, 1e-30)), 1)))
    ceiling = math.log(int(np.isfinite(s[0]).sum()))
    return f"Mean row entropy {entropy:.3f} nats of at most {ceiling:.3f}."


def _cells(s: Matrix) -> list[dict[str, Any]]:
    return [
        {"to": int(i), "from": int(j), "weight": float(s[i, j])}
        for i, j in np.argwhere(np.isfinite(s))
    ]


def _spread(banks: list[int]) -> list[int]:
    if len(banks) <= SHOWN:
        return banks
    return [banks[round(i * (len(banks) - 1) / (SHOWN - 1))] for i in range(SHOWN)]
