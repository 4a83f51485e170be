"""Exported models in the tools of others, in an environment that has no Plait.

Run by `test_external.py`, which exports the models: one folder for each structure, in the folder
that PLAIT_EXPORTED names. Not collected by itself, since these tools are not Plait's to install.
"""

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    StaticCache,
    TextIteratorStreamer,
    Trainer,
    TrainingArguments,
    pipeline,
)

EXPORTED = Path(os.environ["PLAIT_EXPORTED"])
STRUCTURES = sorted(folder.name for folder in EXPORTED.iterdir())
TEXTS = ["the cat sat on the mat.", "a dog", "a dog and a cat", "the mat sat on the dog."]


@pytest.fixture(params=STRUCTURES)
def folder(request):
    return EXPORTED / request.param


@pytest.fixture
def model(folder):
    return load(folder)


@pytest.fixture
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def load(folder, auto=AutoModelForCausalLM, **options):
    return auto.from_pretrained(folder, trust_remote_code=True, **options).eval()


@cache
def batch():
    tokenizer = AutoTokenizer.from_pretrained(EXPORTED / STRUCTURES[0], padding_side="left")
    return dict(tokenizer(TEXTS, return_tensors="pt", padding=True))


def training(folder, **options):
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_it_loads_without_plait(folder, model):
    assert importlib.util.find_spec("plait") is None
    assert "transformers_modules" in type(model).__module__
    expected = torch.load(folder / "expected.pt")
    logits = model.double()(expected["tokens"]).logits
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-6)
    base = load(folder, AutoModel).double()
    states = base(expected["tokens"]).last_hidden_state
    torch.testing.assert_close(model.lm_head(states), logits)


def test_what_is_saved_again_brings_its_code(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert torch.equal(again(**batch()).logits, model(**batch()).logits)


@pytest.mark.parametrize(
    "how",
    [{"do_sample": False}, {"do_sample": True, "top_k": 20}, {"num_beams": 3, "do_sample": False}],
    ids=["greedy", "sampling", "beam"],
)
@pytest.mark.parametrize("held", ["dynamic", "static"])
def test_generation_with_a_cache_equals_that_without(how, held, model):
    """Behind left padding."""
    written = []
    for options in ({"cache_implementation": held}, {"use_cache": False}):
        torch.manual_seed(0)
        written.append(model.generate(**batch(), max_new_tokens=12, **how, **options))
    assert written[0].shape[1] > batch()["input_ids"].shape[1]
    assert torch.equal(*written)


def test_left_padding_changes_nothing(model, tokenizer):
    together = model.generate(**batch(), max_new_tokens=8, do_sample=False)
    length = batch()["input_ids"].shape[1]
    for text, row in zip(TEXTS, together, strict=True):
        prompt = tokenizer(text, return_tensors="pt").input_ids
        alone = model.generate(prompt, max_new_tokens=8, do_sample=False)[0, prompt.shape[1] :]
        assert row[length:][: len(alone)].tolist() == alone.tolist()


def test_a_streamer_gets_the_text(model, tokenizer):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    prompt = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    written = model.generate(prompt, max_new_tokens=8, do_sample=False, streamer=streamer)
    assert "".join(streamer) == tokenizer.decode(written[0, prompt.shape[1] :])


def test_an_assistant_changes_nothing(folder, model, tokenizer):
    """Another structure drafts; rejected drafts are cut from the cache."""
    other = load(EXPORTED / STRUCTURES[STRUCTURES.index(folder.name) - 1])
    prompt = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    alone = model.generate(prompt, max_new_tokens=12, do_sample=False)
    assisted = model.generate(prompt, max_new_tokens=12, do_sample=False, assistant_model=other)
    assert torch.equal(assisted, alone)


def test_pipeline(folder):
    generate = pipeline("text-generation", model=str(folder), trust_remote_code=True, device="cpu")
    written = generate(TEXTS[0], max_new_tokens=6, do_sample=False, return_full_text=False)
    model, tokenizer = generate.model, generate.tokenizer
    prompt = tokenizer(TEXTS[0], return_tensors="pt").input_ids
    expected = model.generate(prompt, max_new_tokens=6, do_sample=False)[0, prompt.shape[1] :]
    assert written[0]["generated_text"] == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
def test_trainer_resumes_to_the_same_weights(recompute, folder, tokenizer, tmp_path):
    rows = [{"input_ids": ids, "labels": ids} for ids in tokenizer(TEXTS[:1] * 16).input_ids]
    options = {"max_steps": 6, "save_steps": 3, "gradient_checkpointing": recompute}

    def trained(place, resume=None):
        arguments = TrainingArguments(**training(tmp_path / place, **options))
        trainer = Trainer(load(folder), arguments, train_dataset=rows)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = trained("whole")
    resumed = trained("resumed", str(tmp_path / "whole" / "checkpoint-3"))
    assert losses(whole)[-1] < losses(whole)[0]
    assert losses(resumed)[-3:] == losses(whole)[-3:]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    again = load(tmp_path / "whole" / "checkpoint-6")
    assert torch.equal(again(**batch()).logits, whole.model.eval()(**batch()).logits)


def test_lm_eval_command(folder, model, tokenizer, tmp_path):
    """Against log-likelihoods taken from the logits, question by question."""
    questions = [
        {"question": "the cat sat on the", "choices": [" mat.", " dog."], "answer": 0},
        {"question": "a dog and a", "choices": [" mat.", " cat"], "answer": 1},
        {"question": "the mat sat on the", "choices": [" cat", " dog."], "answer": 1},
    ]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in questions))
    (tmp_path / "toy.yaml").write_text(
        "task: toy\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: "
        f"{data}\ntest_split: test\noutput_type: multiple_choice\ndoc_to_text: question\n"
        'target_delimiter: ""\ndoc_to_choice: choices\ndoc_to_target: answer\nmetric_list:\n'
        "  - metric: acc\n"
    )
    model_args = f"pretrained={folder},trust_remote_code=True,dtype=float32"
    command = [Path(sys.executable).parent / "lm_eval", "--model", "hf", "--model_args", model_args]
    command += ["--tasks", "toy", "--include_path", tmp_path, "--device", "cpu", "--batch_size", 2]
    command += ["--output_path", tmp_path / "out", "--log_samples"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    samples = next((tmp_path / "out").rglob("samples_toy*.jsonl")).read_text().splitlines()
    for question, sample in zip(questions, map(json.loads, samples), strict=True):
        for choice, scored in zip(question["choices"], sample["filtered_resps"], strict=True):
            start = len(tokenizer(question["question"]).input_ids)
            ids = tokenizer(question["question"] + choice, return_tensors="pt").input_ids
            logs = model(ids).logits[0, :-1].log_softmax(-1)
            expected = logs.gather(-1, ids[0, 1:, None])[start - 1 :].sum()
            assert float(scored[0]) == pytest.approx(float(expected), abs=1e-3)


def test_trl_sft(folder, model, tokenizer, tmp_path):
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_dict({"text": TEXTS[:1] * 16})
    trainer = SFTTrainer(
        model.train(),
        SFTConfig(**training(tmp_path, max_length=32)),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]
    assert trainer.state.log_history[0]["aux_loss"] > 0  # as of any mixture of experts


def test_trl_sft_with_lora(folder, model, tokenizer, tmp_path):
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = SFTTrainer(
        model.train(),
        SFTConfig(**training(tmp_path, max_length=32)),
        train_dataset=Dataset.from_dict({"text": TEXTS[:1] * 16}),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0]
    base = trainer.model.unload().state_dict()
    assert all(torch.equal(base[name], tensor) for name, tensor in before.items())


def test_trl_dpo(folder, tokenizer, tmp_path):
    from trl import DPOConfig, DPOTrainer

    rows = {"prompt": ["the cat sat on", "a dog and"], "chosen": [" the mat.", " a cat"]}
    rows["rejected"] = [" a dog", " the mat."]
    trainer = DPOTrainer(
        load(folder).train(),
        ref_model=load(folder),
        args=DPOConfig(**training(tmp_path, max_length=32, max_steps=6, router_aux_loss_coef=0.0)),
        train_dataset=Dataset.from_dict({name: column * 8 for name, column in rows.items()}),
        processing_class=tokenizer,
    )
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-4)
    assert losses(trainer)[-1] < losses(trainer)[0]


