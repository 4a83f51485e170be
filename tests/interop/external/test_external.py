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
CHECKS = Path(__file__).with_name("check_tools.py")


@pytest.mark.external
def test_the_tools_of_others_take_exported_models(tmp_path):
    """PLAIT_EXTERNAL_PYTHON: the Python of an environment that has them, and has no Plait."""
    python = os.environ.get("PLAIT_EXTERNAL_PYTHON")
    assert python, "set PLAIT_EXTERNAL_PYTHON: `make external` does"
    for name, config in STRUCTURES.items():
        model, folder = lively(config), tmp_path / name
        tokenizer_file = tmp_path / "tokenizer.json"
        texts = ["the cat sat on the mat. " * 20, "a dog and a cat"]
        Tokenizer.train(texts, VOCABULARY).save(tokenizer_file)
        save_model(folder, config, model.state_dict(), tokenizer_file)
        tokenizer = hub_tokenizer(Tokenizer.load(tokenizer_file), config.context)
        tokenizer.chat_template = (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        )
        tokenizer.save_pretrained(folder)
        out = tmp_path / "exported" / name
        assert export_model(folder, out).architecture == "PlaitForCausalLM"
        batch = tokens(2, 20)
        torch.save({"tokens": batch, "logits": model(batch).logits.detach()}, out / "expected.pt")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "PLAIT_EXPORTED": str(tmp_path / "exported"),
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [
            *(python, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", "-c", os.devnull),
            *("--rootdir", str(CHECKS.parent), str(CHECKS)),
            *os.environ.get("PLAIT_EXTERNAL_OPTIONS", "").split(),
        ],
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0
