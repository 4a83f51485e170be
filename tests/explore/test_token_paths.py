import json
import math
from dataclasses import replace

import pytest
import torch

from plait.config import ExpertConfig
from plait.explore import analyse, describe
from plait.explore.explored_model import open_explored
from plait.explore.token_paths import MAX_BYTES, TooLongError
from plait.model import LanguageModel
from plait.storage.model_folder import save_model

TEXT = "def walk(depth):\n    return depth + 1  # é, 東京\n"


def test_routing_and_loss_are_those_of_the_model_s_own_forward(models):
    woven = models[0]
    found = analyse(woven.model, woven.tokenizer, TEXT)
    ids = [woven.tokenizer.end_of_text, *woven.tokenizer.encode(TEXT)]
    tokens_BS = torch.tensor([ids])
    with torch.inference_mode():
        routings = woven.model(tokens_BS, routings=True).routings
        loss = woven.model(tokens_BS[:, :-1], tokens_BS[:, 1:]).loss
    assert found["tokens"]["id"] == ids[1:]
    assert found["summary"]["loss"] == pytest.approx(float(loss), abs=1e-3)
    bits = float(loss) * len(ids[1:]) / math.log(2) / len(TEXT.encode())
    assert found["summary"]["bits_per_byte"] == pytest.approx(bits, abs=1e-3)
    assert [level["depth"] for level in found["depths"]] == [0, 1, 2, 3, 4]
    for level, routing in zip(found["depths"], routings, strict=True):
        for token, experts in enumerate(level["experts"]):
            gates = dict(zip(experts, level["gates"][token], strict=True))
            own = routing.expert_ids_TK[token + 1].tolist()
            weights = routing.weights_TK[token + 1].tolist()
            assert gates == pytest.approx(dict(zip(own, weights, strict=True)), abs=1e-4)
            logits_E = routing.logits_TE[token + 1]
            assert experts[0] == max(own, key=lambda expert: float(logits_E[expert]))
    paths = set(zip(*([e[0] for e in level["experts"]] for level in found["depths"]), strict=True))
    assert found["summary"]["paths"] == len(paths)


def test_a_shared_decision_gives_the_same_experts(models):
    found = models[0].analyse(TEXT)
    assert found["depths"][3]["experts"] == found["depths"][4]["experts"]
    assert models[0].describe()["plans"]["decision"]["banks"] == [0, 1, 2, 3, 3]


def test_tokens_lie_end_to_end_in_the_text_and_go_through_json(models):
    for explored in models:
        found = json.loads(json.dumps(explored.analyse(TEXT), allow_nan=False))
        tokens = found["tokens"]
        assert tokens["start"] == [0, *tokens["end"][:-1]]
        assert tokens["end"][-1] == len(TEXT.encode()) == found["summary"]["bytes"]
        json.dumps(explored.describe(), allow_nan=False)


def test_too_much_text_is_refused_with_its_size_and_the_limit(models):
    woven = models[0]
    with pytest.raises(ValueError, match="no text"):
        woven.analyse("")
    with pytest.raises(TooLongError, match=f"{MAX_BYTES + 1:,} bytes"):
        woven.analyse("a" * (MAX_BYTES + 1))
    with pytest.raises(TooLongError, match="tokens for woven, at most 255"):
        woven.analyse("x7" * 300)
    assert woven.describe()["max_tokens"] == 255


def test_text_that_spells_special_tokens_or_lone_surrogates_is_ordinary(models):
    found = models[0].analyse("<|endoftext|>\ud800")
    assert models[0].tokenizer.end_of_text not in found["tokens"]["id"]


def test_a_hugging_face_moe_opens_from_its_folder(models, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer = models[0].tokenizer
    config = transformers.OlmoeConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
    )
    transformers.OlmoeForCausalLM(config).save_pretrained(tmp_path / "olmoe")
    tokenizer.save(tmp_path / "olmoe" / "tokenizer.json")
    (explored,) = open_explored([tmp_path / "olmoe"])
    assert explored.name == "olmoe"
    described = explored.describe()
    assert described["experts"] == [4, 4, 4]
    assert described["plans"]["experts"]["text"] == "own"
    found = explored.analyse(TEXT)
    tokens_BS = torch.tensor([[tokenizer.end_of_text, *found["tokens"]["id"]]])
    with torch.inference_mode():
        output = explored.model(input_ids=tokens_BS, labels=tokens_BS, output_router_logits=True)
        loss = explored.model(input_ids=tokens_BS, labels=tokens_BS).loss
    top1_T = output.router_logits[1].argmax(-1)[1:].tolist()
    assert [experts[0] for experts in found["depths"][1]["experts"]] == top1_T
    assert found["summary"]["loss"] == pytest.approx(float(loss), abs=1e-3)


def test_a_tokenizer_that_is_not_byte_level_reads_on_without_places_in_the_text(models):
    class Words:
        encoding_fingerprint = "words"

        def encode(self, text):
            return [len(word) for word in text.split()]

        def token(self, id_):
            return "x" * id_

    found = analyse(models[1].model, Words(), "three words\u200b here")
    assert found["tokens"]["shown"] == [["xxxxx"], ["xxxxxx"], ["xxxx"]]
    assert found["tokens"]["start"] == found["tokens"]["end"] == []
    assert found["tokens"]["loss"][0] is None
    assert found["summary"]["loss"] == pytest.approx(sum(found["tokens"]["loss"][1:]) / 2, abs=1e-3)
    with pytest.raises(ValueError, match="no token in this text"):
        analyse(models[1].model, Words(), "  ")
    with pytest.raises(ValueError, match="the tokenizer gives token 400"):
        analyse(models[1].model, Words(), "x" * 400)


def test_a_model_folder_opens_and_says_when_its_tokenizer_is_missing(models, tmp_path):
    plain = models[1]
    plain.tokenizer.save(tmp_path / "tokenizer.json")
    weights = plain.model.state_dict()
    whole, bare = tmp_path / "whole", tmp_path / "bare"
    save_model(whole, plain.model.config, weights, tmp_path / "tokenizer.json")
    save_model(bare, plain.model.config, weights)
    (explored,) = open_explored([whole])
    assert explored.analyse(TEXT) == plain.analyse(TEXT)
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        open_explored([bare])


def test_a_dense_model_is_refused(models):
    dense = replace(models[1].model.config, experts=ExpertConfig(count=1, width=16, top_k=1))
    with pytest.raises(ValueError, match="no depth with a router"):
        describe(LanguageModel(dense), models[1].tokenizer, "dense")
