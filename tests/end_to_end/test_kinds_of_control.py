"""The kinds of control beside iid: none, a reference model, and duplicate groups that lie on both sides."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sidebench.benchmark.contracts import Band, Neighbours, SamplerSettings, Side
from sidebench.benchmark.data import references
from sidebench.benchmark.data.pair import FOLDER, Pair, load_pair
from sidebench.benchmark.data.references import shared_groups
from sidebench.benchmark.errors import BadInput, BadPair, CorruptRun
from sidebench.benchmark.files import read_json, write_json
from sidebench.benchmark.measures import image_quality, set_level_copying
from sidebench.benchmark.measures.shard_scores import Pairs, ShardScores
from sidebench.benchmark.protocol import default_measures
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.reports import label_sheet
from sidebench.benchmark.reports.catalogue import describe
from sidebench.benchmark.reports.page import write_report
from sidebench.benchmark.reports.page_data import read_contents
from sidebench.benchmark.reports.tables import probe_flags, text_tables, verdicts
from sidebench.benchmark.reports.verdict import headline
from sidebench.benchmark.results.copying_figures import copying_file
from sidebench.benchmark.results.rates import attack_hits, measure_result
from sidebench.benchmark.results.rescore import rescore
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.schema import Metrics, load_metrics, rows
from sidebench.benchmark.results.unit_scores import UnitScores
from sidebench.benchmark.runs import runner

Plan = Callable[..., Any]
MODELS = {name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["model"] for name in ("digits", "digits-clean")}

COPIES: dict[str, Any] = {"model": "control:copycat", "attacks": ["carlini-uncond"]}


def content(**changes: Any) -> dict[str, Any]:
    """Return digits without held-out images; their rows go to the pool."""
    found = yaml.safe_load((FOLDER / "digits.yaml").read_text(encoding="utf-8"))
    found["data"]["split"] |= {"held_out": 0, "pool": changes.pop("pool", 256)}
    return {**found, "name": "own", "control": "none", "measures": [], **changes}


def with_reference(model: str) -> Pair:
    return Pair(**content(control="reference-model", reference_model=MODELS[model]))


# ---- What a pair may say ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "held_out", "words"),
    [
        ({"control": "iid"}, 0, "control iid needs data.split.held_out of at least 1"),
        ({"control": "surrogate"}, 0, "control surrogate needs data.split.held_out of at least 1"),
        ({}, 5, "control none has no held-out images"),
        (
            {"control": "reference-model", "reference_model": MODELS["digits"]},
            5,
            "control reference-model has no held-out images",
        ),
        ({"control": "reference-model"}, 0, "control reference-model needs reference_model"),
        ({"reference_model": MODELS["digits"]}, 0, "reference_model is for control reference-model, not for none"),
    ],
)
def test_a_control_without_what_it_needs_is_refused(
    changes: dict[str, Any], held_out: int, words: str, tmp_path: Path
) -> None:
    wrong = content(**changes)
    wrong["data"]["split"]["held_out"] = held_out
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(wrong), encoding="utf-8")
    with pytest.raises(BadPair, match=words) as raised:
        load_pair(str(file))
    assert str(raised.value).startswith("pair file own.yaml: control") or "reference_model is" in str(raised.value)


def test_the_reference_model_belongs_to_the_identity_and_its_place_does_not(tmp_path: Path) -> None:
    first, second = with_reference("digits"), with_reference("digits-clean")
    assert len({pair.identity() for pair in (first, second, Pair(**content()))}) == 3
    moved = content(control="reference-model", reference_model={**MODELS["digits"], "location": "victim"})
    assert Pair(**moved).identity() == first.identity()
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(moved), encoding="utf-8")
    found = load_pair(str(file)).reference_model
    assert found is not None and found.location == str(tmp_path / "victim")


def test_measures_that_read_held_out_images_are_refused_without_any(make_plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nl2c:n5:a0\.5: needs held-out images, this pair has none; take nl2:n5:a0\.5"):
        make_plan(tmp_path, pair=Pair(**content()), measures=["nl2c:n5:a0.5"])
    plan = make_plan(tmp_path, pair=Pair(**content()), attacks=["carlini-uncond"])
    assert [measure.id for measure in plan.measures] == ["nl2:n50:a0.5", "rms"]
    assert default_measures(64)[0] == "nl2c:n50:a0.5"


# ---- None -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uncontrolled(make_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = {**COPIES, "attacks": ["carlini-uncond", "side"]}
    return runner.execute(make_plan(tmp_path_factory.mktemp("none"), pair=Pair(**content()), **options))


def test_without_control_there_are_raw_rates_only(uncontrolled: Any, make_plan: Plan, tmp_path: Path) -> None:
    metrics: Metrics = uncontrolled.metrics
    assert not uncontrolled.failures and metrics == load_metrics(uncontrolled.folder)
    assert metrics.control_check is None and not metrics.claims_excess and metrics.held_out_images == 0
    for result in metrics.results:
        assert result.percentile_95.held_out is None and result.percentile_95.training is not None
        assert {found.refused for found in result.calibrated} == {"no held-out images"}
        for band in result.bands:
            assert (band.held_out, band.reference, band.excess, band.label_swap_p, band.matched_ams) == (None,) * 5
    # The same candidates on the same training images: the same raw rates as with a control.
    controlled = runner.execute(make_plan(tmp_path, **COPIES)).metrics
    chosen = [
        next(r for r in found.results if (r.attack, r.measure) == ("carlini-uncond", "nl2:n50:a0.5"))
        for found in (metrics, controlled)
    ]
    assert [band.training for band in chosen[0].bands] == [band.training for band in chosen[1].bands]
    assert chosen[0].bands[0].training.ams.count == 40


def test_without_control_attacks_are_compared_by_their_ams(uncontrolled: Any) -> None:
    compared, *wider = uncontrolled.metrics.comparisons
    assert [found.band for found in wider] == ["high+mid", "high+mid+low"]
    ams = {r.attack: r.bands[0].training.ams.value for r in uncontrolled.metrics.results if r.bands}
    assert compared.difference.value == pytest.approx(ams[compared.first] - ams[compared.second])
    assert compared.verdict.endswith("(raw rate)")
    text = text_tables(uncontrolled.metrics)
    assert "difference of AMS" in text and "excess" not in text and "raw rates only" in text
    for line in verdicts(uncontrolled.metrics):
        assert "raw rates, no control" in line and "finds" not in line


def test_without_control_every_artefact_is_made(uncontrolled: Any, tmp_path: Path) -> None:
    folder: RunFolder = uncontrolled.folder
    stored = read_json(folder.path / "quality.json")
    assert {figures["against"] for figures in stored.values()} == {"pool"}
    assert all(figures["frechet_distance"] > 0 for figures in stored.values())
    assert not copying_file(folder).exists()
    images = {"side.s0": folder.candidate_images("side.s0", 3)}
    copying = set_level_copying.assess(images, references.load_references(Pair(**content())))
    assert copying["units"]["side.s0"]["auth_pct"] >= 0 and copying["units"]["side.s0"]["c_t"] is None
    assert copying["sensitivity"] is None
    write_report(folder)
    page = folder.report_file.read_text(encoding="utf-8")
    assert "raw rates, no control" in page and "Frechet distance to pool" in page
    contents = read_contents(folder)
    assert headline(contents.metrics).tone == "open"
    assert all(unit.curves.excess is None and list(unit.curves.ams) == ["training"] for unit in contents.units)
    copy = tmp_path / folder.path.name
    shutil.copytree(folder.path, copy)
    assert label_sheet.make_sheet(RunFolder(copy), references.load_references(Pair(**content())), "nl2:n50:a0.5", 5)
    key = read_json(copy / "label" / "key.json")
    assert {item["set"] for item in key["items"].values()} == {"training"}
    answers = {"schema": label_sheet.ANSWERS_SCHEMA, "sheet": key["sheet"], "answers": {"0001": "copy"}}
    write_json(copy / "label" / "answers.json", answers)
    assert set(label_sheet.precision(RunFolder(copy))["sets"]) == {"training"}
    again = rescore(folder, make_measure("nl2:n50:a0.5").bands)
    assert again == [result for result in uncontrolled.metrics.results if result.bands]
    assert {row["excess"] for row in rows(uncontrolled.metrics)} == {None}


def test_without_other_images_quality_is_left_out() -> None:
    found = references.load_references(Pair(**content()))
    none = np.empty(0, dtype=np.int64)
    alone = dataclasses.replace(found, pool=found.pool.take(none), tuning=found.tuning.take(none))
    assert image_quality.real_images(found) == "pool" and image_quality.real_images(alone) is None
    assert image_quality.assess({}, alone)["skipped"].startswith("the pair has fewer than 2")
    assert image_quality.label_accuracy(found.training.floats(), None, alone) is None


def test_scores_that_do_not_fit_the_references_are_named(uncontrolled: Any, finished: Any, tmp_path: Path) -> None:
    copy = tmp_path / uncontrolled.folder.path.name
    shutil.copytree(uncontrolled.folder.path, copy)
    shutil.copy(finished.folder.path / "references.parquet", copy / "references.parquet")
    with pytest.raises(CorruptRun, match="scores of training, references of training, held_out"):
        rescore(RunFolder(copy), [Band("near", 0.0, 0.5)])


# ---- Reference model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def referenced(make_plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return runner.execute(
        make_plan(tmp_path_factory.mktemp("reference"), pair=with_reference("digits-clean"), **COPIES)
    )


def test_the_excess_is_over_the_same_attack_on_the_reference_model(referenced: Any, uncontrolled: Any) -> None:
    metrics: Metrics = referenced.metrics
    inner = load_metrics(referenced.folder.reference())
    assert metrics.claims_excess and metrics.control_check is None and metrics.control == "reference-model"
    assert (inner.control, inner.pair, inner.run_id) == ("none", "own-reference", "reference")
    plain = [result for result in uncontrolled.metrics.results if result.attack == "carlini-uncond"]
    for mine, theirs, alone in zip(metrics.results, inner.results, plain, strict=True):
        assert mine.percentile_95.reference == theirs.percentile_95.training
        for band, other, raw in zip(mine.bands, theirs.bands, alone.bands, strict=True):
            assert band.training == raw.training and band.reference == other.training and band.excess is not None
            assert band.excess.value == pytest.approx(band.training.ams.value - other.training.ams.value)
            assert band.excess.low <= band.excess.value <= band.excess.high and 0 < (band.label_swap_p or 0) <= 1
    assert metrics.results[0].bands[0].excess.value == 1  # every sample is a copy; three steps make none
    assert any("not trained on these training images" in flag for flag in metrics.flags)
    text = text_tables(metrics)
    assert "reference model AMS" in text and "cost of the reference model's run" in text


def test_the_reference_runs_cost_is_charged_to_no_attack(referenced: Any, uncontrolled: Any) -> None:
    (cost,) = referenced.metrics.costs
    assert cost in uncontrolled.metrics.costs and (cost.hits, cost.nfe) == (40, {"generate": 120})
    inner = load_metrics(referenced.folder.reference())
    assert referenced.metrics.reference_costs == inner.costs and inner.costs[0].hits == 0


def test_reports_and_other_bands_read_both_runs(referenced: Any) -> None:
    write_report(referenced.folder)
    page = referenced.folder.report_file.read_text(encoding="utf-8")
    assert "reference model AMS" in page and "Cost of the reference model" in page
    assert "own-reference" in referenced.folder.reference().report_file.read_text(encoding="utf-8")
    contents = read_contents(referenced.folder)
    assert "than a reference model does" in headline(contents.metrics).lead
    for unit in contents.units:
        band = unit.result.bands[0]
        place = unit.curves.thresholds.index(band.high)
        assert unit.curves.ams["reference"][place][0] == band.reference.ams.value
        assert unit.curves.excess[place] == pytest.approx(list(band.excess.model_dump().values()))
    again = rescore(referenced.folder, make_measure("nl2:n50:a0.5").bands)
    assert again == [result for result in referenced.metrics.results if result.bands]
    assert {row["reference_ams_count"] for row in rows(referenced.metrics)} != {None}


def test_a_model_has_no_excess_over_itself(make_plan: Plan, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, pair=with_reference("digits"), attacks=["carlini-uncond"])
    longer = plan.protocol.model_copy(update={"sampler": SamplerSettings(steps=25)})
    (result, _) = runner.execute(dataclasses.replace(plan, protocol=longer)).metrics.results
    assert result.bands[-1].training.ams.count > 10
    for band in result.bands:
        assert band.reference == band.training and band.excess is not None and band.label_swap_p == 1
        assert band.excess.value == 0 and band.excess.low == -band.excess.high


@pytest.mark.parametrize("moment", ["before the reference run", "before its scores", "before the scores"])
def test_a_run_broken_off_anywhere_ends_with_the_same_bytes(
    moment: str, referenced: Any, make_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = runner._score_all, []

    def stop(*arguments: Any) -> Any:
        calls.append(arguments[0].pair.name)
        if moment != "before the scores" or len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    plan = make_plan(tmp_path, pair=with_reference("digits-clean"), **COPIES)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_attack_reference" if moment.startswith("before the ref") else "_score_all", stop)
        with pytest.raises(KeyboardInterrupt):
            runner.execute(plan)
    folder = plan.folder().path
    assert (folder / "images").exists() and not (folder / "metrics.json").exists()
    assert (folder / "reference" / "metrics.json").exists() == (moment == "before the scores")
    runner.execute(plan)
    for name in ("metrics.json", "reference/metrics.json"):
        assert (folder / name).read_bytes() == (referenced.folder.path / name).read_bytes()


FAULTY = """
from sidebench import Attack, Generated

