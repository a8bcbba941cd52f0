"""`sidebench list`, `show`, `report`, `compare`, `score` and `label`: what is there, and what finished runs say."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..benchmark.errors import BadSetting
from .options import FULL, OLD_PLOT, AsJson, Figures, FinishedRun, Force, OldPlot, PairOfRun, Run, RunAsJson
from .output import loading, show


def list_(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="pairs, attacks, defences, detectors, measures or models.")
    ],
    as_json: AsJson = False,
) -> None:
    """List what is there by name."""
    from ..benchmark.reports import catalogue

    rows = catalogue.listing(kind)
    show(rows, catalogue.as_text(rows, kind), as_json)


def show_(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="A name that `sidebench list` shows, a file of your own, or a run folder."),
    ],
    every_table: Annotated[bool, typer.Option("--all", help="Of a run folder: all tables.")] = False,
    as_config: Annotated[
        bool, typer.Option("--config", help="Of a run folder: its options, as `sidebench run --config` takes them.")
    ] = False,
    as_json: RunAsJson = None,
) -> None:
    """Show one pair, attack, defence, detector, measure, model of your own or run folder."""
    if as_config:
        from ..benchmark.results.run_folder import read_run
        from ..benchmark.runs.run_config import config_of

        print(config_of(read_run(name)), end="")
        return
    from ..benchmark.reports.catalogue import describe

    found = describe(name, every_table=every_table or as_json == FULL)
    show(found.data, found.text, as_json is not None)


def report(
    run_folder: Run,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="File to write; default: report.html in the run folder.")
    ] = None,
    with_images: Annotated[bool, typer.Option("--with-images", help="Put the strongest pairs' pictures in.")] = False,
    figures: Figures = None,
    force: Force = False,
) -> None:
    """Write the HTML report of a run, one file that works without a network."""
    from ..benchmark.files import check_output
    from ..benchmark.reports.page import write_figures, write_report
    from ..benchmark.results.run_folder import read_run

    check_output(out, force=force)
    folder = read_run(run_folder)
    target = out or folder.report_file
    write_report(folder, target, with_images=with_images)
    print(target)
    for file in write_figures(folder, figures, force=force) if figures else ():
        print(file)


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Finished run folders of one pair.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE.html", help="File to write; default: none.")] = None,
    plot: OldPlot = None,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="With --out: the strongest pairs' pictures.")
    ] = False,
    figures: Figures = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compare finished runs: leak before and after a defence, quality and time; or attacks across runs."""
    from ..benchmark.files import check_output
    from ..benchmark.reports.compare import page, schema, verdict
    from ..benchmark.reports.compare.compare_runs import compare_runs
    from ..benchmark.reports.layout import reader_width
    from ..benchmark.results.run_folder import read_run

    if with_images and out is None:
        raise BadSetting("--with-images puts pictures into a page: give it --out FILE.html")
    for target in (out, plot):
        check_output(target, force=force)
    folders = [read_run(path) for path in runs]
    found = compare_runs(folders)
    show(found, schema.as_text(found, verdict.sentences(found), reader_width()), as_json)
    if out is not None:
        page.write_page(found, folders, out, with_images=with_images)
    if plot is not None:
        page.write_plot(found, plot)
        print(OLD_PLOT, file=sys.stderr)
    for file in page.write_figures(found, folders, figures, force=force) if figures else ():
        print(file, file=sys.stderr)


def score(
    run_folder: Run,
    bands: Annotated[str | None, typer.Option(metavar="NAME=LOW:HIGH,...", help="Bands, closest first.")] = None,
    measure: Annotated[
        str | None, typer.Option(help="With --bands: a measure of the run; default: its headline.")
    ] = None,
    copying: Annotated[
        bool, typer.Option("--copying", help="Add AuthPct and C_T to the run folder; its next report shows them.")
    ] = False,
    pair: PairOfRun = None,
    as_json: AsJson = False,
) -> None:
    """Compute more from a finished run, without the model: rates for other bands, or global figures of copying."""
    if (bands is None) != copying:
        raise BadSetting("give --bands NAME=LOW:HIGH,... or --copying, one of the two")
    if bands is None:
        _score_copying(run_folder, pair, as_json)
        return
    from ..benchmark.reports.layout import reader_width
    from ..benchmark.reports.tables import measure_table
    from ..benchmark.results.rescore import parse_bands, rescore
    from ..benchmark.results.run_folder import read_run

    results = rescore(read_run(run_folder), parse_bands(bands), measure)
    show(results, measure_table(results, width=reader_width()), as_json, sort_keys=True)


def _score_copying(run_folder: Path, pair: str | None, as_json: bool) -> None:
    loading("torch")
    from ..benchmark.reports.layout import reader_width
    from ..benchmark.reports.tables import copying_table
    from ..benchmark.results.copying_figures import write_copying
    from ..benchmark.results.run_folder import read_run

    folder = read_run(run_folder)
    with folder.locked():
        found = write_copying(folder, pair)
    show(found, copying_table(found, reader_width()), as_json, sort_keys=True)


def label(
    run_folder: FinishedRun,
    pair: PairOfRun = None,
    per_set: Annotated[int, typer.Option(min=1, help="Pairs per set, training and held-out.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw and of the order.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Make a blinded sheet of pairs to label; with answers in the folder, print precision by threshold."""
    from ..benchmark.reports import label_sheet
    from ..benchmark.results.run_folder import read_run

    folder = read_run(run_folder)
    if (folder.path / "label" / "answers.json").is_file():
        found = label_sheet.precision(folder)
        show(found, label_sheet.as_text(found), as_json)
        return
    loading("torch")
    with folder.locked():
        sheet = label_sheet.sheet_for(folder, pair, per_set, seed)
    print(f"{sheet}\nopen it in a browser, save the answers as {sheet.parent / 'answers.json'}, run this again")