@pytest.mark.parametrize("where", ["attention", "experts"])
def test_peft_lora_tunes_saves_and_merges(where, folder, model, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    targets = {"target_modules": ["q_proj", "v_proj"]}
    if where == "experts":
        banks = [n for n, p in model.named_parameters() if ".experts." in n and p.dim() == 3]
        targets = {"target_modules": [], "target_parameters": banks}
    before = model(**batch()).logits.detach()
    adapted = get_peft_model(model, LoraConfig(r=2, task_type="CAUSAL_LM", **targets))
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)
    torch.testing.assert_close(adapted(**batch()).logits, before)
    optimizer = torch.optim.SGD((p for p in adapted.parameters() if p.requires_grad), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        adapted(**batch(), labels=batch()["input_ids"]).loss.backward()
        optimizer.step()
    tuned = adapted.eval()(**batch()).logits
    assert (tuned - before).abs().max() > 1e-4
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(load(folder), tmp_path)
    torch.testing.assert_close(loaded(**batch()).logits, tuned)
    torch.testing.assert_close(
        adapted.merge_and_unload()(**batch()).logits, tuned, rtol=1e-4, atol=1e-4
    )


def test_device_map_spreads_the_banks(folder, model, tmp_path):
    """Where there is no second accelerator, the disk is the other device."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    options = {"device_map": "auto", "max_memory": {"cpu": int(size * 0.6)}}
    spread = load(folder, **options, offload_folder=str(tmp_path))
    assert {"cpu", "disk"} == set(map(str, spread.hf_device_map.values()))
    assert not [place for place in spread.hf_device_map if re.search(r"experts\.\d+\.", place)]
    torch.testing.assert_close(spread(**batch()).logits, model(**batch()).logits)
    written = spread.generate(**batch(), max_new_tokens=4, do_sample=False)
    assert torch.equal(written, model.generate(**batch(), max_new_tokens=4, do_sample=False))


def test_sequence_classification_learns(folder, tokenizer, tmp_path):
    model = load(folder, AutoModelForSequenceClassification, num_labels=2)
    for name, tensor in load(folder).model.state_dict().items():
        assert torch.equal(model.model.state_dict()[name], tensor), name
    rows = [
        {"input_ids": ids, "labels": label}
        for text, label in (("the cat sat", 0), ("a dog and", 1))
        for ids in tokenizer([text] * 8).input_ids
    ]
    arguments = TrainingArguments(**training(tmp_path, max_steps=12))
    trainer = Trainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0] / 2
    trainer.save_model(tmp_path / "last")
    again = load(tmp_path / "last", AutoModelForSequenceClassification)
    assert torch.equal(again(**batch()).logits, trainer.model.eval()(**batch()).logits)


def test_eager_attention_has_maps(folder, model):
    eager = load(folder, attn_implementation="eager")
    output = eager(**batch(), output_attentions=True)
    torch.testing.assert_close(output.logits[:, -1], model(**batch()).logits[:, -1])
    assert len(output.attentions) == model.config.num_hidden_layers
    seen = batch()["attention_mask"].bool()
    for weights in output.attentions:
        assert weights.shape[1] == model.config.num_attention_heads
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert weights.triu(1).movedim(2, 1)[seen].abs().max() == 0  # where a token looks
        assert weights[:, :, -1].masked_select(~seen[:, None]).abs().max() == 0
    assert model(**batch(), output_attentions=True).attentions is None


def test_the_chat_template_is_kept(tokenizer):
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "the cat"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "user: the cat\nassistant: "


def test_a_decoding_step_compiles_to_one_graph(model):
    """One token against a static cache, no break in the graph."""
    tokens = batch()["input_ids"][-1:]
    held = StaticCache(config=model.config, max_cache_len=32)
    uncached = StaticCache(config=model.config, max_cache_len=32)
    torch._dynamo.reset()
    step = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        model(tokens[:, :-2], past_key_values=held)
        model(tokens[:, :-2], past_key_values=uncached)
        length = tokens.shape[1]
        for place in (length - 2, length - 1):
            given = {
                "input_ids": tokens[:, place : place + 1],
                "position_ids": torch.tensor([[place]]),
            }
            found = step(**given, past_key_values=held).logits
            expected = model(**given, past_key_values=uncached).logits
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(found[:, -1], model(tokens).logits[:, -1])


SHARDED = """
import sys
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig
from transformers.distributed.utils import gather_full_state_dict

folder, out, *plans = sys.argv[1:]
dist.init_process_group("gloo")
tokens = torch.arange(40).view(2, 20)
for plan in plans:
    sizes = {f"{kind}_size": 2 for kind in plan.split("+")}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, trust_remote_code=True, distributed_config=DistributedConfig(**sizes)
        )
    except ValueError as refused:
        if dist.get_rank() == 0:
            torch.save({"refused": str(refused)}, f"{out}/{plan}.pt")
        continue
    held = sum(getattr(p, "_local_tensor", p).numel() for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)  # after a forward, FSDP2's are whole
    with torch.no_grad():
        logits = model(tokens).logits
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimizer.step()
    weights = gather_full_state_dict(model)
    if dist.get_rank() == 0:
        found = {"held": held, "logits": logits, "weights": weights}
        torch.save(found, f"{out}/{plan}.pt")
    dist.barrier()
