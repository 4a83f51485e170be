"""GGUF files, read back by their own package; in llama.cpp itself with `pytest -m external`."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

import plait
from plait.config import (
    AttentionConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
)
from plait.data import tokenizer as data_tokenizer
from plait.interop.gguf import ARCHITECTURES, export_gguf
from plait.interop.gguf_vocabulary import PRE_TOKENIZERS
from plait.sharing import Sharing
from plait.storage.model_folder import load_model, save_model
from plait.surgery.tying import tie
from tiny_corpus import tiny
from toy_models import lively

OLMOE = ModelConfig(
    vocab_size=520,
    depth=3,
    width=32,
    context=128,
    attention=AttentionConfig(heads=4, qk_norm="width"),
    experts=ExpertConfig(count=6, width=16, top_k=2),
    tied_head=False,
)
QWEN = replace(
    OLMOE,
    attention=AttentionConfig(heads=4, kv_heads=2, head_width=16, qk_norm="head", rope_theta=500.0),
    router=RouterConfig(renormalise=True),
)
MODELS = {
    "olmoe": OLMOE,
    "olmoe-tied-head": replace(OLMOE, tied_head=True),
    "qwen3_moe": QWEN,
    "qwen3_moe-tied-head": replace(QWEN, tied_head=True, norm_eps=1e-3),
    "qwen3_moe-shared": replace(
        QWEN, sharing=Sharing(experts="1 + 1x2", router="all", attention="all", norms="2x1 + 1")
    ),
}
TEXT = (
    "def main(argument):\n\treturn [x ** 2 for x in range(10)]   # 3.14, it's they'LL\n\n"
    "Die Straße: „naïve“ — 日本語のテキスト, Ελληνικά ١٢٣ 12345\u00a0\u2003 🙂 \r\n  \r\n"
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 e\u0301 "
    "<|endoftext|> 'S 'Re ''  \u200b\ufeff ½ ² ３ \x0b \x1f end   "
)


@pytest.fixture(scope="module")
def text_tokenizer(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("corpus") / "tiny").tokenizer


@pytest.fixture
def saved(tmp_path, text_tokenizer):
    """Save a random model with a tokenizer; returns its folder."""

    def save(config, name="model", dtype=torch.float32, tokenizer=text_tokenizer):
        weights = {key: t.to(dtype) for key, t in lively(config).state_dict().items()}
        save_model(tmp_path / name, config, weights)
        tokenizer.save(tmp_path / name / "tokenizer.json")
        return tmp_path / name

    return save


def values(reader):
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.parametrize("name", MODELS)
def test_a_reader_finds_equal_tensors_and_the_model_s_numbers(name, saved, tmp_path):
    config = MODELS[name]
    out = tmp_path / "model.gguf"
    done = export_gguf(saved(config), out, untie="shared" in name, licence="apache-2.0")
    reader = gguf.GGUFReader(out)
    said = values(reader)
    architecture = said["general.architecture"]
    assert done.architecture == f"{architecture} (GGUF)"
    assert said["general.license"] == "apache-2.0"
    wanted = {
        "vocab_size": 520, "context_length": 128, "embedding_length": 32, "block_count": 3,
        "attention.head_count": 4, "attention.head_count_kv": config.heads[1],
        "attention.key_length": config.heads[2], "attention.value_length": config.heads[2],
        "expert_count": 6, "expert_used_count": 2, "expert_feed_forward_length": 16,
        "rope.freq_base": config.attention.rope_theta,
        "attention.layer_norm_rms_epsilon": pytest.approx(config.norm_eps),
    }  # fmt: skip
    assert wanted == {key: said[f"{architecture}.{key}"] for key in wanted}

    found = {tensor.name: tensor.data for tensor in reader.tensors}
    model = load_model(tmp_path / "model")
    expected = {"token_embd": model.embedding.weight, "output_norm": model.final_norm.weight}
    if model.head is not None or architecture == "olmoe":
        expected["output"] = model.embedding.weight if model.head is None else model.head.weight
    for depth in range(3):
        part = model.parts_at(depth)
        gate, up = part.experts.up.split(16, dim=1)
        mine = {
            "attn_norm": part.attention_norm.weight, "ffn_norm": part.expert_norm.weight,
            "attn_q": part.attention.q_proj.weight, "attn_k": part.attention.k_proj.weight,
            "attn_v": part.attention.v_proj.weight, "attn_output": part.attention.o_proj.weight,
            "attn_q_norm": part.attention.q_norm.weight,
            "attn_k_norm": part.attention.k_norm.weight,
            "ffn_gate_inp": part.router.weight, "ffn_gate_exps": gate, "ffn_up_exps": up,
            "ffn_down_exps": part.experts.down,
        }  # fmt: skip
        expected |= {f"blk.{depth}.{key}": tensor for key, tensor in mine.items()}
    assert set(found) == {f"{key}.weight" for key in expected}
    for key, tensor in expected.items():
        assert np.array_equal(found[f"{key}.weight"], tensor.detach().numpy())


@pytest.mark.parametrize("architecture", ARCHITECTURES.values())
def test_every_tensor_that_llama_cpp_looks_for_is_written(architecture, saved, tmp_path):
    known = {"OLMOE": OLMOE, "QWEN3MOE": QWEN}
    export_gguf(saved(known[architecture.name]), tmp_path / "m.gguf")
    written = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    patterns = [gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[architecture]]
    wanted = {f"{p.format(bid=depth)}.weight" for p in patterns for depth in range(3)}
    assert written == wanted


def test_the_precision_of_the_files_is_kept(saved, tmp_path):
    folder = saved(QWEN, dtype=torch.bfloat16)
    export_gguf(folder, tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert values(reader)["general.file_type"] == gguf.LlamaFileType.MOSTLY_BF16
    found = {tensor.name: tensor for tensor in reader.tensors}
    kinds = {name: tensor.tensor_type.name for name, tensor in found.items()}
    assert {kinds[name] for name in kinds if "norm" in name or "gate_inp" in name} == {"F32"}
    assert {kinds[name] for name in kinds if "norm" not in name and "gate_inp" not in name} == {
        "BF16"
    }
    bank = load_model(folder).parts_at(2).experts
    read = gguf.dequantize(found["blk.2.ffn_down_exps.weight"].data, gguf.GGMLQuantizationType.BF16)
    assert np.array_equal(read.reshape(6, 32, 16), bank.down.detach().numpy())


def test_the_tokenizer_goes_along(saved, tmp_path, text_tokenizer):
    folder = saved(OLMOE)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    export_gguf(folder, tmp_path / "m.gguf")
    said = values(gguf.GGUFReader(tmp_path / "m.gguf"))
    tokens = said["tokenizer.ggml.tokens"]
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert {text: id_ for id_, text in enumerate(tokens[:512])} == backend.get_vocab()
    assert tokens[512:] == [f"[PAD{id_}]" for id_ in range(512, 520)]
    assert said["tokenizer.ggml.pre"] == "gpt-2"
    assert len(said["tokenizer.ggml.merges"]) == 512 - 257
    end = text_tokenizer.end_of_text
    for kind in ("bos", "eos", "padding"):
        assert said[f"tokenizer.ggml.{kind}_token_id"] == end
    assert said["tokenizer.ggml.add_bos_token"] is True
    assert said["tokenizer.ggml.token_type"][end] == gguf.TokenType.CONTROL
    assert said["tokenizer.chat_template"] == "{{ messages }}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sharing": Sharing(experts="all")}, "add --untie"),
        (
            {"sharing": Sharing(decision="all", router="all")},
            "a routing decision that depths share",
        ),
        ({"collaboration": CollaborationConfig(self_loop=True)}, "experts that collaborate"),
        ({"experts": ExpertConfig(count=(6, 6, 4), width=16)}, r"numbers of experts \(4, 6\)"),
        ({"norm": "layer"}, "neither OLMoE's nor Qwen3-MoE's"),
        ({"attention": AttentionConfig(heads=4, qk_norm="width", clip_qkv=3.0)}, "no attention.cl"),
        ({"attention": AttentionConfig(heads=4, kv_heads=2, qk_norm="width")}, "kv_heads below"),
        ({"router": RouterConfig(renormalise=True)}, r"no router\.renormalise"),
        ({"attention": AttentionConfig(heads=4, qk_norm="head")}, "leaves as they are"),
        (
            {
                "attention": AttentionConfig(heads=4, qk_norm="head"),
                "router": RouterConfig(renormalise=True),
                "experts": ExpertConfig(count=6, width=16, dense_first=1, dense_width=24),
            },
            r"no experts\.dense_first",
        ),
        (
            {"attention": AttentionConfig(heads=4), "router": RouterConfig(renormalise=True)},
            "architecture mixtral.*convert_hf_to_gguf",
        ),
    ],
)
def test_what_llama_cpp_cannot_express_is_refused_with_what_to_do(change, says, saved, tmp_path):
    folder = saved(replace(OLMOE, **change))
    with pytest.raises(ValueError, match=says) as refusal:
        export_gguf(folder, tmp_path / "m.gguf")
    assert "\n" not in str(refusal.value)
    assert any(fix in str(refusal.value) for fix in ("--untie", "export a folder"))
    assert not list(tmp_path.glob("*.gguf*"))


def no_tokenizer(folder, tokenizer):
    (folder / "tokenizer.json").unlink()
    return FileNotFoundError, r"no tokenizer\.json"


def another_split(folder, tokenizer):
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return ValueError, "no pre-tokenizer"


def a_space_in_front(folder, tokenizer):
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return ValueError, "no pre-tokenizer"


def lower_case(folder, tokenizer):
    tokenizer.normalizer = normalizers.Lowercase()
    return ValueError, "no pre-tokenizer"


def too_many_tokens(folder, tokenizer):
    tokenizer.add_tokens([f"more{number}" for number in range(20)])
    return ValueError, "has number 520, but the model has only 520"


def not_byte_level(folder, tokenizer):
    (folder / "tokenizer_config.json").write_text("{}")
    tokenizer.model = models.WordLevel({"a": 0}, unk_token="a")
    return ValueError, "not byte-level BPE"


def damaged_settings(folder, tokenizer):
    (folder / "tokenizer_config.json").write_text("[")
    return ValueError, r"tokenizer_config\.json is damaged"


@pytest.mark.parametrize(
    "change",
    [
        no_tokenizer,
        another_split,
        a_space_in_front,
        lower_case,
        too_many_tokens,
        not_byte_level,
        damaged_settings,
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(change, saved, tmp_path):
    folder = saved(OLMOE)
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    error, says = change(folder, backend)
    if (folder / "tokenizer.json").is_file():
        backend.save(str(folder / "tokenizer.json"))
    with pytest.raises(error, match=says) as refusal:
        export_gguf(folder, tmp_path / "m.gguf")
    assert "\n" not in str(refusal.value)
    assert str(folder) in str(refusal.value)
    assert not list(tmp_path.glob("*.gguf*"))


def test_a_file_that_is_there_stays(saved, tmp_path):
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(ValueError, match="there already"):
        export_gguf(saved(OLMOE), tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_text() == "mine"


# ---- in llama.cpp: pip install llama-cpp-python, pytest -m external tests/interop/test_gguf.py


def opened(path):
    import llama_cpp

    f32 = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(
        str(path), n_ctx=128, logits_all=True, verbose=False, type_k=f32, type_v=f32,
        n_threads=1, n_threads_batch=1,
    )  # fmt: skip


def with_split(tokenizer, expression, ignore_merges):
    """The same tokens behind another way of splitting text."""
    backend = Tokenizer.from_str(tokenizer._backend.to_str())
    if ignore_merges is not None:
        backend.model.ignore_merges = ignore_merges
        split = pre_tokenizers.Split(Regex(expression), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    return data_tokenizer.Tokenizer(backend)


@pytest.mark.external
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_gives_our_logits_on_real_text(name, saved, tmp_path):
    folder = saved(MODELS[name])
    export_gguf(folder, tmp_path / "m.gguf", untie="shared" in name)
    llama = opened(tmp_path / "m.gguf")
    code = (plait.__path__[0] + "/sharing.py", plait.__path__[0] + "/atomic.py")
    for file in code:
        with open(file, "rb") as text:
            ids = llama.tokenize(text.read(400), add_bos=True)[:100]
        llama.reset()
        llama.eval(ids)
        with torch.no_grad():
            ours = load_model(folder)(torch.tensor([ids])).logits[0].numpy()
        theirs = np.array(llama.scores[: len(ids)])
        assert ours.std() > 0.3
        assert np.abs(ours - theirs).max() <= 1e-4


@pytest.mark.external
def test_a_tied_model_goes_into_llama_cpp_untied_and_says_the_same(saved, tmp_path):
    saved(replace(QWEN, depth=4))
    tie(tmp_path / "model", tmp_path / "tied", "groups(2, skip=1)", merge="mean")
    export_gguf(tmp_path / "tied", tmp_path / "m.gguf", untie=True)
    llama = opened(tmp_path / "m.gguf")
    ids = llama.tokenize(b"def main(argument):", add_bos=True)
    made = []
    for token in llama.generate(ids, temp=0.0):
        made.append(token)
        if len(made) == 20:
            break
    ours = load_model(tmp_path / "tied")
    for token in made:
        with torch.no_grad():
            assert token == int(ours(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


@pytest.mark.external
@pytest.mark.parametrize(("split", "name"), PRE_TOKENIZERS.items(), ids=PRE_TOKENIZERS.values())
def test_llama_cpp_splits_text_as_we_do(split, name, saved, tmp_path, text_tokenizer):
    expression, ignore_merges = split
    tokenizer = with_split(text_tokenizer, expression, None if name == "gpt-2" else ignore_merges)
    export_gguf(saved(OLMOE, tokenizer=tokenizer), tmp_path / "m.gguf")
    llama = opened(tmp_path / "m.gguf")
    assert llama.metadata["tokenizer.ggml.pre"] == name
    texts = [TEXT, *TEXT.split(), *(TEXT[at:] for at in range(0, len(TEXT), 7))]
    for module in ("sharing", "plan_text", "reading"):
        with open(f"{plait.__path__[0]}/{module}.py", encoding="utf-8") as file:
            texts.append(file.read())
    for text in texts:
        ids = llama.tokenize(text.encode(), add_bos=False, special=False)
        assert ids == tokenizer.encode(text), text
        assert llama.detokenize(ids).decode() == text
    assert llama.tokenize(b"text")[0] == tokenizer.end_of_text
