"""Parity with transformers' own classes, through the files that both sides write."""

import json
import resource
import shutil
from dataclasses import replace

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Dots1Config,
    FlexOlmoConfig,
    GraniteMoeConfig,
    LlamaConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from plait.config import AttentionConfig, ExpertConfig, ModelConfig, RouterConfig
from plait.config.files import save_yaml
from plait.interop import PlaitForCausalLM
from plait.interop.exporting import export_model
from plait.interop.importing import import_model
from plait.sharing import Sharing
from plait.storage.model_folder import load_model, read_config, read_tokenizer, save_model
from plait.surgery.tying import tie
from toy_models import VOCABULARY, lively, tokens

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "eos_token_id": VOCABULARY - 1,
    "pad_token_id": 0,
}
DENSE = {key: value for key, value in SMALL.items() if key != "num_experts_per_tok"}
DENSE["intermediate_size"] = 48
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0}
YARN |= {"original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0}
YARN["truncate"] = True
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
ARCHITECTURES = {
    "llama": LlamaConfig(**DENSE, rope_parameters=LLAMA3),
    "llama-bias": LlamaConfig(
        **DENSE,
        attention_bias=True,
        tie_word_embeddings=True,
        head_dim=12,
        rope_parameters={"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0},
    ),
    "qwen2": Qwen2Config(**DENSE, rope_parameters=YARN),
    "qwen3": Qwen3Config(**DENSE, head_dim=16, attention_bias=True),
    "qwen3-yarn": Qwen3Config(
        **DENSE,
        head_dim=16,
        rope_parameters=YARN
        | {"beta_fast": 8.0, "beta_slow": 0.5, "attention_factor": 1.3, "truncate": False},
    ),
    "flex_olmo": FlexOlmoConfig(
        **SMALL, num_experts=6, intermediate_size=16, norm_topk_prob=True, attention_bias=True
    ),
    "granitemoe": GraniteMoeConfig(
        **SMALL,
        num_local_experts=6,
        intermediate_size=16,
        embedding_multiplier=3.0,
        residual_multiplier=0.22,
        attention_multiplier=0.3,
        logits_scaling=1.5,
    ),
    "granitemoe-plain": GraniteMoeConfig(
        **SMALL, num_local_experts=6, intermediate_size=16, embedding_multiplier=2.0
    ),
    "olmoe-bias": OlmoeConfig(
        **SMALL, num_experts=6, intermediate_size=16, attention_bias=True, rope_parameters=YARN
    ),
    "qwen3_moe-interleaved": Qwen3MoeConfig(
        **{**SMALL, "num_hidden_layers": 5},
        num_experts=6,
        moe_intermediate_size=16,
        intermediate_size=40,
        mlp_only_layers=[0, 3],
    ),
    "dots1-groups": Dots1Config(
        **SMALL,
        n_routed_experts=8,
        n_shared_experts=1,
        moe_intermediate_size=16,
        intermediate_size=40,
        first_k_dense_replace=1,
        n_group=4,
        topk_group=2,
        attention_bias=True,
    ),
    "olmoe": OlmoeConfig(**SMALL, num_experts=6, intermediate_size=16, clip_qkv=0.7),
    "olmoe-tied": OlmoeConfig(
        **SMALL, num_experts=6, intermediate_size=16, tie_word_embeddings=True, norm_topk_prob=True
    ),
    "qwen3_moe": Qwen3MoeConfig(
        **SMALL,
        num_experts=6,
        moe_intermediate_size=16,
        head_dim=16,
        norm_topk_prob=True,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
    ),
    "qwen3_moe-dense-first": Qwen3MoeConfig(
        **SMALL, num_experts=6, moe_intermediate_size=16, intermediate_size=40, mlp_only_layers=[0]
    ),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=6, intermediate_size=16),
    "qwen2_moe": Qwen2MoeConfig(
        **SMALL, num_experts=6, moe_intermediate_size=16, shared_expert_intermediate_size=24
    ),
    "dots1": Dots1Config(
        **SMALL,
        n_routed_experts=6,
        n_shared_experts=2,
        moe_intermediate_size=16,
        intermediate_size=40,
        first_k_dense_replace=1,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
    ),
}


def random_model(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name or "bias" in name:
                tensor.add_(0.3 * torch.randn(tensor.shape))
    return model


def assert_same(ours, theirs):
    text = tokens(3, 40)
    with torch.no_grad():
        expected = theirs(text).logits
        assert expected.std() > 0.3
        assert (ours(text).logits - expected).abs().max() <= 1e-4
    prompt = tokens(2, 8, seed=1)
    greedy = {"max_new_tokens": 12, "do_sample": False}
    skin = PlaitForCausalLM.of(ours, eos_token_id=VOCABULARY - 1, pad_token_id=0)
    assert torch.equal(skin.generate(prompt, **greedy), theirs.generate(prompt, **greedy))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_and_text_are_transformers_own_both_ways(name, tmp_path):
    theirs = random_model(ARCHITECTURES[name])
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    summary = import_model(tmp_path / "theirs", tmp_path / "ours")
    assert summary.architecture == theirs.config.model_type
    assert summary.bytes >= 4 * summary.parameters
    assert_same(load_model(tmp_path / "ours"), theirs)

    exported = export_model(tmp_path / "ours", tmp_path / "back", shard_bytes=60_000)
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert exported.architecture == type(back).__name__ == type(theirs).__name__
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 1
    assert all(
        torch.equal(tensor, back.state_dict()[key]) for key, tensor in theirs.state_dict().items()
    )
    cosmetic = {"_name_or_path", "architectures", "dtype", "eos_token_id", "pad_token_id"}
    before, after = (
        {k: v for k, v in c.to_dict().items() if k not in cosmetic and "intermediate" not in k}
        for c in (theirs.config, back.config)
    )
    if name == "dots1":  # the window that its layers do not use
        before["sliding_window"] = after["sliding_window"]
    assert before | {"bos_token_id": None} == after | {"bos_token_id": None}


def test_the_precision_of_the_files_is_kept(tmp_path):
    theirs = random_model(ARCHITECTURES["dots1"]).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path / "theirs")
    summary = import_model(tmp_path / "theirs", tmp_path / "ours")
    assert summary.bytes < 2.5 * summary.parameters
    export_model(tmp_path / "ours", tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    for name, tensor in load_file(tmp_path / "theirs" / "model.safetensors").items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor)


def test_files_with_fused_experts_are_read_too(tmp_path):
    theirs = random_model(ARCHITECTURES["mixtral"])
    theirs.save_pretrained(tmp_path / "theirs", save_original_format=False)
    assert any("gate_up_proj" in name for name in load_file(tmp_path / "theirs/model.safetensors"))
    import_model(tmp_path / "theirs", tmp_path / "ours")
    assert_same(load_model(tmp_path / "ours"), theirs)


def test_router_logits_and_auxiliary_loss_are_transformers_own(tmp_path):
    theirs = random_model(ARCHITECTURES["qwen3_moe"])
    theirs.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    ours = PlaitForCausalLM.of(load_model(tmp_path / "ours"))
    text = tokens(2, 20)
    mask = torch.ones_like(text)
    mask[0, 13:] = 0
    labels = text.masked_fill(mask == 0, -100)
    with torch.no_grad():
        expected, found = (
            m(text, attention_mask=mask, labels=labels, output_router_logits=True)
            for m in (theirs, ours)
        )
    for ours_TE, theirs_TE in zip(found.router_logits, expected.router_logits, strict=True):
        real = mask.flatten().bool()
        torch.testing.assert_close(ours_TE[real], theirs_TE[real], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.aux_loss, expected.aux_loss)
    torch.testing.assert_close(found.loss, expected.loss)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("qwen3_moe", "use_sliding_window", True),
        ("qwen3_moe", "attention_dropout", 0.1),
        ("llama", "mlp_bias", True),
        ("qwen3", "layer_types", ["sliding_attention"] * 3),
        ("mixtral", "sliding_window", 32),
        ("mixtral", "router_jitter_noise", 0.1),
        ("olmoe", "hidden_act", "gelu"),
        ("olmoe", "quantization_config", {"quant_method": "fp8"}),
        ("olmoe", "head_dim", 16),
        ("dots1", "layer_types", ["sliding_attention"] * 3),
        (
            "dots1",
            "rope_parameters",
            {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
        ),
        ("mixtral", "model_type", "gpt2"),
    ],
)
def test_an_option_that_is_not_supported_is_refused_by_name(name, option, value, tmp_path):
    ARCHITECTURES[name].save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    options = json.loads(file.read_text()) | {option: value}
    file.write_text(json.dumps(options))
    with pytest.raises(ValueError, match=rf"config\.json: .*{option}") as refusal:
        import_model(tmp_path, tmp_path / "ours")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "ours").exists()


