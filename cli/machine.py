"""`sidebench bench`, `theory` and `doctor`: speed here, the estimator against closed forms, what works here."""

from pathlib import Path
from typing import Annotated

import typer

from ..benchmark.errors import BadSetting
from .options import AsJson, Device, Force
from .output import loading, show


def bench(
    pair: Annotated[str, typer.Argument(metavar="PAIR")] = "digits",
    attack: Annotated[str | None, typer.Option(help="Time this attack's guided step too.")] = None,
    scoring: Annotated[
        bool, typer.Option("--scoring", help="Time the scoring of random images, and the end of a run.")
    ] = False,
    workers: Annotated[
        bool, typer.Option("--workers", help="Hold two workers against one instead, which takes minutes.")
    ] = False,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="With --scoring or --workers; default: 1,024 and 10,240.")
    ] = None,
    references: Annotated[int, typer.Option(min=1, help="With --scoring: images on either side.")] = 5000,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Compile the denoiser too, which takes minutes.")
    ] = False,
    accelerator: Annotated[
        bool, typer.Option("--accelerator", help="Measure and check a GPU instead, in at most eight minutes.")
    ] = False,
    small: Annotated[
        bool, typer.Option("--small", help="With --accelerator: in little, on the processor too, to see that it works.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="With --accelerator: file of the figures, part by part.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
    force: Force = False,
) -> None:
    """Measure speed on this machine as ratios with limits: sampling against diffusers, search against its product."""
    from ..benchmark.data.pair import load_pair

    if accelerator:
        _accelerator(device, small, out, as_json, force)
        return
    if workers and scoring:
        raise BadSetting("--workers and --scoring: give one of them")
    if small or out is not None:
        raise BadSetting("--small and --out go with --accelerator alone")
    loaded = load_pair(pair)
    loading("torch and diffusers")
    from ..benchmark.runs import bench as benches

    if workers:
        from ..benchmark.runs import worker_ratios

        figures = worker_ratios.measure(pair, candidates or worker_ratios.CANDIDATES, device)
    elif scoring:
        figures = benches.scoring(candidates or 1024, references, device)
    else:
        figures = benches.measure(loaded, device, attack, compiled)
    show(figures, benches.as_text(figures), as_json)


def _accelerator(device: str, small: bool, out: Path | None, as_json: bool, force: bool) -> None:
    from ..benchmark.files import check_output

    check_output(out, force=force)
    loading("torch and diffusers")
    from ..benchmark.runs import accelerator as benches

    found = benches.measure(device, small, out)
    show(found, benches.as_text(found), as_json)


def theory(
    pair: Annotated[str | None, typer.Argument(metavar="[PAIR]", help="Measure this pair's model too.")] = None,
    epsilon: Annotated[float, typer.Option(min=1e-3, help="Width of the normals around the images.")] = 0.1,
    draws: Annotated[int, typer.Option(min=2, help="Monte Carlo draws on the pair's model.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every draw.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure the memorization divergence: against closed forms, or of a pair's model on X and H."""
    from ..benchmark.data.pair import load_pair

    loaded = None if pair is None else load_pair(pair)
    loading("torch")
    from ..benchmark.measures import theory as checks

    if loaded is None:
        found = checks.demonstration(seed)
        show(found, checks.as_text(found), as_json)
    else:
        measured = checks.divergence_of_pair(loaded, epsilon, draws=draws, seed=seed, device=device)
        show(measured, checks.pair_as_text(measured), as_json)


def doctor(as_json: AsJson = False) -> None:
    """Say what works on this machine, and what to do about the rest."""
    loading("torch")
    from ..benchmark.runs import doctor as checks

    found = checks.examine()
    show([check._asdict() for check in found], checks.as_text(found), as_json)
