"""Completion in the shell: a few lines of script that ask `plait --complete WORDS`."""

from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

from plait.cli.commands import COMMANDS
from plait.cli.options import Base, shape_of

SCRIPTS = {
    "bash": r"""_plait() {
  local IFS=$'\n' word="${COMP_WORDS[COMP_CWORD]}"
  COMPREPLY=($(compgen -W "$(plait --complete "${COMP_WORDS[@]:1:COMP_CWORD}")" -- "${word#=}"))
}
complete -o bashdefault -o default -F _plait plait""",
    "zsh": r"""#compdef plait
_plait() {
  local -a found=(${(f)"$(plait --complete "${(@)words[2,CURRENT]}")"})
  compadd -a found || _files
}
compdef _plait plait""",
}


def completion(shell: Literal["bash", "zsh"], /) -> None:
    """Print a script that completes commands and options.

    In ~/.bashrc: `eval "$(plait completion bash)"`; in ~/.zshrc, behind compinit, the same for zsh.

    Args:
        shell: which shell reads it.
    """
    print(SCRIPTS[shell])


def candidates(words: list[str]) -> Iterable[str]:
    """Return what may stand in place of the last word; nothing where files are to be completed."""
    *before, word = words or [""]
    name = " ".join(before[:2]) if " ".join(before[:2]) in COMMANDS else " ".join(before[:1])
    if name not in COMMANDS:
        rows = [one.split() for one in COMMANDS if one.split()[: len(before)] == before]
        return dict.fromkeys(row[len(before)] for row in rows if len(row) > len(before))
    shape = shape_of(COMMANDS[name].function())
    if word.startswith("-"):
        return [*shape.names, "--help"]
    rest = before[len(name.split()) :]
    last = next((one for one in reversed(rest) if one.startswith("-")), "").replace("_", "-")
    if last in shape.names and shape.names[last].hint is not bool:
        return _choices(shape.names[last].hint)
    bases = [config for config in shape.configs.values() if isinstance(config, Base)]
    return bases[0].known if bases else _choices(*shape.function.__annotations__.values())


def _choices(*hints: Any) -> list[str]:
    literals = [one for hint in hints[:1] for one in (hint, *get_args(hint))]
    return [str(it) for one in literals if get_origin(one) is Literal for it in get_args(one)]
