"""What a mesh is said to ask of a process, against what processes do and what torch keeps."""

from dataclasses import replace

import pytest
import torch
from ranks import SEQUENCES, toy, write_collectives

from gloo import start
from plait.config import AttentionConfig, CollaborationConfig, ExpertConfig, ModelConfig
from plait.config.counts import backward_bytes_per_token, count, matrix_banks
from plait.model import LanguageModel
from plait.parallel import ParallelConfig
from plait.parallel.footprint import footprint
from plait.sharing import Sharing

SHARED = ExpertConfig(count=4, width=32, top_k=2, shared_width=32)
MODELS = {
    "own": toy(depth=3),
    "tied": toy(depth=4, sharing=Sharing(experts="groups(2)"), experts=SHARED),
    "all": toy(depth=3, sharing=Sharing(router="all", experts="all", attention="all")),
    "looped": toy(depth=6, sharing=Sharing(experts="2x3"), experts=SHARED),
    "looped, long": toy(depth=8, sharing=Sharing(experts="4x2", attention="1 + 2x3 + 1")),
}
MESHES = {
    2: [
        (MODELS, "shard=2", torch.float32, False),
        (MODELS, "shard=2 resident=3", torch.bfloat16, False),
        (MODELS, "expert=2", torch.float32, False),
        (("tied", "looped, long"), "shard=2 resident=0", torch.float32, True),
    ],
    4: [
        (("tied", "looped"), "replicate=2 shard=2", torch.float32, False),
        (("tied", "looped"), "expert=2 shard=2", torch.bfloat16, False),
    ],
}
"""by processes: the models, the mesh, the type of products and whether depths are recomputed"""
ROWS = "all_to_all_single"


def test_banks_are_those_of_the_built_model() -> None:
    for config in MODELS.values():
        model = LanguageModel(config, 0)
        of_depth = [
            (part.attention, part.experts) for part in map(model.parts_at, range(config.depth))
        ]
        for bank in matrix_banks(config):
            built = of_depth[bank.depths[0]][bank.kind == "experts"]
            assert bank.size == sum(p.numel() for p in built.parameters())
            parted = built.up.numel() + built.down.numel() if bank.kind == "experts" else 0
            assert bank.parted == parted


@pytest.mark.parametrize("ranks", MESHES)
def test_bytes_received_are_those_that_processes_count(processes, tmp_path, ranks):
    cases = [
        (f"{name} {mesh}", MODELS[name], mesh, dtype, again)
        for names, mesh, dtype, again in MESHES[ranks]
        for name in names
    ]
    start(processes, ranks, write_collectives, cases, tmp_path)
    for name, config, mesh, dtype, again in cases:
        _, counted = torch.load(tmp_path / f"{name}.pt")
        precision = "bf16" if dtype == torch.bfloat16 else "fp32"
        tokens = SEQUENCES // ranks * config.context
        said = footprint(config, ParallelConfig.parse(mesh), tokens, precision=precision)
        assert said.weights_received == counted["allgather_base"], name
        gradients = counted["reduce_scatter_base"] + counted.get("allreduce", 0)
        assert said.gradients_received == gradients, name
        if again:
            continue
        # routers are nearly even at the start
        assert said.tokens_received == pytest.approx(counted.get(ROWS, 0), rel=0.25), name


def test_a_mesh_that_training_refuses_has_no_plan() -> None:
    odd = toy(depth=1, experts=ExpertConfig(count=5, width=32))
    with pytest.raises(ValueError, match="the 5 experts at depth 0 cannot be parted"):
        footprint(odd, ParallelConfig(expert=2), 64)


def test_shares_and_what_an_optimizer_keeps() -> None:
    config, mesh = MODELS["tied"], ParallelConfig(replicate=2, shard=2, expert=2)
    stored = count(config).stored
    matrices = sum(bank.size for bank in matrix_banks(config))
    adamw, muon = (footprint(config, mesh, 1, optimizer=name) for name in ("adamw", "muon"))
    assert adamw.weights == adamw.gradients == stored  # 4 bytes over 4 processes
    assert adamw.optimizer == 2 * stored
    assert muon.optimizer == 2 * stored - matrices
    assert (adamw.updates_received, muon.updates_received > 0) == (0, True)
    few = toy(depth=2, experts=ExpertConfig(count=2, width=32, top_k=1))  # of which all hold rows
    both = sum(bank.size for bank in matrix_banks(few))
    shards = ParallelConfig(shard=4)
    assert footprint(few, shards, 1, optimizer="muon").updates_received == 8 * both * 3 / 4
    alone = footprint(config, ParallelConfig(), 1)
    assert alone.memory == 16 * stored + alone.activations
    assert alone.weights_received == alone.gradients_received == alone.tokens_received == 0
    again = footprint(config, mesh, 1, checkpointing=True)
    assert again.activations < adamw.activations


def test_a_tied_bank_is_held_whole_from_its_last_use_to_its_first() -> None:
    """own, of 3 depths: two units, and the gradient of one; all: the same bank throughout."""
    mesh = ParallelConfig(shard=2)
    for name, units in (("own", 3), ("all", 2)):
        config = MODELS[name]
        matrices = sum(bank.size for bank in matrix_banks(config) if 0 in bank.depths)
        rest = count(config).stored - sum(bank.size for bank in matrix_banks(config))
        assert footprint(config, mesh, 1).gathered == 8 * rest + 2 * units * matrices
    halves = replace(MODELS["own"], depth=4, sharing=Sharing(experts="2x2"))
    bank = next(bank for bank in matrix_banks(halves) if bank.kind == "experts")
    attention = matrix_banks(halves)[0].size
    rest = count(halves).stored - sum(bank.size for bank in matrix_banks(halves))
    # attention and two banks, of which one stays; the gradients of all three
    whole = 2 * 2 * (attention + 2 * bank.size)
    found = footprint(halves, mesh, 1)
    assert found.gathered == 8 * rest + whole
    assert found.staying == 2 * bank.size
    assert (
        footprint(halves, replace(mesh, resident=0), 1).gathered == found.gathered - 2 * bank.size
    )


def kept(config: ModelConfig) -> int:
    """Count the bytes that autograd keeps of a forward, weights apart."""
    model = LanguageModel(config, 0)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens_BS = torch.randint(0, 64, (8, config.context))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(tokens_BS, tokens_BS)  # held, so that no storage is used twice
    assert out.loss is not None
    return sum(storages.values())


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"experts": ExpertConfig(count=8, width=64, top_k=4, shared_width=64)},
        {"attention": AttentionConfig(heads=4, kv_heads=2, qk_norm="head")},
        {"experts": ExpertConfig(count=4, width=64, activation="gelu")},
        {"collaboration": CollaborationConfig()},
    ],
    ids=lambda change: ", ".join(change) or "plain",
)
def test_what_is_kept_for_the_backward_is_near_what_autograd_keeps(change) -> None:
    config = toy(depth=4, width=128, context=64, **change)
    # the head's gradient, as large as its weights, is there with the loss
    head = 4 * config.vocab_size * config.width
    measured = (kept(config) - head) / (8 * config.context)
    assert backward_bytes_per_token(config, 4) == pytest.approx(measured, rel=0.2)
