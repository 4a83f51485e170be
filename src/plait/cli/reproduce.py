"""The command that tests a paper's claims."""

import warnings
from pathlib import Path
from typing import Literal

from plait import recipes
from plait.cli.output import console, say
from plait.cli.studies import RUNS, begin


def reproduce(
    name: Literal["ct-moe", "pathmoe", "expert-tying", "combinations"],
    /,
    scale: Literal["nano", "tiny", "paper"] = "nano",
    only: tuple[str, ...] = (),
    runs: Path = RUNS,
    out: Path | None = None,
    jobs: int | None = None,
    device: str | None = None,
    compile: bool = False,
    checkpoints: str | None = None,
    tokens: float | None = None,
    seeds: str | None = None,
    until: Literal["decided"] | None = None,
    max_seeds: int | None = None,
    tune: bool = False,
    corpus: str | None = None,
    set: tuple[str, ...] = (),
    trace_tokens: int = 20_000,
    dry_run: bool = False,
    yes: bool = False,
) -> int:
    """Test a paper's claims: run or resume what they need, and write one page of what came out.

    Claims share runs. Before it begins it says how long that takes and what it can resolve.

    Args:
        name: the paper; combinations: questions of ours that none of the three asks.
        scale: nano for two cores; tiny for one GPU; paper says what it would cost as published, and
            runs nothing.
        only: claims, such as P-1; the arms of the others are not run. None: all.
        runs: folder of all runs.
        out: the page; by default PAPER-SCALE.html in the folder of all runs.
        jobs: as for study run.
        device: as torch names it; None: CUDA where there is one, else the CPU.
        compile: as for plait train.
        checkpoints: as for study run.
        tokens: of every run, in place of what the scale says.
        seeds: 0..5 (both ends included) or 0,1,2; None: those of the scale.
        until: decided: look at the seeds three times, and stop where every question is decided.
        max_seeds: with until: the most seeds.
        tune: first find each arm its own learning rate, at half, one and two times the baseline's.
        corpus: to train and score on, in place of the scale's; as large a vocabulary or smaller.
        set: options of the training configuration for all arms, such as model.width=64: claims at
            another size. Keep them in a folder of runs of their own.
        trace_tokens: held-out tokens traced for a figure that needs it; 0: without it.
        dry_run: say what would be done, and do nothing.
        yes: begin without asking, however long it takes.
    """
    from plait.report.terminal.paper_tables import claims_table, price_table
    from plait.studies.price import price
    from plait.studies.restating import restated

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at K = 2 S cannot learn, which is what is tested
        paper = recipes.paper(name, scale).of(only)
    for note in paper.notes:
        say(note)
    if scale == "paper":
        console.print(price_table(price(paper.studies)))
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        studies = [
            restated(
                one,
                options=[*set, *([f"data.corpus={corpus}"] if corpus is not None else [])],
                tokens=tokens,
                seeds=seeds,
                until_decided=until is not None,
                max_seeds=max_seeds,
                tune=tune,
            )
            for one in paper.studies
        ]
    code = 0
    for study in studies:
        code = begin(
            study,
            runs,
            jobs=jobs,
            device=device,
            pilot=None,
            dry_run=dry_run,
            yes=yes,
            compile=compile,
            checkpoints=checkpoints,
            deviation=paper.deviation,
        )
        if code:
            return code
    if dry_run:
        return 0
    from plait.report.paper.paper_page import write_paper

    out = out or runs / f"{paper.name}-{scale}.html"
    with console.status("the page"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        claims = write_paper(paper, runs, out, trace_tokens, device)
    console.print(claims_table(claims))
    say(f"page: {out}")
    return code
