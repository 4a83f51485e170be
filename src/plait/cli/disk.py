"""Commands on what there is: recipes by name, runs on the disk."""

from pathlib import Path

from plait.cli.output import console, say, say_rows

RUNS = Path("runs")


def list_recipes() -> None:
    """List the recipes: what each is, its size, how long it trains, and the studies."""
    import warnings

    from plait import recipes
    from plait.report.terminal.recipe_tables import recipes_table, studies_list

    with warnings.catch_warnings(action="ignore"):  # what a paper states is listed all the same
        console.print(recipes_table({n: recipes.train_config(n) for n in recipes.RECIPES}))
        console.print()
        console.print(studies_list({n: recipes.study(n) for n in recipes.STUDIES}))


def list_runs(study: tuple[str, ...] = (), /, runs: Path = RUNS) -> None:
    """List the runs on the disk: study, state, loss, tokens, bytes.

    Args:
        study: only these studies; none: all of them.
        runs: folder of all runs.
    """
    from plait.report.terminal.runs_table import runs_table
    from plait.storage.run_listing import found_runs

    say_rows(runs_table(found_runs(runs, study)))


def verify(path: Path, /) -> int:
    """Check whether a corpus, run, study, model or export is whole, and what was made of what.

    The chain is corpus fingerprint → configuration hash → checkpoint hashes → result → report.
    Exits with 1 where something does not hold.

    Args:
        path: folder of a corpus, a run, a study, a model or an export, or a folder of studies.
    """
    from plait.verification import verify as verified

    broken = 0
    for check in verified(path):
        broken += check.problem is not None
        say(
            f"{'holds' if check.problem is None else 'BROKEN'}  {check.what}"
            + (f": {check.problem}" if check.problem else "")
        )
    return 1 if broken else 0


def clean(study: tuple[str, ...] = (), /, runs: Path = RUNS, yes: bool = False) -> None:
    """Free disk space: finished runs keep their last checkpoint, and left-overs of crashes go.

    Shows what would be removed, and asks.

    Args:
        study: only these studies; none: all of them.
        runs: folder of all runs.
        yes: do not ask.
    """
    from plait.atomic import remove
    from plait.report.numbers import size
    from plait.storage.run_listing import bytes_in, found_runs, removable

    paths = [path for run in found_runs(runs, study) for path in removable(run)]
    for path in paths:
        say(f"{size(bytes_in(path)):>10}  {path}")
    if not paths:
        say("nothing to remove: finished runs keep one checkpoint, and no other run is touched")
        return
    total = size(sum(bytes_in(path) for path in paths))
    if not yes:
        answer = console.input(f"Remove these and free {total}? (y/n) ")
        if answer.strip().lower() not in ("y", "yes"):
            say("nothing was removed")
            return
    for path in paths:
        remove(path)
    say(f"freed {total}")
