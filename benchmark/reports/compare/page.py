"""The page of `sidebench compare`: one self-contained HTML file on several runs, and its pictures as files."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...errors import BadInput
from ...files import write_atomic, write_text
from ...results.run_folder import RunFolder
from .. import figures, tables
from ..page import Picture, inlined, scrubbed, written
from ..page_data import Contents, UnitContents, read_contents
from ..plot_style import picture_file, styled
from ..templates import environment
from ..verdict import checks
from . import figures as compared_figures
from . import verdict
from .compare_runs import baseline_first
from .schema import Comparing, leak_per_quality_rows, leak_rows, price_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Group(NamedTuple):
    """What was compared with one attack of the baseline: units by the name of their line, the baseline's first."""

    name: str
    stem: str
    """For names of pictures."""
    units: dict[str, UnitContents]


def write_page(found: Comparing, folders: Sequence[RunFolder], target: Path, *, with_images: bool = False) -> None:
    """Write one HTML page on the runs of `folders`, which `found` compares, without any outside reference.

    Without `with_images` it holds numbers only, and training images by keyed hash.
    """
    runs = _read(found, folders, with_images=with_images)
    page = environment().get_template("compare.html.j2").render(_page(found, runs), with_images=with_images)
    write_text(target, page)


def write_figures(found: Comparing, folders: Sequence[RunFolder], target: Path, *, force: bool = False) -> list[Path]:
    """Write every picture of the page as SVG and PNG into a folder, which is made; return the files.

    Files that sidebench did not write are replaced only with `force`.
    """
    return written(pictures(found, folders), target, force=force)


def pictures(found: Comparing, folders: Sequence[RunFolder]) -> dict[str, Picture]:
    """Return every picture of the page by the stem of its file's name, none of them drawn yet."""
    return _pictures(found, _groups(found, _read(found, folders)))


def write_plot(found: Comparing, target: Path) -> None:
    """Write the plot of leak against quality, a panel per yardstick, as SVG or PNG by the file's ending.

    Raises:
        BadInput: another ending.
    """
    if target.suffix not in (".svg", ".png"):
        raise BadInput(f"{target.name}: a plot is written as .svg or .png")
    with styled():
        figure = compared_figures.against_quality(found, found.yardsticks())
        content = picture_file(figure, "compare", target.suffix[1:])
    write_atomic(target, lambda file: file.write_bytes(content))


def _read(found: Comparing, folders: Sequence[RunFolder], *, with_images: bool = False) -> dict[str, Contents]:
    """Return what each run holds by its label, the baseline first."""
    labels = [run.label for run in found.runs]
    ordered = baseline_first(folders)
    return {
        label: read_contents(folder, with_images=with_images)
        for label, folder in zip(labels, ordered, strict=True)
    }  # fmt: skip


def _groups(found: Comparing, runs: dict[str, Contents]) -> list[Group]:
    """Return, for each attack of the baseline, the first unit of it and of all that was compared with it.

    Runs with another headline measure have no scores by that of the baseline, and are left out.
    """
    measure = runs[found.baseline].measure.id
    groups: list[Group] = []
    for against in dict.fromkeys(leak.against for leak in found.leaks):
        compared = [(leak.run, leak.attack) for leak in found.leaks if leak.against == against]
        units = {}
        for run, attack in dict.fromkeys([(found.baseline, against), *compared]):
            own = next((unit for unit in runs[run].units if unit.result.attack == attack), None)
            if own is not None and runs[run].measure.id == measure:
                units[run if attack == against else f"{run}: {attack}"] = own
        groups.append(Group(against, str(len(groups)), units))
    return groups


def _pictures(found: Comparing, groups: Sequence[Group]) -> dict[str, Picture]:
    """Return every picture by the stem of its file's name."""
    drawn = {}
    for place, yardstick in enumerate(found.yardsticks()):
        said = f"Leak of each attack by run, by {yardstick}, with 95 % intervals"
        drawn[f"leak-{place}"] = Picture(said, partial(compared_figures.leaks, found, yardstick))
    if compared_figures.measured_quality(found):
        for place, yardstick in enumerate(found.yardsticks()):
            said = f"Leak by {yardstick} over the Frechet distance of the images"
            drawn[f"quality-{place}"] = Picture(said, partial(compared_figures.against_quality, found, [yardstick]))
    for group in groups:
        for kind, (said, draw) in _of_group(group).items():
            drawn[f"{kind}-{group.stem}"] = Picture(f"{said}: {group.name}", draw)
    return drawn


def _of_group(group: Group) -> dict[str, tuple[str, "Callable[[], Figure]"]]:
    from ...registry import make_measure

    units = group.units
    first = next(iter(units.values()))
    measure = make_measure(first.result.measure)
    best = {name: unit.best["training"] for name, unit in units.items()}
    found: dict[str, tuple[str, Callable[[], Figure]]] = {
        "scores": (
            "Histogram of best-match scores by run",
            partial(compared_figures.histogram, best, first.best["held_out"], measure),
        )
    }
    curves = {name: unit.curves for name, unit in units.items() if unit.curves.excess is not None}
    if curves:
        found["thresholds"] = (
            "Excess by threshold and run, with 95 % intervals",
            partial(compared_figures.thresholds, curves, measure),
        )
    results = {name: unit.result for name, unit in units.items() if unit.result.richness is not None}
    if results:
        found["rarefaction"] = (
            "Unique groups of training images found, by number of candidates and run",
            partial(figures.rarefaction, list(results.values()), list(results)),
        )
    return found


def _page(found: Comparing, runs: dict[str, Contents]) -> dict[str, Any]:
    """Return the template's variables."""
    groups = _groups(found, runs)
    return {
        "found": found,
        "headline": verdict.headline(found),
        "badge": verdict.badge(found),
        "sentences": verdict.sentences(found),
        "pictures": {name: inlined(name, picture) for name, picture in _pictures(found, groups).items()},
        "groups": groups,
        "runs": runs,
        "measure": runs[found.baseline].measure,
        "leaks": {name: leak_rows(found, name) for name in found.yardsticks()},
        "per_quality": leak_per_quality_rows(found),
        "prices": price_rows(found),
        "costs": {label: tables.cost_rows(contents.metrics.costs) for label, contents in runs.items()},
        "checks": {
            label: checks(contents.metrics, contents.audit, contents.quality, contents.costs)
            for label, contents in runs.items()
        },
        "manifests": {label: scrubbed(contents.manifest) for label, contents in runs.items()},
        "version": runs[found.baseline].manifest["environment"]["versions"]["sidebench"],
    }
