"""Gradients of one process against those of meshes, and how often the processes talk."""

import json
from dataclasses import replace

import pytest
import torch
from ranks import (
    backward,
    gradients,
    in_turn,
    muon_step,
    products_in,
    score,
    toy,
    write_collectives,
    write_copies,
    write_gradients,
    write_moved,
    write_refusals,
    write_scores,
    write_what_moves,
)

from gloo import start
from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    RouterConfig,
)
from plait.model import LanguageModel
from plait.parallel import World, parallelise
from plait.sharing import Sharing
from tiny_corpus import tiny

SHARED = ExpertConfig(count=4, width=32, top_k=3, shared_width=32, shared_gate=True)
MODELS = {
    "own": toy(depth=3),
    "tied": toy(depth=3, sharing=Sharing(experts="all"), experts=SHARED),
    "everything": toy(
        depth=4,
        experts=replace(SHARED, dense_first=1, dense_width=64),
        router=RouterConfig(bias=True, kind="recurrent", inner_width=8),
        collaboration=CollaborationConfig(),
        attention=AttentionConfig(heads=2, lora_rank=2),
        balance=BalanceConfig(z=1e-3),
        sharing=Sharing(
            experts="1 + 1x3",
            router="1 + 1x3",
            decision="1 + 1x2 + 1",
            norms="all",
            attention="2 + 1x2",
        ),
    ),
    "own experts alone": toy(
        depth=2,
        experts=SHARED,
        sharing=Sharing(norms="all", attention="all"),
        collaboration=CollaborationConfig(control="frozen-random"),
        init="xavier-depth",
    ),
    "two experts": toy(depth=2, experts=ExpertConfig(count=2, width=32, top_k=1)),
    "in turn": toy(depth=4, sharing=Sharing(experts="2x2", attention="1x2 + 2"), experts=SHARED),
    "six experts": toy(depth=2, experts=ExpertConfig(count=6, width=32, top_k=2)),
    "experts choose": toy(
        depth=2,
        router=RouterConfig(choice="experts", renormalise=False),
        balance=BalanceConfig(switch=0.0),
    ),
}
RECOMPUTED = ("tied", "in turn", "everything")
RECOMPUTED_ON = ("shard=2", "expert=2", "expert=2 shard=2")
MESHES = {
    2: ("shard=2", "replicate=2", "expert=2"),
    4: ("replicate=2 shard=2", "expert=2 shard=2", "expert=2 replicate=2"),
}
FEWER_EXPERTS = {("two experts", 4): ("shard=4",)}
"""further meshes by model and number of processes: there are more of these than experts"""


def expected(config, ranks, dtype=torch.float32):
    """Return loss and gradients of one process, by name.

    The balance loss is that of a process' share of the batch, so it is taken from the same shares.
    """
    model = LanguageModel(config, 0)
    with products_in(dtype):
        loss = sum(float(backward(model, rank, ranks)) for rank in range(ranks)) / ranks
    return loss, {key: value / ranks for key, value in gradients(model).items()}


@pytest.mark.parametrize("ranks", MESHES)
def test_a_mesh_begins_as_one_process_does_and_has_its_gradients_by_name(
    processes, tmp_path, ranks
):
    cases = [
        (f"{model}, {mesh}, {again}", config, mesh, again)
        for model, config in MODELS.items()
        for mesh in (*MESHES[ranks], *FEWER_EXPERTS.get((model, ranks), ()))
        for again in (False, True)[: 1 + (model in RECOMPUTED and mesh in RECOMPUTED_ON)]
    ]
    start(processes, ranks, write_gradients, cases, tmp_path)
    for config in MODELS.values():
        loss, wanted = expected(config, ranks)
        norm = float(torch.nn.utils.get_total_norm(list(wanted.values())))
        for case in [name for name, of, *_ in cases if of is config]:
            got = torch.load(tmp_path / f"{case}.pt")
            assert float(got["loss"]) == pytest.approx(loss, rel=1e-5), case
            assert got["norm"] == pytest.approx(norm, rel=1e-5), case
            assert got["gradients"].keys() == wanted.keys(), case
            for key, value in wanted.items():
                error = (got["gradients"][key] - value).abs().max()
                assert error < 1e-5 * value.abs().max().clamp_min(1e-20), (case, key)


