"""`sidebench replay`, `train`, `new`, `tune` and `ablate`: for who works on attacks, defences and victims."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from . import values
from .engines import check_engine, working
from .options import (
    AllowPickle,
    AsJson,
    Candidates,
    Device,
    Engine,
    Force,
    OutOfRun,
    PairOfRun,
    PairWithRecipe,
    Run,
    Seeds,
    Tier,
    Traceback,
    Workers,
)
from .output import complain_of, loading, show


def replay(
    run_folder: Run,
    candidate: Annotated[int, typer.Argument(metavar="CANDIDATE", help="Its number, from 0.")],
    attack: Annotated[str, typer.Option(help="Attack that made it.")],
    seed: Annotated[int, typer.Option(min=0, help="Run seed.")] = 0,
    defence: Annotated[
        list[str] | None,
        typer.Option("--defence", "--defense", help="A defence of the run that is a local file, FILE.py:CLASS."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="What the run attacked instead of the pair's model, named again.")
    ] = None,
    pair: PairOfRun = None,
    allow_pickle: AllowPickle = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="File to write; default: in the run folder.")
    ] = None,
    force: Force = False,
    device: Device = "auto",
    traceback: Traceback = False,
    as_json: AsJson = False,
) -> None:
    """Reproduce one candidate of a run from its stored state, and compare it with the run's image."""
    from ..benchmark.files import check_output
    from ..benchmark.results.run_folder import read_run

    check_output(out, force=force)
    folder = read_run(run_folder)
    loading("torch and diffusers")
    from ..benchmark.runs import replay as replaying

    found = replaying.replay(
        folder,
        attack,
        candidate,
        seed=seed,
        pair=pair,
        device=device,
        defences=defence or (),
        model=model,
        allow_pickle=allow_pickle,
        out=out,
    )
    show(replaying.as_dict(found), replaying.as_text(found), as_json)


def train(
    pair: PairWithRecipe,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder to make; default: ./PAIR-model.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed than the recipe's.")] = None,
    split_seed: Annotated[int | None, typer.Option(min=0, help="Split the images by this seed instead.")] = None,
    duplicate_rms: Annotated[
        float | None, typer.Option(help="De-duplication: one image of each group at most this far apart (rms).")
    ] = None,
    stop_after: Annotated[int | None, typer.Option(help="Early stopping: leave off after this step.")] = None,
    shift: Annotated[int | None, typer.Option(help="Augmentation: move images by up to this many pixels.")] = None,
    skip_below: Annotated[
        float | None, typer.Option(help="Skip samples with less than this share of the usual loss at their timestep.")
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder of the training's progress; default: a hidden one beside --out."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Reproduce a pair's model from its recipe, defended or not, as a diffusers folder with a pair file."""
    from ..benchmark.data.pair import load_pair
    from ..benchmark.progress import reporter_for

    loaded = load_pair(pair)
    loading("torch and diffusers")
    from ..benchmark.models.zoo import train as training

    target = out or Path(f"{loaded.name}-model")
    changes = {
        "seed": seed,
        "duplicate_rms": duplicate_rms,
        "stop_after": stop_after,
        "shift": shift,
        "skip_below": skip_below,
    }
    given = {key: value for key, value in changes.items() if value is not None}
    with reporter_for(sys.stderr) as progress:
        made = training.train(
            loaded, target, device, progress, split_seed=split_seed, changes=given, checkpoints=checkpoints
        )
    print(made)


def new(
    kind: Annotated[str, typer.Argument(metavar="attack|defence|detector|measure|model")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and hyphens.")],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder to make; default: ./NAME.")] = None,
) -> None:
    """Write a package with a working attack, defence, detector, measure or model, its test and its page."""
    from ..benchmark.runs.new_plugin import write_skeleton

    for file in write_skeleton(kind, name, out or Path(name)):
        print(file)


def tune(
    pair: PairWithRecipe,
    attack: Annotated[str, typer.Option(help="Attack to tune.")],
    defence: Annotated[
        list[str] | None, typer.Option("--defence", "--defense", help="Tune against a victim behind this defence.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="DEFENCE.KEY=VALUE", help="Change a defence's setting.")
    ] = None,
    try_: Annotated[
        list[str] | None,
        typer.Option("--try", metavar="KEY=V1,V2,...", help="Values of a setting; default: the attack's own grid."),
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates per value.")] = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shadow victim and its candidates.")] = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of victim and curve; default: ./PAIR-tuning.")
    ] = None,
    device: Device = "auto",
    engine: Engine = None,
    workers: Workers = None,
    traceback: Traceback = False,
    as_json: AsJson = False,
) -> None:
    """Try settings on a shadow victim, which no reported number uses."""
    from ..benchmark.data.pair import load_pair
    from ..benchmark.progress import reporter_for, say

    check_engine(engine, workers)
    loaded = load_pair(pair)
    grid, settings = values.grid(try_), values.settings(set_)
    loading("torch and diffusers")
    from ..benchmark.reports.layout import reader_width
    from ..benchmark.reports.tables import tuning_table
    from ..benchmark.runs import tune as tuning

    folder = out or Path(f"{loaded.name}-tuning")
    with working(engine, workers) as at_work, reporter_for(sys.stderr) as progress:
        curve = tuning.tune(
            loaded,
            attack,
            grid,
            candidates=candidates,
            out=folder,
            seed=seed,
            device=device,
            defences=defence or (),
            settings=settings,
            progress=progress,
            announce=say,
            engine=at_work,
        )
    show(curve, tuning_table(curve, reader_width()), as_json)


def ablate(
    pair: Annotated[str, typer.Argument(metavar="PAIR", help="A shipped pair's name or a pair file.")],
    attack: Annotated[str, typer.Option(help="Attack to take apart.")] = "side",
    tier: Tier = None,
    candidates: Candidates = None,
    seed: Seeds = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="ATTACK.KEY=VALUE", help="Change a setting of them all.")
    ] = None,
    device: Device = "auto",
    out: OutOfRun = Path("ablations"),
    engine: Engine = None,
    workers: Workers = None,
    traceback: Traceback = False,
    as_json: AsJson = False,
) -> int:
    """Run an attack and the same with one thing taken away at a time, and print the table."""
    from ..benchmark.data.pair import load_pair
    from ..benchmark.progress import reporter_for

    check_engine(engine, workers)
    loaded, settings = load_pair(pair), values.settings(set_)
    loading("torch and diffusers")
    from ..benchmark.runs import ablate as ablating

    with working(engine, workers) as at_work, reporter_for(sys.stderr) as progress:
        result, rows = ablating.ablate(
            loaded,
            attack,
            tier=tier,
            candidates=candidates,
            seeds=seed or (0,),
            settings=settings,
            device=device,
            out=out,
            progress=progress,
            engine=at_work,
        )
    for error in result.failures.values():
        complain_of(error)
    if result.metrics is not None:
        table = ablating.as_text(rows, result.metrics)
        where = f"run folder: {result.folder.path} (report.html)"
        show([row._asdict() for row in rows], f"{table}\n\n{where}", as_json)
    return max((error.exit_code for error in result.failures.values()), default=0)
