"""Scores of made-up questions, against the model's own logits and against lm-eval."""

import math

import pytest
import torch

pytest.importorskip("lm_eval", reason="needs the extra `eval`")
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from plait.interop import PlaitForCausalLM
from plait.interop.tasks.downstream import _load, evaluate_tasks
from plait.interop.tasks.scores import macro_average, question_scores, task_scores
from plait.interop.tasks.task_files import TASKS, TaskFiles
from plait.interop.tokenization import hub_tokenizer
from plait.opening import open_model
from plait.storage.model_folder import load_model, read_tokenizer

SOCIAL = [(f"Q: Kim met Lou at {i}. Why?\nA:", i % 3) for i in range(4)]
WINO = [(f"The cup {i} fell off the shelf as the ", i % 2) for i in range(5)]


@pytest.fixture(scope="module")
def by_hand(wide):
    """ln p(continuation | context), from the logits of one forward over both."""
    model = load_model(wide)
    tokenizer = read_tokenizer(wide)

    def log_p(context, continuation):
        before, ids = tokenizer.encode(context), tokenizer.encode(context + continuation)
        assert ids[: len(before)] == before
        with torch.no_grad():
            logs_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(before), len(ids))
        return math.fsum(logs_TV[place - 1, ids[place]].item() for place in places)

    return log_p


def check(scores, log_p_of_choices, right, characters):
    """Compare a task's scores with the log-likelihoods of its choices, a list for each question."""
    count = len(right)
    per_character = [
        logs[r] / c for logs, r, c in zip(log_p_of_choices, right, characters, strict=True)
    ]
    found = scores["log_p_per_character"]
    assert found["value"] == pytest.approx(sum(per_character) / count, abs=1e-4)
    assert found["interval"][0] < found["value"] < found["interval"][1]
    share = [
        math.exp(logs[r]) / math.fsum(map(math.exp, logs))
        for logs, r in zip(log_p_of_choices, right, strict=True)
    ]
    assert scores["p_among_choices"]["value"] == pytest.approx(sum(share) / count, abs=1e-4)
    hits = [logs.index(max(logs)) == r for logs, r in zip(log_p_of_choices, right, strict=True)]
    assert scores["acc"]["value"] == pytest.approx(sum(hits) / count)
    assert scores["documents"] == count


def test_likelihoods_are_those_of_the_logits(wide, packages, by_hand):
    tasks = ["social_iqa", "winogrande", "mmlu", "boolq", "lambada_openai"]
    model = open_model(wide).model
    scores = evaluate_tasks(wide, model, tasks, shots=0, cache=packages)["tasks"]

    answers = [" by chance", " to eat", " so"]
    logs = [[by_hand(context, answer) for answer in answers] for context, _ in SOCIAL]
    right = [r for _, r in SOCIAL]
    check(scores["social_iqa"], logs, right, [len(answers[r].strip()) for r in right])
    assert scores["social_iqa"]["chance"] == pytest.approx(1 / 3)

    rest = " was wet."  # one continuation, on each of two contexts
    logs = [[by_hand(context + word, rest) for word in ("cup", "shelf")] for context, _ in WINO]
    check(scores["winogrande"], logs, [r for _, r in WINO], [len(rest.strip())] * 5)

    subject = "The following are multiple choice questions (with answers) about {}.\n\n"
    asked = "Where is bone {}\nA. arm\nB. leg\nC. head\nD. ear\nAnswer:"
    prompts = [(subject.format("anatomy") + asked.format(i), i % 4) for i in range(3, 7)]
    prompts += [(subject.format("virology") + asked.format(i), i % 4) for i in (3, 3)]
    logs = [[by_hand(context, f" {letter}") for letter in "ABCD"] for context, _ in prompts]
    check(scores["mmlu"], logs, [r for _, r in prompts], [1] * 6)

    prompts = [("Sea -- It is wet.\nQuestion: is the sea wet?\nAnswer:", 1),
               ("Sun -- A star.\nQuestion: is it cold?\nAnswer:", 0)]  # fmt: skip
    logs = [[by_hand(context, answer) for answer in (" no", " yes")] for context, _ in prompts]
    check(scores["boolq"], logs, [1, 0], [3, 2])

    logs = [by_hand("The cat 0 sat on the", " mat"), by_hand("The cat 1 sat on the", " chair")]
    open_answer = scores["lambada_openai"]
    mean = (logs[0] / 3 + logs[1] / 5) / 2
    assert open_answer["log_p_per_character"]["value"] == pytest.approx(mean, abs=1e-4)
    assert open_answer["perplexity"]["value"] == pytest.approx(math.exp(-sum(logs) / 2), rel=1e-3)
    low, high = open_answer["perplexity"]["interval"]
    assert low < open_answer["perplexity"]["value"] < high
    assert open_answer["chance"] == 0
    assert "p_among_choices" not in open_answer


