"""The card and the picture that go out with an exported model, read back as others read them."""

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from transformers import AutoTokenizer, GenerationConfig

from made_up_models import trained_run
from made_up_study import write_study
from plait.cli import main
from plait.config import AttentionConfig, ExpertConfig, ModelConfig, RouterConfig, TrainConfig
from plait.config.counts import count
from plait.config.files import from_dict
from plait.interop.exporting import export_model
from plait.report.model_card import model_card
from plait.report.numbers import quantity
from plait.report.structure_figure import PER_LINE, structure_figure
from plait.sharing import Sharing
from plait.storage.model_folder import read_config, read_training, save_model
from tiny_corpus import tiny
from toy_models import lively

SHARING = Sharing(router="blocks(2)", experts="groups(2, skip=1)")
QWEN = ModelConfig(
    vocab_size=512,
    depth=4,
    width=32,
    context=64,
    attention=AttentionConfig(heads=4, qk_norm="head"),
    experts=ExpertConfig(count=4, width=16),
    router=RouterConfig(renormalise=True),
    sharing=SHARING,
)


def rows(card: str, title: str) -> list[list[str]]:
    """The table under a heading, as a reader of Markdown finds it."""
    part = card.partition(f"## {title}\n")[2].partition("\n## ")[0]
    tokens = MarkdownIt().enable("table").parse(part)
    cells = [t.content for t, before in zip(tokens[1:], tokens, strict=False)
             if before.type in ("th_open", "td_open")]  # fmt: skip
    width = sum(token.type == "th_open" for token in tokens)
    return [cells[at : at + width] for at in range(0, len(cells), width)]


def boxes(picture: str) -> list[tuple[str, int]]:
    """What stands in each box of a picture, and how many depths wide it is."""
    elements = list(ElementTree.fromstring(picture))[1:]  # the ground is first
    pairs = [(a, b) for a, b in pairwise(elements) if a.tag.endswith("rect")]
    assert all(said.tag.endswith("text") for _, said in pairs)
    return [(str(said.text), round(float(str(box.get("width"))) / 44)) for box, said in pairs]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    corpus = tiny(folder / "tiny")
    run = trained_run(replace(QWEN, vocab_size=corpus.vocab_size), corpus, folder / "run")
    with pytest.raises(SystemExit) as done:
        main(["export", str(run), str(folder / "out"), "--untie", "--licence", "cc-by-sa-4.0"])
    assert done.value.code == 0
    return run, folder / "out"


def test_a_card_says_what_the_run_knows_and_the_hub_reads_its_front_matter(exported):
    run, out = exported
    text = (out / "README.md").read_text()
    data = ModelCard(text).data.to_dict()
    assert data["license"] == "cc-by-sa-4.0"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert "mixture-of-experts" in data["tags"]
    assert {row[0]: row[2] for row in rows(text, "Data")[1:]} == {
        row["source"]: row["licence"]
        for row in yaml.safe_load((run / "corpus.json").read_text())["sources"]
    }
    result = yaml.safe_load((run / "result.json").read_text())["evaluation"]["domains"]
    shown = {row[0]: row[1:3] for row in rows(text, "Held-out loss")[1:]}
    assert set(shown) == set(result) == {"code", "prose", "all"}
    for domain, measures in result.items():
        assert shown[domain] == [f"{measures[m]:.3f}" for m in ("loss", "bits_per_byte")]
    assert f"plait export {run.name} OUT --untie" in text
    assert "`Qwen3MoeForCausalLM`" in text
    assert "trust_remote_code" not in text


