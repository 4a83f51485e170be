"""Whatever is typed or lies in a file, the end is success or one line: never a traceback, soon.

PLAIT_FAULTS sets how many examples each test tries; hypothesis prints the seed of one that fails.
"""

import json
import os
import re
import shutil
import tempfile
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, OlmoeConfig

from plait.cli import train
from plait.cli.options import shape_of
from plait.cli.parsing import parse
from plait.config import AttentionConfig, DataConfig, ExpertConfig, ModelConfig, TrainConfig
from plait.config.files import load_yaml, save_yaml, to_dict
from plait.data.batches import Batches
from plait.data.corpus import Corpus
from plait.data.specification import Specification
from plait.data.summary import inspect
from plait.data.tokenizer import Tokenizer
from plait.interop.exporting import export_model
from plait.interop.importing import import_model
from plait.model import LanguageModel
from plait.parallel import World
from plait.recipes import RECIPES
from plait.routing.trace import TraceInfo
from plait.sharing import Plan
from plait.storage.checkpoint import Checkpoints
from plait.storage.manifest import verify
from plait.storage.model_folder import load_model, read_tokenizer, save_model
from plait.storage.run_listing import found_runs
from plait.studies.results import read_study
from plait.training.state import TrainState
from tiny_corpus import tiny

HERE = World(torch.device("cpu"))
ended: Counter[tuple[str, str]] = Counter()


def examples(default: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(
        max_examples=int(os.environ.get("PLAIT_FAULTS", default)),
        deadline=timedelta(seconds=30),
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


@pytest.fixture(scope="module", autouse=True)
def counted() -> Iterator[None]:
    """Print how many attacks ended how; pytest shows it with -s."""
    yield
    for (kind, how), count in sorted(ended.items()):
        print(f"{kind:12} {how:8} {count:6}")


def raised(action: Callable[[], object]) -> str | None:
    """Return what the error says in which an action ends; None: it goes well."""
    try:
        with warnings.catch_warnings(action="ignore"):
            action()
    except (ValueError, OSError) as error:
        return str(error)
    return None


def survives(kind: str, action: Callable[[], object]) -> None:
    """Run what an attack is aimed at: it goes well, or ends in one line."""
    said = raised(action)
    ended[kind, "went well" if said is None else "refused"] += 1
    if said is not None:
        assert len(said.splitlines()) == 1, said
        assert len(said) < 1000, said[:200]


# ------------------------------------------------------------------ what is typed

signs = ["1", "2", "1x4", "2x3", "(", ")", ")*3", " + ", "+"]
sums = st.recursive(
    st.one_of(st.integers(1, 5).map(str), st.sampled_from(["1x2", "1x3", "2x2", "3×4", "1x500"])),
    lambda inner: st.builds(
        "({})*{}".format, st.lists(inner, min_size=1, max_size=4).map("+".join), st.integers(1, 30)
    ),
    max_leaves=12,
)
plan_texts = st.one_of(
    sums,
    st.lists(sums, min_size=1, max_size=9).map(" + ".join),
    st.text(st.sampled_from("0123456789x×*+() \t,"), max_size=80),
    st.text(max_size=30),
    st.lists(st.sampled_from(signs), max_size=40).map("".join),
    st.builds(
        "{}({}{})".format,
        st.sampled_from(["blocks", "groups", "own", ""]),
        st.integers(0, 9) | st.integers(),
        st.sampled_from(["", ",skip=1", ", skip=99999", ",skip=-1", ","]),
    ),
    st.builds(
        lambda part, times: (part * times)[:200_000] + "1",
        st.sampled_from(["1+", "(", "1x2 + ", "(1x2+1)*2+", "9"]),
        st.integers(1, 60_000),
    ),
)
depths = st.one_of(st.integers(1, 40), st.integers(-1, 12_000), st.integers())


@examples(400)
@given(plan_texts, depths, st.booleans())
def test_plans(text, depth, fitting):
    def read(depth):
        plan = Plan.parse(text, depth)
        assert Plan.parse(str(plan), depth) == plan

    survives("plan", lambda: read(depth))
    if fitting:  # the depth that the text reaches, if it says so
        reached = re.search(r"reaches depth (\d+), but", str(raised(lambda: Plan.parse(text, 1))))
        if reached:
            survives("plan", lambda: read(int(reached[1])))


OPTIONS = shape_of(train.plan).names


def values(hint: Any) -> st.SearchStrategy[str]:
    """Words that may stand behind an option, most of them possible ones."""
    if typing.get_origin(hint) is typing.Literal:
        return st.sampled_from(typing.get_args(hint))
    if typing.get_args(hint):
        return st.one_of([values(one) for one in typing.get_args(hint) if one is not ...])
    known = {
        int: st.integers(1, 16).map(str),
        float: st.floats(0, 1).map(str),
        str: st.sampled_from(["own", "all", "blocks(2)", "groups(2, skip=1)"]) | plan_texts,
        bool: st.just(""),
    }
    return known.get(hint, st.just("None"))


anything = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["None", "null", "true", "own", "--", "-", ""]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30),
)
names = st.sampled_from(sorted(OPTIONS))
possible = names.flatmap(lambda n: st.tuples(st.just(n), values(OPTIONS[n].hint)).map(list))
option_lists = st.lists(
    possible, max_size=3, unique_by=lambda pair: OPTIONS[pair[0]].name
) | st.lists(
    possible
    | st.tuples(names, anything).map(list)
    | st.tuples(names, anything).map(lambda pair: ["=".join(pair)])
    | names.map(lambda name: [name])
    | anything.map(lambda word: [word]),
    max_size=4,
)