def test_scores_with_examples_are_those_of_simple_evaluate(wide, packages, monkeypatch):
    """The examples too: lm-eval draws them."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # takes seconds
    model = open_model(wide).model
    scores = evaluate_tasks(wide, model, ["social_iqa", "mmlu"], shots=2, cache=packages)["tasks"]
    parts = _load({"social_iqa": 2, "mmlu": 2}, "packages", packages)
    loaded = {key: task for of_name in parts.values() for key, task in of_name.items()}
    scorer = HFLM(
        pretrained=PlaitForCausalLM.of(load_model(wide)),
        tokenizer=hub_tokenizer(read_tokenizer(wide), 512),
        backend="causal",
        max_length=512,
    )
    theirs = lm_eval.simple_evaluate(
        scorer,
        tasks=list(loaded.values()),
        num_fewshot=2,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False),  # the stock tasks take seconds to list
    )
    results = theirs["results"]
    assert scores["social_iqa"]["acc"]["value"] == pytest.approx(results["social_iqa"]["acc,none"])
    # lm-eval weights MMLU's subjects by their questions
    anatomy, virology = (results[f"mmlu_{s}"]["acc,none"] for s in ("anatomy", "virology"))
    assert scores["mmlu"]["acc"]["value"] == pytest.approx((4 * anatomy + 2 * virology) / 6)
    for task, of_name in parts.items():
        log_p = [
            question["log_p_per_character"]
            for part in of_name
            for question in question_scores(loaded[part], theirs["samples"][part])
        ]
        expected = sum(log_p) / len(log_p)
        assert scores[task]["log_p_per_character"]["value"] == pytest.approx(expected, abs=1e-4)


def test_what_is_generated_is_scored_by_exact_match(wide, packages, monkeypatch):
    asked = ["who is it", "where is it"]
    prompts = [f"Question: {question}?\nAnswer:" for question in asked]
    tokenizer = hub_tokenizer(read_tokenizer(wide), 512)
    model = PlaitForCausalLM.of(load_model(wide))
    ids = tokenizer(prompts[0], return_tensors="pt", add_special_tokens=False)
    written = model.generate(**ids, max_new_tokens=256, do_sample=False)
    text = tokenizer.decode(written[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    for stop in "\n.,":
        text = text.split(stop)[0]
    answers = [[text.strip(), "nobody"], ["quite another answer"]]
    rows = [{"question": q, "answer": {"aliases": a}} for q, a in zip(asked, answers, strict=True)]
    place = ("made-up", "1", "0")
    files = TaskFiles("triviaqa/default.yaml", dict, {"validation": (place, "trivia.arrow")})
    monkeypatch.setitem(TASKS, "triviaqa", files)
    monkeypatch.setattr("plait.interop.tasks.task_files._ROOTS", {place: "root"})
    monkeypatch.setattr("plait.interop.tasks.task_files._rows", lambda file: iter(rows))
    monkeypatch.setattr("plait.interop.tasks.task_files.PythonPackage", Nothing)
    opened = open_model(wide).model
    scores = evaluate_tasks(wide, opened, ["triviaqa"], cache=packages)["tasks"]["triviaqa"]
    assert scores["exact_match"]["value"] == 0.5
    assert (scores["documents"], scores["chance"]) == (2, 0)
    assert "log_p_per_character" not in scores


class Nothing:
    def __init__(self, *args, **options):
        pass

    def unpack(self, cache, folder):
        pass


class Asked:
    OUTPUT_TYPE = "multiple_choice"
    multiple_input = 0

    def doc_to_choice(self, doc):
        return ["a", "b"]


def sample(target, filter_="none"):
    return {"doc": {}, "target": target, "filter": filter_, "acc": 1.0,
            "filtered_resps": [(-1.0, True), (-2.0, False)],
            "arguments": [("q", " a"), ("q", " b")]}  # fmt: skip


def test_a_question_without_one_right_answer_has_an_accuracy_only():
    (both,) = question_scores(Asked(), [sample([0, 1])])
    assert both == {"acc": 1.0, "chance": 0.5}
    (by_letter,) = question_scores(Asked(), [sample("b"), sample("b", "second filter")])
    assert by_letter["log_p_per_character"] == -2.0
    assert by_letter["p_among_choices"] == pytest.approx(1 / (1 + math.e))


def test_one_question_has_no_interval_for_its_likelihood():
    scores = task_scores(question_scores(Asked(), [sample(0)]))
    assert scores["log_p_per_character"] == {"value": -1.0, "interval": None}


def test_the_macro_average_weighs_tasks_alike():
    tasks = {f"t{i}": {"acc": {"value": i / 10}, "acc_norm": {"value": 1}, "documents": 100 * i,
                       "chance": 0.25} for i in range(1, 6)}  # fmt: skip
    tasks["open"] = {"exact_match": {"value": 0.0}, "documents": 50, "chance": 0.0}
    average = macro_average(tasks)
    assert average["value"] == pytest.approx(0.25)
    assert average["chance"] == pytest.approx(5 * 0.25 / 6)
    spread = math.sqrt(sum(i / 10 * (1 - i / 10) / (100 * i) for i in range(1, 6))) / 6
    assert average["interval"][1] - 0.25 == pytest.approx(1.96 * spread)
    with pytest.raises(ValueError, match="other: lm-eval gives no accuracy"):
        macro_average({"other": {"documents": 3, "chance": 0.0}})


def test_two_questions_far_apart_bound_no_perplexity():
    questions = [{"chance": 0.0, "log_p": value} for value in (-1.0, -200.0)]
    low, high = task_scores(questions)["perplexity"]["interval"]
    assert (low < 1, high) == (True, math.inf)
