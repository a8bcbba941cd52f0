"""`sidebench compare`: before and after, what is refused, what is marked, and how it is shown."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.files import read_json, read_table, write_json, write_table
from sidebench.benchmark.reports.compare import page as compared_page
from sidebench.benchmark.reports.compare import schema
from sidebench.benchmark.reports.compare import verdict as compared_reading
from sidebench.benchmark.reports.compare.compare_runs import compare_runs
from sidebench.benchmark.reports.compare.schema import price_rows
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.schema import Estimate
from sidebench.benchmark.runs import runner

Make = Callable[..., Any]

DEFENCE = """
from sidebench import Defence, DefendedModel

class Inside(DefendedModel):
    def corrected(self, step, candidates):
        return step.prediction + 0.5 * candidates.normal(f"veil/{float(step.t)}", self.sample_shape)

class Veil(Defence):
    name, title, paper, level, optimises = "veil", "<b>a veil & noise</b>", "none", "loop", frozenset({"pixels"})
    def wrap(self, model, training):
        return Inside(model)
"""


@pytest.fixture(scope="module")
def defended(tmp_path_factory: pytest.TempPathFactory, make_plan: Make) -> RunFolder:
    """Return a finished run of plain sampling behind noise that leaves little of any image."""
    folder = tmp_path_factory.mktemp("defended")
    (folder / "mine.py").write_text(DEFENCE, encoding="utf-8")
    result = runner.execute(make_plan(folder, attacks=["carlini-uncond"], defences=[f"{folder / 'mine.py'}:Veil"]))
    assert not result.failures
    folder_of_run: RunFolder = result.folder
    return folder_of_run


@pytest.fixture
def changed(finished: Any, tmp_path: Path) -> Callable[..., RunFolder]:
    """Return a function that copies the finished run and changes values of its manifest's identity."""

    def copy(name: str = "copy", **identity: Any) -> RunFolder:
        shutil.copytree(finished.folder.path, tmp_path / name)
        folder = RunFolder(tmp_path / name)
        manifest = read_json(folder.manifest_file)
        manifest["identity"] |= identity
        write_json(folder.manifest_file, manifest)
        return folder

    return copy


# ---- Before and after -------------------------------------------------------------------------------


def test_a_defence_is_compared_with_the_run_without_it(finished: Any, defended: RunFolder) -> None:
    found = compare_runs([defended, finished.folder])
    assert found.baseline == "no defence" and [run.label for run in found.runs] == ["no defence", "veil"]
    assert {(leak.run, leak.attack, leak.against) for leak in found.leaks} == {("veil",) + ("carlini-uncond",) * 2}
    bands = ["high", "high+mid", "high+mid+low"]
    assert found.yardsticks() == [*(f"nl2c:n50:a0.5, {band}" for band in bands), "nearer in pixels"]
    band, *_, nearer = found.leaks
    stored = finished.metrics.results[0].bands[0]
    assert band.before.model_dump() == stored.excess.model_dump()
    for leak in found.leaks:
        assert leak.paired and leak.candidates == 40
        assert leak.change.value == pytest.approx(leak.after.value - leak.before.value)
        assert leak.change.low <= leak.change.value <= leak.change.high
    assert nearer.before.value > nearer.after.value


def test_quality_and_cost_stand_beside_the_leak(finished: Any, defended: RunFolder) -> None:
    found = compare_runs([finished.folder, defended])
    prices = {(price.run, price.attack): price for price in found.prices}
    plain, veiled = prices["no defence", "carlini-uncond"], prices["veil", "carlini-uncond"]
    assert veiled.frechet_distance > plain.frechet_distance > found.real["frechet_distance"]
    assert veiled.precision is not None and veiled.features == "pixels"
    assert plain.seconds_ratio == plain.processor_ratio == plain.work_ratio == veiled.work_ratio == 1.0
    assert veiled.processor_ratio is not None and veiled.processor_ratio > 0
    assert ("no defence", "side") in prices and ("veil", "side") not in prices
    assert "caption accuracy" not in price_rows(found)[1]
    asked = found.model_copy(update={"prices": [plain.model_copy(update={"caption_accuracy": 0.25}), veiled]})
    real, first, second = price_rows(asked)
    assert (real["caption accuracy"], first["caption accuracy"], second["caption accuracy"]) == ("-", "0.250", "-")
    assert "frechet distance latents" not in first


