from dataclasses import replace

import pytest
import torch

from plait.config import (
    AttentionConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
)
from plait.config.counts import count
from plait.sharing import Sharing
from plait.storage.model_folder import load_model, read_state, save_model
from plait.surgery import text_loss
from plait.surgery.tying import tie, untie
from toy_models import VOCABULARY, lively, tokens

PLAN = "1 + 1x2 + 1x2 + 1"


@pytest.fixture
def own():
    """Six depths that share nothing, with all that knows experts by their number."""
    return ModelConfig(
        vocab_size=VOCABULARY,
        depth=6,
        width=32,
        context=32,
        attention=AttentionConfig(heads=4),
        experts=ExpertConfig(count=4, width=16, top_k=3, shared_width=8),
        router=RouterConfig(bias=True),
        collaboration=CollaborationConfig(),
    )


@pytest.fixture
def shuffled(own, tmp_path, tokenizer_file):
    """A model whose depth 2 has the experts of depth 1 in another order, units shuffled too."""
    state = {name: tensor.clone() for name, tensor in lively(own).state_dict().items()}
    order, units = torch.tensor([2, 0, 3, 1]), torch.randperm(16)
    up = state["experts.1.up"].view(4, 2, 16, 32)
    state["experts.2.up"] = up[order][:, :, units].reshape(4, 32, 32)
    state["experts.2.down"] = state["experts.1.down"][order][:, :, units]
    shared_units = torch.randperm(8)
    shared = state["experts.1.shared.up"].view(2, 8, 32)[:, shared_units]
    state["experts.2.shared.up"] = shared.reshape(16, 32)
    state["experts.2.shared.down"] = state["experts.1.shared.down"][:, shared_units]
    save_model(tmp_path / "shuffled", own, state, tokenizer_file)
    return tmp_path / "shuffled"


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "held-out.txt"
    file.write_text("the cat sat on the mat. a dog and a cat. " * 30)
    return file


def difference(a, b):
    with torch.no_grad():
        return (
            (load_model(a)(tokens(2, 30)).logits - load_model(b)(tokens(2, 30)).logits).abs().max()
        )


@pytest.mark.parametrize("match", ["weights", "outputs"])
def test_aligning_finds_the_order_that_merging_needs(match, shuffled, text, tmp_path):
    merged = {}
    for merge in ("first", "mean", "aligned"):
        how = {"match": match} if merge == "aligned" else {}
        merged[merge] = tie(
            shuffled, tmp_path / merge, "1 + 1x2 + 1 + 1 + 1", merge=merge, text=text, **how
        )
    assert difference(shuffled, tmp_path / "aligned") < 1e-5
    assert difference(shuffled, tmp_path / "mean") > 1e-2
    assert difference(shuffled, tmp_path / "first") > 1e-2
    result = merged["aligned"]
    assert result.parameters_before == count(read_state(shuffled)[0]).stored
    assert result.parameters_after == count(result.config).stored < result.parameters_before
    assert result.loss_after == pytest.approx(result.loss_before, abs=1e-5)
    assert merged["mean"].loss_after != pytest.approx(result.loss_before, abs=1e-5)


def test_routers_are_tied_along(shuffled, tmp_path):
    for merge in ("mean", "aligned"):
        tied = tie(shuffled, tmp_path / merge, PLAN, router="blocks(3)", merge=merge)
        assert tied.config.plans.router.count == 2
        assert difference(shuffled, tmp_path / merge) > 1e-3
    # with routers alone, experts are put into the order of their routers' rows
    config, state = read_state(shuffled)
    order = torch.tensor([3, 1, 0, 2])
    for name in ("experts.4.up", "experts.4.down"):
        state[name] = state[name][order]
    state["router.4.weight"] = state["router.3.weight"][order]
    state["load_bias.depth4.bias_E"] = state["load_bias.depth4.bias_E"][order]
    state["collaboration.4.raw"] = state["collaboration.4.raw"][order][:, order]
    save_model(tmp_path / "rows", config, state)
    tie(tmp_path / "rows", tmp_path / "rows-tied", router="3 + 1x2 + 1", merge="aligned")
    assert difference(tmp_path / "rows", tmp_path / "rows-tied") < 1e-5


def test_untying_keeps_the_function_and_tying_again_is_exact(woven, woven_folder, tmp_path):
    result = untie(woven_folder, tmp_path / "untied")
    assert result.config.sharing == Sharing()
    assert result.config.attention.lora_rank == 0
    assert difference(woven_folder, tmp_path / "untied") < 1e-5

    plain = replace(
        woven,
        attention=replace(woven.attention, lora_rank=0),
        sharing=Sharing(experts="groups(2, skip=1)", router="blocks(3)"),
    )
    save_model(tmp_path / "tied", plain, lively(plain).state_dict())
    untie(tmp_path / "tied", tmp_path / "own")
    tie(tmp_path / "own", tmp_path / "again", plain.sharing.experts, plain.sharing.router, "mean")
    before, after = read_state(tmp_path / "tied"), read_state(tmp_path / "again")
    assert before[0] == after[0]
    assert all(torch.equal(tensor, after[1][name]) for name, tensor in before[1].items())