def with_options(folder, changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_all_options_that_are_not_supported_are_named_at_once(tmp_path):
    ARCHITECTURES["qwen3_moe"].save_pretrained(tmp_path)
    with_options(tmp_path, {"attention_dropout": 0.1, "use_sliding_window": True, "novel": [3]})
    with pytest.raises(ValueError, match="attention_dropout") as refusal:
        import_model(tmp_path, tmp_path / "ours")
    said = str(refusal.value)
    assert all(name in said for name in ("use_sliding_window = True", "novel = [3]"))
    assert "\n" not in said
    with_options(tmp_path, {f"novel{number}": number for number in range(1, 20)})
    with pytest.raises(ValueError, match="and 16 more") as refusal:
        import_model(tmp_path, tmp_path / "ours")
    assert len(str(refusal.value)) < 1000


def test_options_and_tensors_that_change_nothing_are_accepted(tmp_path):
    theirs = random_model(ARCHITECTURES["olmoe-tied"])
    theirs.save_pretrained(tmp_path / "theirs")
    off = {"attention_bias": False, "quantization_config": None, "pretraining_tp": 1, "novel": []}
    with_options(tmp_path / "theirs", off)
    file = tmp_path / "theirs" / "model.safetensors"
    state = load_file(file)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, file)
    import_model(tmp_path / "theirs", tmp_path / "ours")
    assert_same(load_model(tmp_path / "ours"), theirs)
    state["lm_head.weight"][3, 3] += 1
    save_file(state, file)
    with pytest.raises(ValueError, match=r"lm_head\.weight is not .* tie_word_embeddings"):
        import_model(tmp_path / "theirs", tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qwen3_moe-interleaved", {"mlp_only_layers": [], "decoder_sparse_step": 2}),
        ("qwen3_moe-interleaved", {"mlp_only_layers": [1], "decoder_sparse_step": 2}),
        ("qwen3_moe-interleaved", {"mlp_only_layers": [0, 1]}),
        ("qwen2", {"rope_parameters": YARN | {"mscale": 2.0, "mscale_all_dim": 0.5}}),
        ("qwen2", {"rope_parameters": YARN | {"mscale": 2.0}}),
        ("qwen2", {"rope_parameters": YARN | {"factor": None}}),
    ],
)
def test_other_ways_to_say_the_same_are_read_too(name, changes, tmp_path):
    options = ARCHITECTURES[name].to_dict() | changes
    theirs = random_model(type(ARCHITECTURES[name]).from_dict(options))
    theirs.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    assert_same(load_model(tmp_path / "ours"), theirs)
    exported = export_model(tmp_path / "ours", tmp_path / "back")
    assert exported.architecture == type(theirs).__name__
    assert_same(
        load_model(tmp_path / "ours"), AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    )