dist.destroy_process_group()
"""
PLANS = ["fsdp", "tp", "tp+ep", "fsdp+ep"]


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory):
    """What two processes give by each plan: they start once for each structure."""

    @cache
    def run(folder):
        out = tmp_path_factory.mktemp("two-processes")
        script = out / "sharded.py"
        script.write_text(SHARDED)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", "2", script, folder, out, *PLANS]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
        return out, done.stderr[-6000:]

    return run


@pytest.mark.parametrize("plan", PLANS)
def test_two_processes_train_as_one(plan, folder, model, two_processes):
    """By transformers' own plans, on gloo: logits before, and every weight after two steps.

    Each process holds about half; by tensor and expert parallelism all of norms and routers.
    """
    out, said = two_processes(folder)
    assert (out / f"{plan}.pt").exists(), said
    found = torch.load(out / f"{plan}.pt")
    if "ep" in plan and model.config.base_model_ep_plan is None:
        assert "has no `ep_plan`" in found["refused"]
        return
    assert found["held"] < 0.6 * sum(parameter.numel() for parameter in model.parameters())
    tokens = torch.arange(40).view(2, 20)
    torch.testing.assert_close(found["logits"], model(tokens).logits, rtol=1e-4, atol=1e-4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found["weights"][name], tensor, rtol=1e-4, atol=1e-4)


def test_a_deep_copy_is_its_own(model):
    other = copy.deepcopy(model)
    expected = model(**batch()).logits
    with torch.no_grad():
        other.model.embedding.weight.mul_(2)
    assert torch.equal(model(**batch()).logits, expected)
    assert not torch.equal(other(**batch()).logits, expected)