def test_the_experiment_in_a_card_is_the_run_s_but_for_where_it_lay(exported):
    run, out = exported
    whole = re.search(r"```yaml\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    trained = read_training(run)
    assert whole is not None
    said = from_dict(TrainConfig, yaml.safe_load(whole[1]))
    assert said == replace(trained, data=replace(trained.data, corpus="tiny"))
    assert str(run.parent) not in (out / "README.md").read_text()


def test_an_untied_model_shows_what_was_shared_and_what_is_stored(exported):
    run, out = exported
    text = (out / "README.md").read_text()
    config = read_config(run)
    tied, untied = count(config).stored, count(replace(config, sharing=Sharing())).stored
    for said in ("untied", f"| {quantity(tied)} |", f"| {quantity(untied)} |", "`1 + 1x2 + 1`"):
        assert said in text
    assert (out / "structure.svg").read_text() == structure_figure(config)


def test_generation_stops_where_documents_end(exported):
    _, out = exported
    end = AutoTokenizer.from_pretrained(out).eos_token_id
    assert GenerationConfig.from_pretrained(out).eos_token_id == end is not None


def test_intervals_come_from_the_seeds_of_the_study(tmp_path):
    study = write_study(tmp_path, {"plain": [0.0, 0.01, 0.05], "tied": [0.1, 0.12, 0.16]})
    config = read_config(study / "run1-s0")
    text = model_card(study / "run1-s0", tmp_path / "out")(config, "PlaitForCausalLM")["README.md"]
    head, *table = rows(text, "Held-out loss")
    assert head[-2:] == ["mean of 3 seeds, 95 %", "difference to plain, 95 %"]
    # by hand: the mean of 0.1, 0.12, 0.16, s = 0.03055, t = 4.3027; of 0.1, 0.11, 0.11 0.00577
    assert table[-1][0] == "all"
    assert table[-1][-2] == "4.127, 4.051 to 4.203"
    assert table[-1][-1] == "+0.107, +0.092 to +0.121"
    assert "trust_remote_code=True" in text
    plain = model_card(study / "run0-s0", tmp_path / "out")(config, "PlaitForCausalLM")["README.md"]
    assert "difference" not in rows(plain, "Held-out loss")[0][-1]


def test_a_card_needs_no_whole_study_and_no_run(tmp_path, caplog):
    study = write_study(tmp_path, {"plain": [0.0, 0.01]})
    (study / "study.json").write_text("{")
    config = read_config(study / "run0-s0")
    text = model_card(study / "run0-s0", tmp_path / "out")(config, "PlaitForCausalLM")["README.md"]
    assert rows(text, "Held-out loss")[-1][:2] == ["all", "4.000"]
    assert "without the study" in caplog.text

    save_model(tmp_path / "model", QWEN, lively(QWEN).state_dict())
    text = model_card(tmp_path / "model", tmp_path / "out")(QWEN, "PlaitForCausalLM")["README.md"]
    assert "not recorded" in text
    assert "Held-out loss" not in text
    with pytest.raises(ValueError, match="is no name"):
        model_card(tmp_path / "model", tmp_path / "out", "two\nlines")


def test_a_picture_has_a_box_for_each_run_of_depths_that_share(tmp_path):
    assert boxes(structure_figure(QWEN)) == [
        ("0", 1), ("1", 1), ("2", 1), ("3", 1),  # attention
        ("0", 2), ("1", 2),  # routers
        ("0", 1), ("1", 2), ("2", 1),  # experts
    ]  # fmt: skip
    cycle = Sharing(experts="2x2", router="1x2 + 1x2", decision="1x2 + 1x2")
    assert boxes(structure_figure(replace(QWEN, sharing=cycle)))[4:] == [
        ("0", 1), ("1", 1),  # routers, at the depths that decide
        ("0", 2), ("1", 2),  # decisions
        ("0", 1), ("1", 1), ("0", 1), ("1", 1),  # experts
    ]  # fmt: skip
    dense = ExpertConfig(count=4, width=16, dense_first=1, dense_width=40)
    drawn = boxes(structure_figure(replace(QWEN, sharing=Sharing(), experts=dense)))
    assert [name for name, _ in drawn[4:]] == ["1", "2", "3", "dense", "1", "2", "3"]


def test_a_deep_model_is_drawn_in_lines(tmp_path):
    deep = replace(QWEN, depth=PER_LINE + 2, sharing=Sharing(experts="all"))
    picture = structure_figure(deep)
    assert [box for box in boxes(picture) if box[1] > 1] == [("0", PER_LINE), ("0", 2)]
    assert picture.count(">experts<") == 2


def test_chat_templates_are_kept(tmp_path):
    save_model(tmp_path / "model", QWEN, lively(QWEN).state_dict())
    tiny(tmp_path / "tiny").tokenizer.save(tmp_path / "model" / "tokenizer.json")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    (tmp_path / "model" / "additional_chat_templates").mkdir()
    (tmp_path / "model" / "additional_chat_templates" / "loud.jinja").write_text("LOUD")
    export_model(tmp_path / "model", tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    said = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert said == "hi!"
    assert tokenizer.chat_template["loud"] == "LOUD"