@pytest.mark.parametrize("name", ["llama", "flex_olmo", "granitemoe", "dots1-groups"])
def test_what_is_imported_can_be_shared_and_goes_out_as_our_own_class(name, tmp_path):
    theirs = random_model(ARCHITECTURES[name])
    theirs.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "ours")
    tie(tmp_path / "ours", tmp_path / "tied", experts="1 + 1x2", merge="first")
    exported = export_model(tmp_path / "tied", tmp_path / "out")
    assert exported.architecture == "PlaitForCausalLM"
    out = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert_same(load_model(tmp_path / "tied"), out)
    text = tokens(2, 9)
    ours = PlaitForCausalLM.of(load_model(tmp_path / "ours"))
    for found, expected in zip(
        ours(text, output_hidden_states=True).hidden_states,
        theirs(text, output_hidden_states=True).hidden_states,
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("olmoe", {"num_hidden_layers": 10_000_000}, "num_hidden_layers is 10000000"),
        ("olmoe", {"num_hidden_layers": 9_999}, "9999 layers, but the files have 3"),
        ("olmoe", {"num_hidden_layers": "3"}, "num_hidden_layers is '3'"),
        ("olmoe", {"num_hidden_layers": None}, "num_hidden_layers is None"),
        ("olmoe", {"num_experts": 60_000}, "60000 experts, but the files have 6"),
        ("olmoe", {"num_experts": 2**40}, "experts.count is 1099511627776"),
        ("olmoe", {"hidden_size": 2**40}, "width is 1099511627776"),
        ("olmoe", {"vocab_size": 2**60}, "vocab_size is"),
        ("olmoe", {"num_attention_heads": 2**60}, "heads"),
        ("olmoe", {"intermediate_size": 2**60}, "experts.width is"),
        ("olmoe", {"max_position_embeddings": 2**60}, "context is"),
        ("olmoe", {"num_labels": 10**12}, None),
        ("olmoe", {"id2label": {"0": "a"}, "num_labels": 10**9}, None),
        ("olmoe", {"router_aux_loss_coef": [1], "num_experts_per_tok": 10**9}, "router_aux_loss"),
        ("olmoe", {"rms_norm_eps": float("nan")}, "norm_eps|rms_norm_eps"),
        ("olmoe", {"model_type": []}, r"model_type \[\] is not supported"),
        ("olmoe", {"model_type": {}}, r"model_type \{\} is not supported"),
        ("olmoe", {"rope_parameters": 3}, "rope"),
        ("qwen3_moe", {"mlp_only_layers": 3}, "mlp_only_layers"),
        ("dots1", {"n_shared_experts": "2"}, "n_shared_experts"),
        ("dots1", {"layer_types": [[]]}, "layer_types"),
    ],
)
def test_numbers_and_types_of_a_configuration_are_checked_before_anything_is_built(
    name, changes, says, tmp_path
):
    random_model(ARCHITECTURES[name]).save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    if says is None:
        import_model(tmp_path / "theirs", tmp_path / "ours")
        return
    with pytest.raises(ValueError, match=says) as refusal:
        import_model(tmp_path / "theirs", tmp_path / "ours")
    assert "config.json" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 1000
    assert not list(tmp_path.glob("*ours*"))


