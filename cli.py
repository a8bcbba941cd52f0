"""The `sidebench` command: parse, call, print. No logic; heavy imports wait until a command needs them."""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .benchmark.errors import BadSetting, SidebenchError, printable

INTERRUPTED, UNEXPECTED, WRONG_USAGE, INCOMPLETE = 130, 70, 2, 3

app = typer.Typer(
    name="sidebench",
    help="Privacy evaluation of diffusion models: extraction attacks under one protocol.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

leaderboard = typer.Typer(help="Records of results, and the tables and pages made of them.", rich_markup_mode=None)
app.add_typer(leaderboard, name="leaderboard")

Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Pairs = Annotated[list[str] | None, typer.Argument(metavar="PAIR...", help="Names of pairs, or pair files (.yaml).")]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="REPO[@REV]",
        help="Another model than the pair's: a repository, a folder, or control:copycat|heldout|mixture:P.",
    ),
]
Dataset = Annotated[
    str | None, typer.Option(metavar="REPO[@REV]", help="Instead of a pair: the data of --model, or a folder of them.")
]
Split = Annotated[str | None, typer.Option(help="With --dataset: the split that the model was trained on.")]
Holdout = Annotated[str | None, typer.Option(help="With --dataset: a split that it was not trained on.")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Load pickled weights where there are no safetensors.")
]
Records = Annotated[Path, typer.Option(help="Folder of records.")]
RECORDS = Path("leaderboards/records")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; everything else goes to stderr.")]


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit code (0 to 4, 70 or 130)."""
    try:
        code = app(args=arguments, standalone_mode=False)
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            _complain("interrupted; the same command goes on where this one stopped")
    except SidebenchError as error:
        _complain(str(error))
        code = error.exit_code
    except typer.TyperException as error:
        _complain(error.format_message() if hasattr(error, "format_message") else str(error))
        code = WRONG_USAGE
    except BrokenPipeError:
        # The reader of stdout has gone (`sidebench list pairs | head`); keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:  # the last resort: a bug, shown whole
        print(printable(traceback.format_exc()), file=sys.stderr)
        _complain(f"unexpected {type(error).__name__}: {error}; this is a bug in sidebench")
        code = UNEXPECTED
    sys.exit(code if isinstance(code, int) else 0)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    _help_alone(context)


@app.command()
def run(
    pairs: Pairs = None,
    attack: Annotated[list[str] | None, typer.Option(help="Attack to run; default: those that the pair names.")] = None,
    model: Model = None,
    dataset: Dataset = None,
    split: Split = None,
    holdout: Holdout = None,
    defence: Annotated[
        list[str] | None, typer.Option("--defence", "--defense", help="Defence around the model.")
    ] = None,
    tier: Annotated[str | None, typer.Option(help="smoke, quick (default), standard, paper or full.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Number of candidates, instead of a tier.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Run seed; may be given several times.")] = None,
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
    out: Annotated[Path, typer.Option(help="Folder in which the run folder is made.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of going on with an earlier run.")] = False,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> int:
    """Attack one or more pairs and print the tables. The same command resumes an interrupted run."""
    from dataclasses import replace

    from .benchmark.data.pair_from_names import chosen_pairs
    from .benchmark.progress import reporter_for

    settings = _settings(set_ or [])
    loaded, model = chosen_pairs(pairs or [], model, dataset, split, holdout, allow_pickle)
    print("loading torch and diffusers ...", file=sys.stderr, flush=True)
    from .benchmark.reports.tables import probe_flags, text_tables, verdicts
    from .benchmark.results import tuning_curve
    from .benchmark.runs import runner
    from .benchmark.runs import tune as tuning
    from .benchmark.runs.plan import plan_run

    curves = tuning_curve.read_curves(tuned or [])
    settings = tuning_curve.with_tuned(settings, curves)
    with reporter_for(sys.stderr) as progress:
        plans = [
            plan_run(
                pair,
                attacks=attack or (),
                defences=defence or (),
                model=model,
                tier=tier,
                candidates=candidates,
                seeds=seed or (0,),
                measures=measure or (),
                settings=settings,
                device=device,
                dtype=dtype,
                out=out,
                fresh=fresh,
                allow_pickle=allow_pickle,
                progress=progress,
            )
            for pair in loaded
        ]
        for plan in plans:
            tuning.refuse_own_numbers(plan, curves, progress)
        plans = [replace(plan, tuned=tuning_curve.as_stored(curves)) for plan in plans]
    results, code = [], 0
    for plan in plans:
        with reporter_for(sys.stderr) as progress:
            result = runner.execute(plan, progress)
        for error in result.failures.values():
            _complain(str(error))
            code = max(code, error.exit_code)
        if result.metrics is None:
            continue
        if as_json:
            found = result.metrics.model_dump(by_alias=True)
            flags = [*result.metrics.flags, *probe_flags(result.folder)]
            results.append({"folder": str(result.folder.path), **found, "flags": flags})
        else:
            print(text_tables(result.metrics, probe_flags(result.folder)))
            print("\n" + "\n".join(verdicts(result.metrics)))
            print(f"\nrun folder: {result.folder.path} (report.html, metrics.csv, evidence/)\n")
    if as_json:
        print(json.dumps(results, sort_keys=True, indent=1))
    return code


@app.command()
def plan(
    pairs: Pairs = None,
    model: Model = None,
    dataset: Dataset = None,
    split: Split = None,
    holdout: Holdout = None,
    tier: Annotated[str | None, typer.Option(help="smoke, quick (default), standard, paper or full.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Number of candidates, instead of a tier.")] = None,
    device: Device = "auto",
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> None:
    """Say what a run needs: files, access, licences, disk, memory, time. Downloads no weights and no images."""
    from .benchmark.data.pair_from_names import chosen_pairs

    loaded, _ = chosen_pairs(pairs or [], model, dataset, split, holdout, allow_pickle)
    print("loading torch ...", file=sys.stderr, flush=True)
    from .benchmark.runs import forecast
    from .benchmark.runs.plan import candidate_count

    number = candidate_count(tier, candidates)
    found = [forecast.examine(pair, number, device, allow_pickle=allow_pickle) for pair in loaded]
    if as_json:
        print(json.dumps([one.model_dump(mode="json") for one in found], indent=1))
    else:
        print(printable("\n\n".join(forecast.as_text(one) for one in found)))


@app.command()
def fetch(
    pairs: Pairs = None,
    model: Model = None,
    dataset: Dataset = None,
    split: Split = None,
    holdout: Holdout = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH-OR-ADDRESS",
            help="Bring in a network that a measure needs: a file, folder, address or OWNER/NAME; its hash is kept.",
        ),
    ] = None,
    allow_pickle: AllowPickle = False,
    as_json: AsJson = False,
) -> None:
    """Fetch model and data at what their revisions are now, and decode the images; runs then need no network."""
    from .benchmark.measures.fetch_weights import bring_in

    for assignment in weights or []:
        print(f"{assignment.partition('=')[0]}: SHA-256 {bring_in(assignment)}", file=sys.stderr)
    if weights and not (pairs or model):
        return
    from .benchmark.data.pair_from_names import chosen_pairs
    from .benchmark.progress import reporter_for
    from .benchmark.runs import forecast

    loaded, _ = chosen_pairs(pairs or [], model, dataset, split, holdout, allow_pickle)
    with reporter_for(sys.stderr) as progress:
        found = [part for pair in loaded for part in forecast.fetch(pair, allow_pickle, progress)]
    if as_json:
        print(json.dumps([part.model_dump(mode="json") for part in found], indent=1))
    else:
        print(printable("\n".join(forecast.parts_as_text(found)) or "nothing to fetch: all of it is here"))


@app.command("list")
def list_(
    kind: Annotated[str, typer.Argument(metavar="pairs|attacks|defences|measures")],
    as_json: AsJson = False,
) -> None:
    """List what is there by name."""
    from .benchmark.reports import catalogue

    rows = catalogue.listing(kind)
    print(json.dumps(rows, indent=1) if as_json else catalogue.as_text(rows, kind))


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="PAIR|ATTACK|DEFENCE|MEASURE|RUN")],
    as_json: AsJson = False,
) -> None:
    """Show one pair, attack, defence, measure or run folder."""
    from .benchmark.reports import catalogue

    found = catalogue.describe(name)
    print(json.dumps(found.data, indent=1) if as_json else found.text)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="File to write; default: report.html in the run folder.")] = None,
    with_images: Annotated[bool, typer.Option("--with-images", help="Put the strongest pairs' pictures in.")] = False,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each plot as SVG and PNG into this folder too.")
    ] = None,
) -> None:
    """Write the HTML report of a run, one file that works without a network."""
    from .benchmark.reports.page import write_figures, write_report
    from .benchmark.results.run_folder import read_run

    folder = read_run(run_folder)
    target = out or folder.path / "report.html"
    write_report(folder, target, with_images=with_images)
    print(target)
    for file in write_figures(folder, figures) if figures else ():
        print(file)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Finished run folders of one pair.")],
    out: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot of leak against quality to write: .svg or .png.")] = None,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="With --out: the strongest pairs' pictures.")
    ] = False,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each plot of the page as SVG and PNG into this folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare finished runs: leak before and after a defence, quality and time; or attacks across runs."""
    from .benchmark.reports.compare import page, schema, verdict
    from .benchmark.reports.compare.compare_runs import compare_runs
    from .benchmark.results.run_folder import read_run

    if with_images and out is None:
        raise BadSetting("--with-images puts pictures into a page: give it --out FILE.html")
    folders = [read_run(path) for path in runs]
    found = compare_runs(folders)
    if as_json:
        print(found.model_dump_json(by_alias=True, indent=1))
    else:
        print(schema.as_text(found, verdict.sentences(found)))
    if out is not None:
        page.write_page(found, folders, out, with_images=with_images)
    if plot is not None:
        page.write_plot(found, plot)
    for file in page.write_figures(found, folders, figures) if figures else ():
        print(file, file=sys.stderr)


