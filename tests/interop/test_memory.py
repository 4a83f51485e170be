"""Importing and exporting hold a tensor at a time: measured from outside, in their processes."""

import json
import subprocess
import sys

import torch
from safetensors.torch import save_file
from transformers import OlmoeConfig

from plait.config import AttentionConfig, ExpertConfig, ModelConfig
from plait.config.files import save_yaml
from plait.model import LanguageModel
from plait.storage.tensor_files import shard_names, write_index

CONVERT = """
import resource, sys
from pathlib import Path
from plait.interop.{module} import {function} as convert

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
summary = convert(Path(sys.argv[1]), Path(sys.argv[2]))
print([peak() - before, summary.bytes])
"""


def measured(direction, source, out):
    """Return the bytes that a process of its own grew by, mapped pages counted, and wrote."""
    code = CONVERT.format(module=f"{direction}ing", function=f"{direction}_model")
    done = subprocess.run(
        [sys.executable, "-c", code, str(source), str(out)],
        check=True,
        capture_output=True,
        text=True,
    )
    for file in out.parent.rglob("*.safetensors"):
        file.unlink()  # a finished test's folder is kept
    return json.loads(done.stdout)


def test_an_import_needs_no_second_copy_of_the_weights(tmp_path):
    experts, width, inner, depth = 48, 512, 512, 1
    OlmoeConfig(
        vocab_size=512,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=depth,
        num_attention_heads=8,
        num_experts=experts,
    ).save_pretrained(tmp_path)
    sizes = {"model.embed_tokens": (512, width), "lm_head": (512, width), "model.norm": (width,)}
    for d in range(depth):
        layer = f"model.layers.{d}."
        sizes |= {f"{layer}{n}": (width,) for n in ("input_layernorm", "post_attention_layernorm")}
        sizes |= {f"{layer}self_attn.{n}_proj": (width, width) for n in "qkvo"}
        sizes |= {f"{layer}self_attn.{n}_norm": (width,) for n in "qk"}
        sizes[f"{layer}mlp.gate"] = (experts, width)
        for e in range(experts):
            expert = f"{layer}mlp.experts.{e}."
            sizes |= {f"{expert}{n}_proj": (inner, width) for n in ("gate", "up")}
            sizes[f"{expert}down_proj"] = (width, inner)
    tensors = {f"{name}.weight": torch.ones(size) for name, size in sizes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    grown, weights = measured("import", tmp_path, tmp_path / "ours")
    assert weights > 150e6
    assert grown < 1.3 * weights


def test_an_export_of_what_several_processes_wrote_needs_no_second_copy(tmp_path):
    """Its tensors are mapped from the files that processes wrote, and leave one after the other."""
    config = ModelConfig(
        vocab_size=512,
        depth=2,
        width=512,
        attention=AttentionConfig(heads=8, qk_norm="width"),
        experts=ExpertConfig(count=24, width=512, top_k=2),
    )
    folder = tmp_path / "model"
    folder.mkdir()
    save_yaml(config, folder / "config.yaml")
    with torch.device("meta"):
        sizes = {name: t.shape for name, t in LanguageModel(config).state_dict().items()}
    files, names = shard_names(2), sorted(sizes)
    write_index(folder, {name: files[i % 2] for i, name in enumerate(names)}, 0)
    for i, file in enumerate(files):
        save_file({name: torch.ones(sizes[name]) for name in names[i::2]}, folder / file)
    grown, weights = measured("export", folder, tmp_path / "theirs")
    assert weights > 150e6
    assert grown < 1.3 * weights
