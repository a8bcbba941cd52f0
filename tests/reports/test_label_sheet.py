"""The contact sheet gives nothing away, and its answers give the precision that is true of the run."""

import base64
import collections
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sidebench.benchmark import registry
from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.data.references import ImageSet, References
from sidebench.benchmark.errors import BadInput, CorruptRun, TooFew
from sidebench.benchmark.files import read_json, write_json, write_state
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.measures.shard_scores import SIDES
from sidebench.benchmark.reports import label_sheet
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.score_files import write_scores
from sidebench.benchmark.results.shards import shard_of

MEASURE = "nl2c:n5:a0.5"
UNITS = {"carlini-uncond.s0": 0, "side.s3": 1}
CANDIDATES, SHARD, NAN = 90, 32, 4


def make_references(channels: int) -> References:
    rng = np.random.default_rng(1)
    sets = []
    for start in (0, 100):
        images = rng.integers(0, 256, (60, channels, 6, 6), dtype=np.uint8)
        sets.append(ImageSet(images, np.arange(60) + start, np.arange(60) + start))
    return References(sets[0], sets[1], sets[0], sets[0], "f" * 64)


def make_candidates(references: References, seed: int) -> np.ndarray:
    """Training images under noise of many strengths, a few held-out ones, and images of neither."""
    rng = np.random.default_rng(seed)
    training = references.training.images[rng.integers(0, 60, 60)].astype(float)
    held_out = references.held_out.images[rng.integers(0, 60, 10)].astype(float)
    other = rng.uniform(0, 255, (20, *training.shape[1:]))
    images = np.concatenate([training, held_out, other])
    images += rng.normal(0, 1, images.shape) * rng.uniform(0, 90, (CANDIDATES, 1, 1, 1))
    return np.asarray(images[rng.permutation(CANDIDATES)].clip(0, 255).round().astype(np.uint8))


def make_run(path: Path, channels: int = 1) -> tuple[RunFolder, References]:
    folder, references = RunFolder(path), make_references(channels)
    measures = [registry.make_measure(MEASURE)]
    scorer = Scorer(references, measures, 10, torch.device("cpu"))
    identity = {"candidates": CANDIDATES, "protocol": {"shard": SHARD}}
    units = {name: {"attack": name.split(".")[0]} for name in [*UNITS, "unfinished.s0"]}
    folder.write_manifest({"identity": identity, "units": units, "data": {"sha256": references.fingerprint}})
    for unit, seed in UNITS.items():
        for part, images in enumerate(torch.from_numpy(make_candidates(references, seed)).split(SHARD)):
            numbers = np.arange(len(images)) + part * SHARD
            shard = shard_of(range(numbers[0], numbers[-1] + 1))
            found = scorer.score(images, numbers, numbers == NAN, "pixels")
            write_state(folder.images_file(unit, shard), AttackState({"images": images}, {}))
            write_scores(folder, unit, "pixels", shard, found, measures, {})
    return folder, references


@pytest.fixture
def made(tmp_path: Path) -> tuple[RunFolder, References]:
    return make_run(tmp_path / "run")


def sheet(made: tuple[RunFolder, References], pairs: int = 30, seed: int = 0) -> tuple[str, dict[str, Any]]:
    folder, references = made
    page = label_sheet.make_sheet(folder, references, MEASURE, pairs, seed)
    assert page == folder.path / "label" / "sheet.html"
    return page.read_text(encoding="utf-8"), read_json(folder.path / "label" / "key.json")


def shown_pairs(page: str) -> list[dict[str, str]]:
    [content] = re.findall(r'<script type="application/json" id="pairs">(.*?)</script>', page, re.DOTALL)
    pairs: list[dict[str, str]] = json.loads(content)
    return pairs