@examples(100)
@given(st.sampled_from([*sorted(RECIPES)[:6], "nobody", "a.yaml"]), option_lists)
def test_options(recipe, pairs):
    typed = [recipe, *(word for pair in pairs for word in pair if word)]
    typed = [word for word in typed if word not in ("-h", "--help")]
    survives("options", lambda: parse(train.plan, typed, "plait plan"))


# ------------------------------------------------------------------ what lies in files

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.sampled_from([10**20, -1, 0, 2**40, 1e300, "..", "/etc/passwd", "own", "../x", [], {}]),
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def spoiled(draw, whole):
    """A tree with some of its parts replaced, removed, doubled or moved to where others are."""
    value = json.loads(json.dumps(whole))
    for _ in range(draw(st.integers(1, 3))):
        place, key, inner = None, None, value
        while isinstance(inner, (dict, list)) and inner and draw(st.integers(0, 4)):
            place = inner
            key = draw(
                st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner)))
            )
            inner = place[key]
        if place is None:
            return draw(trees)
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "nest"])):
            case "replace":
                place[key] = draw(trees)
            case "remove":
                del place[key]
            case "add" if isinstance(place, dict):
                place[draw(st.text(max_size=5))] = draw(trees)
            case _:
                place[key] = [inner]
    return value


@st.composite
def spoiled_bytes(draw, whole):
    """Bytes with some flipped, cut off, doubled or replaced; early ones more often."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(
            st.integers(0, max(0, min(len(data) - 1, draw(st.sampled_from([40, 4000, 10**9])))))
        )
        match draw(st.sampled_from(["flip", "flip", "noise", "cut", "drop", "double"])):
            case "flip" if data:
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "noise":
                noise = draw(st.binary(max_size=20))
                data[start : start + len(noise)] = noise
            case "cut":
                del data[start:]
            case "drop":
                del data[start : start + draw(st.integers(1, 9))]
            case _:
                data[start:start] = data[start : start + 50]
    return bytes(data)


@contextmanager
def replaced(path: Path, content: bytes | str) -> Iterator[None]:
    """Another content of a file, for a while."""
    kept = path.read_bytes() if path.is_file() else None
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        yield
    finally:
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A corpus, a model of ours, one of transformers', a study with a run, a checkpoint."""
    root = tmp_path_factory.mktemp("inputs")
    corpus = tiny(root / "corpus")
    model = ModelConfig(
        vocab_size=corpus.vocab_size,
        depth=2,
        width=16,
        context=32,
        attention=AttentionConfig(heads=2),
        experts=ExpertConfig(count=4, width=8),
    )
    weights = LanguageModel(model).state_dict()
    save_model(root / "model", model, weights, root / "corpus" / "tokenizer.json")
    (root / "model" / "generation_config.json").write_text('{"eos_token_id": [1, 2]}')
    (root / "model" / "tokenizer_config.json").write_text("{}")
    theirs = OlmoeConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=32,
    )
    AutoModelForCausalLM.from_config(theirs).save_pretrained(root / "olmoe", max_shard_size="9KB")
    shutil.copytree(Path(__file__).parents[1] / "studies" / "before_the_move", root / "runs" / "s")
    config = TrainConfig(
        model=model,
        data=DataConfig(corpus=str(root / "corpus"), sequence_length=32, batch=2),
        tokens=640,
    )
    save_yaml(config, root / "run.yaml")
    state = TrainState(config, corpus, HERE)
    checkpoints = Checkpoints(root / "checkpoints", 1, HERE)
    checkpoints.save(0, state.weights(), state.tensors(), state.progress())
    checkpoints.wait()
    (root / "spec.yaml").write_text(yaml.safe_dump(corpus.manifest["specification"]))
    return root


