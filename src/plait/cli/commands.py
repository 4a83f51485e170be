"""The table of commands: where each one's function is, and what it is for. Nothing is imported."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple, cast


class Command(NamedTuple):
    """A command: its function as `module:function` in this folder, and what it is for."""

    place: str
    about: str

    def function(self) -> Callable[..., Any]:
        """Import the function."""
        module, _, name = self.place.partition(":")
        return cast(Callable[..., Any], getattr(import_module(f"plait.cli.{module}"), name))


COMMANDS: Mapping[str, Command] = {
    "data build": Command("data:data_build", "text → corpus: fetch, clean, split, tokenize"),
    "data inspect": Command("data:data_inspect", "what a corpus holds, and whether it is whole"),
    "recipes": Command("disk:list_recipes", "the models and studies that have a name"),
    "plan": Command("train:plan", "parameters, FLOPs and memory of a model, nothing built"),
    "match": Command("train:match", "a model changed until it costs what another one does"),
    "train": Command("train:train", "train one run, or resume it"),
    "study list": Command("studies:study_list", "the studies that have a name"),
    "study run": Command("studies:study_run", "train all runs of a study that are not finished"),
    "study power": Command("studies:study_power", "what a study can resolve with its seeds"),
    "study show": Command("studies:study_show", "the table of a study, as far as it has come"),
    "study report": Command("studies:study_report", "the report of a study, one HTML file"),
    "study publish": Command("studies:study_publish", "a study without weights, to be kept"),
    "reproduce": Command("reproduce:reproduce", "a paper's claims, tested"),
    "runs": Command("disk:list_runs", "the runs on the disk: state, loss, size"),
    "verify": Command("disk:verify", "whether a corpus, run, study, model or export is whole"),
    "clean": Command("disk:clean", "free disk space that finished runs do not need"),
    "eval": Command("models:evaluate", "held-out loss by domain, or downstream tasks"),
    "generate": Command("models:generate", "continue a prompt"),
    "trace": Command("models:trace", "what routing does, of our models or any MoE"),
    "explore": Command("models:explore", "a page where each token's path can be followed"),
    "import": Command("convert:import_", "a transformers folder → a Plait model"),
    "export": Command("convert:export", "a run or model → a transformers folder"),
    "tie": Command("convert:tie", "a trained model → one whose layers share"),
    "untie": Command("convert:untie", "a model that shares → one that does not"),
    "bench": Command("bench:bench", "our speed against transformers' on this machine"),
    "completion": Command("completion:completion", "a script that completes all this in a shell"),
}
DIVIDED = ("train", "eval", "trace")
"""commands that the processes of torchrun do together; the others the first of them does alone"""


def overview(prefix: str = "") -> str:
    """Return the commands whose names begin with `prefix`, as the help shows them."""
    rows = [
        f"  {name:13} {command.about}"
        for name, command in COMMANDS.items()
        if not prefix or name.split()[0] == prefix
    ]
    program = f"plait {prefix}".strip()
    return "\n".join(
        [
            f"usage: {program} COMMAND ...",
            "",
            "Mixture-of-experts language models whose layers share.",
            "",
            *rows,
            "",
            "`plait COMMAND --help` lists a command's options, with units and defaults.",
            "--version prints the version; --debug shows a failure's traceback.",
        ]
    )
