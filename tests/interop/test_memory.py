"""Importing holds a tensor at a time: measured from outside, in a process of its own."""

import json
import subprocess
import sys

import torch
from safetensors.torch import save_file
from transformers import OlmoeConfig

IMPORT = """
import resource, sys
from pathlib import Path
from plait.interop.importing import import_model

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before = peak()
summary = import_model(Path(sys.argv[1]), Path(sys.argv[2]))
print([peak() - before, summary.bytes])
"""


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
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(tmp_path), str(tmp_path / "ours")],
        check=True,
        capture_output=True,
        text=True,
    )
    grown, weights = json.loads(done.stdout)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()  # a finished test's folder is kept
    assert weights > 150e6
    assert grown < 1.3 * weights
