"""transformers' own MoE models give the same outputs and gradients with Plait's kernels."""

import pytest
import torch
import transformers
from torch import Tensor

from plait.interop import experts as registered  # the import registers the implementation

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 64,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
}


def outputs_and_gradients(model: torch.nn.Module, tokens_BS: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    out = model(tokens_BS, labels=tokens_BS)
    out.loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"logits": out.logits.detach(), **gradients}


@pytest.mark.parametrize("name", ["Olmoe", "Mixtral", "Qwen3Moe"])
@pytest.mark.parametrize("kernel", ["cpu", "native"])
def test_equals_transformers_own(name: str, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_KERNEL", kernel)
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    tokens_BS = torch.randint(0, 96, (3, 17))
    model.set_experts_implementation("eager")
    want = outputs_and_gradients(model, tokens_BS)
    assert any("gate_up_proj" in key for key in want)
    monkeypatch.setattr(registered, "grouped_mm_experts_forward", None)  # must not be needed
    model.set_experts_implementation("plait")
    got = outputs_and_gradients(model, tokens_BS)
    assert got.keys() == want.keys()
    for key in want:
        torch.testing.assert_close(got[key], want[key], rtol=1e-4, atol=1e-6, msg=key)


def test_what_the_kernels_do_not_know_goes_to_transformers() -> None:
    config = transformers.MixtralConfig(**SIZES, hidden_act="relu")
    model = transformers.MixtralForCausalLM(config)
    tokens_BS = torch.randint(0, 96, (1, 5))
    model.set_experts_implementation("eager")
    want = model(tokens_BS).logits
    model.set_experts_implementation("plait")
    torch.testing.assert_close(model(tokens_BS).logits, want)