def test_a_run_judged_only_by_what_it_optimises_is_flagged(finished: Any, defended: RunFolder) -> None:
    flags = compare_runs([finished.folder, defended]).flags
    assert any(flag.startswith("veil optimises distances in pixels, and every yardstick") for flag in flags)


def test_a_measure_that_moves_alone_is_flagged(changed: Any) -> None:
    from sidebench.benchmark.reports.compare.compare_runs import _only_moved

    found = compare_runs([changed("a"), changed("b")])
    leak = found.leaks[0]
    gone = leak.model_copy(
        update={"verdict": "leaks less", "after": leak.after.model_copy(update={"value": 0.0, "low": -0.01})}
    )
    still = leak.after.model_copy(update={"value": 0.5, "low": 0.4})
    left = leak.model_copy(update={"yardstick": "nearer in other", "space": "other", "after": still})
    (flag,) = _only_moved([gone, left])
    assert "nothing is left by nl2c:n50:a0.5, high, but by nearer in other 40.0 % or more" in flag
    assert not _only_moved([left]) and not _only_moved([gone])


def test_the_same_run_twice_shows_no_difference(finished: Any, changed: Any) -> None:
    found = compare_runs([finished.folder, changed()])
    assert all(leak.change.value == 0 and leak.verdict == "no difference seen" for leak in found.leaks)
    assert len({run.label for run in found.runs}) == 2, "runs without a defence are told apart by folder"


def test_an_attack_of_one_run_stands_against_all_of_the_other(defended: RunFolder, finished: Any) -> None:
    found = compare_runs([defended, finished.folder])
    assert {leak.attack for leak in found.leaks} == {"carlini-uncond"}
    reverse = compare_runs([defended, _without_defences(defended, finished)])
    against = {(leak.attack, leak.against) for leak in reverse.leaks}
    assert against == {(name, "carlini-uncond") for name in ("carlini-uncond", "carlini-cond", "side")}
    assert any("no run is without a defence: veil is the baseline" in flag for flag in reverse.flags)


def _without_defences(defended: RunFolder, finished: Any) -> RunFolder:
    """Return the finished run under the name of a defence, so that no run is plain."""
    folder = RunFolder(defended.path.parent / "named")
    if not folder.path.exists():
        shutil.copytree(finished.folder.path, folder.path)
        manifest = read_json(folder.manifest_file)
        manifest["identity"]["defences"] = {"other": {}}
        write_json(folder.manifest_file, manifest)
    return folder


# ---- What cannot be compared, and what is marked ----------------------------------------------------


def test_fewer_than_two_runs_are_refused(finished: Any) -> None:
    for folders in ([finished.folder], [finished.folder] * 2):
        with pytest.raises(BadInput, match="needs two different runs"):
            compare_runs(folders)


def test_a_run_named_twice_is_refused(finished: Any, defended: RunFolder) -> None:
    with pytest.raises(BadInput, match="needs two different runs"):
        compare_runs([finished.folder, defended, finished.folder])


def test_other_images_are_refused(finished: Any, changed: Any) -> None:
    other = changed()
    table = read_table(other.path / "references.parquet")
    rows = pc.add(table["row"], 1)
    write_table(other.path / "references.parquet", table.set_column(table.column_names.index("row"), "row", rows))
    with pytest.raises(BadInput, match=r"data\.split gave other training images"):
        compare_runs([finished.folder, other])


