"""Exported code, in a process that cannot import Plait."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from plait import kernels
from plait.interop.exporting import export_model
from plait.interop.portable import kernels as portable
from plait.interop.remote_code import AUTO_MAP, FILE, source
from plait.storage.model_folder import save_model
from toy_models import lively, random_structure, tokens

STRUCTURES = 16
ALONE = """
import sys
sys.modules["plait"] = None  # any import of it fails
import torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

found = {}
batch = torch.load(sys.argv[1] + "/tokens.pt")
for folder in sorted(Path(sys.argv[1]).glob("*/")):
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert "transformers_modules" in type(model).__module__
    assert not [name for name in sys.modules if name.startswith("plait.")]
    found[folder.name] = model.double()(batch).logits.detach()  # rounding hides no fault
save_file(found, sys.argv[1] + "/found.safetensors")
"""


def run_alone(script: str, *arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run a script where Hugging Face keeps what it copies in a folder of ours."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )


def test_random_structures_give_our_logits_without_plait(tmp_path):
    batch, expected = tokens(2, 20), {}
    torch.save(batch, tmp_path / "tokens.pt")
    for seed in range(STRUCTURES):
        config = random_structure(seed)
        ours, folder = lively(config, seed), tmp_path / f"ours-{seed}"
        save_model(folder, config, ours.state_dict())
        exported = export_model(folder, tmp_path / "all" / str(seed))
        if exported.architecture == "PlaitForCausalLM":
            expected[str(seed)] = ours.double()(batch).logits.detach()
    (tmp_path / "tokens.pt").rename(tmp_path / "all" / "tokens.pt")
    done = run_alone(ALONE, tmp_path / "all", cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "all" / "found.safetensors")
    assert len(expected) > STRUCTURES / 2
    for seed, logits in expected.items():
        torch.testing.assert_close(found[seed], logits, rtol=0, atol=1e-6)


def test_the_configuration_names_the_code_and_the_code_needs_two_packages(woven_folder, tmp_path):
    export_model(woven_folder, tmp_path / "out")
    described = json.loads((tmp_path / "out" / "config.json").read_text())
    assert described["auto_map"] == AUTO_MAP
    assert (tmp_path / "out" / FILE).read_text() == source()
    outside = {
        line.split()[1].split(".")[0]
        for line in source().splitlines()
        if line.startswith(("import ", "from "))
    }
    assert outside - set(sys.stdlib_module_names) == {"torch", "transformers"}


def test_one_line_may_import_plait_instead(woven_folder, tmp_path):
    export_model(woven_folder, tmp_path / "out", code="import")
    assert (tmp_path / "out" / FILE).read_text().startswith("from plait.interop import PlaitConfig")
    script = (
        "import sys; from transformers import AutoModelForCausalLM as A;"
        "print(type(A.from_pretrained(sys.argv[1], trust_remote_code=True)).__module__)"
    )
    done = run_alone(script, tmp_path / "out", cache=tmp_path / "cache")
    assert done.stdout.strip().endswith("plait.interop.modeling"), done.stderr
    refused = run_alone(
        'import sys; sys.modules["plait"] = None;' + script, tmp_path / "out", cache=tmp_path
    )
    assert "plait" in refused.stderr.splitlines()[-1]


def test_a_structure_of_transformers_own_brings_no_code(tmp_path):
    config = random_structure(0)
    plain = type(config)(vocab_size=300, depth=2, width=16)
    plain_attention = type(config.attention)(heads=2, qk_norm="width")
    plain = type(config)(vocab_size=300, depth=2, width=16, attention=plain_attention)
    save_model(tmp_path / "plain", plain, lively(plain).state_dict())
    assert export_model(tmp_path / "plain", tmp_path / "out").architecture == "OlmoeForCausalLM"
    assert not (tmp_path / "out" / FILE).exists()
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize("activation", ["swiglu", "gelu"])
@pytest.mark.parametrize("tokens", [1, 2, 40])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_portable_experts_equal_our_kernels(activation, tokens, mixed, compiled, monkeypatch):
    """Values and gradients, for few rows and many; in a compiled graph every expert sees all."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    monkeypatch.setenv("PLAIT_KERNEL", "reference")
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)

    x, up = random(tokens, 6), random(5, 8 if activation == "gelu" else 16, 6)
    down, gates = random(5, 6, 8), random(tokens, 3)
    mix = random(tokens, 3, 3) if mixed else None
    ids = torch.stack([torch.randperm(5, generator=generator)[:3] for _ in range(tokens)])
    results = []
    for experts in (kernels.experts, portable.experts):
        y = experts(x, ids, gates, up, down, activation, mix)
        wanted = [t for t in (x, gates, up, down, mix) if t is not None]
        results.append((y, *torch.autograd.grad(y.square().sum(), wanted)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)