@app.command()
def score(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    bands: Annotated[str, typer.Option(metavar="NAME=LOW:HIGH,...", help="Bands, closest first.")],
    measure: Annotated[str | None, typer.Option(help="A measure of the run; default: its headline.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compute rates for other bands from a run's stored scores, without the model."""
    from .benchmark.results.rescore import parse_bands, rescore
    from .benchmark.results.run_folder import read_run

    results = rescore(read_run(run_folder), parse_bands(bands), measure)
    if as_json:
        print(json.dumps([result.model_dump(mode="json") for result in results], sort_keys=True, indent=1))
    else:
        from .benchmark.reports.tables import measure_table

        print(measure_table(results))


@app.command()
def label(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    pair: Annotated[str | None, typer.Option(help="The run's pair file, if it is not a shipped pair.")] = None,
    per_set: Annotated[int, typer.Option(min=1, help="Pairs per set, training and held-out.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw and of the order.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a blinded sheet of pairs to label; with answers in the folder, print precision by threshold."""
    from .benchmark.reports import label_sheet
    from .benchmark.results.run_folder import read_run

    folder = read_run(run_folder)
    if (folder.path / "label" / "answers.json").is_file():
        found = label_sheet.precision(folder)
        print(json.dumps(found, indent=1) if as_json else label_sheet.as_text(found))
        return
    print("loading torch ...", file=sys.stderr, flush=True)
    with folder.locked():
        sheet = label_sheet.sheet_for(folder, pair, per_set, seed)
    print(f"{sheet}\nopen it in a browser, save the answers as {sheet.parent / 'answers.json'}, run this again")


@app.command()
def gate(
    subject: Annotated[str, typer.Argument(metavar="PAIR|RUN", help="A pair to attack, or a finished run's folder.")],
    policy: Annotated[
        Path, typer.Option(metavar="FILE", help="Policy file, or `example` (benchmark/gate/policies/example.yaml).")
    ],
    baseline: Annotated[
        Path | None, typer.Option(metavar="RUN|RECORD", help="The last release: a run, a gate's folder, or a record.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The candidate model, instead of the pair's.")] = None,
    pair: Annotated[str | None, typer.Option(help="With RUN: its pair file, if it is not a shipped pair.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write JUnit XML.")] = None,
    summary: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Write a Markdown summary.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page; it holds no image.")] = None,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Folder in which the gate's folder is made.")] = Path("runs"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Use nothing of an earlier gate.")] = False,
    as_json: AsJson = False,
) -> int:
    """Does the model leak more than a policy allows? Exit codes: 0 no, 1 yes, 4 the gate cannot tell."""
    from .benchmark.gate import text as gate_output
    from .benchmark.gate import write_files
    from .benchmark.gate.policy import load_policy
    from .benchmark.progress import reporter_for

    loaded = load_policy(policy)
    write_files.check_places([junit, summary, report])
    print("loading torch and diffusers ...", file=sys.stderr, flush=True)
    from .benchmark.gate import judge
    from .leaderboards.gate_baseline import read_baseline

    last = None if baseline is None else read_baseline(baseline)
    with reporter_for(sys.stderr) as progress:
        decision = judge.judge(
            subject,
            loaded,
            model=model,
            pair=pair,
            baseline=last,
            device=device,
            out=out,
            fresh=fresh,
            progress=progress,
        )
    write_files.write_files(decision, junit_file=junit, summary=summary, report=report)
    print(json.dumps(gate_output.as_dict(decision), indent=1) if as_json else gate_output.as_text(decision))
    return decision.exit_code


@app.command()
def replay(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    candidate: Annotated[int, typer.Argument(metavar="CANDIDATE", help="Its number, from 0.")],
    attack: Annotated[str, typer.Option(help="Attack that made it.")],
    seed: Annotated[int, typer.Option(min=0, help="Run seed.")] = 0,
    pair: Annotated[str | None, typer.Option(help="The run's pair file, if it is not a shipped pair.")] = None,
    out: Annotated[Path | None, typer.Option(help="PNG to write; default: in the run folder.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Make one candidate of a run again from its stored state, and compare it with the run's image."""
    from .benchmark.results.run_folder import read_run

    folder = read_run(run_folder)
    print("loading torch and diffusers ...", file=sys.stderr, flush=True)
    from .benchmark.runs import replay as replaying

    found = replaying.replay(folder, attack, candidate, seed=seed, pair=pair, device=device, out=out)
    print(json.dumps(replaying.as_dict(found), indent=1) if as_json else replaying.as_text(found))


@app.command()
def train(
    pair: Annotated[str, typer.Argument(metavar="PAIR", help="A pair with a recipe.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make; default: ./PAIR-model.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed than the recipe's.")] = None,
    split_seed: Annotated[int | None, typer.Option(min=0, help="Split the images anew by this seed.")] = None,
    duplicate_rms: Annotated[
        float | None, typer.Option(help="De-duplication: one image of each group at most this far apart (rms).")
    ] = None,
    stop_after: Annotated[int | None, typer.Option(help="Early stopping: leave off after this step.")] = None,
    shift: Annotated[int | None, typer.Option(help="Augmentation: move images by up to this many pixels.")] = None,
    skip_below: Annotated[
        float | None, typer.Option(help="Skip samples with less than this share of the usual loss at their timestep.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Train a pair's model again from its recipe, defended or not, as a diffusers folder with a pair file."""
    from .benchmark.data.pair import load_pair
    from .benchmark.progress import reporter_for

    loaded = load_pair(pair)
    print("loading torch and diffusers ...", file=sys.stderr, flush=True)
    from .benchmark.models.zoo.train import train as make

    with reporter_for(sys.stderr) as progress:
        target = out or Path(f"{loaded.name}-model")
        given = {"seed": seed, "duplicate_rms": duplicate_rms, "stop_after": stop_after}
        given |= {"shift": shift, "skip_below": skip_below}
        changes = {key: value for key, value in given.items() if value is not None}
        print(make(loaded, target, device, progress, split_seed=split_seed, changes=changes))


@app.command()
def new(
    kind: Annotated[str, typer.Argument(metavar="attack|defence|measure")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and hyphens.")],
    out: Annotated[Path | None, typer.Option(help="Folder to make; default: ./NAME.")] = None,
) -> None:
    """Write a package with a working attack, defence or measure, its test and its page, to start from."""
    from .benchmark.runs.new_plugin import write_skeleton

    for file in write_skeleton(kind, name, out or Path(name)):
        print(file)


@app.command()
def tune(
    pair: Annotated[str, typer.Argument(metavar="PAIR", help="A pair with a recipe.")],
    attack: Annotated[str, typer.Option(help="Attack to tune.")],
    defence: Annotated[
        list[str] | None, typer.Option("--defence", "--defense", help="Tune against a victim behind this defence.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="DEFENCE.KEY=VALUE", help="Change a defence's setting.")
    ] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--try", metavar="KEY=V1,V2,...", help="Values of a setting; default: the attack's own grid."),
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates per value.")] = 1024,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shadow victim and its candidates.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for victim and curve; default: ./PAIR-tuning.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Try settings on a shadow victim, which no reported number uses."""
    from .benchmark.data.pair import load_pair
    from .benchmark.progress import reporter_for

    loaded = load_pair(pair)
    grid, settings = _grid(values or []), _settings(set_ or [])
    print("loading torch and diffusers ...", file=sys.stderr, flush=True)
    from .benchmark.runs import tune as tuning

    target = out or Path(f"{loaded.name}-tuning")
    with reporter_for(sys.stderr) as progress:
        curve = tuning.tune(
            loaded,
            attack,
            grid,
            candidates=candidates,
            out=target,
            seed=seed,
            device=device,
            defences=defence or (),
            settings=settings,
            progress=progress,
        )
    print(curve.model_dump_json(indent=1) if as_json else tuning.as_text(curve))


@app.command()
def ablate(
    pair: Annotated[str, typer.Argument(metavar="PAIR", help="A shipped pair's name or a pair file.")],
    attack: Annotated[str, typer.Option(help="Attack to take apart.")] = "side",
    tier: Annotated[str | None, typer.Option(help="smoke, quick (default), standard, paper or full.")] = None,
    candidates: Annotated[int | None, typer.Option(help="Number of candidates, instead of a tier.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Run seed; may be given several times.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="ATTACK.KEY=VALUE", help="Change a setting of them all.")
    ] = None,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Folder in which the run folder is made.")] = Path("ablations"),
    as_json: AsJson = False,
) -> int:
    """Run an attack and the same with one thing taken away at a time, and print the table."""
    from .benchmark.data.pair import load_pair
    from .benchmark.progress import reporter_for

    loaded, settings = load_pair(pair), _settings(set_ or [])
    print("loading torch and diffusers ...", file=sys.stderr, flush=True)
    from .benchmark.runs import ablate as ablating
    from .benchmark.runs import runner
    from .benchmark.runs.plan import plan_run

    names = ablating.ablations_of(loaded, attack, settings)
    with reporter_for(sys.stderr) as progress:
        planned = plan_run(
            loaded,
            attacks=names,
            tier=tier,
            candidates=candidates,
            seeds=seed or (0,),
            settings=settings,
            device=device,
            out=out,
            progress=progress,
        )
        result = runner.execute(planned, progress)
    for error in result.failures.values():
        _complain(str(error))
    if result.metrics is not None:
        rows = ablating.ablation_rows(result.folder, result.metrics, attack, names)
        print(
            json.dumps([row._asdict() for row in rows], indent=1)
            if as_json
            else ablating.as_text(rows, result.metrics) + f"\n\nrun folder: {result.folder.path} (report.html)"
        )
    return max((error.exit_code for error in result.failures.values()), default=0)


@app.command()
def bench(
    pair: Annotated[str, typer.Argument(metavar="PAIR")] = "digits",
    attack: Annotated[str | None, typer.Option(help="Time this attack's guided step too.")] = None,
    scoring: Annotated[bool, typer.Option("--scoring", help="Time the scoring of random images instead.")] = False,
    candidates: Annotated[int, typer.Option(min=1, help="With --scoring: candidates.")] = 1024,
    references: Annotated[int, typer.Option(min=1, help="With --scoring: images on either side.")] = 5000,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure speed on this machine: sampling loop against denoiser, search against matrix product."""
    from .benchmark.data.pair import load_pair

    loaded = load_pair(pair)
    print("loading torch and diffusers ...", file=sys.stderr, flush=True)
    from .benchmark.runs import bench as benches

    figures = benches.scoring(candidates, references, device) if scoring else benches.measure(loaded, device, attack)
    print(json.dumps(figures, indent=1) if as_json else benches.as_text(figures))


@app.command()
def theory(
    pair: Annotated[str | None, typer.Argument(metavar="[PAIR]", help="Measure this pair's model too.")] = None,
    epsilon: Annotated[float, typer.Option(min=1e-3, help="Width of the normals around the images.")] = 0.1,
    draws: Annotated[int, typer.Option(min=2, help="Monte Carlo draws on the pair's model.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every draw.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure the memorization divergence: against closed forms, or of a pair's model on X and H."""
    from .benchmark.data.pair import load_pair

    loaded = None if pair is None else load_pair(pair)
    print("loading torch ...", file=sys.stderr, flush=True)
    from .benchmark.measures import theory as checks

    if loaded is None:
        found = checks.demonstration(seed)
        print(json.dumps(found, indent=1) if as_json else checks.as_text(found))
        return
    measured = checks.divergence_of_pair(loaded, epsilon, draws=draws, seed=seed, device=device)
    print(json.dumps(measured, indent=1) if as_json else checks.pair_as_text(measured))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what works on this machine, and what to do about the rest."""
    print("loading torch ...", file=sys.stderr, flush=True)
    from .benchmark.runs import doctor as checks

    found = checks.examine()
    print(json.dumps([check._asdict() for check in found], indent=1) if as_json else checks.as_text(found))


@leaderboard.callback(invoke_without_command=True)
def _leaderboard(context: typer.Context) -> None:
    _help_alone(context)


@leaderboard.command()
def add(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    submitter: Annotated[str, typer.Option("--as", metavar="NAME", help="Who claims it: a name of your choice.")],
    attack: Annotated[list[str] | None, typer.Option(help="Attack to record; default: every one of the run.")] = None,
    tuning: Annotated[
        list[Path] | None, typer.Option(metavar="CURVE", help="Curve of `sidebench tune` to show with the record.")
    ] = None,
    records: Records = RECORDS,
) -> None:
    """Write a record for each attack of a run, over all of its seeds."""
    from .benchmark.results.run_folder import read_run
    from .leaderboards.make_records import add_records

    for file in add_records(read_run(run_folder), submitter, attack or (), records, tuning or ()):
        print(file)


@leaderboard.command()
def check(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[RECORD...]", help="Default: every record.")] = None,
    records: Records = RECORDS,
    run_folder: Annotated[
        Path | None, typer.Option("--run", help="Submitted run folder of the one RECORD named, to challenge it.")
    ] = None,
    challenge: Annotated[int, typer.Option(min=1, help="Candidates to make again from RUN's state.")] = 32,
    pair: Annotated[str | None, typer.Option(help="The record's pair file, if it is not a shipped pair.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> int:
    """Check records: schema, hashes, impossible counts, duplicates; with --run, make drawn candidates again."""
    from .leaderboards.check import check_files
    from .leaderboards.read_records import record_files

    chosen = files or record_files(records)
    problems = check_files(chosen, None if files else records)
    for problem in problems:
        _complain(str(problem))
    if problems or run_folder is None:
        print(f"{len(chosen):,} records, {len(problems):,} problems", file=sys.stderr)
        if as_json:
            print(json.dumps([problem._asdict() for problem in problems], indent=1))
        return WRONG_USAGE if problems else 0
    if len(chosen) != 1:
        raise BadSetting(f"--run challenges one record: name its file, there are {len(chosen)}")
    print("loading torch and diffusers ...", file=sys.stderr, flush=True)
    from .benchmark.progress import reporter_for
    from .benchmark.results.run_folder import read_run
    from .leaderboards import challenge as challenges

    with reporter_for(sys.stderr) as progress:
        found = challenges.challenge(
            chosen[0], read_run(run_folder), challenge, pair=pair, device=device, progress=progress
        )
    print(found.model_dump_json(indent=1, by_alias=True) if as_json else challenges.as_text(found))
    return 0 if found.agreed == found.checked else WRONG_USAGE


@leaderboard.command()
def publish(
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Dataset repository on the Hub.")],
    records: Records = RECORDS,
    send: Annotated[bool, typer.Option("--send", help="Send it; without this, only show what would be sent.")] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="As a pull request, for a repository of others.")
    ] = False,
) -> None:
    """Show, or send, the records that a dataset repository on the Hub lacks."""
    from .leaderboards import publish as publishing

    found = publishing.prepare(repo, records)
    print(publishing.as_text(found))
    if not send:
        print("nothing was sent: add --send", file=sys.stderr)
    elif found.new:
        print(publishing.send(found, create_pr=create_pr))


@leaderboard.command()
def build(
    records: Records = RECORDS,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the site; default: ./leaderboard-site, or none with --readme.")
    ] = None,
    readme: Annotated[
        Path | None, typer.Option(help="Markdown file whose tables between the markers are made again.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Do not write: fail if the README is out of date.")] = False,
) -> None:
    """Rank records and write the static site with its tables (CSV, Markdown, text, LaTeX), from records alone."""
    from .leaderboards import build as building

    built = building.build(records, out, readme, check=check)
    for warning in built.warnings:
        _complain(warning)
    print(built.text)


def _help_alone(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def _settings(assignments: list[str]) -> dict[str, dict[str, Any]]:
    """Parse `attack.key=value`; the value is read as YAML, so numbers are numbers."""
    settings: dict[str, dict[str, Any]] = {}
    for text in assignments:
        target, equals, value = text.partition("=")
        attack, dot, key = target.rpartition(".")
        if not (equals and dot and attack and key):
            raise BadSetting(f"--set {text!r}: write it as ATTACK.KEY=VALUE")
        settings.setdefault(attack, {})[key] = _value("--set", text, value)
    return settings


def _grid(choices: list[str]) -> dict[str, list[Any]]:
    """Parse `key=v1,v2,...` into the values to try by setting."""
    grid: dict[str, list[Any]] = {}
    for text in choices:
        key, equals, values = text.partition("=")
        if not (equals and key and values.strip(", ")):
            raise BadSetting(f"--try {text!r}: write it as KEY=V1,V2,...")
        grid[key] = [_value("--try", text, value) for value in values.split(",") if value.strip()]
    return grid


def _value(option: str, text: str, value: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise BadSetting(f"{option} {text!r}: {value!r} cannot be read") from None


def _complain(message: str) -> None:
    print("sidebench: " + printable(" ".join(message.split())), file=sys.stderr)
