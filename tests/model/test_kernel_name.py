"""The kernel that a run's result names is the one that computed its experts."""

import pytest
import torch
from tiny_model import tiny, tokens
from torch.nn.attention import SDPBackend, sdpa_kernel

from plait.config import AttentionConfig, CollaborationConfig, ExpertConfig
from plait.kernels import table
from plait.kernels.native import build
from plait.model import LanguageModel, attending
from plait.model.experts import kernel_name
from plait.parallel import default_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
WIDE = tiny(width=32, experts=ExpertConfig(count=6, width=32, top_k=3))
HIDDEN = tiny(collaboration=CollaborationConfig(messages="hidden"))


@pytest.mark.parametrize("kernel", [None, "native", "cpu", "grouped", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [WIDE, tiny(), HIDDEN], ids=["wide", "narrow", "hidden"])
def test_it_is_what_a_forward_chooses(config, dtype, kernel, monkeypatch):
    if kernel == "native" and build.load() is not None:
        pytest.skip("the C++ kernels cannot run here")
    monkeypatch.delenv("PLAIT_KERNEL", raising=False)
    if kernel is not None:
        monkeypatch.setenv("PLAIT_KERNEL", kernel)
    chosen, choose = [], table.choose

    def watched(operation, *arguments, **how):
        backend = choose(operation, *arguments, **how)
        chosen.extend([backend.name] if "experts" in operation else [])
        return backend

    monkeypatch.setattr(table, "choose", watched)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        LanguageModel(config)(tokens())
    assert len(chosen) == config.depth
    assert set(chosen) == {kernel_name(config, CPU, dtype)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [WIDE, tiny(), HIDDEN], ids=["wide", "narrow", "hidden"])
def test_on_cuda_it_is_the_grouped_product(config, dtype, monkeypatch):
    monkeypatch.delenv("PLAIT_KERNEL", raising=False)
    assert kernel_name(config, CUDA, dtype) == "grouped"


@pytest.mark.parametrize("kernel", ["native", "cpu"])
@pytest.mark.parametrize(("width", "native"), [(64, True), (12, False)])
def test_attention_is_named_by_what_runs(width, native, kernel, monkeypatch):
    if kernel == "native" and build.load() is not None:
        pytest.skip("the C++ kernels cannot run here")
    monkeypatch.setenv("PLAIT_KERNEL", kernel)
    config = tiny(width=width, attention=AttentionConfig(heads=2))
    of_torch = "flash"  # which it has on CPUs as well
    want = "native" if native and kernel == "native" else of_torch
    assert attending.kernel_name(config, CPU, torch.float32) == want
    with sdpa_kernel(SDPBackend.MATH):
        torchs = attending.kernel_name(config, CPU, torch.float32)
    assert torchs == ("native" if want == "native" else "math")


def test_products_of_float32_on_a_gpu_are_float32():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    default_device("cpu")
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
