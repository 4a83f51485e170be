"""Commands that make one model folder of another: Hugging Face both ways, tying and untying."""

from pathlib import Path
from typing import Literal

from plait.cli.output import console, say


def import_(folder: Path, out: Path, /) -> None:
    """Turn a transformers model's folder into a Plait model folder.

    Args:
        folder: what save_pretrained wrote: Llama, Qwen2, Qwen3, OLMoE, FlexOlmo, Qwen3-MoE,
            Mixtral, GraniteMoe, Qwen2-MoE, Dots1.
        out: model folder to make.
    """
    from plait.interop.importing import import_model

    done = import_model(folder, out)
    say(f"{done.architecture}: {done.parameters:,} parameters in {out}")


def export(
    run: Path,
    out: Path,
    /,
    untie: bool = False,
    code: Literal["file", "import"] = "file",
    licence: str = "unknown",
) -> None:
    """Write a model as a folder that transformers loads, or as a GGUF file for llama.cpp.

    The folder holds a model card. GGUF is for OLMoE's and Qwen3-MoE's structures and needs the
    extra gguf.

    Args:
        run: folder of a run or a model.
        out: folder to make, or file whose name ends in .gguf.
        untie: give each depth a copy of the banks that it shares.
        code: that goes with a structure which no class of transformers has: a file that needs torch
            and transformers alone, or one that imports plait.
        licence: of the weights, as the hub names it, such as apache-2.0.
    """
    if out.suffix == ".gguf":
        from plait.interop.gguf import export_gguf

        done = export_gguf(run, out, untie, licence)
    else:
        from plait.interop.exporting import export_model
        from plait.report.model_card import model_card

        done = export_model(run, out, untie, code=code, beside=model_card(run, out, licence))
    say(f"{done.architecture}: {done.bytes:,} bytes in {out}")


def tie(
    folder: Path,
    out: Path,
    /,
    experts: str | None = None,
    router: str | None = None,
    merge: Literal["first", "mean", "aligned"] = "aligned",
    match: Literal["weights", "outputs"] = "weights",
    text: Path | None = None,
    device: str | None = None,
) -> None:
    """Make a model whose layers share out of a trained one; `plait train --from` heals it.

    Args:
        folder: of a run or a model.
        out: model folder to make.
        experts: plan of the expert banks, such as "groups(4, skip=2)".
        router: plan of the routers, such as "blocks(4)".
        merge: the first bank of each group, the mean, or the mean after matching the experts.
        match: aligned experts are matched by their weights, or by their outputs on the text.
        text: held-out text, on which the loss is measured before and after; None: docstrings of
            Python's standard library.
        device: that the models run on for it; None: CUDA where there is one, else the CPU.
    """
    from plait.report.terminal.score_tables import surgery_summary
    from plait.surgery import tying

    done = tying.tie(folder, out, experts, router, merge, match, text, device=device)
    console.print(surgery_summary(done))


def untie(folder: Path, out: Path, /, text: Path | None = None, device: str | None = None) -> None:
    """Give each depth copies of the banks that it shares: the same function, nothing shared.

    Args:
        folder: of a run or a model.
        out: model folder to make.
        text: held-out text, on which the loss is measured before and after; None: docstrings of
            Python's standard library.
        device: that the models run on for it; None: CUDA where there is one, else the CPU.
    """
    from plait.report.terminal.score_tables import surgery_summary
    from plait.surgery import tying

    console.print(surgery_summary(tying.untie(folder, out, text, device=device)))
