"""Tampered records are refused, each by the name of a field that no longer fits."""

import hashlib
import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import as_version, changed, entry, list_file, repeated, store, upgraded

from sidebench.benchmark.errors import BadRecord
from sidebench.benchmark.files import canonical_json
from sidebench.benchmark.runs import runner
from sidebench.leaderboards.badge import checked_file
from sidebench.leaderboards.check import check_files, check_record
from sidebench.leaderboards.make_records import make_records, write_record
from sidebench.leaderboards.ranking import rank, read_leaderboard
from sidebench.leaderboards.read_records import parse_record, record_files
from sidebench.leaderboards.record import Record, Source, pack, unpack

TODAY = date(2026, 1, 2)


@pytest.fixture(scope="module")
def made(make_plan: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """Return records of two attacks under two seeds on a control that hits, so that every count is there."""
    out = tmp_path_factory.mktemp("leaky")
    plan = make_plan(out, attacks=("carlini-uncond", "side"), seeds=(0, 1), model="control:mixture:0.4")
    return make_records(runner.execute(plan).folder, "somebody", today=TODAY)


@pytest.fixture
def content(made: list[Record], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return one record as JSON; the control model stands in for the pair's own."""
    monkeypatch.setattr("sidebench.leaderboards.check_fields._shipped", lambda record, pair: iter(()))
    found: dict[str, Any] = json.loads(made[1].text())
    return found


def problems(content: Any) -> str:
    """Return all problems of a record as text; a record that cannot even be read has one."""
    try:
        record = parse_record(content, "r.json")
    except BadRecord as error:
        return str(error)
    return "\n".join(f"{field}: {message}" for field, message in check_record(record, TODAY))


def band(content: dict[str, Any], number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = content["results"][0]["bands"][number]
    return found


def flip(content: dict[str, Any], candidate: int) -> None:
    hits = content["hits"][0]
    bits = unpack(hits["training"], content["candidates"], "hits")
    bits[candidate] ^= True
    hits["training"] = pack(bits)


def add(path: str, amount: float) -> Callable[[dict[str, Any]], None]:
    """Return a change that adds to one number, by its dotted path."""

    def change(content: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target: Any = content
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target[key]
        target[last] += amount

    return change


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change that puts a value at a dotted path."""

    def change(content: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target: Any = content
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target[key]
        target[int(last) if isinstance(target, list) else last] = value

    return change


def scaled_group(content: dict[str, Any]) -> None:
    names = content["hits"][0]["training_groups"]
    names[next(iter(names))] += 1


def renamed_group(content: dict[str, Any]) -> None:
    names = content["hits"][0]["training_groups"]
    names["17"] = names.pop(next(iter(names)))


def split_group(content: dict[str, Any]) -> None:
    names = content["hits"][0]["training_groups"]
    largest = max(names, key=lambda name: names[name])
    names[largest] -= 1
    names["0" * 16] = 1


def higher_rate(content: dict[str, Any]) -> None:
    ams = band(content)["training"]["ams"]
    ams["count"] += 1
    ams["value"] = ams["count"] / content["candidates"]


def swapped_bands(content: dict[str, Any]) -> None:
    bands = content["results"][0]["bands"]
    bands[0], bands[1] = bands[1], bands[0]


def fewer_held_out(content: dict[str, Any]) -> None:
    content["hits"][0]["control"] = pack(np.ones(content["candidates"], dtype=bool))


TAMPERINGS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "the excess": (add("excess.value", 0.01), "excess"),
    "its lower end": (add("excess.low", 0.01), "excess"),
    "its upper end": (add("excess.high", -0.01), "excess"),
    "a rate": (add("results.0.bands.0.training.ams.value", 0.01), "results.0.bands.0.training.ams.value"),
    "a count": (add("results.0.bands.0.training.ams.count", 1), "results.0.bands.0.training.ams"),
    "a rate with its count": (higher_rate, "results.0.bands.0.training.ams.low"),
    "a count beyond N_G": (put("results.0.bands.0.training.ams.count", 41), "results.0.bands.0.training.ams.count"),
    "a negative count": (put("results.0.bands.0.training.ams.count", -1), "results.0.bands.0.training.ams.count"),
    "Wilson's interval": (add("results.0.bands.1.training.ams.high", 0.05), "results.0.bands.1.training.ams.low"),
    "more images than there are": (
        put("results.0.bands.0.training.ums.count", 257),
        "results.0.bands.0.training.ums.count",
    ),
    "UMS that is not whole": (
        add("results.0.bands.0.training.ums.value", 1e-4),
        "results.0.bands.0.training.ums.value",
    ),
    "an interval beside its value": (put("results.0.bands.0.training.ums.low", 0.99), "training.ums.low"),
    "best matches beyond hits": (
        put("results.0.bands.0.training.ums_best.count", 40),
        "results.0.bands.0.training.ums_best.count",
    ),
    "more groups": (add("results.0.bands.0.training.groups", 1), "training"),
    "no groups": (put("results.0.bands.0.training.groups", 0), "results.0.bands.0.training.groups"),
    "a giant group": (put("results.0.bands.0.training.largest_group", 200), "results.0.bands.0.training.largest_group"),
    "the held-out rate": (add("results.0.bands.0.held_out.ams.value", -0.01), "held_out.ams.value"),
    "a band's excess": (add("results.0.bands.0.excess.value", 0.02), "results.0.bands.0.excess.value"),
    "another band's excess": (add("results.0.bands.2.excess.value", 0.02), "results.0.bands.2.excess.value"),
    "an excess interval": (add("results.0.bands.0.excess.low", 0.02), "excess"),
    "the label-swap test": (put("results.0.bands.0.label_swap_p", 0.5), "label_swap_p"),
    "an impossible p-value": (put("results.0.bands.1.label_swap_p", 0), "results.0.bands.1.label_swap_p"),
    "a union of bands": (add("results.0.bands.3.training.ams.count", -1), "results.0.bands.3.training.ams"),
    "the bands' order": (swapped_bands, "results.0.bands"),
    "a band's edge": (put("results.0.bands.0.high", 0.6), "results.0.bands"),
    "the band": (put("band", "low"), "band"),
    "the measure": (put("measure", "rms"), "measure"),
    "a measure that is not": (put("results.0.measure", "nl3"), "measure"),
    "the candidates": (put("candidates", 10_000), "command"),
    "one result's candidates": (put("results.0.candidates", 30), "results.0.candidates"),
    "broken images": (put("results.0.nan", 100), "results.0.nan"),
    "a hit more": (lambda content: flip(content, 7), "hits.0.training"),
    "all hits": (fewer_held_out, "hits.0.control"),
    "bits that are none": (put("hits.0.training", "AAAA"), "hits.training"),
    "a group's count": (scaled_group, "hits.0.training_groups"),
    "a group's name": (renamed_group, "hits.0.training_groups"),
    "a group split in two": (split_group, "hits.0.training_groups"),
    "a seed left out": (put("seeds", [0]), "hits"),
    "seeds out of order": (put("seeds", [1, 0]), "seeds"),
    "a result left out": (lambda content: content["results"].pop(), "results"),
    "another attack's result": (put("results.0.attack", "carlini-uncond"), "results"),
    "the cost": (add("costs.0.nfe.generate", -10), "costs.0.denoiser_equivalents"),
    "the equivalents": (add("costs.0.denoiser_equivalents", -10), "costs.0.denoiser_equivalents"),
    "hits per cost": (add("costs.0.hits_per_1000_equivalents", 1), "costs.0.hits_per_1000_equivalents"),
    "hits of the cost": (add("costs.0.hits", 1), "costs.0.hits"),
    "negative work": (put("costs.0.nfe.prepare", -5), "costs.0"),
    "synthetic hits": (put("costs.0.synthetic_hits", 10**6), "costs.0.synthetic_hits"),
    "a calibration rate": (put("results.0.calibrated.0.q", 0.5), "results.0.calibrated"),
    "a refusal taken back": (put("results.0.calibrated.0.refused", ""), "results.0.calibrated.0.refused"),
    "calibrated candidates": (put("results.0.calibrated.0.candidates", 40), "results.0.calibrated.0.candidates"),
    "a curve that misses": (add("results.0.richness.groups.0.value", 1e6), "results.0.richness.groups"),
    "the lower bound on all": (put("results.0.richness.chao1_groups.value", 0), "results.0.richness.chao1_groups"),
    "the AUC": (put("victim.control_check.auc", 0.99), "victim.control_check"),
    "whether sides are told apart": (put("victim.control_check.told_apart", True), "victim.control_check.told_apart"),
    "the groups of X": (put("victim.training_groups", 300), "victim.training_groups"),
    "the kind of control": (put("victim.control", "perfect"), "victim.control"),
    "the access": (put("claim.access", "root"), "claim.access"),
    "the settings": (put("claim.settings.clusters", 99), "command"),
    "the command": (put("command", "sidebench run digits"), "command"),
    "a hash": (put("hashes.scores.0", "0" * 63), "hashes.scores"),
    "a hash left out": (lambda content: content["hashes"]["state"].pop("1"), "hashes.state"),
    "the day": (put("submitted", str(TODAY + timedelta(days=3))), "submitted"),
    "a path": (put("made.processor", "/home/someone/cpu"), "made.processor"),
    "a Windows path": (put("made.processor", "C:\\Users\\someone"), "made.processor"),
    "a token": (put("submitter", "hf_abcdefghijklmnop"), "submitter"),
    "an address": (put("submitter", "see https://example.org"), "submitter"),
    "a control character": (put("submitter", "some\u202ebody"), "submitter"),
    "an image": (put("claim.settings.features", "data:image/png;base64,iVBORw0KGgo="), "claim.settings.features"),
    "a file outside": (put("victim.model_sha256", {"../x": "0" * 64}), "victim.model_sha256"),
    "a commit": (put("victim.sources", {"model": {"repo": "a/b", "commit": "main"}}), "victim.sources.model.commit"),
    "a repository": (put("victim.sources", {"data": {"repo": "../b", "commit": "0" * 40}}), "victim.sources.data.repo"),
    "an unknown part": (put("victim.sources", {"x": {"repo": "a/b", "commit": "0" * 40}}), "victim.sources.x"),
    "an unknown field": (put("victim.rank", 1), "victim.rank"),
    "not a number": (put("excess.value", float("nan")), "excess"),
}


def test_the_record_as_made_has_no_problem(content: dict[str, Any]) -> None:
    assert problems(content) == ""
    assert band(content)["training"]["ams"]["count"] > 3, "the fixture hits nothing, so tampering would not show"


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_named(content: dict[str, Any], name: str) -> None:
    change, field = TAMPERINGS[name]
    change(content)
    found = problems(content)
    assert field in found, f"wanted a problem with {field}, got: {found or 'none'}"


def test_a_setting_that_is_not_said_is_of_before_only_where_it_came_later(content: dict[str, Any]) -> None:
    came_later = ("denoise", "miscalibration", "rejected")
    for version, gone, said in (
        (1, came_later, False),
        (1, ("denoise",), False),
        (1, ("width",), True),
        (2, came_later, True),
        (2, ("denoise",), True),
    ):
        settings = {key: value for key, value in content["claim"]["settings"].items() if key not in gone}
        lacking = {**content, "claim": {**content["claim"], "settings": settings, "version": version}}
        assert (f"does not say {gone[0]}" in problems(lacking)) is said, (version, gone)


def test_a_version_that_is_not_known_here_is_refused(content: dict[str, Any]) -> None:
    later = {**content, "claim": {**content["claim"], "version": 3}}
    assert "is 3, and side is at 2 here" in problems(later)


def test_tracks_are_of_their_victims(content: dict[str, Any]) -> None:
    assert "cannot be images of a victim of family" in problems({**content, "track": "images"})


def test_another_model_than_the_pairs_is_refused(made: list[Record]) -> None:
    fields = {field for field, _ in check_record(made[0], TODAY)}
    assert fields == {"victim.model_sha256", "victim.family"}


def test_the_shipped_pair_is_compared(finished: Any) -> None:
    [record, *_] = make_records(finished.folder, "somebody", today=TODAY)
    assert check_record(record, TODAY) == []
    changes = {
        "identity": "0" * 64,
        "control": "surrogate",
        "revision": 99,
        "training_images": 300,
        "data_sha256": "0" * 64,
        "worked_example": False,
    }
    for key, value in changes.items():
        victim = record.victim.model_copy(update={key: value})
        fields = [field for field, _ in check_record(record.model_copy(update={"victim": victim}), TODAY)]
        assert f"victim.{key}" in fields


def test_a_file_must_be_as_it_was_made_and_where_it_belongs(finished: Any, tmp_path: Path) -> None:
    made = make_records(finished.folder, "somebody", today=TODAY)
    files = [store(record, tmp_path) for record in made]
    assert check_files(record_files(tmp_path), tmp_path, TODAY) == []
    text = files[0].read_text(encoding="utf-8")

    files[0].write_text(json.dumps(json.loads(text)), encoding="utf-8")
    assert [p.field for p in check_files([files[0]], tmp_path, TODAY)] == ["file", "signature"]
    files[0].write_text(text.replace("somebody", "nobody"), encoding="utf-8")
    assert "changed after it was made" in str(check_files([files[0]], tmp_path, TODAY)[0])
    files[0].write_text(text[: len(text) // 2], encoding="utf-8")
    assert "cannot be read" in str(check_files([files[0]], tmp_path, TODAY)[0])
    files[0].write_text(text.replace('"training_images": 256', '"training_images": NaN'), encoding="utf-8")
    assert "NaN is no number" in str(check_files([files[0]], tmp_path, TODAY)[0])
    files[0].write_text(text, encoding="utf-8")

    elsewhere = tmp_path / "sidebench-2" / "other" / files[1].name
    elsewhere.parent.mkdir()
    files[1].rename(elsewhere)
    assert [str(p) for p in check_files(record_files(tmp_path), tmp_path, TODAY)] == [
        f"{elsewhere.name}, file: belongs in sidebench-2/digits"
    ]


def test_claiming_twice_is_refused_and_repeating_another_is_not(finished: Any, tmp_path: Path) -> None:
    [first] = make_records(finished.folder, "somebody", ["side"], today=TODAY)
    again = first.model_copy(update={"submitted": TODAY + timedelta(days=1)})
    other = repeated(first.model_copy(update={"submitter": "somebody else"}))
    for record in (first, other):
        store(record, tmp_path)
    assert check_files(record_files(tmp_path), tmp_path, TODAY) == []
    store(again, tmp_path)
    assert [problem.field for problem in check_files(record_files(tmp_path), tmp_path, TODAY)] == ["claim"]


def test_two_pairs_of_one_name_are_refused(made: list[Record], content: dict[str, Any], tmp_path: Path) -> None:
    store(made[0], tmp_path)
    victim = made[1].victim.model_copy(update={"identity": "0" * 64})
    other = made[1].model_copy(update={"victim": victim})
    with pytest.raises(BadRecord, match=r"victim\.identity: is not that of digits@1 as its first record has it"):
        store(other, tmp_path)
    list_file(write_record(other, tmp_path), "somebody", tmp_path)
    assert [problem.field for problem in check_files(record_files(tmp_path), tmp_path, TODAY)] == ["victim.identity"]


# ---- Badges -----------------------------------------------------------------------------------------


@pytest.fixture
def checked(finished: Any, tmp_path: Path) -> Path:
    """Return the file of a record with a badge."""
    [record] = make_records(finished.folder, "somebody", ["side"], today=TODAY)
    file = store(record, tmp_path)
    badge = {
        "schema": "sidebench-challenge/1",
        "record": hashlib.sha256(file.read_bytes()).hexdigest(),
        "draw": "0" * 32,
        "checked": 8,
        "agreed": 8,
        "of": record.candidates,
        "tolerance": 0.01,
        "largest": 0.001,
        "device": "cpu",
        "day": str(TODAY),
    }
    checked_file(file).write_text(json.dumps(badge), encoding="utf-8")
    return file


def test_a_badge_that_fits_has_no_problem(checked: Path, tmp_path: Path) -> None:
    assert check_files([checked], tmp_path, TODAY) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("record", "0" * 64),
        ("schema", "sidebench-challenge/2"),
        ("draw", "mine"),
        ("checked", 0),
        ("of", 400),
        ("tolerance", 0.5),
        ("largest", 0.02),
        ("largest", -1),
        ("day", str(TODAY - timedelta(days=9))),
        ("day", str(TODAY + timedelta(days=9))),
        ("seal", "gold"),
    ],
)
def test_a_tampered_badge_is_named(checked: Path, tmp_path: Path, field: str, value: Any) -> None:
    file = checked_file(checked)
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, field: value}), encoding="utf-8")
    assert [(p.file, p.field) for p in check_files([checked], tmp_path, TODAY)] == [(file.name, field)]


def test_more_agreed_than_checked_and_a_badge_alone_are_refused(checked: Path, tmp_path: Path) -> None:
    file = checked_file(checked)
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "agreed": 9}), encoding="utf-8")
    assert "agreed, checked and of" in str(check_files([checked], tmp_path, TODAY)[0])
    checked.unlink()
    assert [(p.file, p.field) for p in check_files([], tmp_path, TODAY)] == [(file.name, "record")]


# ---- Older schemas ----------------------------------------------------------------------------------


def test_a_file_of_an_older_schema_stands_as_it_was_written(finished: Any, tmp_path: Path) -> None:
    [record] = make_records(finished.folder, "somebody", ["carlini-uncond"], today=TODAY)
    text = canonical_json(as_version(record, 1))
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    file = record.file(tmp_path, name)
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    list_file(file, record.submitter, tmp_path)
    assert check_files([file], tmp_path, TODAY) == []
    (board,) = read_leaderboard(tmp_path).boards
    assert board.ranked[0].entry.id == name and board.ranked[0].record == upgraded(record)

    file.write_text(text.replace("somebody", "nobody"), encoding="utf-8")
    assert "changed after it was made" in str(check_files([file], tmp_path, TODAY)[0])
    file.write_text(json.dumps(json.loads(text)), encoding="utf-8")
    assert "not written as records are" in str(check_files([file], tmp_path, TODAY)[0])


def test_the_same_claim_under_two_schemas_is_one_board_and_a_repetition(finished: Any, tmp_path: Path) -> None:
    [record] = make_records(finished.folder, "somebody", ["side"], today=TODAY)
    origin = {"model": Source(repo="a/b", commit="0" * 40)}
    newer = record.model_copy(update={"victim": record.victim.model_copy(update={"sources": origin})})
    for each in (record, newer):
        store(each, tmp_path)
    assert [problem.field for problem in check_files(record_files(tmp_path), tmp_path, TODAY)] == ["claim"]
    assert len(rank([entry(record), entry(changed(newer, submitter="other"))]).boards) == 1
