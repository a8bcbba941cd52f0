"""The report of a run: one self-contained HTML page from the files of its folder, and its pictures as files."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..environment import files_hash, harness_code
from ..files import check_output, content_sha256, read_json, write_atomic, write_text
from ..measures import detector_audit
from ..results.copying_figures import copying_file
from ..results.run_folder import RunFolder, believing, unit_name
from ..results.sums import SUMS
from . import attack_diagnostics, figures, label_sheet, tables, tuning_plot, verdict
from .page_data import Contents, read_contents
from .plot_style import inline, picture_file, styled, to_svg
from .templates import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PATH = re.compile(r"(?<![\w/:.~-])(?:file:/*|~|[A-Za-z]:)?[/\\]+[\w.@+-]+(?:[/\\]+[\w.@+-]*)*")
"""An absolute path within a text; not a URL, whose slashes follow a colon or a name."""


_NO_STEM = re.compile(r"[^\w.,:=+-]")
"""What no name of a picture's file holds: names of units and attacks come from the run's files."""


class Picture(NamedTuple):
    """One figure: what it shows in words, and how it is drawn."""

    title: str
    draw: "Callable[[], Figure]"


@believing
def write_report(
    folder: RunFolder, target: Path | None = None, *, with_images: bool = False, renew: bool = True
) -> None:
    """Write the HTML report of a finished run, one file without any outside reference.

    Args:
        folder: the run, as `execute` hands it back or `read_run` opens it.
        target: the file to write. By default report.html in the run folder; the run of a reference model, a run
            folder inside this one, then gets its own report as well.
        with_images: put the pictures of the strongest pairs in. Without them the page holds numbers only, and
            training images by keyed hash: extracted images are somebody's data.
        renew: write it even where the page that is there was made by this version from the same files.

    Raises:
        BadInput: the run has no results yet, or the file cannot be written.
        CorruptRun: a file of the run is missing, or contradicts the rest of the folder.
    """
    file, made_of = target or folder.report_file, _made_of(folder, with_images=with_images)
    if renew or not _is_of(file, made_of):
        contents = read_contents(folder, with_images=with_images)
        page = environment().get_template("report.html.j2").render(_page(contents), with_images=with_images)
        write_text(file, page + _mark(page, made_of))
    if target is None and read_json(folder.manifest_file)["control"] == "reference-model":
        write_report(folder.reference(), with_images=with_images, renew=renew)


def _made_of(folder: RunFolder, *, with_images: bool) -> str:
    """Return a hash of everything that a page is made from: the run's files, and this version's code and templates."""
    here = Path(__file__).parent
    templates = sorted([*here.glob("*.j2"), *here.glob("*.css")])
    answers = label_sheet.answers_file(folder)
    own = [folder.path / SUMS, folder.manifest_file, copying_file(folder), answers, answers.with_name("key.json")]
    own += sorted(folder.tuning_file("any").parent.glob("*.json"))
    files = files_hash(file for file in (*templates, *own) if file.is_file())
    return content_sha256([harness_code(), files, with_images])


def _mark(page: str, made_of: str) -> str:
    """Return the line that ends a page, by which it is known again."""
    return f"\n<!-- {content_sha256([page, made_of])} -->\n"


def _is_of(file: Path, made_of: str) -> bool:
    """Return whether a page stands here as it was written, of the same files.

    Whoever hands over a folder can forge its page so that it stays, as he can its metrics.json.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    page, found, _ = text.rpartition("\n<!-- ")
    return bool(found) and text == page + _mark(page, made_of)


@believing
def write_figures(folder: RunFolder, target: Path, *, force: bool = False) -> list[Path]:
    """Write every picture of the report as SVG and PNG into a folder, which is made; return the files.

    None shows an image of the data. The SVGs are the same bytes for the same run. Files that sidebench did not write
    are replaced only with `force`.
    """
    return written(pictures(read_contents(folder)), target, force=force)


def written(drawn: dict[str, Picture], target: Path, *, force: bool = False) -> list[Path]:
    """Write pictures, by the stem of their file's name, as SVG and PNG into a folder; return the files.

    Raises:
        BadInput: a file of this name is there that sidebench did not write, without `force`; none is written then.
    """
    files = {target / f"{_NO_STEM.sub('-', name)}.{kind}": (name, kind) for name in drawn for kind in ("svg", "png")}
    for file in files:
        check_output(file, force=force)
    for file, (name, kind) in files.items():
        with styled():
            content = picture_file(drawn[name].draw(), name, kind)
        write_atomic(file, lambda part, content=content: part.write_bytes(content))  # type: ignore[misc]
    return list(files)