def test_a_depth_is_gathered_in_one_go_and_a_shared_bank_stays_between_uses(processes, tmp_path):
    """8 depths: one unit each and the rest, forward and backward; the rest stays.

    For each use a shared bank would make 33 gathers.
    """
    models = {
        "own": toy(),
        "routers": toy(sharing=Sharing(router="blocks(4)")),
        "tied": toy(sharing=Sharing(experts="all")),
        "groups of 4": toy(sharing=Sharing(experts="groups(4)")),
        "groups of 2": toy(sharing=Sharing(experts="groups(2)")),
        "all": toy(sharing=Sharing(router="all", experts="all", attention="all")),
        "2 in turn": toy(sharing=Sharing(experts="2x4")),
        "4 in turn": toy(sharing=Sharing(experts="4x2")),
        "between own": toy(sharing=Sharing(experts="1 + 2x3 + 1")),
    }
    cases = [(name, config, "shard=2", torch.float32, False) for name, config in models.items()]
    for name, resident in (("2 in turn", 0), ("4 in turn", 0), ("4 in turn", 3)):
        mesh = f"shard=2 resident={resident}"
        cases.append((f"{name}, {resident}", models[name], mesh, torch.float32, False))
    for name in ("own", "groups of 2", "2 in turn"):
        cases.append((f"{name}, recomputed", models[name], "shard=2", torch.float32, True))
    cases.append(("experts", toy(), "expert=2", torch.float32, False))
    start(processes, 2, write_collectives, cases, tmp_path)
    counts = {case[0]: torch.load(tmp_path / f"{case[0]}.pt")[0] for case in cases}
    sent = {
        name: (count["allgather_base"], count["reduce_scatter_base"])
        for name, count in counts.items()
    }
    assert sent == {
        "own": (17, 9),
        "routers": (17, 9),
        "tied": (19, 10),
        "groups of 4": (21, 11),
        "groups of 2": (25, 13),
        "all": (5, 3),
        "2 in turn": (21, 11),
        "4 in turn": (29, 13),
        "between own": (21, 11),
        "2 in turn, 0": (33, 11),
        "4 in turn, 0": (33, 13),
        "4 in turn, 3": (25, 13),
        "own, recomputed": (17, 9),
        "groups of 2, recomputed": (25, 13),
        "2 in turn, recomputed": (21, 11),
        "experts": (17, 9),
    }
    assert counts["experts"]["all_to_all_single"] == 8 * 5


def test_muon_moves_experts_of_which_each_process_holds_rows(processes, tmp_path):
    """Two experts over four processes, or one over two: as one process moves them."""
    config = replace(MODELS["two experts"], balance=BalanceConfig(switch=0.0))
    meshes = ("shard=4", "expert=2 shard=2")
    start(processes, 4, write_moved, config, meshes, tmp_path)
    model = LanguageModel(config, 0)
    muon_step(model)
    for mesh in meshes:
        moved = torch.load(tmp_path / f"{mesh}.pt")
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(moved[name], parameter.detach(), rtol=0, atol=1e-4)


def test_gradients_of_micro_batches_add_up_and_are_sent_with_the_last(processes, tmp_path):
    cases = [
        (f"{name}, {mesh}", MODELS[name], mesh, again)
        for name in ("tied", "in turn")
        for mesh, again in (("shard=2", False), ("expert=2", True))
    ]
    start(processes, 2, write_gradients, cases, tmp_path, torch.float32, 2)
    for name, config, *_ in cases:
        found = torch.load(tmp_path / f"{name}.pt")["gradients"]
        for key, value in expected(config, 2)[1].items():
            error = (found[key] - 2 * value).abs().max()
            assert error < 1e-5 * value.abs().max().clamp_min(1e-20), (name, key)


@pytest.fixture(scope="module")
def two(processes, tmp_path_factory):
    """The folder in which two processes wrote what a step moved, and what they scored."""
    folder = tmp_path_factory.mktemp("two")
    corpus = tiny(folder / "tiny")
    config = replace(MODELS["tied"], vocab_size=corpus.vocab_size)
    steps = write_what_moves, MODELS["tied"], "expert=2", folder
    start(processes, 2, in_turn, steps, (write_scores, config, corpus, "shard=2", folder))
    return folder, config, corpus