def decoded(uri: str) -> np.ndarray:
    head, _, content = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def answer(folder: RunFolder, key: dict[str, Any], **changes: Any) -> None:
    """Write answers: a copy is what scores at most 0.6."""
    given = {name: "copy" if item["score"] <= 0.6 else "not a copy" for name, item in key["items"].items()}
    content = {"schema": label_sheet.ANSWERS_SCHEMA, "sheet": key["sheet"], "answers": given, **changes}
    write_json(folder.path / "label" / "answers.json", content)


def at(found: dict[str, Any], side: str, threshold: float) -> dict[str, Any]:
    [row] = [row for row in found["sets"][side]["by_threshold"] if row["threshold"] == threshold]
    return dict(row)


# ---- the sheet ----


def test_the_page_gives_no_hint_of_set_score_or_attack(made: tuple[RunFolder, References]) -> None:
    page, key = sheet(made)
    for word in ("training", "held", "carlini", "side.s3", "nl2", "weight", "stratum", "candidate"):
        assert word not in page.replace("sidebench", ""), word
    assert not any(f"{item['score']:.3f}" in page for item in key["items"].values())
    assert all(set(pair) == {"id", "left", "right"} for pair in shown_pairs(page))


def test_the_page_needs_no_network(made: tuple[RunFolder, References]) -> None:
    page, _ = sheet(made)
    assert not re.findall(r"https?:|src=|@import|url\(|fetch\(|XMLHttp", page)
    assert "default-src 'none'" in page


def test_both_sets_are_shuffled_together(made: tuple[RunFolder, References]) -> None:
    page, key = sheet(made)
    order = [pair["id"] for pair in shown_pairs(page)]
    assert order == sorted(key["items"]) and len(order) == 60
    sets = [key["items"][name]["set"] for name in order]
    assert collections.Counter(sets) == {"training": 30, "held_out": 30}
    assert 18 <= sum(a != b for a, b in itertools.pairwise(sets)) <= 42


@pytest.mark.parametrize("channels", [1, 3])
def test_each_pair_shows_what_the_key_says(tmp_path: Path, channels: int) -> None:
    folder, references = make_run(tmp_path, channels)
    page, key = sheet((folder, references))
    for pair in shown_pairs(page):
        item = key["items"][pair["id"]]
        candidate = make_candidates(references, UNITS[item["unit"]])[item["candidate"]]
        side = {"training": references.training, "held_out": references.held_out}[item["set"]]
        gaps = ((side.images.astype(float) - candidate) ** 2).mean((1, 2, 3))
        assert gaps.argmin() == item["reference"]
        for name, image in (("left", candidate), ("right", side.images[item["reference"]])):
            assert np.array_equal(decoded(pair[name]), image.transpose(1, 2, 0) if channels == 3 else image[0])


def test_weights_add_up_to_all_valid_candidates(made: tuple[RunFolder, References]) -> None:
    _, key = sheet(made)
    for side in SIDES:
        weights = [item["weight"] for item in key["items"].values() if item["set"] == side]
        assert sum(weights) == pytest.approx(len(UNITS) * (CANDIDATES - 1))
    assert NAN not in {item["candidate"] for item in key["items"].values()}


def test_strata_are_drawn_equally_as_far_as_they_reach(made: tuple[RunFolder, References]) -> None:
    _, key = sheet(made)
    drawn: dict[int, list[float]] = {}
    for item in key["items"].values():
        if item["set"] == "training":
            drawn.setdefault(item["stratum"], []).append(item["weight"])
    partly = [len(weights) for weights in drawn.values() if weights[0] > 1]
    whole = [len(weights) for weights in drawn.values() if weights[0] == 1]
    assert partly and max(partly) - min(partly) <= 1 and max(whole, default=0) <= max(partly)


def test_a_pair_is_drawn_once_and_all_are_where_there_are_few(made: tuple[RunFolder, References]) -> None:
    _, key = sheet(made, pairs=10_000)
    seen = [(item["set"], item["unit"], item["candidate"]) for item in key["items"].values()]
    assert len(set(seen)) == len(seen) == 2 * len(UNITS) * (CANDIDATES - 1)
    assert {item["weight"] for item in key["items"].values()} == {1.0}


