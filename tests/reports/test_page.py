"""What a reader sees: tables with intervals, verdicts in words, and a page that escapes what it is given."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.errors import BadInput, CorruptRun
from sidebench.benchmark.files import read_json, write_json
from sidebench.benchmark.reports import label_sheet
from sidebench.benchmark.reports import page as page_module
from sidebench.benchmark.reports.page import scrubbed, write_report
from sidebench.benchmark.reports.page_data import read_contents
from sidebench.benchmark.reports.tables import percent, text_tables, verdicts
from sidebench.benchmark.results.keyed_names import keyed_hash, run_key, training_group
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.schema import (
    BandResult,
    Calibrated,
    Compared,
    ControlCheck,
    Cost,
    Estimate,
    Metrics,
    Percentiles,
    Rate,
    Result,
    SideResult,
    load_metrics,
    rows,
)
from sidebench.benchmark.results.sums import sealed
from sidebench.benchmark.results.unit_scores import stored_groups


def rate(count: int, low: float, high: float) -> Rate:
    return Rate(count=count, value=count / 1000, low=low, high=high)


CALIBRATED = Calibrated(
    q=0.01,
    refused="",
    tau=0.6123,
    tau_low=0.6,
    tau_high=0.7,
    candidates=500,
    training=rate(30, 0.02, 0.04),
    held_out=rate(5, 0.001, 0.01),
    excess=Estimate(value=0.025, low=0.0111, high=0.0333),
)
REFUSED = Calibrated(
    q=0.001, refused="too few", tau=None, tau_low=None, tau_high=None, candidates=500,
    training=None, held_out=None, excess=None,
)  # fmt: skip
COMPARED = Compared(
    first="side",
    second="carlini-uncond",
    seed=3,
    measure="nl2c:n50:a0.5",
    band="high",
    difference=Estimate(value=0.01, low=-0.0123, high=0.0321),
    ratio=None,
    ratio_refused="the denominator reaches 0",
    p=0.42,
    verdict="no difference seen",
    smallest_difference=0.0456,
)


def side(count: int, groups: int) -> SideResult:
    found = rate(count, 0.0101, 0.0999)
    return SideResult(ams=found, ums=rate(2 * count, 0.0202, 0.0888), ums_best=found, groups=groups, largest_group=1)


def band(name: str, low: float, high: float, value: float = 0.0) -> BandResult:
    return BandResult(
        band=name,
        low=0.0,
        high=0.5,
        training=side(40, 7),
        held_out=side(10, 9),
        excess=Estimate(value=value, low=low, high=high),
        label_swap_p=0.5,
        matched_ams=None,
    )


def result(attack: str, bands: list[BandResult], measure: str = "nl2c:n50:a0.5") -> Result:
    return Result(
        attack=attack,
        seed=3,
        measure=measure,
        candidates=1000,
        nan=0,
        constant=0,
        bands=bands,
        calibrated=[CALIBRATED, REFUSED],
        richness=None,
        percentile_95=Percentiles(training=0.1234, held_out=None),
    )


def metrics(*results: Result, flags: tuple[str, ...] = ()) -> Metrics:
    cost = Cost(
        attack="side",
        seed=3,
        nfe={"prepare": 1000, "generate": 50_000},
        flops={"generate": 10.0},
        denoiser_flops=5,
        denoiser_equivalents=51_002.0,
        synthetic_images=20,
        synthetic_hits=1,
        hits=40,
        hits_per_1000_equivalents=0.8039,
        skipped_steps=0,
    )
    return Metrics(
        schema="sidebench-metrics/1",
        run_id="digits-1000-0",
        pair="digits",
        pair_revision=1,
        protocol="sidebench/1",
        control="iid",
        training_images=256,
        held_out_images=255,
        training_groups=250,
        held_out_groups=251,
        control_check=ControlCheck(auc=0.53, low=0.46, high=0.599, told_apart=False, overlapping_groups=0),
        results=list(results),
        comparisons=[COMPARED],
        costs=[cost],
        flags=list(flags),
    )


def test_tables_hold_rates_with_intervals() -> None:
    text = text_tables(metrics(result("side", [band("high", 0.011, 0.052, 0.03)]), flags=("look here",)))
    for words in (
        "4.00 [1.01, 9.99]",
        "8.00 [2.02, 8.88]",
        "1.00 [1.01, 9.99]",
        "3.00 [1.10, 5.20]",
        "256 training and 255 held-out images",
        "control iid",
        "51,002",
        "flag: look here",
        "nl2c:n50:a0.5",
    ):
        assert words in text


def test_hits_per_call_of_an_attack_without_calls_are_not_shown() -> None:
    made = metrics(result("side", [band("high", 0, 0.5)]))
    made.costs[0] = made.costs[0].model_copy(update={"hits_per_1000_equivalents": None})
    shown = text_tables(made)
    assert "0.00" not in next(line for line in shown.splitlines() if "51,002" in line)


def test_no_minus_stands_before_nothing() -> None:
    assert percent(Estimate(value=-1e-6, low=-2e-5, high=-0.0)) == "0.00 [0.00, 0.00]"
    assert percent(Estimate(value=-0.01, low=-0.02, high=0.0)) == "-1.00 [-2.00, 0.00]"


def test_every_measure_has_its_table() -> None:
    text = text_tables(metrics(result("side", [band("high", 0.011, 0.052, 0.03)]), result("side", [], "rms")))
    assert "\nnl2c:n50:a0.5" in text and "\nrms" in text and "none fixed" in text


def test_calibrated_thresholds_comparisons_and_equal_cost_are_shown() -> None:
    text = text_tables(metrics(result("side", [band("high", 0.011, 0.052, 0.03)])))
    for words in ("0.6123 [0.6000, 0.7000]", "2.50 [1.11, 3.33]", "refused: too few", "1.00 [-1.23, 3.21]"):
        assert words in text
    for words in ("no difference seen", "4.56", "0.8", "AUC 0.53 [0.46, 0.60]"):
        assert words in text


@pytest.mark.parametrize("change", [{"control": "surrogate"}, {"told_apart": True}])
def test_no_excess_is_claimed_without_a_fair_control(change: dict[str, Any]) -> None:
    fair = metrics(result("side", [band("high", 0.011, 0.052, 0.03)]))
    check = fair.control_check.model_copy(update={"told_apart": change.get("told_apart", False)})
    unfair = fair.model_copy(update={"control": change.get("control", "iid"), "control_check": check})
    assert "3.00 [1.10, 5.20]" in text_tables(fair) and "0.6123" in text_tables(fair)
    text = text_tables(unfair)
    assert "3.00 [1.10, 5.20]" not in text and "not claimed" in text and "0.6123" not in text
    (line,) = verdicts(unfair)
    assert "4.00 [1.01, 9.99] % in band high, held-out ones 1.00 [1.01, 9.99] %" in line
    assert "finds" not in line


def test_measure_without_bands_shows_its_percentile() -> None:
    text = text_tables(metrics(result("side", [], "rms")))
    assert "0.1234" in text and "none fixed" in text


def test_without_bands_or_a_control_there_is_a_line_for_each_attack() -> None:
    bare = metrics(result("side", [], "rms")).model_copy(update={"control": "none", "control_check": None})
    assert verdicts(bare) == ["side, seed 3: rms has no fixed bands, so no verdict."]
    assert verdicts(metrics()) == []


def test_csv_rows_hold_every_interval() -> None:
    (row,) = rows(metrics(result("side", [band("high", 0.011, 0.052)])))
    assert row["excess_low"] == 0.011 and row["training_ams_high"] == 0.0999 and row["held_out_ums_count"] == 20


def test_page_escapes_what_it_is_given(copied: Path) -> None:
    hostile = "<script>alert('1')</script>&"
    changes: dict[str, Any] = {
        "metrics.json": {"pair": hostile, "flags": [hostile], "control": hostile},
        "manifest.json": {"note": hostile, "origins": {hostile: hostile}},
    }
    for name, change in changes.items():
        with sealed(RunFolder(copied)):
            write_json(copied / name, read_json(copied / name) | change)
    target = copied / "hostile.html"
    write_report(RunFolder(copied), target, with_images=True)
    page = target.read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 3


def test_page_is_the_same_for_the_same_run(copied: Path) -> None:
    pages = []
    for name in ("a.html", "b.html"):
        write_report(RunFolder(copied), copied / name)
        pages.append((copied / name).read_bytes())
    assert pages[0] == pages[1]


def test_a_page_of_the_same_files_stays_and_any_other_is_renewed(copied: Path) -> None:
    folder = RunFolder(copied)
    write_report(folder)
    page, drawn = copied / "report.html", page_module._page
    text, calls = page.read_text(encoding="utf-8"), 0

    def counted(contents: Any) -> Any:
        nonlocal calls
        calls += 1
        return drawn(contents)

    def again() -> int:
        before = calls
        write_report(folder, renew=False)
        return calls - before

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "_page", counted)
        assert again() == 0 and page.read_text(encoding="utf-8") == text
        for other in (text.replace("leak", "lack", 1), text + "\n", "", "\udc80"):
            page.write_bytes(other.encode(errors="surrogateescape"))
            assert again() == 1 and page.read_text(encoding="utf-8") == text
        page.unlink()
        assert again() == 1
        write_report(folder, with_images=True)
        assert again() == 1 and page.read_text(encoding="utf-8") == text
        with sealed(folder):
            write_json(copied / "costs.json", read_json(copied / "costs.json") | {"mixed_environment": True})
        assert again() == 1


def test_page_has_all_parts(finished: Any) -> None:
    page = (finished.folder.path / "report.html").read_text(encoding="utf-8")
    # overview, rarefaction, detector; two per unit; the preparation of both guided attacks
    assert page.count("<svg") == 3 + 2 * 3 + 2 and re.search(r"</html>\n<!-- [0-9a-f]{64} -->\n$", page)
    for line in verdicts(finished.metrics):
        assert line in page
    for name in ("carlini-uncond", "carlini-cond", "side", "rms", "nl2c:n50:a0.5"):
        assert name in page


@pytest.fixture(scope="module")
def pages(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the finished run's page without and with images."""
    files = {"plain": finished.folder.path / "report.html", "images": tmp_path_factory.mktemp("page") / "page.html"}
    write_report(finished.folder, files["images"], with_images=True)
    return {name: file.read_text(encoding="utf-8") for name, file in files.items()}