def test_held_out_text_is_divided_and_each_process_knows_all_of_it(two):
    """The 33 batches are no multiple of two, and are of two domains of different length."""
    folder, config, corpus = two
    expected = score(LanguageModel(config, 0), corpus)
    assert expected[0]["all"]["tokens"] == 15_000 + 14_522
    for rank in range(2):
        readings, routing, shares, mass = json.loads((folder / f"{rank}.json").read_text())
        for domain, reading in expected[0].items():
            assert readings[domain] == pytest.approx(reading, rel=1e-6)
        for name, value in expected[1].items():
            assert routing[name] == pytest.approx(value, rel=1e-3), name
        assert routing["path_tokens"] == expected[1]["path_tokens"] == 4096
        for got, wanted in zip(shares, expected[2], strict=True):
            assert got == pytest.approx(wanted, abs=1e-3)
        assert mass == pytest.approx(expected[3], rel=1e-6)


def test_a_step_that_is_left_out_moves_no_part_of_any_parameter(two):
    folder, *_ = two
    for name in ("adamw", "muon"):
        left_out, taken = torch.load(folder / f"{name}.pt")
        assert left_out == (0, left_out[1], True), name
        assert taken == (taken[1], taken[1], True), name


def test_hidden_messages_and_odd_experts_are_refused_by_name(processes, tmp_path):
    hidden = CollaborationConfig(messages="hidden")
    models = {
        "hidden": toy(depth=1, experts=SHARED, collaboration=hidden),
        "odd": toy(depth=1, experts=ExpertConfig(count=5, width=32)),
    }
    start(processes, 2, write_refusals, models, "expert=2", tmp_path)
    assert "collaboration.messages hidden" in (tmp_path / "hidden.txt").read_text()
    assert "the 5 experts at depth 0" in (tmp_path / "odd.txt").read_text()


def test_one_process_is_left_as_it_is():
    model = LanguageModel(toy(), 0)
    parallelise(model, World(torch.device("cpu")), checkpointing=True)
    assert model.checkpointing
    assert type(model) is LanguageModel


def test_matrices_are_gathered_in_the_type_of_the_products(processes, tmp_path):
    """Norms and routers stay float32, as does what is sent back."""
    models = {"own": toy(depth=2), "tied": toy(depth=2, sharing=Sharing(experts="all"))}
    dtype = torch.bfloat16
    types = {"whole": torch.float32, "half": dtype}
    sent = [
        (f"{name}, {size}", config, "shard=2", dtype, False)
        for name, config in models.items()
        for size, dtype in types.items()
    ]
    start(processes, 2, write_collectives, sent, tmp_path)
    for name, config in models.items():
        whole, half = (torch.load(tmp_path / f"{name}, {size}.pt") for size in types)
        assert half[0] == whole[0], "as many collectives"
        model = LanguageModel(config, 0)
        matrices = {id(p) for part in (model.attention, model.experts) for p in part.parameters()}
        rest = sum(p.nbytes for p in model.parameters() if id(p) not in matrices) / 2
        gathered, of_half = whole[1]["allgather_base"] - rest, half[1]["allgather_base"] - rest
        assert of_half == gathered / 2 > 0
        assert half[1]["reduce_scatter_base"] == whole[1]["reduce_scatter_base"]

    cases = [(name, config, "shard=2", False) for name, config in models.items()]
    start(processes, 2, write_gradients, cases, tmp_path, dtype)
    for name, config in models.items():
        got, (loss, wanted) = torch.load(tmp_path / f"{name}.pt"), expected(config, 2, dtype)
        assert float(got["loss"]) == pytest.approx(loss, rel=1e-3)
        for key, value in wanted.items():
            found = got["gradients"][key]
            assert found.dtype == torch.float32
            assert (found - value).norm() < 0.02 * value.norm(), key


def test_no_copy_of_a_banks_weights_is_kept_for_the_backward(processes, tmp_path):
    """Gathered in bf16 they are kept as they are; gathered in float32 the casts would be kept."""
    shared = ExpertConfig(count=4, width=96, top_k=2, shared_width=160)
    config = toy(depth=3, experts=shared, sharing=Sharing(experts="1 + 1x2"))
    start(processes, 2, write_copies, config, ("shard=2", "expert=2"), tmp_path)
    for mesh in ("shard=2", "expert=2"):
        found = torch.load(tmp_path / f"{mesh}.pt")
        kept = found[torch.bfloat16]
        assert "copies" not in kept, mesh
        assert kept["own"] > 0, mesh
        assert found[torch.float32]["copies"] > 0, mesh