def test_the_same_seed_gives_the_same_sheet(made: tuple[RunFolder, References]) -> None:
    assert sheet(made) == sheet(made)
    assert sheet(made)[1]["sheet"] != sheet(made, seed=1)[1]["sheet"]


def test_answers_to_another_sheet_are_not_orphaned(made: tuple[RunFolder, References]) -> None:
    page, key = sheet(made)
    answer(made[0], key)
    assert sheet(made) == (page, key)
    with pytest.raises(BadInput, match="answers another sheet"):
        sheet(made, seed=1)
    assert read_json(made[0].path / "label" / "key.json") == key


def test_other_references_are_refused(made: tuple[RunFolder, References]) -> None:
    folder, own = made
    other = References(own.training, own.held_out, own.pool, own.tuning, "0" * 64)
    with pytest.raises(BadInput, match="other images"):
        label_sheet.make_sheet(folder, other, MEASURE)


def test_no_pairs_are_refused(made: tuple[RunFolder, References]) -> None:
    with pytest.raises(TooFew):
        sheet(made, pairs=0)


# ---- precision ----


def true_precision(made: tuple[RunFolder, References], side: str, threshold: float) -> float:
    _, key = sheet(made, pairs=10_000)
    scores = [item["score"] for item in key["items"].values() if item["set"] == side]
    return sum(score <= 0.6 for score in scores) / sum(score <= threshold for score in scores)


def test_labelling_everything_gives_the_true_precision(made: tuple[RunFolder, References]) -> None:
    folder, _ = made
    _, key = sheet(made, pairs=10_000)
    answer(folder, key)
    found = label_sheet.precision(folder)
    for side in SIDES:
        assert at(found, side, 0.5)["value"] == 1.0
        row = at(found, side, 1.0)
        assert 0 < row["low"] < row["value"] < row["high"] < 1
        assert row["value"] == pytest.approx(true_precision(made, side, 1.0))
        assert row["effective"] == pytest.approx(row["decided"])
    assert at(found, "training", 1.0)["decided"] > at(found, "held_out", 1.0)["decided"]


def test_precision_from_a_part_is_right_on_average_and_within_its_interval(made: tuple[RunFolder, References]) -> None:
    folder, _ = made
    truth = true_precision(made, "training", 1.0)
    values, inside = [], 0
    for seed in range(60):
        _, key = sheet(made, pairs=24, seed=seed)
        answer(folder, key)
        row = at(label_sheet.precision(folder), "training", 1.0)
        (folder.path / "label" / "answers.json").unlink()
        values.append(row["value"])
        inside += row["low"] <= truth <= row["high"]
        assert row["effective"] < row["decided"]
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / 60**0.5 + 1e-3
    assert inside >= 54


def test_a_sheet_answered_in_part_still_stands_for_the_run(made: tuple[RunFolder, References]) -> None:
    folder, _ = made
    _, key = sheet(made, pairs=10_000)
    given = {
        name: "copy" if key["items"][name]["score"] <= 0.6 else "not a copy" for name in sorted(key["items"])[:150]
    }
    answer(folder, key, answers=given)
    found = label_sheet.precision(folder)
    assert found["sets"]["training"]["answered"] + found["sets"]["held_out"]["answered"] == 150
    row = at(found, "training", 1.0)
    inside = sum(item["score"] <= 1 and item["set"] == "training" for item in key["items"].values())
    assert row["pairs_in_run"] == pytest.approx(inside) and row["decided"] < inside
    assert row["low"] < true_precision_of(key) < row["high"]


def true_precision_of(key: dict[str, Any]) -> float:
    scores = [item["score"] for item in key["items"].values() if item["set"] == "training"]
    return sum(score <= 0.6 for score in scores) / sum(score <= 1 for score in scores)


