"""Exports models and hands them to the tools of others: `make external`."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from plait.config import (
    AttentionConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
)
from plait.data.tokenizer import Tokenizer
from plait.interop.exporting import export_model
from plait.interop.tokenization import hub_tokenizer
from plait.sharing import Sharing
from plait.storage.model_folder import save_model
from toy_models import VOCABULARY, lively, tokens

OWN = ModelConfig(
    vocab_size=VOCABULARY,
    depth=4,
    width=32,
    context=64,
    attention=AttentionConfig(heads=4, kv_heads=2, qk_norm="head"),
    experts=ExpertConfig(count=4, width=16, top_k=3),
    norm="layer",
    tied_head=False,
)
STRUCTURES = {
    "own": OWN,
    "tied": replace(OWN, sharing=Sharing(experts="groups(2, skip=1)"), tied_head=True),
    "shared-router": replace(OWN, sharing=Sharing(router="blocks(2)", attention="2x2")),
    "collaborating": replace(
        OWN,
        router=RouterConfig(kind="recurrent", inner_width=8, bias=True),
        experts=replace(OWN.experts, shared_width=8),
        collaboration=CollaborationConfig(),
        sharing=Sharing(experts="blocks(2)", collaboration="all", norms="2x2"),
    ),
}
MORE = {
    "learned": replace(
        OWN,
        attention=AttentionConfig(heads=2, position="learned", qkv_bias=True),
        experts=ExpertConfig(count=4, width=16, activation="gelu"),
        sharing=Sharing(norms="all"),
    ),
    "dense-first": replace(
        OWN,
        experts=ExpertConfig(
            count=4, width=16, shared_width=8, shared_gate=True, dense_first=1, dense_width=24
        ),
        router=RouterConfig(kind="cosine", gating="sigmoid", bias=True),
        sharing=Sharing(attention="all"),
        attention=AttentionConfig(heads=4, lora_rank=2),
    ),
    "one-decision": replace(
        OWN,
        router=RouterConfig(kind="low-rank", inner_width=2),
        sharing=Sharing(experts="all", router="all", decision="all"),
        collaboration=CollaborationConfig(messages="hidden"),
    ),
}
FOLDER = Path(__file__).parent


@pytest.fixture
def python():
    """PLAIT_EXTERNAL_PYTHON: the Python of an environment that has the tools, and has no Plait."""
    found = os.environ.get("PLAIT_EXTERNAL_PYTHON")
    assert found, "set PLAIT_EXTERNAL_PYTHON: `make external` does"
    return found


def export(structures, folder):
    """Export models with a tokenizer that has a chat template, and what they give."""
    texts = ["the cat sat on the mat. " * 20, "a dog and a cat"]
    Tokenizer.train(texts, VOCABULARY).save(folder / "tokenizer.json")
    for name, config in structures.items():
        model, ours = lively(config), folder / "ours" / name
        save_model(ours, config, model.state_dict(), folder / "tokenizer.json")
        tokenizer = hub_tokenizer(Tokenizer.load(folder / "tokenizer.json"), config.context)
        tokenizer.chat_template = (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        )
        tokenizer.save_pretrained(ours)
        out = folder / "exported" / name
        assert export_model(ours, out).architecture == "PlaitForCausalLM"
        batch = tokens(2, 20)
        logits = model.double()(batch).logits.detach()
        torch.save({"tokens": batch, "logits": logits}, out / "expected.pt")
    return folder / "exported"


def check(python, file, exported):
    """Run a file of checks where the exported models are all that is there of Plait."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "PLAIT_EXPORTED": str(exported),
        "HF_HOME": str(exported.parent / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [
            *(python, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", "-c", os.devnull),
            *("--noconftest", "--rootdir", str(FOLDER), str(FOLDER / file)),
            *os.environ.get("PLAIT_EXTERNAL_OPTIONS", "").split(),
        ],
        env=environment,
        cwd=exported.parent,
    )
    assert done.returncode == 0


@pytest.mark.external
def test_the_tools_of_others_take_exported_models(python, tmp_path):
    check(python, "check_tools.py", export(STRUCTURES, tmp_path))


@pytest.mark.external
@pytest.mark.skipif("TRANSFORMERS_SOURCE" not in os.environ, reason="needs transformers' archive")
def test_transformers_common_tests_pass(python, tmp_path):
    check(python, "check_common.py", export(STRUCTURES | MORE, tmp_path))
