"""`sidebench run`, who works for it, and what comes before it: `plan` and `fetch`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..benchmark.errors import BadInput, BadSetting
from . import values
from .engines import check_engine, working
from .options import (
    FULL,
    AllowPickle,
    AsJson,
    Candidates,
    CaptionColumn,
    ConfigFile,
    Control,
    Dataset,
    DatasetConfig,
    Device,
    Engine,
    Holdout,
    ImageColumn,
    LabelColumn,
    Model,
    OutOfRun,
    PairOfRun,
    Pairs,
    Run,
    RunAsJson,
    Seeds,
    Split,
    Tier,
    Traceback,
    Variant,
    Workers,
)
from .output import complain_of, loading, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..benchmark.results.run_folder import RunFolder
    from ..benchmark.results.schema import Metrics
    from ..benchmark.runs.engine import Engine as Working
    from ..benchmark.runs.plan import RunPlan
    from ..benchmark.runs.track import Tracker


def _by_name(
    dataset_config: DatasetConfig,
    image_column: ImageColumn,
    caption_column: CaptionColumn = None,
    label_column: LabelColumn = None,
    variant: Variant = None,
    control: Control = None,
) -> dict[str, str | None]:
    """Return what the options beside --dataset say, by the names that `pair_of` has for them."""
    return {
        "config": dataset_config,
        "image_column": image_column,
        "caption_column": caption_column,
        "label_column": label_column,
        "variant": variant,
        "control": control,
    }


def run(
    pairs: Pairs = None,
    attack: Annotated[list[str] | None, typer.Option(help="Attack to run; default: those that the pair names.")] = None,
    model: Model = None,
    dataset: Dataset = None,
    split: Split = None,
    holdout: Holdout = None,
    dataset_config: DatasetConfig = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    label_column: LabelColumn = None,
    variant: Variant = None,
    control: Control = None,
    defence: Annotated[
        list[str] | None, typer.Option("--defence", "--defense", help="Defence around the model.")
    ] = None,
    tier: Tier = None,
    candidates: Candidates = None,
    seed: Seeds = None,
    secret_seeds: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="N preparations under seeds that nobody can guess, instead of --seed."),
    ] = None,
    measure: Annotated[list[str] | None, typer.Option(help="Measure id, headline first.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="ATTACK.KEY=VALUE", help="Change a setting.")
    ] = None,
    tuned: Annotated[
        list[Path] | None,
        typer.Option(metavar="CURVE", help="Take an attack's settings from `sidebench tune`'s curve."),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16 for the denoiser.")] = "float32",
    micro_batch: Annotated[
        int | None,
        typer.Option(help="Rows that the denoiser sees at a time, in a new run folder; default: by size and device."),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the denoiser by torch.compile, in a new run folder."),
    ] = False,
    out: OutOfRun = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on with an earlier run.")] = False,
    fresh_attack: Annotated[
        list[str] | None,
        typer.Option(metavar="ATTACK", help="Start this attack over, with its settings and code of now; others stay."),
    ] = None,
    engine: Engine = None,
    workers: Workers = None,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Open the run folder for `sidebench worker`, print its path, and stop.")
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SERVICE[:PROJECT]",
            help="Send rates, plots and the manifest to trackio, wandb or mlflow, once the run is scored.",
        ),
    ] = None,
    allow_pickle: AllowPickle = False,
    config: ConfigFile = None,
    traceback: Traceback = False,
    as_json: RunAsJson = None,
) -> int:
    """Attack one or more pairs and print what was found. The same command resumes an interrupted run."""
    from ..benchmark.models.pair_from_names import chosen_pairs
    from ..benchmark.runs import run_config

    settings = values.settings(set_)
    if config is not None:
        settings = run_config.over(run_config.read_config(config).settings(attack or (), defence or ()), settings)
    if secret_seeds and track:
        raise BadSetting("--track sends the seeds too, which --secret-seeds keeps: give one of them")
    check_engine(engine, workers)
    if plan_only and engine:
        raise BadSetting("--plan-only opens a folder for `sidebench worker`; --engine belongs to the run itself")
    built = model is not None and ".py:" in model  # to see what it is; a typing error elsewhere loads nothing heavy
    if built:
        loading("torch and diffusers")
    more = _by_name(dataset_config, image_column, caption_column, label_column, variant, control)
    loaded, instead = chosen_pairs(pairs or [], model, dataset, split, holdout, allow_pickle, **more)
    if not built:
        loading("torch and diffusers")
    tracked = _trackers(track)
    from ..benchmark.progress import reporter_for
    from ..benchmark.results import secret_seeds as secret
    from ..benchmark.results import tuning_curve
    from ..benchmark.runs.plan import plan_run
    from ..benchmark.runs.tune import with_curves

    if secret_seeds and seed:
        raise BadSetting("--seed and --secret-seeds: give one of them")
    curves = tuning_curve.read_curves(tuned or [])
    nonces = [secret.secret_seeds(pair.identity(), secret_seeds or 0) if secret_seeds else None for pair in loaded]
    with reporter_for(sys.stderr) as progress:
        plans = [
            plan_run(
                pair,
                attacks=attack or (),
                defences=defence or (),
                model=instead,
                tier=tier,
                candidates=candidates,
                seeds=seed or (0,) if nonce is None else nonce.seeds,
                measures=measure or (),
                settings=tuning_curve.with_tuned(settings, curves),
                device=device,
                dtype=dtype,
                micro_batch=micro_batch,
                compiled=compiled,
                out=out,
                fresh=fresh,
                fresh_attacks=fresh_attack or (),
                allow_pickle=allow_pickle,
                progress=progress,
            )
            for pair, nonce in zip(loaded, nonces, strict=True)
        ]
        plans = [with_curves(plan, curves, progress) for plan in plans]
    if plan_only:
        return _open(plans, as_json)
    with working(engine, workers) as at_work:
        return _execute(plans, [nonce and nonce.nonce for nonce in nonces], as_json, at_work, tracked)


def _trackers(named: list[str] | None) -> "Sequence[Tracker]":
    """Return the services of `--track`, each with its client installed."""
    if not named:
        return ()
    from ..benchmark.runs.track import trackers

    return trackers(named)


def _open(plans: "Sequence[RunPlan]", as_json: str | None) -> int:
    """Open the run folders for workers and print where they are."""
    from ..benchmark.runs.runner import open_run

    places = [str(open_run(plan).path) for plan in plans]
    show(places, "\n".join(places), as_json is not None)
    return 0


def worker(
    run_folder: Run,
    attack: Annotated[
        list[str] | None, typer.Option(help="An attack of the run that is a local file, FILE.py:CLASS.")
    ] = None,
    defence: Annotated[
        list[str] | None,
        typer.Option("--defence", "--defense", help="A defence of the run that is a local file, FILE.py:CLASS."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="What the run attacks instead of the pair's model, named again.")
    ] = None,
    pair: PairOfRun = None,
    device: Device = "auto",
    silent_for: Annotated[
        float, typer.Option(min=1, help="Seconds without a sign of this worker after which others take its jobs.")
    ] = 60.0,
    allow_pickle: AllowPickle = False,
    traceback: Traceback = False,
) -> int:
    """Make what is missing in a run folder, beside any number of other workers; `sidebench run` then scores it.

    The folder is opened by the command that will finish it, with --plan-only. Ends when nothing is missing.
    """
    from ..benchmark.results.run_folder import read_run

    folder = read_run(run_folder)
    loading("torch and diffusers")
    from ..benchmark.progress import reporter_for
    from ..benchmark.runs import worker as workers

    plan = workers.planned_for_workers(
        folder,
        pair=pair,
        attacks=attack or (),
        defences=defence or (),
        model=model,
        device=device,
        allow_pickle=allow_pickle,
    )
    with reporter_for(sys.stderr) as progress:
        failures = workers.work(folder, plan, silent_for, progress)
    for error in failures.values():
        complain_of(error)
    return max((error.exit_code for error in failures.values()), default=0)


def score_images(
    images: Annotated[
        str, typer.Argument(metavar="IMAGES", help="A folder of generated images, a parquet file, or an npz file.")
    ],
    pair: Annotated[
        str | None, typer.Argument(metavar="PAIR", help="The pair whose images they are held against.")
    ] = None,
    dataset: Dataset = None,
    split: Split = None,
    holdout: Holdout = None,
    dataset_config: DatasetConfig = None,
    image_column: ImageColumn = None,
    control: Control = None,
    candidates: Annotated[int | None, typer.Option(help="The first N of them; default: all.")] = None,
    measure: Annotated[list[str] | None, typer.Option(help="Measure id, headline first.")] = None,
    device: Device = "auto",
    out: OutOfRun = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on with an earlier run.")] = False,
    traceback: Traceback = False,
    as_json: RunAsJson = None,
) -> int:
    """Look for training images among images that somebody generated already, without their model.

    They are held against the training and held-out images of PAIR, or of --dataset, as an attack's candidates are.
    """
    from ..benchmark.data.pair import AS_GIVEN, GIVEN
    from ..benchmark.models.pair_from_names import chosen_pairs
    from ..benchmark.progress import reporter_for

    if pair is None and dataset is None:
        raise BadInput("say what the images are held against: a PAIR, or --dataset, --split and --holdout")
    names = [] if pair is None else [pair]
    more = _by_name(dataset_config, image_column, control=control)
    given = f"{GIVEN}{images.removeprefix(GIVEN)}"
    (loaded,), instead = chosen_pairs(names, given, dataset, split, holdout, False, **more)
    loading("torch and diffusers")
    from ..benchmark.runs.plan import plan_run

    with reporter_for(sys.stderr) as progress:
        planned = plan_run(
            loaded,
            attacks=(AS_GIVEN,),
            model=instead,
            candidates=candidates,
            measures=measure or (),
            device=device,
            out=out,
            fresh=fresh,
            progress=progress,
        )
    return _execute([planned], [None], as_json)


def _execute(
    plans: "Sequence[RunPlan]",
    nonces: "Sequence[bytes | None]",
    as_json: str | None,
    engine: "Working | None" = None,
    tracked: "Sequence[Tracker]" = (),
) -> int:
    """Carry out the plans one after the other, print what they found, and return the exit code."""
    from ..benchmark.progress import reporter_for
    from ..benchmark.reports import screen
    from ..benchmark.results import secret_seeds as secret
    from ..benchmark.runs.carry_out import carry_out

    found, scored, code = [], [], 0
    for plan, nonce in zip(plans, nonces, strict=True):
        with reporter_for(sys.stderr) as progress:
            progress.expect({f"{unit.name}: candidates": plan.candidates for unit in plan.units})
            result = carry_out(plan, progress, engine)
        if nonce is not None:
            secret.keep_nonce(result.folder, nonce)
        for error in result.failures.values():
            complain_of(error)
            code = max(code, error.exit_code)
        if result.metrics is None:
            continue
        if as_json:
            found.append(_as_dict(result.folder, result.metrics, as_json))
            scored.append((result.folder, result.metrics))
        else:
            seconds = screen.seconds_of(result.folder)
            show(None, screen.first_screen(result.folder, result.metrics, seconds, screen.terminal_width()), False)
            _send(tracked, [(result.folder, result.metrics)])
    if as_json:
        show(found, "", True, sort_keys=as_json == FULL)
        _send(tracked, scored)
    return code


def _send(tracked: "Sequence[Tracker]", scored: "Sequence[tuple[RunFolder, Metrics]]") -> None:
    """Send runs to the services of `--track`, after they are printed: no client then keeps a result back."""
    if not tracked:
        return
    from ..benchmark.runs import track

    sys.stdout.flush()
    for folder, metrics in scored:
        for service in track.send(tracked, folder, metrics):
            print(f"sent to {service}: {folder.path.name}", file=sys.stderr)


def _as_dict(folder: "RunFolder", metrics: "Metrics", which: str) -> dict[str, Any]:
    from ..benchmark.reports.summary import summary
    from ..benchmark.reports.tables import probe_flags

    if which != FULL:
        return summary(folder, metrics)
    flags = [*metrics.flags, *probe_flags(folder)]
    return {"folder": str(folder.path), **metrics.model_dump(by_alias=True), "flags": flags}


def plan(
    pairs: Pairs = None,
    model: Model = None,
    dataset: Dataset = None,
    split: Split = None,
    holdout: Holdout = None,
    dataset_config: DatasetConfig = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    label_column: LabelColumn = None,
    variant: Variant = None,
    control: Control = None,
    tier: Tier = None,
    candidates: Candidates = None,
    device: Device = "auto",
    allow_pickle: AllowPickle = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run needs: files, access, licences, disk, memory, time. Downloads no weights and no images."""
    from ..benchmark.models.pair_from_names import chosen_pairs

    more = _by_name(dataset_config, image_column, caption_column, label_column, variant, control)
    loaded, _ = chosen_pairs(pairs or [], model, dataset, split, holdout, allow_pickle, **more)
    loading("torch")
    from ..benchmark.runs import forecast
    from ..benchmark.runs.plan import candidate_count

    number = candidate_count(tier, candidates)
    found = [forecast.examine(pair, number, device, allow_pickle=allow_pickle) for pair in loaded]
    show(found, "\n\n".join(forecast.as_text(one) for one in found), as_json)


