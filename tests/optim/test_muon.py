import copy

import pytest
import torch

from plait.optim.muon import Muon, orthogonalise


def trajectory(make, parameter, gradients):
    parameter = torch.nn.Parameter(parameter.clone())
    optimizer = make([parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
@pytest.mark.parametrize(
    ("scale", "torch_scale"), [("original", "original"), ("match-adamw", "match_rms_adamw")]
)
def test_on_matrices_the_reference_is_torchs_muon_bit_for_bit(
    shape, scale, torch_scale, monkeypatch
):
    monkeypatch.setenv("PLAIT_KERNEL", "reference")
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(4, *shape)
    ours = trajectory(lambda p: Muon(p, lr=0.03, weight_decay=0.2, scale=scale), start, gradients)
    theirs = trajectory(
        lambda p: torch.optim.Muon(p, lr=0.03, weight_decay=0.2, adjust_lr_fn=torch_scale),
        start,
        gradients,
    )
    assert torch.equal(ours, theirs)


def test_a_bank_is_its_experts_each_on_its_own_and_gate_and_up_apart():
    torch.manual_seed(1)
    experts, width, model_width = 5, 12, 20
    start = torch.randn(experts, 2 * width, model_width)
    gradients = torch.randn(3, *start.shape)
    gradients[:, 2] = 0  # an expert that received no token
    make = {"lr": 0.05, "dtype": torch.float32}
    bank = trajectory(lambda p: Muon([{"params": p, "stacked": 2}], **make), start, gradients)
    for expert in range(experts):
        for half in (slice(0, width), slice(width, None)):
            alone = trajectory(
                lambda p: Muon(p, **make), start[expert, half], gradients[:, expert, half]
            )
            torch.testing.assert_close(bank[expert, half], alone, rtol=1e-5, atol=1e-6)


def test_singular_values_come_close_to_one_in_bf16_as_in_fp32():
    torch.manual_seed(2)
    update = torch.randn(6, 32, 64)
    for dtype in (torch.bfloat16, torch.float32):
        values = torch.linalg.svdvals(orthogonalise(update, dtype=dtype).float())
        assert values.min() > 0.6
        assert values.max() < 1.3


def test_state_returns_through_a_state_dict():
    torch.manual_seed(3)
    parameter = torch.nn.Parameter(torch.randn(3, 4, 6))
    first = Muon([parameter])
    parameter.grad = torch.randn(3, 4, 6)
    first.step()
    twin = torch.nn.Parameter(parameter.detach().clone())
    second = Muon([twin])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    twin.grad = parameter.grad.clone()
    first.step()
    second.step()
    assert torch.equal(parameter, twin)


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match="give it to AdamW"):
        Muon([torch.nn.Parameter(torch.zeros(4))])