@pytest.mark.parametrize("kind", ["plain", "images"])
def test_page_is_made_for_screen_readers_and_keyboards(pages: dict[str, str], kind: str) -> None:
    page = pages[kind]
    for landmark in ("<header", "<main", "<nav aria-label", "<footer", 'lang="en"', 'href="#main"', 'id="main"'):
        assert landmark in page
    assert page.count("<h1") == 1
    assert page.count("<table>") == page.count("<caption") and "<th>" not in page
    assert page.count('<div role="img" aria-label="') == page.count("<svg aria-hidden")
    assert page.count("<img") == page.count('<img alt="Left, candidate ')
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    assert set(re.findall(r'aria-labelledby="([^"]+)"', page)) <= set(ids)


def test_page_shows_effort_groups_and_the_swap_test(finished: Any, pages: dict[str, str]) -> None:
    page = next(iter(pages.values()))
    for text in ("At equal effort", "(all of carlini-uncond)", "largest group", "swap p", "sidebench label"):
        assert text in page, text
    budgets = {effort.budget for effort in finished.metrics.efforts if effort.currency == "denoiser calls"}
    # Each budget in the closest and in the widest band.
    bands = {effort.band for effort in finished.metrics.efforts}
    assert page.count("denoiser calls (all of") == len(budgets) * len(bands) == 2 * 2
    headings = len({(effort.currency, effort.budget) for effort in finished.metrics.efforts})
    assert [page.count(f"seed 0, band {band}<") for band in bands] == [headings] * 2


