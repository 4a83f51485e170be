"""What a run writes of itself beside its losses."""

import math
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plait import __version__
from plait.atomic import new_file, write_json
from plait.config import TrainConfig
from plait.data.corpus import Corpus
from plait.evaluation.floors import floors
from plait.kernels.precision import compute_type
from plait.model import LanguageModel, attending, collaboration
from plait.model.experts import kernel_name
from plait.parallel import World, whole
from plait.storage.run_folder import CORPUS, TOKENIZER


def keep_corpus_facts(corpus: Corpus, folder: Path) -> None:
    """Make the run's folder complete: it is read on machines where the corpus is not."""
    if not (folder / CORPUS).exists():
        write_json(folder / CORPUS, corpus.manifest)
    if not (folder / TOKENIZER).exists():
        with new_file(folder / TOKENIZER) as partial:
            shutil.copyfile(corpus.path / TOKENIZER, partial)


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def bytes_per_token(corpus: Corpus) -> float:
    """Average of the training text, domains weighted as they are drawn."""
    domains = corpus.manifest["splits"]["train"]
    weights = corpus.weights or {name: entry["tokens"] for name, entry in domains.items()}
    mean = sum(w * domains[name]["bytes"] / domains[name]["tokens"] for name, w in weights.items())
    return float(mean / sum(weights.values()))


def counted_floors(config: TrainConfig, corpus: Corpus) -> dict[str, dict[str, dict[str, float]]]:
    """What counting the training tokens of the run scores on the tokens that it is scored on."""
    counted = floors(
        corpus,
        sequence_length=config.data.sequence_length,
        training_tokens=config.steps * config.tokens_per_step,
        tokens_per_domain=config.evaluation.final_tokens,
        split=config.evaluation.final_split,
        seed=config.seed,
    )
    return counted.to_dict()


@torch.no_grad()
def topology(model: LanguageModel) -> Tensor:
    """Of each bank of S, in order: the mean row entropy in nats and the largest entry, float64."""
    found = [torch.zeros(0, dtype=torch.float64, device=model.embedding.weight.device)]
    for bank in model.collaboration.values():
        assert isinstance(bank, collaboration.Collaboration)
        s_EE = collaboration.topology(whole(bank.raw), bank.config).abs()
        rows_EE = s_EE / s_EE.sum(-1, keepdim=True).clamp_min(1e-20)
        entropy = torch.special.entr(rows_EE).sum(-1).mean()
        found.append(torch.stack((entropy, s_EE.max())).double())
    return torch.cat(found)


def topology_figures(model: LanguageModel, found: Tensor) -> dict[str, list[float | None]]:
    """Give what `topology` found under its names, by depth; nothing without S."""
    if not len(found):
        return {}
    config = model.config
    by_bank = dict(zip(model.collaboration, found.view(-1, 2).tolist(), strict=True))
    banks = [str(bank) for bank in config.plans.collaboration.banks]
    keys = [bank if d in config.routed_depths else "" for d, bank in enumerate(banks)]
    names = ("topology_entropy", "topology_max")
    return {
        name: [by_bank[key][column] if key in by_bank else None for key in keys]
        for column, name in enumerate(names)
    }


def environment(
    world: World, config: TrainConfig, compile: bool = False, first_step: float | None = None
) -> dict[str, Any]:
    """What a run was computed with: versions, device, processes, threads, kernels.

    Of what is compiled, `first_step` are the seconds of the first step; None: there was none.
    """
    on_cuda = world.device.type == "cuda"
    # experts on other processes are called from the graph, and are no part of it
    parted = (world.layout.expert or 1) > 1
    dtype = compute_type(world.device.type, config.precision)
    return {
        "plait": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if on_cuda else platform.machine(),
        "processes": world.size,
        **({"mesh": str(world.layout)} if world.size > 1 else {}),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "precision": "bf16" if dtype == torch.bfloat16 else "fp32",
        "kernel": kernel_name(config.model, world.device, dtype, compile and not parted),
        "attention": attending.kernel_name(config.model, world.device, dtype, compile),
        **({"compile": True} if compile else {}),
        **({"first_step_seconds": round(first_step, 1)} if first_step is not None else {}),
    }