def cut_short(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return "damaged"


def without_a_tensor(folder):
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.gate.weight"]
    save_file(state, folder / "model.safetensors")
    return r"layers\.1\.mlp\.gate\.weight is missing"


def with_a_tensor_more(folder):
    state = load_file(folder / "model.safetensors")
    save_file(state | {"model.extra.weight": torch.ones(2)}, folder / "model.safetensors")
    return r"model\.extra\.weight is in the files"


def with_another_configuration(folder):
    options = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(options | {"intermediate_size": 24}))
    return "of different models"


def without_weights(folder):
    (folder / "model.safetensors").unlink()
    return "model.safetensors"


def without_configuration(folder):
    (folder / "config.json").unlink()
    return "config.json"


def with_a_broken_configuration(folder):
    (folder / "config.json").write_text("{")
    return "config.json: damaged"


def with_a_number_for_a_configuration(folder):
    (folder / "config.json").write_text("3")
    return "config.json: damaged.*not an object"


def with_a_configuration_that_nests(folder):
    (folder / "config.json").write_text("[" * 10_000)
    return "config.json: damaged"


def with_nan(folder):
    state = load_file(folder / "model.safetensors")
    state["model.layers.1.mlp.gate.weight"][3, 3] = float("nan")
    save_file(state, folder / "model.safetensors")
    return r"layers\.1\.mlp\.gate\.weight holds NaN or infinite"


def with_infinity(folder):
    state = {n: t.half() for n, t in load_file(folder / "model.safetensors").items()}
    state["model.norm.weight"][-1] = -float("inf")
    save_file(state, folder / "model.safetensors")
    return r"model\.norm\.weight holds NaN or infinite"


def with_a_scalar(folder):
    state = load_file(folder / "model.safetensors")
    save_file(state | {"model.norm.weight": torch.tensor(1.0)}, folder / "model.safetensors")
    return "of different models"


def with_nothing_in_a_tensor(folder):
    state = load_file(folder / "model.safetensors")
    save_file(state | {"model.norm.weight": torch.ones(0)}, folder / "model.safetensors")
    return "of different models"


def with_whole_numbers(folder):
    state = load_file(folder / "model.safetensors")
    save_file({name: t.long() for name, t in state.items()}, folder / "model.safetensors")
    return "of type I64"


def with_weights_from_elsewhere(folder):
    (folder / "model.safetensors").rename(folder.parent / "elsewhere")
    (folder / "model.safetensors").symlink_to("../elsewhere")
    return "leads out of"


def with_an_index_that_leads_out(folder, name="../x.safetensors"):
    (folder / "model.safetensors").rename(folder.parent / "x.safetensors")
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return "leads out of"


def with_an_index_of_the_whole_disk(folder):
    return with_an_index_that_leads_out(folder, str(folder.parent / "x.safetensors"))


