"""The notebook page, as written but with fewer candidates, and what the results of its functions show."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import sidebench
from sidebench.benchmark.errors import BadInput, BadSetting
from sidebench.benchmark.results.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Run the blocks of the page one after the other, as cells, and return the names that they made."""
    text = (ROOT / "docs" / "notebook.md").read_text(encoding="utf-8")
    cells = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(cells) == 8 and "candidates=1024" in cells[0]
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        work = tmp_path_factory.mktemp("notebook")
        patch.chdir(work)
        patch.setenv("SIDEBENCH_STATES", str(work / "states"))  # what images alone say is found once
        (work / "leaderboards").symlink_to(ROOT / "leaderboards", target_is_directory=True)
        for cell in cells:
            exec(cell.replace("candidates=1024", "candidates=64"), names)
        names["result"] = sidebench.show(Path(names["result"].folder.path).resolve())
    return names


def test_a_run_says_what_its_metrics_hold(shown: Mapping[str, Any]) -> None:
    result = shown["result"]
    (first,) = [r for r in result.metrics.results if r.measure == result.metrics.results[0].measure]
    row = result.table().loc["carlini-uncond"]
    assert row["copies"] == first.bands[0].training.ams.value
    assert row["control"] == first.bands[0].held_out.ams.value
    assert (row["excess"], row["low"], row["high"]) == tuple(
        getattr(first.bands[0].excess, end) for end in ("value", "low", "high")
    )
    assert len(result.rows()) == sum(len(r.bands) for r in result.metrics.results)
    assert result.verdict in repr(result).replace("\n    ", " ")


def test_the_command_goes_on_with_the_same_folder(shown: Mapping[str, Any]) -> None:
    """The folder's name follows from what the run is, so both make the same one."""
    folder = shown["result"].folder.path
    plan = sidebench.plan_run(sidebench.load_pair("digits"), attacks=["carlini-uncond"], candidates=64)
    assert plan.folder().path.name == folder.name
    assert (folder / "report.html").is_file() and not shown["result"].failures


@pytest.mark.parametrize("name", ["result", "change", "release", "boards", "plan", "found"])
def test_what_is_shown_fits_ten_lines(name: str, shown: Mapping[str, Any]) -> None:
    assert 0 < len(repr(shown[name]).splitlines()) <= 10
    assert len(repr(shown[name])) < 2500


def test_results_show_themselves_in_a_notebook(shown: Mapping[str, Any]) -> None:
    result = shown["result"]
    assert "<table" in result._repr_html_() and "carlini-uncond" in result._repr_html_()
    assert result.verdict.partition("  ")[0] in result._repr_html_()
    page = result.report()
    assert page.path == result.folder.report_file and page._repr_html_().startswith("<iframe srcdoc=")
    assert "&lt;html" in page._repr_html_() and "<html" not in page._repr_html_()
    assert shown["change"].verdict in shown["change"]._repr_html_()
    assert "<table" in shown["boards"]._repr_html_()
    assert shown["release"].verdict.upper() in shown["release"]._repr_html_()


def test_a_comparison_is_the_commands(shown: Mapping[str, Any]) -> None:
    change = shown["change"]
    leak = change.found.leaks[0]
    row = change.table().iloc[0]
    assert (row["before"], row["after"], row["low"]) == (leak.before.value, leak.after.value, leak.change.low)
    assert len(change.prices()) == 2


def test_what_is_drawn_is_the_reports_picture(shown: Mapping[str, Any]) -> None:
    from matplotlib.figure import Figure

    plots = shown["result"].plot
    for figure in (plots.overview(), plots.rarefaction(), plots.detector(), plots.thresholds()):
        assert isinstance(figure, Figure) and figure.axes
    assert plots.scores("carlini-uncond").axes[0].get_xlabel() == plots.scores().axes[0].get_xlabel()
    with pytest.raises(BadInput, match="there is no picture 'tuning-side' here; there are: overview, "):
        plots.tuning("side")


def test_a_name_that_is_wrong_is_raised_in_one_line(shown: Mapping[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="did you mean"):
        sidebench.run("digit", candidates=64, out=tmp_path)
    with pytest.raises(BadSetting, match="names no ablations"):
        sidebench.ablate("digits", "carlini-uncond", out=tmp_path)
    with pytest.raises(BadInput, match="there is no board 'x'"):
        shown["boards"].table("x")
    with pytest.raises(BadInput, match="no such folder of records"):
        sidebench.leaderboard(tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_a_run_in_which_everything_failed_raises_the_reason() -> None:
    from sidebench.benchmark.runs.runner import RunResult
    from sidebench.notebook.results import Run

    with pytest.raises(BadSetting, match="the reason"):
        Run.of(RunResult(RunFolder(Path("x")), None, {"side.s0": BadSetting("the reason")}))


def test_functions_import_nothing_heavy_before_they_are_called(tmp_path: Path) -> None:
    code = (
        "import sys, json, sidebench\nsidebench.run, sidebench.gate, sidebench.leaderboard\n"
        "print(json.dumps([name for name in ('torch', 'pandas', 'matplotlib', 'diffusers') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(done.stdout) == []