def test_page_shows_what_a_person_says(copied: Path) -> None:
    folder = RunFolder(copied)
    label_sheet.sheet_for(folder, "digits", 6, 0)
    key = read_json(copied / "label" / "key.json")
    content = {
        "schema": label_sheet.ANSWERS_SCHEMA,
        "sheet": key["sheet"],
        "answers": dict.fromkeys(key["items"], "copy"),
    }
    write_json(copied / "label" / "answers.json", content)
    write_report(folder, copied / "labelled.html")
    page = (copied / "labelled.html").read_text(encoding="utf-8")
    assert "Nobody has labelled" not in page
    table = page[page.index("What a person says") : page.index("What the attacks prepared</h2>")]
    for side in ("training", "held-out"):
        assert table.count(f'<th scope="row">{side}</th>') == len(key["thresholds"])


def test_training_images_go_by_keyed_hash(finished: Any, pages: dict[str, str]) -> None:
    key = run_key(finished.folder)
    groups = stored_groups(finished.folder)["training"]
    pairs = read_json(finished.folder.path / "evidence" / "side.s0" / "pairs.json")["pairs"]
    for page in pages.values():
        for pair in pairs:
            assert keyed_hash(key, training_group(int(groups[pair["reference"]]))) in page
        assert key.hex() not in page and not re.search(r"-training\d|training image \d", page)
    assert key.hex() not in (finished.folder.path / "manifest.json").read_text(encoding="utf-8")


