import copy
from dataclasses import replace
from fnmatch import fnmatch

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from plait.config import (
    AttentionConfig,
    BalanceConfig,
    CollaborationConfig,
    ExpertConfig,
    ModelConfig,
    RouterConfig,
)
from plait.config.counts import count
from plait.interop import PlaitConfig, PlaitForCausalLM
from plait.model import LanguageModel
from toy_models import VOCABULARY, lively, tokens


@pytest.fixture
def model(woven):
    return PlaitForCausalLM.of(lively(woven), eos_token_id=VOCABULARY - 1, pad_token_id=0)


@pytest.fixture
def learned():
    config = ModelConfig(
        vocab_size=VOCABULARY,
        depth=2,
        width=32,
        context=64,
        attention=AttentionConfig(heads=4, position="learned"),
        experts=ExpertConfig(count=4, width=16, activation="gelu"),
        norm="layer",
        tied_head=False,
    )
    return PlaitForCausalLM.of(lively(config), pad_token_id=0)


@pytest.fixture
def routed_alone(woven):
    return replace(woven, experts=ExpertConfig(count=4, width=16, top_k=3))


def test_files_hold_each_stored_parameter_once_and_load_to_the_same_logits(model, woven, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    names = [name for shard in shards for name in safe_open(shard, "pt").keys()]  # noqa: SIM118
    assert len(shards) > 1
    assert sorted(names) == sorted(set(model.state_dict()) - {"lm_head.weight"})  # tied
    stored = sum(t.numel() for shard in shards for t in load_file(shard).values())
    assert stored == count(woven).stored

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, device_map="cpu")
    assert type(loaded) is PlaitForCausalLM
    assert loaded.config.structure() == woven
    assert torch.equal(loaded(tokens(2, 20)).logits, model(tokens(2, 20)).logits)


def test_weights_that_no_file_holds_begin_as_the_model_begins(woven, tmp_path):
    PlaitForCausalLM.of(lively(woven)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    lost = "model.experts.1.up"
    del state[lost]
    save_file(state, file, metadata={"format": "pt"})
    loaded = PlaitForCausalLM.from_pretrained(tmp_path).state_dict()
    begun = PlaitForCausalLM(PlaitConfig.of(woven)).state_dict()
    assert torch.equal(loaded[lost], begun[lost])
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": False},
        {"do_sample": True, "top_k": 20},
        {"num_beams": 3, "do_sample": False},
    ],
    ids=["greedy", "sampling", "beam"],
)
@pytest.mark.parametrize("which", ["model", "learned"])
def test_generation_with_a_cache_equals_the_uncached_forward(which, how, request):
    model = request.getfixturevalue(which)
    prompt = tokens(2, 9)
    mask = torch.ones_like(prompt)
    mask[0, :4] = 0  # left padding
    written = []
    for use_cache in (True, False):
        torch.manual_seed(0)
        written.append(
            model.generate(
                prompt, attention_mask=mask, max_new_tokens=12, use_cache=use_cache, **how
            )
        )
    assert written[0].shape[1] > 9
    assert torch.equal(*written)


@pytest.mark.parametrize("which", ["model", "learned"])
def test_left_padding_changes_nothing_and_a_cache_can_be_continued(which, request):
    model = request.getfixturevalue(which)
    prompt = tokens(1, 9)
    alone = model.generate(prompt, max_new_tokens=8, do_sample=False)
    padded = torch.cat((torch.zeros(1, 5, dtype=torch.long), prompt), 1)
    batch = torch.cat((padded, tokens(1, 14, seed=1)))
    mask = torch.ones_like(batch)
    mask[0, :5] = 0
    together = model.generate(batch, attention_mask=mask, max_new_tokens=8, do_sample=False)
    assert torch.equal(together[:1, 5:], alone)

    first = model.generate(prompt, max_new_tokens=4, do_sample=False, return_dict_in_generate=True)
    longer = torch.cat((first.sequences, tokens(1, 3, seed=2)), 1)
    continued = model.generate(
        longer, past_key_values=first.past_key_values, max_new_tokens=6, do_sample=False
    )
    assert torch.equal(continued, model.generate(longer, max_new_tokens=6, do_sample=False))