def test_other_data_are_refused_by_field(finished: Any, changed: Any) -> None:
    other = changed()
    manifest = read_json(other.manifest_file)
    write_json(other.manifest_file, {**manifest, "data": {"sha256": "0" * 64}})
    with pytest.raises(BadInput, match=r"cannot be compared with .*: data\.sha256 was"):
        compare_runs([finished.folder, other])


def test_runs_without_a_common_measure_are_refused(finished: Any, changed: Any) -> None:
    with pytest.raises(BadInput, match=r"no measure in common: .* has zncc"):
        compare_runs([finished.folder, changed(measures=["zncc"])])


def test_differences_that_can_be_lived_with_are_marked(finished: Any, changed: Any) -> None:
    protocol = {**finished.folder.manifest()["identity"]["protocol"], "dtype": "bfloat16"}
    found = compare_runs([finished.folder, changed(protocol=protocol, model={"family": "pixel", "sha256": {}})])
    assert found.runs[0].marks == []
    assert found.runs[1].marks == ["protocol.dtype was 'float32', now 'bfloat16'", "model: other weights"]


def test_other_settings_and_other_seeds_are_marked(finished: Any, changed: Any) -> None:
    other = changed(defences={"veil": {}})
    manifest = read_json(other.manifest_file)
    manifest["units"]["side.s0"]["settings"]["guidance_scale"] = 3.0
    write_json(other.manifest_file, manifest)
    (leak, *_) = (leak for leak in compare_runs([finished.folder, other]).leaks if leak.attack == "side")
    assert leak.settings == "guidance_scale = 3.0 (was 0.1)"


# ---- Shown ------------------------------------------------------------------------------------------


def test_text_names_every_run_and_yardstick(finished: Any, defended: RunFolder) -> None:
    text = schema.as_text(compare_runs([finished.folder, defended]))
    for words in ("baseline: no defence", "veil", "nearer in pixels", "leak per quality", "flag: veil optimises"):
        assert words in text