def test_a_shared_decision_stays_shared(own, tmp_path):
    decided = replace(own, sharing=Sharing(decision="blocks(3)", router="blocks(3)", experts=PLAN))
    save_model(tmp_path / "decided", decided, lively(decided).state_dict())
    result = untie(tmp_path / "decided", tmp_path / "untied")
    assert result.config.sharing == Sharing(decision="blocks(3)", router="blocks(3)")
    assert difference(tmp_path / "decided", tmp_path / "untied") < 1e-5


def test_widened_banks_and_dense_layers(own, tmp_path):
    mixed = replace(
        own,
        experts=ExpertConfig(
            count=(1, 1, 8, 8, 4, 4), width=16, top_k=3, dense_first=2, dense_width=24
        ),
    )
    save_model(tmp_path / "mixed", mixed, lively(mixed).state_dict())
    tied = tie(tmp_path / "mixed", tmp_path / "tied", "blocks(2)", merge="aligned")
    assert tied.config.experts.count == (1, 8, 4)
    with pytest.raises(ValueError, match=r"merge banks of \[1, 8\]"):
        tie(tmp_path / "mixed", tmp_path / "no", "blocks(3)", merge="mean")


def test_a_bank_that_was_expanded_keeps_its_experts_when_it_is_untied(own, tmp_path):
    config = replace(
        own,
        experts=replace(own.experts, expand=2),
        sharing=Sharing(experts="groups(2, skip=1)"),
    )
    save_model(tmp_path / "wide", config, lively(config).state_dict())
    untied = untie(tmp_path / "wide", tmp_path / "untied").config
    counts = [config.experts_at(depth) for depth in range(config.depth)]
    assert len(set(counts)) == 2
    assert [untied.experts_at(depth) for depth in range(config.depth)] == counts
    assert difference(tmp_path / "wide", tmp_path / "untied") < 1e-5


def test_what_cannot_be_done_is_refused_in_one_line(woven_folder, shuffled, text, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="nothing to tie"):
        tie(shuffled, out)
    with pytest.raises(ValueError, match="shares router over depths already"):
        tie(woven_folder, out, "blocks(2)", merge="aligned")
    with pytest.raises(ValueError, match="give text"):
        tie(shuffled, out, PLAN, match="outputs")
    with pytest.raises(FileNotFoundError, match="no such text"):
        tie(shuffled, out, PLAN, text=tmp_path / "none.txt")
    with pytest.raises(ValueError, match="reaches depth"):
        tie(shuffled, out, "1x2")
    (shuffled / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        tie(shuffled, out, PLAN, text=text)
    assert not out.exists()


def test_the_loss_is_told_without_a_text_where_there_is_a_tokenizer(shuffled, own, tmp_path):
    told = tie(shuffled, tmp_path / "tied", PLAN, merge="first")
    assert told.text == "docstrings"
    text = tmp_path / "docstrings.txt"
    text.write_text("\n\n".join(text_loss.docstrings()))
    assert text.read_text().count(". ") > 100
    windows = text_loss.windows(own, shuffled, None, 10**6)
    assert sum(len(window) - 1 for window in windows) == text_loss.DOCSTRING_TOKENS
    totals = []
    for folder in (shuffled, tmp_path / "tied"):
        model = load_model(folder)
        with torch.no_grad():
            logits = [model(window[None, :-1]).logits[0] for window in windows]
        targets = torch.cat([window[1:] for window in windows])
        totals.append(torch.nn.functional.cross_entropy(torch.cat(logits), targets).item())
    assert [told.loss_before, told.loss_after] == pytest.approx(totals, rel=1e-4)
    assert told.loss_after != pytest.approx(told.loss_before)


def test_without_a_tokenizer_the_loss_is_not_told(own, tmp_path, caplog):
    save_model(tmp_path / "own", own, lively(own).state_dict())
    told = tie(tmp_path / "own", tmp_path / "tied", PLAN, merge="first")
    assert told.loss_before is None
    assert told.loss_after is None
    assert "has no tokenizer.json" in caplog.text


@pytest.mark.parametrize(
    ("before", "after", "warned"), [(2.8, 5.3, True), (2.8, 4.0, False), (5.3, 5.4, False)]
)
def test_a_merge_that_is_nearly_uniform_is_warned_of(
    before, after, warned, shuffled, tmp_path, caplog, monkeypatch
):
    """The vocabulary has 300 entries, and ln 300 is 5.7."""
    losses = iter((before, after))
    monkeypatch.setattr(text_loss, "loss", lambda *_: next(losses))
    tie(shuffled, tmp_path / "tied", PLAN, merge="first")
    assert ("little better than at random" in caplog.text) == warned
    assert not warned or "ln(vocabulary) = 5.7, and 2.8 before" in caplog.text