def scrubbed(value: Any) -> Any:
    """Return JSON with every absolute path in its texts and keys taken out: a page is passed on, a folder is not."""
    if isinstance(value, dict):
        return {scrubbed(key): scrubbed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [scrubbed(inner) for inner in value]
    return _PATH.sub("(path)", value) if isinstance(value, str) else value


def pictures(contents: Contents) -> dict[str, Picture]:
    """Return every picture by the stem of its file's name."""
    headline, measure = contents.headline, contents.measure
    found = {}
    if any(result.bands for result in headline):
        found["overview"] = Picture(
            "Hit rate in the closest band by attack, and that of its control, with 95 % intervals",
            partial(figures.overview, headline),
        )
        found["rarefaction"] = Picture(
            "Unique groups of training images found, by number of candidates, with 95 % intervals",
            partial(figures.rarefaction, headline),
        )
    found["detector"] = Picture(
        "Known copies found and non-copies called copies, by threshold, a panel for each of six kinds of change",
        partial(figures.audit, contents.audit, measure),
    )
    for curve in contents.tunings:
        found[f"tuning-{curve.attack}"] = Picture(
            f"Hit rate on training and held-out images by the settings that were tried on {curve.on}: {curve.attack}",
            partial(tuning_plot.draw, curve),
        )
    for unit in contents.units:
        label = f"{unit.result.attack}, seed {unit.result.seed}"
        found[f"scores-{unit.name}"] = Picture(
            f"Histogram of best-match scores, and that of the control: {label}",
            partial(figures.histogram, unit.best, measure),
        )
        found[f"thresholds-{unit.name}"] = Picture(
            f"AMS and UMS by threshold, with 95 % intervals: {label}",
            partial(figures.thresholds, unit.curves, measure, contents.metrics.claims_excess),
        )
        if figures.DIAGNOSED & unit.info.keys():
            found[f"preparation-{unit.name}"] = Picture(
                f"Cohesion and size of clusters, and how often the classifier is right by timestep: {label}",
                partial(figures.diagnostics, unit.info, unit.cohesion),
            )
    return found


def _page(contents: Contents) -> dict[str, Any]:
    """Return the template's variables."""
    metrics, costs = contents.metrics, contents.costs
    claims = metrics.claims_excess
    return {
        "metrics": metrics,
        "flags": contents.flags,
        "manifest": scrubbed(contents.manifest),
        "measure": contents.measure,
        "units": contents.units,
        "tunings": contents.tunings,
        "headline": verdict.headline(metrics),
        "verdicts": tables.verdicts(metrics),
        "own_images": tables.own_image_rows(metrics),
        "caption_flags": tables.caption_flag_rows(metrics),
        "exposures": tables.exposure_rows(metrics),
        "exposure_note": tables.EXPOSURE_NOTE,
        "caption_flag_note": tables.CAPTION_FLAG_NOTE,
        "caption_flag_refusals": tables.caption_flag_refusals(metrics),
        "own_image_note": tables.own_image_note(metrics) if metrics.own_images else "",
        "checks": verdict.checks(metrics, contents.audit, contents.quality, costs),
        "pictures": {name: inlined(name, picture) for name, picture in pictures(contents).items()},
        "rates": {
            name: _grouped(tables.measure_rows(found, claims_excess=claims, detailed=True))
            for name, found in tables.by_measure(metrics).items()
        },
        "calibrated": _grouped(tables.calibrated_rows(metrics)) if claims else [],
        "refusals": sorted({found.refused for r in metrics.results for found in r.calibrated if found.refused}),
        "comparisons": tables.comparison_rows(metrics),
        "ratios": tables.ratio_rows(metrics),
        "ratios_refused": sorted({found.ratio_refused for found in metrics.attack_ratios if found.ratio_refused}),
        "audit_rows": detector_audit.table_rows(contents.audit, contents.measure.id),
        "audit": contents.audit,
        "reach_note": tables.reach_note(metrics),
        "reach_rows": tables.reach_rows(metrics),
        "diagnostics": attack_diagnostics.table_rows(
            {f"{unit.result.attack}, seed {unit.result.seed}": unit.info for unit in contents.units}
        ),
        "quality": tables.quality_rows(contents.quality),
        "copying": tables.copying_rows(contents.copying),
        "labels": [] if contents.labels is None else label_sheet.precision_rows(contents.labels),
        "costs": costs,
        "cost_rows": _cost_rows(contents),
        "efforts": _grouped(tables.effort_rows(metrics.efforts), "budget"),
        "efforts_refused": sorted({f"{found.attack}: {found.refused}" for found in metrics.efforts if found.refused}),
        "reference_cost_rows": tables.cost_rows(metrics.reference_costs),
    }


def inlined(name: str, picture: Picture) -> dict[str, str]:
    """Return a picture's title and its SVG for the inside of a page."""
    with styled():
        return {"title": picture.title, "svg": inline(to_svg(picture.draw(), name))}


def _grouped(rows: list[dict[str, Any]], by: str = "attack") -> list[tuple[str, list[dict[str, Any]]]]:
    """Group table rows by one column and the seed, which become the heading of each group."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        band = f", band {row['band']}" if by == "budget" and "band" in row else ""
        label = f"{row[by]}, seed {row['seed']}{band}"
        shown = {k: v for k, v in row.items() if k not in (by, "seed") and not (band and k == "band")}
        found.setdefault(label, []).append(shown)
    return list(found.items())


def _cost_rows(contents: Contents) -> list[dict[str, Any]]:
    """Return the logical cost of each unit beside what varies: seconds, and the probe's deviation."""
    rows = []
    for row in tables.cost_rows(contents.metrics.costs):
        unit = contents.costs["units"][unit_name(row["attack"], row["seed"])]
        times = {f"{phase}, s": f"{unit[f'{phase}_seconds']:.1f}" for phase in ("prepare", "generate")}
        rows.append({**row, **times, "largest deviation, of 255": unit["probe"]["largest"]})
    return rows