class Second(Attack):
    name, title, paper, access = "second", "fails on the second model", "none", "samples"
    calls = 0
    def prepare(self, model, budget):
        Second.calls += 1
        if Second.calls == 2:
            raise ValueError("no luck")
        return super().prepare(model, budget)
    def generate(self, model, state, candidates):
        return Generated(model.sample(candidates))
"""


def test_an_attack_that_fails_on_the_reference_model_is_named_and_goes_on(make_plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FAULTY, encoding="utf-8")
    attacks = ["carlini-uncond", f"{file}:Second"]
    plan = make_plan(tmp_path, pair=with_reference("digits-clean"), attacks=attacks)
    result = runner.execute(plan)
    assert {unit: error.exit_code for unit, error in result.failures.items()} == {"second.s0": 3}
    assert "on the reference model: second.s0 failed" in str(result.failures["second.s0"])
    assert {found.attack for found in result.metrics.results} == {"carlini-uncond"}
    again = runner.execute(plan)
    assert not again.failures and {found.attack for found in again.metrics.results} == {"carlini-uncond", "second"}


def test_a_reference_model_of_another_size_is_refused(make_plan: Plan, tmp_path: Path) -> None:
    from sidebench.benchmark.data import model_files

    shutil.copytree(model_files.locate("zoo:digits"), tmp_path / "other")
    config = tmp_path / "other" / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 16}), encoding="utf-8")
    pair = Pair(**content(control="reference-model", reference_model={"location": str(tmp_path / "other")}))
    with pytest.raises(BadInput, match="the reference model makes images of another size"):
        make_plan(tmp_path, pair=pair)


# ---- Duplicate groups on both sides -----------------------------------------------------------------

# X has images 0 .. 5 in groups 0 .. 5, H has images 0 .. 4 in groups 5, 4, 7, 8, 9: groups 4 and 5 are shared, so
# X4, X5, H0 and H1 leave the comparison. Each candidate's two nearest on either side, nearest first.
GROUPS: dict[Side, np.ndarray] = {"training": np.arange(6), "held_out": np.array([5, 4, 7, 8, 9])}
NEAREST: dict[Side, list[tuple[tuple[int, float], tuple[int, float]]]] = {
    "training": [
        ((0, 0.05), (1, 0.30)),  # hits X0
        ((4, 0.01), (1, 0.09)),  # hits X4, which leaves; then X1, still a hit
        ((5, 0.02), (4, 0.03)),  # both leave; the pairs below have X2 at 0.08, a hit
        ((5, 0.02), (4, 0.03)),  # both leave and nothing else is near: no hit
        ((0, 0.50), (1, 0.60)),
        ((0, 0.50), (1, 0.60)),
    ],
    "held_out": [
        ((2, 0.40), (3, 0.60)),
        ((0, 0.01), (2, 0.50)),  # hits H0, which leaves: no hit any more
        ((2, 0.40), (3, 0.60)),
        ((1, 0.03), (3, 0.07)),  # hits H1, which leaves; then H3, still a hit
        ((2, 0.40), (3, 0.60)),
        ((2, 0.40), (3, 0.60)),
    ],
}
NEAR = Band("near", 0.0, 0.1)


def overlapping() -> ShardScores:
    neighbours: dict[Side, Neighbours] = {}
    pairs: dict[Side, Pairs] = {}
    for side, found in NEAREST.items():
        ids = np.array([[match[0] for match in row] for row in found], dtype=np.int32)
        distances = np.array([[match[1] for match in row] for row in found], dtype=np.float32)
        neighbours[side] = Neighbours(ids, distances, distances)
        rows_, columns = np.nonzero(distances <= 0.15)
        more = [(2, 2, 0.08), (2, 3, 0.12)] if side == "training" else []
        pairs[side] = Pairs(
            np.r_[rows_, [row for row, _, _ in more]].astype(np.int32),
            np.r_[ids[rows_, columns], [i for _, i, _ in more]].astype(np.int32),
            np.r_[distances[rows_, columns], [d for _, _, d in more]].astype(np.float32),
        )
    no = np.zeros(6, dtype=bool)
    return ShardScores(np.arange(6), no, no, neighbours, pairs)


def test_shared_groups_leave_both_sides_of_the_comparison() -> None:
    measure = make_measure("rms")
    measure.bands = (NEAR,)
    left_out = shared_groups(GROUPS)
    assert {side: np.flatnonzero(marks).tolist() for side, marks in left_out.items()} == {
        "training": [4, 5],
        "held_out": [0, 1],
    }
    scores = UnitScores([overlapping()], [measure], left_out)
    hits = attack_hits(measure, NEAR, scores, GROUPS)
    assert hits.training_hits.tolist() == [True, True, True, False, False, False]
    assert hits.control_hits.tolist() == [False, False, False, True, False, False]
    assert hits.training_credits.tolist() == [1, 1, 1, 0]  # groups 0 .. 3
    assert hits.control_credits.tolist() == [0, 1, 0]  # groups 7, 8, 9
    band = measure_result("own", 0, measure, scores, GROUPS).bands[0]
    # Four groups of X are left and three of H, whose hit counts 4 / 3.
    assert band.excess is not None and band.excess.value == pytest.approx((3 - 4 / 3) / 6)
    assert (band.owned_training, band.owned_held_out) == (3, 1)
    # The raw rates keep every image.
    assert (band.training.ams.count, band.held_out and band.held_out.ams.count) == (4, 2)
    # X' has 4 images, H' 3: the pairs in band that stay are X0, X1 and X2, one a candidate; 1 - C(3, 3) / C(4, 3).
    assert band.matched_ams == pytest.approx(3 / 6 * (1 - 1 / 4))


def test_nothing_is_left_out_where_no_group_is_shared(finished: Any) -> None:
    groups: dict[Side, np.ndarray] = {"training": np.arange(6), "held_out": np.arange(6, 11)}
    scores = UnitScores([overlapping()], [make_measure("rms")], shared_groups(groups))
    assert scores.matched_ids["training"] is scores.best_ids["training"]
    checked = finished.metrics.control_check
    assert (checked.overlapping_groups, checked.overlapping_training, checked.overlapping_held_out) == (0, 0, 0)


def test_a_run_reports_what_it_left_out(
    make_plan: Plan, tmp_path: Path, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = references.load_references

    def official(pair: Pair, *more: Any) -> references.References:
        """Ten held-out images become near-copies of training images, as in an official split."""
        found = load(pair, *more)
        found.held_out.groups[:10] = found.training.groups[:10]
        return found

    monkeypatch.setattr(references, "load_references", official)
    result = runner.execute(make_plan(tmp_path, attacks=["carlini-uncond"]))
    checked = result.metrics.control_check
    assert (checked.overlapping_groups, checked.overlapping_held_out) == (10, 10) and checked.overlapping_training >= 10
    assert any("10 duplicate groups lie on both sides" in flag for flag in result.metrics.flags)
    assert "left out" in text_tables(result.metrics)
    raw = [found for found in finished.metrics.results if found.attack == "carlini-uncond"]
    for mine, old in zip(result.metrics.results, raw, strict=True):
        assert [band.training.ams for band in mine.bands] == [band.training.ams for band in old.bands]
    again = rescore(result.folder, make_measure("nl2c:n50:a0.5").bands)
    assert again == result.metrics.results[:1]


def test_a_held_out_set_of_duplicates_alone_is_refused(
    make_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = references.load_references

    def copies(pair: Pair, *more: Any) -> references.References:
        found = load(pair, *more)
        found.held_out.groups[:] = found.training.groups[: len(found.held_out)]
        return found

    monkeypatch.setattr(references, "load_references", copies)
    with pytest.raises(BadInput, match="every held-out image lies in a near-duplicate group with training images"):
        runner.execute(make_plan(tmp_path, attacks=["carlini-uncond"]))


# ---- The probe --------------------------------------------------------------------------------------


def test_a_probe_above_the_limit_is_seen_everywhere(copied: Path, make_plan: Plan) -> None:
    folder = RunFolder(copied)
    assert probe_flags(folder) == []
    before = (copied / "metrics.json").read_bytes()
    probe = read_json(folder.probe_file("side.s0"))
    write_json(folder.probe_file("side.s0"), {**probe, "share_off": 0.25, "largest": 17})
    result = runner.execute(make_plan(copied.parent))
    write_report(result.folder)
    (flag,) = probe_flags(result.folder)
    assert flag.startswith("side.s0: 25.0 % of the pixels of 1 candidate") and "17 of 255" in flag
    assert flag in describe(str(result.folder.path)).data["flags"]
    assert flag in text_tables(result.metrics, probe_flags(result.folder))
    assert flag in (copied / "report.html").read_text(encoding="utf-8")
    assert (copied / "metrics.json").read_bytes() == before
    write_report(folder, copied / "again.html")
    assert flag in (copied / "again.html").read_text(encoding="utf-8")