def fetch(
    pairs: Pairs = None,
    model: Model = None,
    dataset: Dataset = None,
    split: Split = None,
    holdout: Holdout = None,
    dataset_config: DatasetConfig = None,
    image_column: ImageColumn = None,
    caption_column: CaptionColumn = None,
    label_column: LabelColumn = None,
    variant: Variant = None,
    control: Control = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH-OR-ADDRESS",
            help="Bring in a network that a measure needs: a file, folder, address or OWNER/NAME; its hash is kept.",
        ),
    ] = None,
    allow_pickle: AllowPickle = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Fetch model and data at what their revisions are now, and decode the images; runs then need no network."""
    from ..benchmark.measures.fetch_weights import bring_in

    for assignment in weights or []:
        print(f"{assignment.partition('=')[0]}: SHA-256 {bring_in(assignment)}", file=sys.stderr)
    if weights and not (pairs or model):
        return
    from ..benchmark.models.pair_from_names import chosen_pairs
    from ..benchmark.progress import reporter_for
    from ..benchmark.runs import forecast

    more = _by_name(dataset_config, image_column, caption_column, label_column, variant, control)
    loaded, _ = chosen_pairs(pairs or [], model, dataset, split, holdout, allow_pickle, **more)
    with reporter_for(sys.stderr) as progress:
        found = [part for pair in loaded for part in forecast.fetch(pair, allow_pickle, progress)]
    show(found, "\n".join(forecast.parts_as_text(found)) or "nothing to fetch: all of it is here", as_json)
