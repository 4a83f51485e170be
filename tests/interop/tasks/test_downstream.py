import json
import math

import pytest
import torch

from plait.config import AttentionConfig, ExpertConfig, ModelConfig
from plait.data.build import cache_folder
from plait.data.tokenizer import Tokenizer
from plait.model import LanguageModel
from plait.opening import open_model
from plait.sharing import Sharing
from plait.storage.model_folder import load_model, read_tokenizer, save_model

pytest.importorskip("lm_eval", reason="needs the extra `eval`")
from lm_eval.models.huggingface import HFLM

from plait.interop import PlaitForCausalLM
from plait.interop.exporting import export_model
from plait.interop.tasks.downstream import MACRO_TASKS, _macro_average, evaluate_tasks
from plait.interop.tasks.scorer import CachedScorer
from plait.interop.tasks.task_files import task_data
from plait.interop.tokenization import hub_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored") / "model"
    file = folder.parent / "tokenizer.json"
    texts = ["Question: what is the answer? Answer: the answer is a question of what it is. "]
    Tokenizer.train(texts * 9, 320).save(file)
    config = ModelConfig(
        vocab_size=320,
        depth=4,
        width=32,
        context=64,
        attention=AttentionConfig(heads=4),
        experts=ExpertConfig(count=4, width=16),
        sharing=Sharing(experts="blocks(2)"),
    )
    model = LanguageModel(config)
    for tensor in model.state_dict().values():
        tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)) * 0.2)
    save_model(folder, config, model.state_dict(), file)
    return folder


@pytest.fixture(scope="module")
def scorers(folder):
    model = PlaitForCausalLM.of(load_model(folder))
    tokenizer = hub_tokenizer(read_tokenizer(folder), 64)
    ours = CachedScorer(model, tokenizer, 64)
    return ours, HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", max_length=64)


def test_scores_are_lm_evals_own(scorers):
    generator = torch.Generator().manual_seed(0)

    def ids(length):
        return torch.randint(0, 320, (length,), generator=generator).tolist()

    contexts = [ids(n) for n in (1, 1, 2, 9, 30, 63, 64, 65, 200)]
    requests = []
    for context in contexts:
        for length in (1, 1, 3, 7):
            requests.append((None, context, ids(length)))
    requests.append((None, [3], ids(64)))
    found, expected = (s._loglikelihood_tokens(requests, disable_tqdm=True) for s in scorers)
    assert [f[0] for f in found] == pytest.approx([e[0] for e in expected], abs=1e-3)
    assert [f[1] for f in found] == [e[1] for e in expected]


def test_a_greedy_continuation_is_known_as_one(scorers):
    ours, theirs = scorers
    prompt = [5, 6, 7]
    written = theirs.model.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False)
    greedy = written[0, 3:].tolist()
    other = [*greedy[:3], (greedy[3] + 1) % 320]
    requests = [(None, prompt, greedy), (None, prompt, other)]
    assert [is_greedy for _, is_greedy in ours._loglikelihood_tokens(requests, True)] == [
        True,
        False,
    ]


def test_a_continuation_longer_than_the_context_is_refused(scorers):
    with pytest.raises(ValueError, match="does not fit"):
        scorers[0]._loglikelihood_tokens([(None, [1], [2] * 65)], True)


@pytest.mark.slow  # fetches 86 MB once
def test_a_real_task_offline(folder, tmp_path):
    report = evaluate_tasks(
        folder, open_model(folder).model, ["sciq"], limit=8, out=tmp_path / "result.json"
    )
    assert json.loads((tmp_path / "result.json").read_text()) == report
    sciq = report["tasks"]["sciq"]
    assert report["lm_eval"]
    assert (sciq["documents"], sciq["fewshot"]) == (8, 0)
    low, high = sciq["acc"]["interval"]
    assert 0 <= low <= sciq["acc"]["value"] <= high <= 1

    exported = tmp_path / "exported"
    export_model(folder, exported)
    again = evaluate_tasks(exported, open_model(exported).model, ["sciq"], limit=8)
    assert again["tasks"] == report["tasks"]
    assert (tmp_path / "exported" / "tasks" / "result.json").is_file()


@pytest.mark.slow  # fetches 86 MB once
def test_rows_are_in_the_columns_of_the_original():
    first = {}
    for task in ("arc_easy", "openbookqa", "hellaswag", "lambada_openai", "boolq"):
        data = task_data(task, False, cache_folder())
        with data["test" if "test" in data else "validation"].open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        first[task] = rows[0], len(rows)
    assert {task: count for task, (_, count) in first.items()} == {
        "arc_easy": 2376,
        "openbookqa": 500,
        "hellaswag": 10042,
        "lambada_openai": 5153,
        "boolq": 3270,
    }
    arc = first["arc_easy"][0]
    assert not arc["question"].startswith("Question:")
    assert arc["answerKey"] in arc["choices"]["label"]
    assert first["lambada_openai"][0]["text"].endswith(" signs")


def test_tasks_that_the_packages_lack_are_refused(folder, tmp_path):
    model = open_model(folder).model
    with pytest.raises(ValueError, match="mmlu"):
        evaluate_tasks(folder, model, ["mmlu"])
    with pytest.raises(ValueError, match="sciq: no examples"):
        evaluate_tasks(folder, model, ["sciq"], fewshot=3, cache=tmp_path)


def test_the_macro_average_is_the_mean_of_its_tasks():
    tasks = {t: {"acc": {"value": i / 10}, "documents": 100} for i, t in enumerate(MACRO_TASKS)}
    average = _macro_average(tasks)
    assert average["value"] == pytest.approx(0.25)
    spread = math.sqrt(sum(i / 10 * (1 - i / 10) / 100 for i in range(6))) / 6
    assert average["interval"][1] - 0.25 == pytest.approx(1.96 * spread)