def with_an_index_without_a_map(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
    return "index.json: damaged"


def with_an_index_that_nests(folder):
    (folder / "model.safetensors.index.json").write_text("[" * 10_000)
    return "index.json: damaged"


def with_a_tokenizer_from_elsewhere(folder):
    (folder.parent / "secret").write_text("not yours")
    (folder / "tokenizer.json").symlink_to("../secret")
    return "tokenizer.json: leads out of"


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        without_a_tensor,
        with_a_tensor_more,
        with_another_configuration,
        without_weights,
        without_configuration,
        with_a_broken_configuration,
        with_a_number_for_a_configuration,
        with_a_configuration_that_nests,
        with_nan,
        with_infinity,
        with_a_scalar,
        with_nothing_in_a_tensor,
        with_whole_numbers,
        with_weights_from_elsewhere,
        with_an_index_that_leads_out,
        with_an_index_of_the_whole_disk,
        with_an_index_without_a_map,
        with_an_index_that_nests,
        with_a_tokenizer_from_elsewhere,
    ],
)
def test_damaged_files_give_one_clear_line(damage, tmp_path):
    random_model(ARCHITECTURES["olmoe"]).save_pretrained(tmp_path / "theirs")
    message = damage(tmp_path / "theirs")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as refusal:
        import_model(tmp_path / "theirs", tmp_path / "ours")
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.glob("*ours*"))