def test_sheet_counts_how_often_an_image_and_its_group_were_found(finished: Any) -> None:
    contents = read_contents(finished.folder)
    for unit in contents.units:
        band = unit.result.bands[0]
        inside = [pair for pair in unit.pairs if pair.band == band.band]
        assert all((pair.image_found > 0) == (pair.band == band.band) for pair in unit.pairs)
        assert sum(pair.image_found for pair in inside) <= band.training.ams.count
        assert len({pair.name for pair in inside}) <= band.training.groups
        for pair in unit.pairs:
            assert 0 <= pair.image_found <= pair.group_found and pair.group_size >= 1 and pair.picture is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference": 10**6}, "out of range"),
        ({"candidate": "../../x"}, "does not hold pairs"),
        ({"score": None}, "does not hold pairs"),
    ],
)
def test_stored_pairs_that_were_tampered_with_are_refused(copied: Path, change: dict[str, Any], words: str) -> None:
    file = copied / "evidence" / "side.s0" / "pairs.json"
    content = read_json(file)
    content["pairs"][0] |= change
    with sealed(RunFolder(copied)):
        write_json(file, content)
    with pytest.raises(CorruptRun, match=rf"evidence/side\.s0/pairs\.json.*{words}"):
        write_report(RunFolder(copied), copied / "page.html", with_images=True)


@pytest.mark.parametrize("name", ["../../elsewhere", "other", "side/../side"])
def test_unit_that_the_manifest_does_not_know_is_refused(copied: Path, name: str) -> None:
    content = read_json(copied / "metrics.json")
    content["results"][0]["attack"] = name
    with sealed(RunFolder(copied)):
        write_json(copied / "metrics.json", content)
    with pytest.raises(CorruptRun, match=r"metrics\.json, results: .* is no unit of the manifest"):
        write_report(RunFolder(copied), copied / "page.html")


def test_missing_picture_is_refused(copied: Path) -> None:
    next((copied / "evidence" / "side.s0").glob("*.png")).unlink()
    write_report(RunFolder(copied), copied / "page.html")
    with pytest.raises(CorruptRun, match=r"side\.s0/.*\.png cannot be read"):
        write_report(RunFolder(copied), copied / "page.html", with_images=True)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/home/ann/models/x.bin", "(path)"),
        ("read from /home/ann/x, then /srv/data", "read from (path), then (path)"),
        ("~/models/x", "(path)"),
        ("/data", "(path)"),
        (r"C:\Users\ann\x", "(path)"),
        ("C:/Users/ann", "(path)"),
        (r"\\server\share\x", "(path)"),
        ("file:///home/ann/x", "(path)"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("google/ddpm-cifar10-32@abc", "google/ddpm-cifar10-32@abc"),
        ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors"),
        ("8 x 8, 1/2, and/or", "8 x 8, 1/2, and/or"),
        ("nl2c:n50:a0.5", "nl2c:n50:a0.5"),
    ],
)
def test_paths_are_taken_out_of_the_manifest(text: str, wanted: str) -> None:
    assert scrubbed({text: [text, 1, None]}) == {wanted: [wanted, 1, None]}


def test_run_without_results_has_no_report(copied: Path) -> None:
    (copied / "metrics.json").unlink()
    with pytest.raises(BadInput, match="no results yet"):
        load_metrics(RunFolder(copied))


def test_report_imports_no_torch(finished: Any, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom sidebench.cli import main\n"
        f"try: main(['report', {str(finished.folder.path)!r}, '--out', {str(tmp_path / 'page.html')!r}])\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "heavy = {'torch', 'torchmetrics', 'statsmodels', 'diffusers', 'datasets', 'sklearn'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "page.html").stat().st_size > 10_000
