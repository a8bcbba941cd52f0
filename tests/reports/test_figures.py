"""Pictures: the numbers behind them, the same bytes each time, legible on light and dark, names that stay text."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidebench.benchmark.contracts import Measure
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.reports import figures, plot_style
from sidebench.benchmark.reports.page import write_figures
from sidebench.benchmark.reports.page_data import Contents, read_contents

CSS = Path(plot_style.__file__).with_name("tokens.css").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def contents(finished: Any) -> Contents:
    return read_contents(finished.folder)


@pytest.fixture(scope="module")
def measure(contents: Contents) -> Measure:
    return contents.measure


def svg(draw: Any, *arguments: Any) -> str:
    with plot_style.styled():
        return plot_style.to_svg(draw(*arguments), "test")


# ---- Curves -----------------------------------------------------------------------------------------


def test_curves_agree_with_the_rates_at_band_edges(contents: Contents) -> None:
    for unit in contents.units:
        for band in unit.result.bands:
            if band.low > 0:  # the curves are cumulative, as are the closest band and the unions
                continue
            place = unit.curves.thresholds.index(band.high)
            for side, found in (("training", band.training), ("held_out", band.held_out)):
                for rates, rate in ((unit.curves.ams, found.ams), (unit.curves.ums, found.ums)):
                    assert rates[side][place] == pytest.approx((rate.value, rate.low, rate.high))
            excess = band.excess
            assert unit.curves.excess[place] == pytest.approx((excess.value, excess.low, excess.high))


def test_curves_only_rise_and_lie_in_their_intervals(contents: Contents) -> None:
    for unit in contents.units:
        for rates in (*unit.curves.ams.values(), *unit.curves.ums.values()):
            assert len(rates) == len(unit.curves.thresholds) == 20
            assert (np.diff(rates[:, 0]) >= 0).all()
            assert ((rates[:, 1] <= rates[:, 0]) & (rates[:, 0] <= rates[:, 2])).all()


# ---- Files ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plots(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_figures(finished.folder, tmp_path_factory.mktemp("a") / "deep")


def test_every_plot_is_written_as_svg_and_png_the_same_each_time(
    finished: Any, plots: list[Path], tmp_path: Path
) -> None:
    first, second = plots, write_figures(finished.folder, tmp_path)
    names = {file.stem for file in first}
    assert {"overview", "rarefaction", "detector", "scores-side.s0", "thresholds-side.s0"} <= names
    assert {"preparation-side.s0", "preparation-carlini-cond.s0"} <= names
    assert len(first) == 2 * len(names) and "preparation-carlini-uncond.s0" not in names
    for one, other in zip(first, second, strict=True):
        if one.suffix == ".svg":
            assert one.read_bytes() == other.read_bytes() and one.read_text(encoding="utf-8").startswith("<svg")
        else:
            assert one.read_bytes().startswith(b"\x89PNG")


def test_a_plot_names_no_outside_address(plots: list[Path]) -> None:
    for file in plots:
        if file.suffix == ".svg":
            text = re.sub(r' xmlns(?::\w+)?="[^"]*"', "", file.read_text(encoding="utf-8"))
            assert "http" not in text and "<image" not in text and "<script" not in text


# ---- In the page ------------------------------------------------------------------------------------


def test_every_colour_of_a_picture_follows_the_theme(contents: Contents) -> None:
    unit = contents.units[-1]
    drawn = [
        svg(figures.overview, contents.headline),
        svg(figures.rarefaction, contents.headline),
        svg(figures.audit, contents.audit, contents.measure),
        svg(figures.histogram, unit.best, contents.measure),
        svg(figures.thresholds, unit.curves, contents.measure, True),
        svg(figures.diagnostics, unit.info, unit.cohesion),
    ]
    light, dark = CSS.split("prefers-color-scheme: dark", 1)
    for picture in drawn:
        page = plot_style.inline(picture)
        assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", page) and "currentColor" in page
        for variable in re.findall(r"var\((--[\w-]+)\)", page):
            assert f"{variable}:" in light and f"{variable}:" in dark


def contrast(colour: str, paper: str) -> float:
    """Return the contrast ratio of WCAG 2.2, section 1.4.3."""

    def luminance(text: str) -> float:
        parts = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(colour), luminance(paper)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("theme", "paper"), [(0, "#ffffff"), (1, "#14191c")])
def test_text_and_lines_stand_out_from_the_paper(theme: int, paper: str) -> None:
    part = CSS.split("@media screen and (prefers-color-scheme: dark)")[theme].split("\n}")[0]
    found = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", part))
    words = ("ink", "soft", "link", "leak", "clear", "open", "good", "look", "missing")
    assert {name: contrast(found[name], paper) for name in words if contrast(found[name], paper) < 4.5} == {}
    lines = ("training", "held-out", "excess", "alarm", *(f"series-{number}" for number in range(6)))
    assert {name: contrast(found[name], paper) for name in lines if contrast(found[name], paper) < 3} == {}


def test_ids_in_a_page_are_those_that_something_refers_to(contents: Contents) -> None:
    with plot_style.styled():
        pages = [
            plot_style.inline(plot_style.to_svg(figures.histogram(unit.best, contents.measure), unit.name))
            for unit in contents.units
        ]
    ids = [found for page in pages for found in set(re.findall(r' id="([^"]+)"', page))]
    assert ids and len(ids) == len(set(ids))
    for page in pages:
        assert set(re.findall(r' id="([^"]+)"', page)) == set(re.findall(r"#([\w.-]+)[\")]", page))


@pytest.mark.parametrize("name", ["$x^", "<script>alert(1)</script>", "a" * 400, r"\frac{1}", "ünï"])
def test_a_name_is_text_whatever_it_holds(contents: Contents, name: str) -> None:
    results = [result.model_copy(update={"attack": name}) for result in contents.headline]
    for draw in (figures.overview, figures.rarefaction):
        picture = svg(draw, results)
        assert "<script" not in picture
        assert len(picture) < 60_000


def test_many_units_are_drawn_and_those_without_bands_left_out(contents: Contents) -> None:
    one = contents.headline[0]
    many = [one.model_copy(update={"attack": f"attack-{i % 8}", "seed": i}) for i in range(40)]
    for results in (many, [one, one.model_copy(update={"bands": [], "richness": None})]):
        assert svg(figures.overview, results).startswith("<svg")
        assert svg(figures.rarefaction, results).startswith("<svg")


def test_scores_without_a_finite_value_are_drawn(measure: Measure) -> None:
    nothing = np.full(5, np.nan)
    assert svg(figures.histogram, {"training": nothing, "held_out": nothing}, measure).startswith("<svg")


def test_a_measure_without_bands_is_drawn(contents: Contents) -> None:
    plain = make_measure("rms")
    assert svg(figures.histogram, contents.units[0].best, plain).startswith("<svg")
    assert svg(figures.thresholds, contents.units[0].curves, plain, False).startswith("<svg")
    assert svg(figures.audit, contents.audit, plain).startswith("<svg")


@pytest.mark.parametrize(
    "info",
    [
        {"sizes": [3]},
        {"cohesions": [-0.5, 0.9]},
        {"by_timestep": [{"t": 0, "accuracy": 1.0, "confidence": 0.5, "calibration_error": 0.5}]},
    ],
)
def test_what_a_state_lacks_has_no_panel(info: dict[str, Any]) -> None:
    assert svg(figures.diagnostics, info, None).startswith("<svg")