def test_a_folder_of_the_hub_clients_cache_is_read(tmp_path):
    """Its files are links to blobs, which lie outside of the folder."""
    snapshot, blobs = tmp_path / "models--x/snapshots/0123", tmp_path / "models--x/blobs"
    random_model(ARCHITECTURES["olmoe"]).save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer_config.json").write_text("{}")
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted((tmp_path / "theirs").iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    import_model(snapshot, tmp_path / "ours")
    assert (tmp_path / "ours" / "tokenizer_config.json").read_text() == "{}"
    assert not (tmp_path / "ours" / "tokenizer_config.json").is_symlink()


@pytest.fixture
def full_disk():
    """The kernel refuses files over 20,000 bytes, as it refuses any on a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def olmoe_folder(tmp_path):
    random_model(ARCHITECTURES["olmoe"]).save_pretrained(tmp_path / "theirs")
    return tmp_path / "theirs"


def test_a_full_disk_is_one_line_and_leaves_nothing(
    olmoe_folder, woven_folder, full_disk, tmp_path
):
    out = tmp_path / "out"
    for write in (
        lambda: import_model(olmoe_folder, out),
        lambda: export_model(woven_folder, out),
        lambda: tie(woven_folder, out, router="all", merge="mean"),
    ):
        with pytest.raises(OSError, match=r"the disk was full after [\d,]+ .*out") as refusal:
            write()
        assert "\n" not in str(refusal.value)
        assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_configuration_with_more_banks_than_the_file_has_tensors_is_refused(
    woven_folder, tmp_path
):
    shutil.copytree(woven_folder, tmp_path / "deep")
    deep = ModelConfig(vocab_size=VOCABULARY, depth=10_000, width=32)
    save_yaml(deep, tmp_path / "deep" / "config.yaml")
    with pytest.raises(ValueError, match="has 10000 banks: the two are of different models"):
        load_model(tmp_path / "deep")


def test_companions_are_copied_from_inside_a_folder_only(woven_folder, tmp_path):
    shutil.copytree(woven_folder, tmp_path / "theirs")
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "theirs" / "generation_config.json").symlink_to("../secret")
    with pytest.raises(ValueError, match=r"generation_config\.json: leads out of"):
        tie(tmp_path / "theirs", tmp_path / "tied", router="all", merge="mean")
    (tmp_path / "theirs" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"generation_config\.json: leads out of"):
        export_model(tmp_path / "theirs", tmp_path / "out")
    (tmp_path / "theirs" / "generation_config.json").unlink()
    (tmp_path / "theirs" / "generation_config.json").write_text("[" * 10_000)
    with pytest.raises(ValueError, match=r"generation_config\.json: damaged"):
        export_model(tmp_path / "theirs", tmp_path / "out")


def test_a_missing_shard_is_named(tmp_path):
    theirs = random_model(ARCHITECTURES["olmoe"])
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="60KB")
    lost = sorted((tmp_path / "theirs").glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=lost.name):
        import_model(tmp_path / "theirs", tmp_path / "ours")


def test_nothing_is_overwritten(tmp_path):
    random_model(ARCHITECTURES["olmoe"]).save_pretrained(tmp_path / "theirs")
    with pytest.raises(ValueError, match="there already"):
        import_model(tmp_path / "theirs", tmp_path / "theirs")


def test_any_other_structure_goes_out_as_its_own_class(woven, woven_folder, tmp_path):
    exported = export_model(woven_folder, tmp_path / "out", shard_bytes=40_000)
    assert exported.architecture == "PlaitForCausalLM"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ours = load_model(woven_folder)
    assert torch.equal(theirs(tokens(2, 20)).logits, ours(tokens(2, 20)).logits)

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "the cat sat on a mat"
    assert tokenizer(text).input_ids == read_tokenizer(woven_folder).encode(text)
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert theirs.config.eos_token_id == tokenizer.eos_token_id


def test_what_lies_beside_the_weights_goes_along(tmp_path):
    """A tokenizer of a kind that Plait does not train with, and the ids that end a text."""
    theirs = random_model(ARCHITECTURES["mixtral"])
    theirs.generation_config.eos_token_id = [7, 8]
    theirs.save_pretrained(tmp_path / "theirs")
    words = {word: i for i, word in enumerate(("<unk>", "<s>", "</s>", "the", "cat", "sat"))}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.save_pretrained(tmp_path / "theirs")

    import_model(tmp_path / "theirs", tmp_path / "ours")
    text = tmp_path / "text.txt"
    text.write_text("the cat sat. " * 30)
    tie(tmp_path / "ours", tmp_path / "tied", "1x2 + 1", merge="mean", text=text)
    export_model(tmp_path / "tied", tmp_path / "out", untie=True)
    back = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert back("the cat").input_ids == [3, 4]
    assert back.eos_token == "</s>"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(model) is type(theirs)
    assert model.generation_config.eos_token_id == [7, 8]


def test_a_tied_model_goes_out_untied_as_transformers_own(tmp_path):
    tied = ModelConfig(
        vocab_size=VOCABULARY,
        depth=4,
        width=32,
        attention=AttentionConfig(heads=4, kv_heads=2, qk_norm="head"),
        experts=ExpertConfig(count=4, width=16),
        router=RouterConfig(gating="topk-softmax"),
        sharing=Sharing(experts="groups(2, skip=1)", router="blocks(2)", attention="2x2"),
        tied_head=False,
    )
    save_model(tmp_path / "tied", tied, lively(tied).state_dict())
    exported = export_model(tmp_path / "tied", tmp_path / "out", untie=True)
    assert exported.architecture == "Qwen3MoeForCausalLM"
    assert_same(
        load_model(tmp_path / "tied"), AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    )


@pytest.mark.parametrize(
    "change",
    [
        {"norm": "layer"},
        {"experts": ExpertConfig(count=(4, 4, 2, 4), width=16)},
        {"experts": ExpertConfig(count=4, width=16, activation="gelu")},
        {"experts": ExpertConfig(count=1, width=16)},
        {"experts": ExpertConfig(count=4, width=16, dense_at=(2,), dense_width=24)},
        {"router": RouterConfig(scale=2.0)},
        {"router": RouterConfig(groups=2)},
        {"logit_divisor": 2.0},
        {"attention": AttentionConfig(heads=4, qk_norm="width", output_bias=True)},
        {"router": RouterConfig(kind="cosine")},
        {"router": RouterConfig(gating="sigmoid", bias=True)},
        {"sharing": Sharing(norms="all")},
    ],
)
def test_what_no_architecture_of_transformers_is_goes_out_as_its_own_class(change, tmp_path):
    olmoe = ModelConfig(
        vocab_size=VOCABULARY,
        depth=4,
        width=32,
        attention=AttentionConfig(heads=4, qk_norm="width"),
        experts=ExpertConfig(count=4, width=16),
    )
    for config, expected in ((olmoe, "OlmoeForCausalLM"), (replace(olmoe, **change), None)):
        folder = tmp_path / str(expected)
        save_model(folder, config, lively(config).state_dict())
        exported = export_model(folder, folder / "out")
        assert exported.architecture == (expected or "PlaitForCausalLM")
        theirs = AutoModelForCausalLM.from_pretrained(folder / "out")
        ours = load_model(folder)
        torch.testing.assert_close(theirs(tokens(1, 9)).logits, ours(tokens(1, 9)).logits)


def test_a_model_folder_of_two_minds_is_refused(woven, woven_folder, tmp_path):
    wider = replace(woven, experts=replace(woven.experts, width=24))
    save_model(tmp_path / "mixed", wider, lively(woven).state_dict())
    with pytest.raises(ValueError, match="of different models"):
        load_model(tmp_path / "mixed")
    assert read_config(woven_folder) == woven