def test_page_is_one_file_and_escapes(finished: Any, changed: Any, tmp_path: Path) -> None:
    folders = [finished.folder, changed(defences={"<script>x</script>": {"a": "<b>"}})]
    found = compare_runs(folders)
    compared_page.write_page(found, folders, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "<b>x" not in page and "&lt;script&gt;" in page
    assert "<svg" in page and 'src="' not in page and 'href="http' not in page and "/tmp/" not in page
    compared_page.write_page(found, folders, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "page.html").read_bytes()


def test_page_has_verdict_pairs_and_manifest_of_each_run(finished: Any, defended: RunFolder, tmp_path: Path) -> None:
    folders = [defended, finished.folder]
    found = compare_runs(folders)
    compared_page.write_page(found, folders, tmp_path / "page.html", with_images=True)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    headline = compared_reading.headline(found)
    parts = [f"<h1>{headline.title}", 'id="leak-title"', 'id="sheet-title"', 'id="runs-title"']
    assert [page.index(part) for part in parts] == sorted(page.index(part) for part in parts)
    for label in ("no defence", "veil"):
        assert f"<h3>{label}" in page and f'aria-label="Manifest of {label}"' in page
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "two pictures share an id"
    assert page.count("data:image/png") == sum(
        len(json.loads(file.read_text(encoding="utf-8"))["pairs"])
        for folder in folders
        for file in folder.path.glob("evidence/*/pairs.json")
    )
    compared_page.write_page(found, folders, tmp_path / "bare.html")
    assert "data:image" not in (tmp_path / "bare.html").read_text(encoding="utf-8")


def test_pictures_come_as_files_too(finished: Any, defended: RunFolder, tmp_path: Path) -> None:
    folders = [finished.folder, defended]
    found = compare_runs(folders)
    names = {file.name for file in compared_page.write_figures(found, folders, tmp_path / "all")}
    stems = [*(f"{kind}-{number}" for kind in ("leak", "quality") for number in range(4))]
    stems += ["scores-0", "thresholds-0", "rarefaction-0"]
    assert names == {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}
    compared_page.write_plot(found, tmp_path / "plot.svg")
    compared_page.write_plot(found, tmp_path / "plot.png")
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").startswith("<svg")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(BadInput, match=r"plot\.pdf: a plot is written as \.svg or \.png"):
        compared_page.write_plot(found, tmp_path / "plot.pdf")


def test_images_without_quality_have_no_plot_against_it(finished: Any, defended: RunFolder, tmp_path: Path) -> None:
    folders = [finished.folder, defended]
    found = compare_runs(folders)
    bare = [price.model_copy(update={"frechet_distance": None}) for price in found.prices]
    found = found.model_copy(update={"prices": bare, "real": dict.fromkeys(found.real)})
    compared_page.write_page(found, folders, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Leak against quality" not in page and "Leak before and after" in page


# ---- In words ---------------------------------------------------------------------------------------


def leaks_of(found: Any, *changes: tuple[str, str, float, float]) -> Any:
    """Return the comparison with one leak per change: run, verdict, and ends of what is left."""
    leak = found.leaks[0].model_copy(update={"before": Estimate(value=0.3, low=0.2, high=0.4)})
    made = [
        leak.model_copy(
            update={"run": run, "verdict": verdict, "after": Estimate(value=(low + high) / 2, low=low, high=high)}
        )
        for run, verdict, low, high in changes
    ]
    return found.model_copy(update={"leaks": made})


@pytest.mark.parametrize(
    ("changes", "tone", "title"),
    [
        ([("a", "leaks less", 0.1, 0.2)], "clear", "a leaks less than no defence, but still leaks"),
        ([("a", "leaks less", -0.1, 0.1)], "clear", "a leaks less than no defence"),
        ([("a", "leaks more", 0.5, 0.6)], "leak", "a leaks more than no defence"),
        ([("a", "no difference seen", 0.2, 0.4)], "open", "No difference was seen between a and no defence"),
        (
            [("a", "leaks less", 0.1, 0.2), ("a", "leaks more", 0.5, 0.6)],
            "open",
            "a leaks less than no defence to one attack and more to another",
        ),
        (
            [("a", "leaks less", 0.1, 0.2), ("b", "leaks less", 0.0, 0.1), ("c", "leaks more", 0.5, 0.6)],
            "leak",
            "Against no defence: a leaks less, b leaks less, c leaks more",
        ),
        (
            [(name, "leaks less", 0.1, 0.2) for name in "abcd"] + [("e", "no difference seen", 0.2, 0.4)],
            "open",
            "5 runs against no defence: 4 leak less, 1 shows no difference",
        ),
    ],
)
def test_the_headline_follows_the_verdicts(
    finished: Any, defended: RunFolder, changes: Any, tone: str, title: str
) -> None:
    found = leaks_of(compare_runs([finished.folder, defended]), *changes)
    said = compared_reading.headline(found)
    assert (said.tone, said.title) == (tone, title)
    assert "30.00 %" in said.lead and len(compared_reading.sentences(found)) == len(changes)
    verdicts = {verdict for _, verdict, *_ in changes}
    assert compared_reading.badge(found) == (verdicts.pop() if len(verdicts) == 1 else "mixed")


def test_a_sentence_says_what_is_left(finished: Any, defended: RunFolder) -> None:
    found = leaks_of(compare_runs([finished.folder, defended]), ("a", "leaks less", -0.1, 0.05), ("b", "x", 0.1, 0.2))
    gone, left = compared_reading.sentences(found)
    assert "no leak is seen any more, at most 5.00 % could have gone unseen" in gone and left.endswith(
        "a leak is left."
    )


def test_an_unfinished_run_is_refused(finished: Any, changed: Any) -> None:
    other = changed()
    (other.path / "metrics.json").unlink()
    with pytest.raises(BadInput, match="has no results yet"):
        compare_runs([finished.folder, other])