def test_hidden_states_are_the_stream_by_depth(model, woven):
    output = model(tokens(2, 7), output_hidden_states=True)
    assert len(output.hidden_states) == woven.depth + 1
    embedding = model.get_input_embeddings().weight
    assert torch.equal(output.hidden_states[0], embedding[tokens(2, 7)])
    torch.testing.assert_close(output.hidden_states[-1] @ embedding.T, output.logits)
    assert model(tokens(2, 7)).hidden_states is None


def test_embeddings_in_place_of_tokens_and_logits_of_some_positions(model):
    whole = model(tokens(2, 7)).logits
    vectors = model.get_input_embeddings()(tokens(2, 7))
    torch.testing.assert_close(model(inputs_embeds=vectors).logits, whole)
    torch.testing.assert_close(model(tokens(2, 7), logits_to_keep=2).logits, whole[:, -2:])
    kept = torch.tensor([1, 4])
    torch.testing.assert_close(model(tokens(2, 7), logits_to_keep=kept).logits, whole[:, kept])


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant, model):
    model.train()
    gradients, saved = [], []
    for checkpointed in (False, True):
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, k=kept: k.append(t) or t, lambda t: t
        ):
            loss = model(tokens(2, 16), labels=tokens(2, 16), output_router_logits=True).loss
        loss.backward()
        saved.append(sum(t.numel() for t in kept))
        gradients.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )
    assert saved[1] < saved[0] / 2
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
    model.activation_checkpointing_disable()
    assert not model.is_activation_checkpointing


def test_trainer_trains_and_its_checkpoint_loads(woven, tmp_path):
    pytest.importorskip("accelerate")
    model = PlaitForCausalLM(PlaitConfig.of(woven))
    rows = [{"input_ids": row, "labels": row} for row in tokens(4, 24)] * 8
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=8,
        learning_rate=1e-2,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        gradient_checkpointing=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0] - 0.5
    trainer.save_model(tmp_path / "last")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "last")
    assert torch.equal(loaded(tokens(1, 9)).logits, model.eval()(tokens(1, 9)).logits)


