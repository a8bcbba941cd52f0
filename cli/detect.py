"""`sidebench detect`: how well detectors find the prompts that a model has memorised."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import values
from .options import AsJson, Device, OutOfRun, Traceback
from .output import loading, show


def detect(
    pair: Annotated[str, typer.Argument(metavar="PAIR", help="A text-to-image pair: its name or a pair file.")],
    detector: Annotated[
        list[str] | None, typer.Option(help="A detector; may be given several times. Default: all that fit the model.")
    ] = None,
    negatives: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="More prompts that were never seen: .csv, .jsonl or lines."),
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Labelled prompts in place of the pair's captions.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, max=1000, help="Images of each caption, which label it.")] = 4,
    steps: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Steps of the sampler that makes them; default: the pair's.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all noises.")] = 0,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="DETECTOR.KEY=VALUE", help="Change a detector's setting.")
    ] = None,
    device: Device = "auto",
    out: OutOfRun = Path("detections"),
    traceback: Traceback = False,
    as_json: AsJson = False,
) -> None:
    """Score prompts by detectors of memorisation, and compare these: AUC, TPR at a low FPR, ties."""
    from ..benchmark.data.pair import load_pair
    from ..benchmark.progress import reporter_for

    loaded, settings = load_pair(pair), values.settings(set_)
    loading("torch and diffusers")
    from ..benchmark.reports.detection import as_text
    from ..benchmark.runs import detect as detecting

    with reporter_for(sys.stderr) as progress:
        found = detecting.detect(
            loaded,
            detector or (),
            out=out,
            negatives=negatives,
            prompts=prompts,
            settings=settings,
            images=images,
            steps=steps,
            seed=seed,
            device=device,
            progress=progress,
        )
    show(found.result, f"{as_text(found.result)}\n\n{found.folder / 'detection.json'}", as_json)