def test_unsure_pairs_are_left_out_and_bounded(made: tuple[RunFolder, References]) -> None:
    folder, _ = made
    _, key = sheet(made, pairs=10_000)
    close = sorted(
        (n for n, i in key["items"].items() if i["set"] == "training"), key=lambda n: key["items"][n]["score"]
    )
    given = dict(zip(close[:6], ["copy", "copy", "copy", "not a copy", "unsure", "unsure"], strict=True))
    answer(folder, key, answers=given)
    found = label_sheet.precision(folder)
    row = at(found, "training", 1.0)
    assert found["sets"]["training"]["unsure"] == 2 == row["unsure"] and row["decided"] == 4
    assert row["if_unsure_not"] < row["value"] < row["if_unsure_copy"]


def test_no_answer_within_a_threshold_gives_no_precision(made: tuple[RunFolder, References]) -> None:
    folder, _ = made
    _, key = sheet(made)
    answer(folder, key, answers={})
    row = at(label_sheet.precision(folder), "training", 0.5)
    assert row["value"] is row["low"] is row["high"] is row["if_unsure_not"] is None
    json.dumps(label_sheet.precision(folder), allow_nan=False)


@pytest.mark.parametrize(("copies", "n"), [(0, 10), (7, 10), (10, 10), (3, 200)])
def test_with_equal_weights_the_interval_is_wilsons(copies: int, n: int) -> None:
    from sidebench.benchmark.stats.intervals import wilson

    items = {
        f"{i}": label_sheet.Item(set="training", unit="a.s0", candidate=i, reference=0, score=0.1, stratum=0, weight=1)
        for i in range(n)
    }
    given = {name: "copy" if int(name) < copies else "not a copy" for name in items}
    found = label_sheet._precision_within(items, given, dict.fromkeys(items, 2.5), 0.2, registry.make_measure(MEASURE))
    assert (found["low"], found["high"]) == pytest.approx(wilson(copies, n), abs=1e-9)


# ---- bad answers ----


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"answers": {"9999": "copy"}}, "answers.9999"),
        ({"answers": {"0001": "maybe"}}, "answers.0001"),
        ({"answers": {"0001": ["copy"]}}, "answers.0001"),
        ({"answers": ["copy"]}, "answers"),
        ({"sheet": "0123456789abcdef"}, "sheet"),
        ({"sheet": 5}, "sheet"),
        ({"schema": "something/2"}, "schema"),
        ({"more": 1}, "more"),
    ],
)
def test_answers_that_do_not_fit_are_refused_by_field(
    made: tuple[RunFolder, References], change: dict[str, Any], named: str
) -> None:
    _, key = sheet(made)
    answer(made[0], key, **change)
    with pytest.raises(BadInput) as raised:
        label_sheet.precision(made[0])
    assert str(raised.value).startswith(f"label/answers.json, {named}:") and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", '{"schema": "sidebench-label', "[]", "nonsense"])
def test_a_truncated_answer_file_is_named(made: tuple[RunFolder, References], text: str) -> None:
    sheet(made)
    (made[0].path / "label" / "answers.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=r"label/answers\.json"):
        label_sheet.precision(made[0])


@pytest.mark.parametrize(("field", "value"), [("set", "both"), ("weight", 0), ("score", "x"), ("stratum", -1)])
def test_a_changed_key_is_refused_by_field(made: tuple[RunFolder, References], field: str, value: Any) -> None:
    _, key = sheet(made)
    answer(made[0], key)
    key["items"]["0003"][field] = value
    write_json(made[0].path / "label" / "key.json", key)
    with pytest.raises(CorruptRun, match=rf"label/key\.json, items\.0003\.{field}"):
        label_sheet.precision(made[0])


def test_what_is_missing_is_said(made: tuple[RunFolder, References]) -> None:
    with pytest.raises(BadInput, match="make the sheet first"):
        label_sheet.precision(made[0])
    sheet(made)
    with pytest.raises(BadInput, match="put it beside the sheet"):
        label_sheet.precision(made[0])