def test_peft_puts_lora_on_the_attention(woven):
    peft = pytest.importorskip("peft")
    model = PlaitForCausalLM.of(lively(woven))
    before = model(tokens(2, 9)).logits.detach()
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)
    torch.testing.assert_close(adapted(tokens(2, 9)).logits, before)
    optimizer = torch.optim.SGD((p for p in adapted.parameters() if p.requires_grad), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        adapted(tokens(2, 9), labels=tokens(2, 9)).loss.backward()
        optimizer.step()
    tuned = adapted.eval()(tokens(2, 9)).logits
    assert (tuned - before).abs().max() > 1e-3
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(merged(tokens(2, 9)).logits, tuned)


def test_the_vocabulary_grows(model):
    before = model(tokens(1, 5)).logits
    model.resize_token_embeddings(VOCABULARY + 8)
    assert model.model.config.vocab_size == VOCABULARY + 8
    after = model(tokens(1, 5)).logits
    assert after.shape[-1] == VOCABULARY + 8
    torch.testing.assert_close(after[..., :VOCABULARY], before)


def test_half_precision(woven, tmp_path):
    PlaitForCausalLM.of(lively(woven)).to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    written = loaded.generate(tokens(1, 9), max_new_tokens=4, do_sample=False)
    assert written.shape == (1, 13)


def test_two_inputs_are_refused(model):
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(tokens(1, 5), inputs_embeds=torch.ones(1, 5, 32))


@pytest.mark.parametrize("which", ["model", "learned"])
def test_a_static_cache_gives_the_same_text(which, request):
    model, prompt = request.getfixturevalue(which), tokens(2, 5)
    static = model.generate(prompt, max_new_tokens=6, cache_implementation="static")
    assert torch.equal(static, model.generate(prompt, max_new_tokens=6))


def test_eager_attention_gives_maps_and_the_same_logits(model, woven):
    without = model(tokens(2, 7), output_attentions=True)  # of SDPA, which only warns
    assert without.attentions is None
    model.set_attn_implementation("eager")
    output = model(tokens(2, 7), output_attentions=True)
    torch.testing.assert_close(output.logits, without.logits)
    assert len(output.attentions) == woven.depth
    for weights_BHSS in output.attentions:
        torch.testing.assert_close(weights_BHSS.sum(-1), torch.ones(2, 4, 7))
        assert not weights_BHSS.triu(1).any()


def test_a_mask_of_every_pair_counts(model):
    """Two texts side by side in one row, each blind to the other."""
    first, second = tokens(1, 5), tokens(1, 4, seed=1)
    mask = torch.full((9, 9), -torch.inf).triu(1)
    mask[5:, :5] = -torch.inf
    places = torch.cat((torch.arange(5), torch.arange(4)))[None]
    logits = model(
        torch.cat((first, second), 1), attention_mask=mask[None, None], position_ids=places
    ).logits
    torch.testing.assert_close(logits[:, 5:], model(second).logits)


def test_a_classifier_is_the_same_walk_read_at_the_last_token(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3).eval()
    batch = tokens(2, 9).clamp_min(1)
    batch[0, :4] = 0  # padding
    states = AutoModel.from_pretrained(tmp_path).eval()(batch).last_hidden_state
    torch.testing.assert_close(loaded(batch).logits, loaded.score(states[:, -1]))
    assert torch.equal(loaded.model.embedding.weight, model.model.embedding.weight)


def test_the_coefficient_of_the_auxiliary_loss_can_be_set(woven):
    config = PlaitConfig.of(woven, router_aux_loss_coef=0.3)
    assert config.router_aux_loss_coef == pytest.approx(0.3)
    config.router_aux_loss_coef = 0.06
    assert config.structure().balance.switch == pytest.approx(0.06 * woven.experts.top_k)
    assert PlaitConfig.from_dict(config.to_dict()).router_aux_loss_coef == pytest.approx(0.06)


def test_an_unknown_option_is_refused_by_name():
    with pytest.raises(ValueError, match=r"experts\.width'|router\.gatin"):
        PlaitConfig(router={"gatin": "sigmoid"})


def test_a_model_is_wrapped_without_copying(woven):
    own = LanguageModel(woven)
    skin = dict(PlaitForCausalLM.of(own).named_parameters())
    assert {f"model.{name}": id(p) for name, p in own.named_parameters()} == {
        name: id(p) for name, p in skin.items()
    }


def test_experts_dealt_out_over_processes_add_up(routed_alone):
    """As transformers deals them out: another process's expert is one too many, with gate 0."""
    bank = next(iter(lively(routed_alone).experts.values()))
    x_TD = torch.randn(9, routed_alone.width)
    ids_TK = torch.stack([torch.randperm(bank.num_experts)[:2] for _ in range(9)])
    gates_TK, half = torch.rand(9, 2), bank.num_experts // 2
    parts = []
    for start in (0, half):
        part = copy.deepcopy(bank)
        part.up, part.down = (nn.Parameter(w[start : start + half]) for w in (bank.up, bank.down))
        part.num_experts, part._is_expert_parallel = half, True
        there = (ids_TK - start < 0) | (ids_TK - start >= half)
        ids = torch.where(there, half, ids_TK - start)
        parts.append(part(x_TD, ids, gates_TK.masked_fill(there, 0.0)))
    torch.testing.assert_close(sum(parts), bank(x_TD, ids_TK, gates_TK))


@pytest.mark.parametrize(
    "options",
    [
        {"experts": ExpertConfig(count=4, width=8, shared_width=8)},
        {"experts": ExpertConfig(count=4, width=8, dense_first=1, dense_width=8)},
        {"collaboration": CollaborationConfig(messages="hidden")},
        {"router": RouterConfig(choice="experts"), "balance": BalanceConfig(switch=0.0)},
    ],
)
def test_experts_are_dealt_out_where_a_bank_is_experts_alone(options, routed_alone):
    plan = PlaitConfig.of(routed_alone).base_model_ep_plan
    names = [name for name, _ in PlaitForCausalLM.of(lively(routed_alone)).model.named_parameters()]
    assert all(any(fnmatch(name, rule + "*") for name in names) for rule in plan)
    other = ModelConfig(vocab_size=VOCABULARY, depth=2, width=32, **options)
    assert PlaitConfig.of(other).base_model_ep_plan is None
