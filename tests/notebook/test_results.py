"""What the results of a notebook show of runs, tunings, ablations and reports that are there."""

from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.tuning_curve import Curve, TriedPoint
from sidebench.benchmark.runs.ablate import AblationRow
from sidebench.notebook.results import Ablated, Boards, Report, Run, Tuning
from sidebench.notebook.shown import block, first_lines


def tuning_of(finished: Any, count: int = 12) -> Tuning:
    result = finished.metrics.results[0].bands[-1]
    points = []
    for number in range(count):
        excess = result.excess.model_copy(update={"value": number / 100})
        points.append(TriedPoint(values={"scale": number}, result=result.model_copy(update={"excess": excess})))
    return Tuning(Curve(attack="side", measure="nl2", candidates=40, points=points), Path("digits-tuning/side.json"))


def test_a_tuning_has_a_row_for_each_point_and_names_the_best(finished: Any) -> None:
    tuning = tuning_of(finished)
    table = tuning.table()
    result = finished.metrics.results[0].bands[-1]
    assert list(table["scale"]) == list(range(12)) and tuning.best == {"scale": 11}
    assert list(table["excess"]) == [number / 100 for number in range(12)]
    assert set(table["copies"]) == {result.training.ams.value} and set(table["low"]) == {result.excess.low}
    assert repr(tuning).splitlines()[1] == "highest excess at scale = 11" and len(repr(tuning).splitlines()) == 10
    assert "scale = 11" in tuning._repr_html_() and tuning.plot.curve().axes


def test_ablations_have_a_row_each_beside_their_run(finished: Any) -> None:
    row = AblationRow("side", 0.1, 0.0, 0.1, 5.0, 100.0, "", "", False)
    ablated = Ablated(Run(RunFolder(Path("x")), finished.metrics), [row, row._replace(attack="side--random-labels")])
    assert list(ablated.table().index) == ["side", "side--random-labels"]
    assert "side--random-labels" in repr(ablated) and "random-labels" in ablated._repr_html_()


def test_a_report_is_shown_apart_from_the_notebook(tmp_path: Path) -> None:
    """Its style and script act in a frame of its own, whatever it holds."""
    page = tmp_path / "report.html"
    page.write_text('<html><p class="x">&amp; "said"</p><script>1</script></html>', encoding="utf-8")
    shown = Report(page)._repr_html_()
    assert "<script>" not in shown and "&lt;p class=&quot;x&quot;&gt;&amp;amp; &quot;said&quot;" in shown


def test_names_from_files_are_escaped() -> None:
    import pandas as pd

    shown = block("<b>", pd.DataFrame({"<i>": ["<u>"]}), ["<s>"])
    assert not {"<i>", "<u>", "<s>"} & {shown[place : place + 3] for place in range(len(shown))}
    assert "&lt;b&gt;" in shown


def test_ten_lines_are_shown_and_the_rest_is_named() -> None:
    assert first_lines([str(number) for number in range(10)]).splitlines()[-1] == "9"
    assert first_lines([str(number) for number in range(12)], ".table()").splitlines()[8:] == [
        "8",
        "  and 3 more lines: .table()",
    ]
    assert len(first_lines(["x" * 1000])) == 400


def test_no_boards_are_none() -> None:
    from sidebench.leaderboards.ranking import Leaderboard

    empty = Boards(Leaderboard([], [], [], []))
    assert repr(empty) == "0 boards" and empty.names == []
    with pytest.raises(BadInput, match="there are no boards: no record"):
        empty.table()


def test_a_picture_that_is_not_there_is_named_by_its_attack(finished: Any) -> None:
    plot = Run(finished.folder, finished.metrics).plot
    with pytest.raises(BadInput, match=r"no picture of the scores of nope under seed 0; .* carlini-cond\.s0, "):
        plot.scores("nope")


def test_a_lone_value_is_a_list_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """`attacks="side"` is no list of four attacks, and `seeds=0` one seed."""
    import sidebench
    from sidebench.benchmark.runs import plan, tune

    class Asked(Exception):
        pass

    def asked(*_: Any, **given: Any) -> None:
        raise Asked({name: given[name] for name in ("attacks", "defences", "measures", "seeds") if name in given})

    monkeypatch.setattr(plan, "plan_run", asked)
    with pytest.raises(Asked) as told:
        sidebench.run("digits", attacks="side", defences="eta", measures="rms", seeds=0)
    assert told.value.args[0] == {"attacks": ["side"], "defences": ["eta"], "measures": ["rms"], "seeds": [0]}
    with pytest.raises(Asked) as told:
        sidebench.run("digits", attacks=("side", "carlini-cond"), seeds=range(2))
    assert told.value.args[0] == {"attacks": ["side", "carlini-cond"], "defences": [], "measures": [], "seeds": [0, 1]}
    monkeypatch.setattr(tune, "tune", lambda pair, attack, grid, **_: asked(attacks=grid))
    with pytest.raises(Asked) as told:
        sidebench.tune("digits", "side", {"scale": 3, "rule": "all", "width": [1, 2]})
    assert told.value.args[0] == {"attacks": {"scale": [3], "rule": ["all"], "width": [1, 2]}}


def test_what_is_wrong_is_said_without_options_of_the_command(finished: Any) -> None:
    import sidebench

    with pytest.raises(BadInput, match="two different runs or more"):
        sidebench.compare(finished.folder.path)
    with pytest.raises(BadInput, match="give a grid, values by setting"):
        sidebench.tune("digits", "carlini-uncond")


def test_images_never_go_into_the_runs_own_report(finished: Any, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sidebench.benchmark.reports import page

    asked: list[tuple[Path | None, bool]] = []
    monkeypatch.setattr(page, "write_report", lambda _, out, *, with_images, renew: asked.append((out, with_images)))
    run = Run(RunFolder(copied), finished.metrics)
    assert run.report(with_images=True).path == copied / "report-with-images.html"
    assert run.report().path == copied / "report.html"
    assert run.report(copied / "own.html", with_images=True).path == copied / "own.html"
    assert asked == [(copied / "report-with-images.html", True), (None, False), (copied / "own.html", True)]
