"""`sidebench list`, `show`, `compare` and `report`."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from complaints import complaints

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("kind", ["pairs", "attacks", "defences", "detectors", "measures"])
def test_list(kind: str, call: Call) -> None:
    code, text, _ = call("list", kind)
    again, data, _ = call("list", kind, "--json")
    rows = json.loads(data)
    assert (code, again) == (0, 0) and text.strip()
    for row in rows:
        assert row["name"] in text
    wanted = {"pairs": "digits", "attacks": "side", "measures": "nl2c"}.get(kind)
    assert wanted is None or wanted in [row["name"] for row in rows]


def test_compare_prints_and_writes(finished: Any, copied: Path, here: Path, call: Call) -> None:
    code, text, _ = call("compare", finished.folder.path, copied, "--out", "page.html", "--plot", "plot.svg")
    assert code == 0 and "leak per quality" in text
    assert Path("page.html").is_file() and Path("plot.svg").is_file()
    code, data, _ = call("compare", finished.folder.path, copied, "--json")
    assert code == 0 and json.loads(data)["schema"] == "sidebench-compare/1"


def test_show_pair(call: Call) -> None:
    assert yaml.safe_load(call("show", "digits")[1])["control"] == "iid"
    data = json.loads(call("show", "digits", "--json")[1])
    assert data["name"] == "digits" and "location" not in data["model"]


def test_show_attack(call: Call) -> None:
    text = call("show", "side")[1]
    data = json.loads(call("show", "side", "--json")[1])
    assert data["access"] == "white box" and "2410.02467" in text
    for setting in data["settings"]:
        assert f"{setting['setting']} = {setting['default']}" in text


def test_show_run(finished: Any, call: Call) -> None:
    code, text, _ = call("show", finished.folder.path)
    assert code == 0 and "3 attacks, 40 images each, seed 0" in text and "held-out AMS" not in text
    assert text.rstrip().endswith(f"all tables: sidebench show {finished.folder.path} --all")
    code, text, _ = call("show", finished.folder.path, "--all")
    assert code == 0 and finished.folder.path.name in text and "held-out AMS" in text
    data = json.loads(call("show", finished.folder.path, "--json", "full")[1])
    assert data["metrics"]["schema"] == "sidebench-metrics/1" and data["manifest"]["units"]


@pytest.mark.parametrize("name", ["runs/digits-0a1b2c3d", "digits-0a1b2c3d", "./x"])
def test_show_of_a_run_that_is_not_there_lists_no_attacks(name: str, here: Path, call: Call) -> None:
    code, out, err = call("show", name)
    assert (code, out, err) == (2, "", f"sidebench: {name} is no run folder: it is not there\n")


def loads_from_the_net(page: str) -> list[str]:
    return re.findall(r"(?:src|href|action|data)\s*=\s*[\"']?(?:https?:)?//[^\s\"'>]+|url\(\s*[\"']?http|@import", page)


def test_report_has_pictures_only_where_asked(finished: Any, call: Call, tmp_path: Path) -> None:
    plain, full = tmp_path / "plain.html", tmp_path / "full.html"
    code, out, _ = call("report", finished.folder.path, "--out", plain)
    assert code == 0 and out.strip() == str(plain)
    assert call("report", finished.folder.path, "--out", full, "--with-images")[0] == 0
    without, with_them = plain.read_text(encoding="utf-8"), full.read_text(encoding="utf-8")
    assert "data:image" not in without and "<img" not in without
    assert with_them.count("data:image/png;base64,") == with_them.count("<img") > 12
    assert not loads_from_the_net(without) and not loads_from_the_net(with_them)


def test_report_goes_into_the_run_folder(drawn: None, copied: Path, call: Call) -> None:
    page = copied / "report.html"
    assert call("report", copied)[0] == 0
    before = page.read_text(encoding="utf-8")
    page.unlink()
    assert call("report", copied)[0] == 0
    assert page.read_text(encoding="utf-8") == before and "data:image" not in before


def test_report_of_an_unfinished_run_is_refused(copied: Path, call: Call) -> None:
    (copied / "metrics.json").unlink()
    code, _, err = call("report", copied)
    assert code == 2 and "no results yet" in complaints(err)[0]


def test_report_on_an_unwritable_place_is_refused(finished: Any, here: Path, call: Call) -> None:
    code, _, err = call("report", finished.folder.path, "--out", "regular/report.html")
    assert code == 2, err
    (line,) = complaints(err)
    assert line.startswith("sidebench: ") and "regular" in line


@pytest.mark.parametrize("name", ["metrics.json", "costs.json", "manifest.json"])
def test_report_of_a_broken_run_is_refused(name: str, copied: Path, call: Call) -> None:
    content = (copied / name).read_text(encoding="utf-8")
    (copied / name).write_text(content[: len(content) // 2], encoding="utf-8")
    code, _, err = call("report", copied)
    assert code == 2, err
    assert name in complaints(err)[0]


def test_metrics_of_another_version_are_refused(copied: Path, call: Call) -> None:
    file = copied / "metrics.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "schema": "sidebench-metrics/9", "later": 1}), encoding="utf-8")
    for command in ("report", "show"):
        code, _, err = call(command, copied)
        assert code == 2, err
        (line,) = complaints(err)
        assert "metrics.json" in line


def test_score_adds_the_global_figures_of_copying(finished: Any, copied: Path, call: Call) -> None:
    assert not (copied / "copying.json").exists()
    assert call("report", copied)[0] == 0 and "AuthPct" not in (copied / "report.html").read_text(encoding="utf-8")
    code, text, _ = call("score", copied, "--copying")
    assert (
        code == 0 and "AuthPct" in text and "side.s0" in text and "pool images with 1 % exact training copies" in text
    )
    stored = json.loads((copied / "copying.json").read_text(encoding="utf-8"))
    assert set(stored["units"]) == {"carlini-uncond.s0", "carlini-cond.s0", "side.s0"}
    assert [row["share"] for row in stored["sensitivity"]] == [0, 0.001, 0.01, 0.1]
    assert json.loads(call("score", copied, "--copying", "--json")[1]) == stored
    assert call("report", copied)[0] == 0
    page = (copied / "report.html").read_text(encoding="utf-8")
    assert "Global figures of copying" in page and "AuthPct" in page
    code, _, err = call("score", copied, "--copying", "--pair", "digits-clean")
    assert code == 2 and "another pair than digits-clean" in complaints(err)[0]


@pytest.mark.parametrize("options", [[], ["--copying", "--bands", "near=0:0.4"]])
def test_score_wants_bands_or_copying(options: list[str], copied: Path, call: Call) -> None:
    code, _, err = call("score", copied, *options)
    (line,) = complaints(err)
    assert code == 2 and "--bands" in line and "--copying" in line
