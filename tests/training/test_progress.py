import io

from rich.console import Console

from plait.storage.metrics_file import read_rows
from plait.training.progress import TrainingBar


def shown(config, folder, terminal):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=160)
    with TrainingBar(config, console) as bar:
        for row in read_rows(folder / "metrics.jsonl"):
            bar(row)
    return text.getvalue()


def test_a_terminal_gets_a_bar_and_a_log_gets_lines(config, undisturbed):
    lines = shown(config, undisturbed, terminal=False).splitlines()
    steps = [line for line in lines if " of 24: loss " in line]
    assert steps[0].startswith("step 1 of 24: loss 6.2")
    assert steps[-1].startswith("step 24 of 24: loss 5.9")
    assert len(steps) == 21
    assert "load max/mean 1." in steps[-1]
    assert sum("bits per byte" in line for line in lines) == 4
    bar = shown(config, undisturbed, terminal=True)
    assert "step 24 of 24" in bar
    assert "tokens/s" in bar
