"""What a page shows works: every command and every block of Python is run, on toys.

A page runs in a process of its own, from top to bottom. Names in capitals are stand-ins of the
tables below; a command or block that needs more than these hold fails, so that no page can promise
what does not work.
"""

import json
import os
import pkgutil
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path

import pytest
import toys
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from plait.cli import EXTRAS
from plait.cli.commands import COMMANDS
from plait.cli.options import shape_of
from plait.config import ModelConfig, TrainConfig
from plait.config.files import from_dict
from plait.data import Specification
from plait.data.build import cache_folder
from warm import Warm

ROOT = toys.ROOT
FOLDERS = ("docs", "docs/howto")
PAGES = ["README.md", "CONTRIBUTING.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for f in FOLDERS for path in ROOT.glob(f"{f}/*.md"))

RUN, OTHER_RUN = (str(run.folder) for run in toys.runs())

STAND_INS = {
    "RUN": RUN,
    "OTHER-RUN": OTHER_RUN,
    "HF-FOLDER": "olmoe",
    "CONFIG.yaml": "run.yaml",
    "OTHER.yaml": "tied.yaml",
    "SPEC.yaml": "notes.yaml",
    "FILE.py:FUNCTION": "small.py:demo",
}
"""a page's name: what stands for it in the folder that `toys` makes"""

INSTEAD = {
    "plait study run demo": "plait study run small.py:demo",
    "plait study run demo --dry-run": "plait study run small.py:demo --dry-run",
    "plait study run demo --launcher slurm --gpus-per-run 8 --nodes 2 --hours 12 --jobs 4 --slurm "
    "partition=long --dry-run": "plait study run small.py:demo --launcher slurm --gpus-per-run 8 "
    "--nodes 2 --hours 12 --jobs 4 --slurm partition=long --dry-run",
    "plait study run demo --checkpoints s3://BUCKET/runs": "plait study run small.py:demo "
    "--checkpoints away",
    "plait study run ties.py:ties": "plait study run small.py:ties",
    "plait study run crossed.py:crossed": "plait study run small.py:crossed",
    "plait study show crossed.py:crossed": "plait study show small.py:crossed",
    "plait study run rungs.py:rungs": "plait study run small.py:rungs",
    "plait study show rungs.py:rungs": "plait study show small.py:rungs",
    "plait train CONFIG.yaml --checkpoints s3://BUCKET/runs": "plait train run.yaml --study away "
    "--checkpoints away",
    "plait bench --shapes A B --precision fp32 bf16 --json bench.json": "plait bench --shapes tiny "
    "--precision fp32 bf16 --json bench.json",
    "torchrun --nproc-per-node 8 --no-python plait train CONFIG.yaml": "torchrun --standalone "
    "--nproc-per-node 2 --no-python plait train run.yaml --study together",
    'torchrun --nproc-per-node 8 --no-python plait train CONFIG.yaml --mesh "replicate=2 shard=2 '
    'expert=2"': "torchrun --standalone --nproc-per-node 2 --no-python plait train run.yaml "
    "--study parted --mesh expert=2",
    "torchrun --nproc-per-node 8 --no-python plait trace RUN": "torchrun --standalone "
    "--nproc-per-node 2 --no-python plait trace RUN --tokens 1500 --perturb-tokens 400 --figures",
}
"""a command that is shown: the smaller one that is run"""

INSTEAD_IN_PYTHON = {'train_config("nano")': 'train_config("run.yaml")'}

SMALLER = {
    "train": toys.small_options(),
    "bench": {"--shapes": "tiny", "--rounds": "1", "--no-memory": "", "--no-extras": ""},
    "trace": {"--tokens": "1500", "--perturb-tokens": "400", "--figures": ""},
    "study report": {"--routing-tokens": "1000"},
    "eval": {"--tokens": "512"},
    "generate": {"--tokens": "5"},
    "reproduce": {"--scale": "paper"},
}
"""a command: options that it gets, unless the page gives them"""

EXCEPTIONS = {
    "make demo": "installs from a package index and trains for minutes",
    "make test": "runs this very test",
    "source .venv/bin/activate": "is of the environment that make demo makes",
    'pip install ".[report]"': "needs a package index",
    '.venv/bin/pip install -c constraints.txt -e ".[eval]"': "needs a package index",
    "plait data build starter": "fetches an archive, as tests/data/test_packages.py does",
    **dict.fromkeys(
        (
            "plait eval RUN --tasks all",
            "plait eval RUN --tasks boolq social_iqa --shots 5",
            "plait eval RUN --suite expert-tying-6",
        ),
        "fetches 230 MB; tests/interop/tasks scores a part of it",
    ),
    "plait eval RUN --suite pathmoe-12 --hub": "needs the Hugging Face hub",
    "plait bench --device cuda": "needs a GPU",
    "plait bench --compiled --shapes A": "takes minutes; tests/bench runs it at a toy size",
    "plait bench --pieces experts step-parts optimizers": "takes minutes; tests/bench runs each",
    "plait bench --pieces roofline": "takes minutes; tests/bench runs it",
    "plait bench --pieces growth --figure growth.svg": "takes ten minutes; tests/bench runs it",
}
"""what cannot run here, and why"""

LANGUAGES = {"sh", "python", "yaml", "text", "{toctree}"}


@cache
def tokens(page: str) -> list[Token]:
    return MarkdownIt().enable("table").parse((ROOT / page).read_text(encoding="utf-8"))


def fences(page: str, language: str) -> list[str]:
    return [t.content for t in tokens(page) if t.type == "fence" and t.info == language]


def inner(page: str, kind: str) -> list[Token]:
    return [t for token in tokens(page) for t in token.children or () if t.type == kind]


def shown(page: str) -> Iterator[tuple[str, str]]:
    """What a page shows to be run, in order: Python, and commands, in README's tables too."""
    in_table = False
    for token in tokens(page):
        in_table = (in_table or token.type == "table_open") and token.type != "table_close"
        if token.type == "fence" and token.info == "sh":
            lines = (re.sub(r"\s*#.*", "", line) for line in token.content.splitlines())
            yield from (("command", line) for line in lines if line)
        elif token.type == "fence" and token.info == "python":
            yield "python", token.content
        elif in_table and page == "README.md":
            spans = (t.content for t in token.children or () if t.type == "code_inline")
            yield from (("command", span) for span in spans if span.startswith("plait "))


def command_name(words: list[str]) -> str | None:
    return next((n for n in (" ".join(words[1:3]), " ".join(words[1:2])) if n in COMMANDS), None)


def stand_in(word: str) -> str:
    names = re.fullmatch(r"[A-Z][A-Z-]+(\.\w+)?(:[A-Z]+)?", word) or re.search("[<>…]", word)
    assert word in STAND_INS or not names, f"{word}: nothing stands for it, see STAND_INS"
    return STAND_INS.get(word, word)


def python_step(code: str) -> dict[str, object]:
    first, port = code.splitlines()[0], free_port() if "serve(" in code else None
    for before, after in INSTEAD_IN_PYTHON.items():
        code = code.replace(before, after)
    code = re.sub(r'"([^"\n]*)"', lambda text: f'"{stand_in(text[1])}"', code)
    code = code.replace("port=8765", f"port={port}")
    return {"kind": "python", "shown": f"{first} …", "code": code, "port": port}


def command_step(text: str) -> dict[str, object]:
    words = [stand_in(word) for word in shlex.split(INSTEAD.get(text, text))]
    port = None
    if words[0] == "plait":
        name = command_name(words)
        for option, value in SMALLER.get(name or "", {}).items():
            if option not in words:
                words += [option, value] if value else [option]
        if name == "explore" and "--static" not in words:
            port = free_port()
            words += ["--port", str(port)]
    return {"kind": "command", "shown": text, "words": words, "port": port}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def hidden(page: str) -> list[str]:
    """Modules that are not there where a beginner is: in the environment of `make demo`."""
    if page not in ("README.md", "docs/start.md"):
        return []
    brought = re.search(r"-e '\.\[(\S+)\]'", (ROOT / "Makefile").read_text())
    assert brought is not None
    return [module for module, extra in EXTRAS.items() if extra not in brought[1].split(",")]


@pytest.fixture(scope="session")
def toy_folder(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    kernels = cache_folder() / "kernels"
    kernels.mkdir(parents=True, exist_ok=True)
    (folder / "cache").mkdir()
    (folder / "cache" / "kernels").symlink_to(kernels)  # compiled once, not for every test
    in_a_process(warm.run, ["toys.py", str(folder)], folder, folder)
    return folder


def in_a_process(
    run: Callable[..., subprocess.CompletedProcess[str]], script: list[str], folder: Path, cwd: Path
) -> None:
    here = Path(__file__).parent
    found = os.environ.get("PYTHONPATH")
    environment = {
        "PLAIT_CACHE": str(folder / "cache"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{here}:{found}" if found else str(here),
        "COLUMNS": "160",
        "HF_HUB_OFFLINE": "1",
    }
    done = run(str(here / script[0]), *script[1:], cwd=cwd, env=os.environ | environment)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def fresh(*arguments: str, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    command, how = [sys.executable, *arguments], {"cwd": cwd, "env": env}
    return subprocess.run(command, **how, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if any(shown(page))])
def test_what_a_page_shows_works(page: str, warm: Warm, toy_folder: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(toy_folder / "work", work, symlinks=True)
    for text in fences(page, "yaml"):
        save_yaml_block(text, work)
    steps: list[dict[str, object]] = []
    for kind, text in shown(page):
        if kind == "python":
            steps.append(python_step(text))
            if function := re.search(r"^def (\w+)\(", text, re.MULTILINE):
                (work / f"{function[1]}.py").write_text(text)
        elif text not in EXCEPTIONS:
            steps.append(command_step(text))
    plan = tmp_path / "steps.json"
    plan.write_text(json.dumps({"hidden": hidden(page), "steps": steps}))
    # transformers, once read, knows what is installed
    run = fresh if hidden(page) else partial(warm.run, timeout=600)
    in_a_process(run, ["page_process.py", str(plan)], toy_folder, work)


def save_yaml_block(text: str, folder: Path) -> None:
    """Read a block as what it is; a specification is also there for the page's commands."""
    data = yaml.safe_load(text)
    if "sources" in data:
        (folder / f"{Specification.from_dict(data).name}.yaml").write_text(text)
    else:
        from_dict(TrainConfig if "model" in data else ModelConfig, data)


def test_what_is_excepted_or_replaced_is_still_shown() -> None:
    everything = {text for page in PAGES for kind, text in shown(page) if kind == "command"}
    assert set(EXCEPTIONS) <= everything
    assert set(INSTEAD) <= everything
    code = "\n".join(text for page in PAGES for text in fences(page, "python"))
    assert all(text in code for text in INSTEAD_IN_PYTHON)
    words = {word for text in everything for word in shlex.split(text)} | set(code.split('"'))
    assert set(STAND_INS) <= words


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page: str) -> None:
    assert {token.info for token in tokens(page) if token.type == "fence"} <= LANGUAGES
    links = [str(t.attrs["href"]) for t in inner(page, "link_open")]
    links += [str(t.attrs["src"]) for t in inner(page, "image")]
    for link in links:
        if not re.match(r"\w+:|#", link):
            assert (ROOT / page).parent.joinpath(link.partition("#")[0]).exists(), link
    for span in (t.content for t in inner(page, "code_inline")):
        assert not (why := what_is_wrong_with(span)), why


def what_is_wrong_with(span: str) -> str | None:
    """Why a piece of code in a sentence names nothing; None where it does, or claims nothing."""
    if re.fullmatch(r"plait(\.\w+)+", span):
        pkgutil.resolve_name(span)
    elif test := re.fullmatch(r"(?:[\w/]+/)?(test_\w+\.py)(?:::(\w+)…?)?", span):
        files = (ROOT / "tests").rglob(test[1])
        if not any(f"def {test[2] or 'test_'}" in file.read_text() for file in files):
            return f"there is no test {span}"
    elif re.match(r"(tests|src|docs)/", span) or re.fullmatch(r"\w+/[\w/]+\.(py|cpp|md)", span):
        if not any((folder / span).exists() for folder in (ROOT, ROOT / "src" / "plait")):
            return f"there is no file {span}"
    elif span.startswith("plait ") and span != "plait COMMAND --help":
        words = shlex.split(span)
        name = command_name(words)
        if name is None:
            return f"there is no command {span}"
        known = {*shape_of(COMMANDS[name].function()).names, "--help"}
        if unknown := {word for word in words if word.startswith("--")} - known:
            return f"{span}: there is no option {', '.join(unknown)}"
    return None