def read_corpus(root: Path) -> None:
    corpus = inspect(root / "corpus", verify=False)
    batches = Batches(Corpus.open(corpus.path), "train", 16, 4, seed=0)
    for _ in range(3):
        next(batches)


def read_model(root: Path) -> None:
    load_model(root / "model")
    tokenizer = read_tokenizer(root / "model")
    if tokenizer is not None:
        tokenizer.decode(tokenizer.encode("def walk(depth): return 1"))


def made(write: Callable[[Path, Path], object], source: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(source, Path(folder) / "out")


def resume(root: Path) -> None:
    """Restore a state from the checkpoint, whatever its hashes say."""
    config = load_yaml(TrainConfig, root / "run.yaml")
    TrainState(config, Corpus.open(root / "corpus"), HERE).restore(root / "checkpoints" / "step-0")


JSON_READERS: dict[str, Callable[[Path], object]] = {
    "corpus/manifest.json": read_corpus,
    "corpus/tokenizer.json": read_corpus,
    "model/tokenizer.json": read_model,
    "model/generation_config.json": lambda root: made(export_model, root / "model"),
    "olmoe/config.json": lambda root: made(import_model, root / "olmoe"),
    "olmoe/model.safetensors.index.json": lambda root: made(import_model, root / "olmoe"),
    "runs/s/study.json": lambda root: read_study(root / "runs" / "s"),
    "runs/s/tied-s0-0b09cc2b85e6/result.json": lambda root: (
        found_runs(root / "runs"),
        read_study(root / "runs" / "s"),
    ),
    "checkpoints/step-0/manifest.json": lambda root: verify(root / "checkpoints" / "step-0"),
    "checkpoints/step-0/progress.json": resume,
}
YAML_READERS: dict[str, Callable[[Path], object]] = {
    "run.yaml": lambda root: load_yaml(TrainConfig, root / "run.yaml"),
    "model/config.yaml": read_model,
    "spec.yaml": lambda root: Specification.load(root / "spec.yaml"),
}
FOLDER_READERS: dict[str, Callable[[Path], object]] = {
    "corpus": read_corpus,
    "model": lambda root: (read_model(root), made(export_model, root / "model")),
    "olmoe": lambda root: made(import_model, root / "olmoe"),
    "checkpoints/step-0": resume,
}


@pytest.mark.parametrize("name", JSON_READERS)
def test_json_of_any_shape(root, name):
    whole = json.loads((root / name).read_text())

    @examples(25)
    @given(st.one_of(spoiled(whole), spoiled(whole), spoiled(whole), trees))
    def attack(value):
        with replaced(root / name, json.dumps(value)):
            survives("json", lambda: JSON_READERS[name](root))

    attack()


@pytest.mark.parametrize("name", YAML_READERS)
def test_yaml_of_any_shape(root, name):
    text = (root / name).read_text()
    words = st.text(st.sampled_from("[]{}:,-&*!<>|'\"#? \n\tab1.eE~@`%"), max_size=60)
    tree = spoiled(yaml.safe_load(text))
    dumped = st.one_of(tree, tree, tree, trees).map(yaml.safe_dump)

    @examples(60)
    @given(st.one_of(dumped, words, st.tuples(words, st.integers(0, len(text))).map(
        lambda put: text[: put[1]] + put[0] + text[put[1] :]
    )))  # fmt: skip
    def attack(content):
        with replaced(root / name, content):
            survives("yaml", lambda: YAML_READERS[name](root))

    attack()


@pytest.mark.parametrize("folder", FOLDER_READERS)
def test_files_with_flipped_bits(root, folder):
    files = sorted(path for path in (root / folder).rglob("*") if path.is_file())
    kept = {file: file.read_bytes() for file in files}

    @examples(60)
    @given(st.sampled_from(files).flatmap(lambda f: st.tuples(st.just(f), spoiled_bytes(kept[f]))))
    def attack(spoilt):
        file, content = spoilt
        with replaced(file, content):
            survives("bytes", lambda: FOLDER_READERS[folder](root))

    attack()


@examples(50)
@given(
    spoiled(
        {"format": 1}
        | asdict(TraceInfo(model="m", tokenizer="t", depth=4, routed=(1, 3), experts=(4, 4),
                           top_k=2, context=32))
    )
)  # fmt: skip
def test_what_a_trace_says_of_itself(value):
    def read():
        info = TraceInfo.from_json(json.dumps(value))
        assert to_dict(info)["model"] == info.model

    survives("json", read)


@examples(30)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_a_tokenizer_of_any_bytes(content):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_bytes(content)
        survives("bytes", lambda: Tokenizer.load(folder))
