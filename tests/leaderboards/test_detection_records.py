"""Records of detectors: made from a folder, checked from their ranks, on boards of their own, refused when changed."""

import base64
import json
import zlib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_detections import detection_folder

from sidebench.benchmark.errors import BadInput, BadRecord, CorruptRun
from sidebench.benchmark.files import canonical_json, read_json, read_table, write_checked_json, write_table
from sidebench.leaderboards import detection_boards
from sidebench.leaderboards.badge import checked_file
from sidebench.leaderboards.build import build
from sidebench.leaderboards.challenge import challenge
from sidebench.leaderboards.check import check_files, check_record
from sidebench.leaderboards.check_base import check_on_base
from sidebench.leaderboards.detection_record import (
    DetectionRecord,
    check_sizes,
    dense,
    pack,
    parse_detection,
    unpack,
    unpacked,
)
from sidebench.leaderboards.make_detection import add_detection, make_detection_record
from sidebench.leaderboards.make_records import write_record
from sidebench.leaderboards.owners import claim
from sidebench.leaderboards.ranking import read_leaderboard, why_unranked
from sidebench.leaderboards.read_records import read_record, record_files
from sidebench.leaderboards.tables import FORMATS

Call = Callable[..., tuple[int, str, str]]
TODAY = date(2026, 1, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detection_folder(tmp_path_factory.mktemp("detections") / "glyphs-0")


@pytest.fixture(scope="module")
def made(folder: Path) -> DetectionRecord:
    return make_detection_record(folder, "somebody", TODAY)


@pytest.fixture
def content(made: DetectionRecord) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made.text())
    return found


def problems(content: Any) -> str:
    """Return all problems of a record as text; a record that cannot even be read has one."""
    try:
        record = parse_detection(content, "r.json")
    except BadRecord as error:
        return str(error)
    return "\n".join(f"{field}: {message}" for field, message in check_record(record, TODAY))


# ---- Made and shown ---------------------------------------------------------------------------------


def test_ranks_and_numbers_are_packed_without_loss() -> None:
    ranks = dense(np.array([0.5, -1.0, 0.5, 2.0]))
    assert unpack(pack(ranks), 4, "ranks").tolist() == [1, 0, 1, 2]
    for count in (3, 5):
        with pytest.raises(BadRecord, match="ranks: holds another number of entries than"):
            unpack(pack(ranks), count, "ranks")
    for text in ("?", pack(ranks)[:-8], ""):
        with pytest.raises(BadRecord, match="ranks: "):
            unpack(text, 4, "ranks")


@pytest.mark.parametrize("count", [1, 255, 256, 65_535, 65_536])
def test_numbers_of_every_width_are_packed_without_loss(count: int) -> None:
    numbers = np.arange(count)[::-1]
    assert np.array_equal(unpack(pack(numbers), count, "ranks"), numbers)


def test_packed_numbers_have_one_text_and_room_for_nothing_else() -> None:
    text = pack(np.array([1, 0, 1, 2]))
    content = base64.b64decode(text)
    others = {
        "bytes behind": base64.b64encode(content + b"SECRET").decode(),
        "bits behind": text.replace("g==", "h=="),
        "a line's end": text + "\n",
        "deflated": base64.b64encode(zlib.compress(content)).decode(),
        "deflated, and bytes behind": base64.b64encode(zlib.compress(content, 0) + b"SECRET").decode(),
    }
    for name, other in others.items():
        assert other != text
        with pytest.raises(BadRecord, match=r"^labels: "):
            pytest.fail(f"{name}: {unpack(other, 4, 'labels')}")


def test_a_record_gives_the_figures_of_its_folder(made: DetectionRecord, folder: Path) -> None:
    stored = read_json(folder / "detection.json")
    assert [each.model_dump(mode="json") for each in unpacked(made).figures(made.seed)] == stored["against"]
    assert problems(json.loads(made.text())) == ""
    assert made.track == "detection" and made.command.startswith(
        "sidebench detect glyphs --detector dsm --detector noise-norm --images 4 --steps 50 --seed 0 --negatives FILE "
        "--set dsm.guidance_scale=7.5"
    )
    assert str(folder) not in made.text() and made.victim.worked_example


def test_add_writes_a_record_that_stands_on_a_board_of_its_own(folder: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    file = add_detection(folder, "somebody", records, tmp_path / "key.pem")
    assert file.parent == records / "detection" / "glyphs" and file.name.startswith("detection-")
    assert check_files(record_files(records), records) == [] and why_unranked(file) == ""
    found = read_leaderboard(records)
    assert not found.boards and not found.overall and not found.unusable
    (board,) = found.detections
    never = board.current[0].record.against[1]
    first, second = detection_boards.standings(board.current[0].record, never)
    assert (first.used.detector, first.best, first.worst, second.best) == ("noise-norm", 1, 1, 2)
    assert "boards of detectors: 1" in build(records, tmp_path / "site", None).text
    page = (tmp_path / "site" / "boards" / f"{board.name}.html").read_text(encoding="utf-8")
    assert "Memorised against not replayed" in page and "Memorised against never seen" in page
    assert (
        "<p><bdi>Shown by AUC (Holm, 5 %): noise-norm above dsm" in page
        and "says nothing about how they stand on Stable Diffusion" in page
    )
    assert f"{never.rates[0].auc.value:.3f}" in page and "TPR at 1.0% FPR" in page
    assert (tmp_path / "site" / "records" / file.name.removeprefix("detection-")).read_text() == file.read_text()
    assert "Detectors on glyphs" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    for form in FORMATS:
        assert "noise-norm" in (tmp_path / "site" / "tables" / f"{board.name}.{form}").read_text(encoding="utf-8")


def test_the_command_adds_checks_and_builds(folder: Path, call: Call, tmp_path: Path) -> None:
    records = tmp_path / "records"
    code, out, err = call("leaderboard", "add", folder, "--as", "somebody", "--records", records)
    assert code == 0 and Path(out.strip()).is_file() and "will have no rank" not in err
    assert call("leaderboard", "check", "--records", records)[0] == 0
    code, out, _ = call("leaderboard", "build", "--records", records, "--out", tmp_path / "site")
    assert code == 0 and "boards of detectors: 1" in out
    code, _, err = call("leaderboard", "add", folder, "--as", "somebody", "--records", records, "--attack", "side")
    assert code == 2 and "holds a detection, which has no attack" in err


def test_ties_share_a_rank_range(made: DetectionRecord) -> None:
    never = made.against[1]
    tied = never.model_copy(update={"pairs": [never.pairs[0].model_copy(update={"tie": True})]})
    assert [(row.best, row.worst) for row in detection_boards.standings(made, tied)] == [(1, 2), (1, 2)]


def test_only_what_others_can_check_becomes_a_record(folder: Path, tmp_path: Path) -> None:
    refused: dict[str, tuple[dict[str, Any], str]] = {
        "file": ({"replay": None}, "its labels came from a file, which nobody can check"),
        "private": ({"public": False}, "the images of glyphs are not public: no record"),
        "pair": ({"identity": "0" * 64}, r"provenance\.json, identity: is of another pair"),
    }
    for name, (changes, said) in refused.items():
        with pytest.raises((BadInput, BadRecord), match=said):
            make_detection_record(detection_folder(tmp_path / name, **changes), "somebody")
    older = detection_folder(tmp_path / "older")
    (older / "provenance.json").unlink()
    with pytest.raises(BadInput, match=r"delete detection\.json in it and give the same command again"):
        make_detection_record(older, "somebody")


def test_a_changed_folder_makes_no_record(tmp_path: Path) -> None:
    folder = detection_folder(tmp_path / "a")
    stored = read_json(folder / "detection.json")
    stored["against"][1]["rates"][0]["auc"]["value"] += 0.001
    write_checked_json(folder / "detection.json", stored)
    with pytest.raises(BadRecord, match=r"detection\.json, against\.1\.rates\.0\.auc\.value: says .*, its scores say"):
        make_detection_record(folder, "somebody")
    folder = detection_folder(tmp_path / "b")
    table = read_table(folder / "scores.parquet").to_pydict()
    table["dsm"] = table["dsm"][::-1]
    write_table(folder / "scores.parquet", read_table(folder / "scores.parquet").from_pydict(table))
    with pytest.raises(BadRecord, match=r"detection\.json, against.* its scores say"):
        make_detection_record(folder, "somebody")
    (folder / "scores.parquet").write_bytes(b"no table")
    with pytest.raises(CorruptRun):
        make_detection_record(folder, "somebody")


# ---- Sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memorised", "never", "detectors"),
    [(10, 300_000, 1), (10, 4_000, 64), (3_000, 9_000, 1), (1_000, 1_500, 25), (20, 40, 64)],
)
def test_sizes_that_take_too_long_are_refused(
    memorised: int, never: int, detectors: int, made: DetectionRecord
) -> None:
    with pytest.raises(BadRecord, match=rf"r\.json, counts: .* prompts of {detectors} detectors are too many"):
        check_sizes(sized(made, memorised, never, detectors), "r.json")


@pytest.mark.parametrize(("memorised", "never", "detectors"), [(500, 6_000, 7), (149, 5_620, 11), (100, 60_000, 2)])
def test_sizes_of_studies_are_read(memorised: int, never: int, detectors: int, made: DetectionRecord) -> None:
    with pytest.raises(BadRecord, match="against"):  # what is looked at next
        check_sizes(sized(made, memorised, never, detectors), "r.json")


def sized(made: DetectionRecord, memorised: int, never: int, detectors: int) -> DetectionRecord:
    """Return the record with other sizes, and figures of none."""
    count = made.counts["memorised"]
    sizes = {"memorised": memorised, "not replayed": 0, "never seen": never, "ambiguous": 0}
    counts = {label: count.model_copy(update={"prompts": size, "families": size}) for label, size in sizes.items()}
    return made.model_copy(update={"counts": counts, "detectors": made.detectors[:1] * detectors, "against": []})


# ---- Changed records --------------------------------------------------------------------------------


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change that puts a value, or what a function makes of the one there, at a dotted path."""

    def change(content: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        target: Any = content
        for key in parents:
            target = target[int(key)] if isinstance(target, list) else target[key]
        place: Any = int(last) if isinstance(target, list) else last
        target[place] = value(target[place]) if callable(value) else value

    return change


def repacked(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[str], str]:
    return lambda text: pack(change(unpack(text, 203, "there")))


def swapped(numbers: np.ndarray) -> np.ndarray:
    return np.roll(numbers, 1)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "auc": (put("against.1.rates.0.auc.value", 0.999), "against.1.rates.0.auc.value: says 0.999, the ranks say"),
    "interval": (put("against.0.rates.1.auc.low", lambda low: low - 0.1), "against.0.rates.1.auc.low: "),
    "tpr": (
        put("against.1.rates.0.tpr", lambda t: {**t, "0.01": {**t["0.01"], "value": 1.0}}),
        "against.1.rates.0.tpr",
    ),
    "p": (put("against.1.pairs.0.p", 0.9), "against.1.pairs.0.p: "),
    "tie": (put("against.1.pairs.0.tie", lambda tie: not tie), "against.1.pairs.0.tie: "),
    "pairs": (put("against.1.pairs", []), "against.1.pairs: "),
    "tpr pairs": (put("against.1.tpr_pairs", {}), "against.1.tpr_pairs"),
    "left out": (put("against.1.left_out", {}), "against.1.left_out"),
    "order": (put("against.1.rates", lambda rates: rates[::-1]), "against.1.rates.0"),
    "ranks": (put("ranks.dsm", repacked(swapped)), "against."),
    "gaps": (put("ranks.dsm", repacked(lambda own: 2 * own)), "ranks.dsm: leave out a number"),
    "short": (put("ranks.dsm", pack(np.arange(3))), "ranks.dsm: holds another number of entries than the 203"),
    "other": (put("ranks", lambda own: {"dsm": own["dsm"]}), "ranks: must have one entry per detector"),
    "labels": (put("labels", repacked(swapped)), "counts.memorised: is not what labels and families say"),
    "hidden": (put("labels", lambda own: own + "U0VDUkVU"), "labels: "),
    "hidden in ranks": (put("ranks.dsm", lambda own: pack(np.append(unpack(own, 203, "there"), 65))), "ranks.dsm: "),
    "fourth": (put("labels", repacked(lambda own: own + 1)), "labels: are the numbers 0 to 2"),
    "families": (put("families", repacked(lambda own: np.minimum(own, 99))), "counts."),
    "count": (put("counts.memorised.prompts", 49), "detectors.0.prompts: is 203, and 204 were scored"),
    "label": (put("counts", lambda own: {**own, "perhaps": own["memorised"]}), "counts.perhaps"),
    "huge": (put("counts.never seen.prompts", 2**40), "counts: 1,099,511,627,849 prompts of 2 detectors are too many"),
    "captions": (put("counts.ambiguous", {"prompts": 184, "families": 1}), "counts: 257 captions of training images"),
    "no family": (put("counts.ambiguous.families", 0), "counts.ambiguous: 0 families cannot hold 4 prompts"),
    "more families": (put("counts.ambiguous.families", 5), "counts.ambiguous: 5 families cannot hold 4 prompts"),
    "negatives": (put("negatives", 131), "negatives: are 131, and 130 prompts were never seen"),
    "guidance": (put("replay.guidance_scale", -1), "replay.guidance_scale: is -1, and cannot be below 0"),
    "few calls": (put("detectors.0.nfe", 202), "detectors.0.nfe: is 202, and dsm calls the denoiser for each prompt"),
    "no calls": (put("detectors.1.nfe", 0), "detectors.1.nfe: is 0, and noise-norm calls the denoiser"),
    "version 0": (put("detectors.0.version", 0), "detectors.0.version: is 0: versions begin at 1"),
    "version -5": (put("detectors.1.version", -5), "detectors.1.version: is -5: versions begin at 1"),
    "calls": (put("detectors.0.nfe", -1), "detectors.0.nfe: cannot be below 0"),
    "setting": (put("detectors.0.settings", {"noise": 1}), "detectors.0.settings: "),
    "lacking": (put("detectors.0.settings", {}), "detectors.0.settings: does not say guidance_scale"),
    "version": (put("detectors.0.version", 99), "detectors.0.version: is 99, and it is at 1 here; update sidebench"),
    "code": (put("detectors.0.code", {"package": "other", "sha256": "0"}), "detectors.0.code: is not sidebench's"),
    "name": (put("detectors.0.detector", "own"), "against.0.rates: must have one entry per detector"),
    "twice": (put("detectors", lambda own: own[:1] * 2), "against.0.rates: must have one entry per detector"),
    "replay": (put("replay.nfe", 10), "replay.nfe: is too few for 4 images of 77 captions in 50 steps"),
    "measure": (put("replay.measure", "nearest"), "replay.measure: "),
    "command": (put("command", "sidebench detect glyphs"), "command: is not the command of these settings"),
    "path": (put("made.processor", "/home/somebody/cpu"), "made.processor: holds an absolute path"),
    "pair": (put("victim.identity", "0" * 64), "victim.identity: is not that of the pair glyphs"),
    "model": (
        put("victim.model_sha256", {"unet/config.json": "0" * 64}),
        "victim.model_sha256: is not that of the pair",
    ),
    "images": (put("victim.training_images", 257), "victim.training_images: is not that of the pair glyphs"),
    "private": (put("victim.public", False), "victim.public: is false"),
    "track": (put("track", "extraction"), "track"),
    "future": (put("submitted", "2031-01-01"), "submitted: 2031-01-01 lies in the future"),
    "schema": (
        put("schema", "sidebench-detection-record/2"),
        "schema: 'sidebench-detection-record/2' is not known here",
    ),
    "key": (lambda content: content.update(rank=1), "rank"),
    "reason": (put("against.1.refused", "no"), "against.1.refused: is there exactly where there are no rates"),
    "rate": (put("against.1.left_out", {"one": "x"}), "against.1.tpr_pairs: are by a rate out of 0.001, 0.01"),
    "stranger": (put("against.1.pairs.0.first", "<b>"), "against.1.pairs: compare a detector that the record does not"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_record_is_refused_by_field(name: str, content: dict[str, Any]) -> None:
    change, said = CHANGES[name]
    change(content)
    assert said in problems(content), problems(content)


def test_settings_of_an_older_version_are_checked_too(content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from sidebench.methods.detectors.dsm import Dsm

    monkeypatch.setattr(Dsm, "version", 2)
    assert problems(content) == ""
    lacking = dict(content["detectors"][0]["settings"])
    del lacking["noises"]
    content["detectors"][0]["settings"] = lacking
    assert "detectors.0.settings: does not say noises" in problems(content)
    monkeypatch.setattr(Dsm, "later_settings", frozenset({"noises"}))
    assert "detectors.0.settings" not in problems(content)
    content["detectors"][0]["settings"] = {**lacking, "noise": 1}
    assert "detectors.0.settings: " in problems(content)


def test_a_changed_file_is_refused_by_its_name_and_left_out_of_the_board(folder: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    file = add_detection(folder, "somebody", records, tmp_path / "key.pem")
    text = file.read_text(encoding="utf-8")
    for name, (change, _) in CHANGES.items():
        changed = json.loads(text)
        change(changed)
        file.with_name(f"detection-{name}.json").write_text(canonical_json(changed), encoding="utf-8")
    file.with_name("detection-cut.json").write_text(text[:2000], encoding="utf-8")
    bad = set(record_files(records)) - {file}
    assert {problem.file for problem in check_files(record_files(records), records)} == {path.name for path in bad}
    found = read_leaderboard(records)
    assert len(found.unusable) == len(bad), "a signature holds for what was signed"
    assert [row.entry.path for board in found.detections for row in board.current] == [file]
    build(records, tmp_path / "site", None)


def test_pages_show_text_of_a_record_as_text(made: DetectionRecord, tmp_path: Path) -> None:
    records = tmp_path / "records"
    record = made.model_copy(update={"submitter": "<script>alert(1)</script>"})
    write_record(claim([record], records, None)[0], records)
    build(records, tmp_path / "site", None)
    pages = [file.read_text(encoding="utf-8") for file in (tmp_path / "site").rglob("*.html")]
    assert not any("<script>alert" in page for page in pages) and any("&lt;script&gt;alert" in page for page in pages)


# ---- Together ---------------------------------------------------------------------------------------


def test_a_claim_is_made_once_and_a_copy_is_found(folder: Path, made: DetectionRecord, tmp_path: Path) -> None:
    records = tmp_path / "records"
    add_detection(folder, "somebody", records, tmp_path / "key.pem")
    with pytest.raises(BadRecord, match=r"detectors: is claimed in detection-.* already, by the same submitter"):
        add_detection(folder, "Some Body", records, tmp_path / "key.pem")
    add_detection(folder, "another", records, tmp_path / "other.pem")
    (problem,) = check_files(record_files(records), records)
    assert (problem.field, "a record is copied" in problem.message) == ("hashes", True)


def test_a_repetition_by_somebody_else_is_welcome(folder: Path, tmp_path: Path) -> None:
    records, own = tmp_path / "records", detection_folder(tmp_path / "own", draw=1)
    add_detection(folder, "somebody", records, tmp_path / "key.pem")
    add_detection(own, "another", records, tmp_path / "other.pem")
    assert check_files(record_files(records), records) == []
    (board,) = read_leaderboard(records).detections
    assert len(board.current) == 2


def test_other_prompts_and_labels_made_otherwise_are_other_boards(
    folder: Path, made: DetectionRecord, tmp_path: Path
) -> None:
    replay = made.replay.model_copy(update={"images": 2})
    plan = {"pair": made.victim.identity, "prompts": "6" * 64}
    others = [
        detection_folder(tmp_path / "prompts", plan=plan, started="2026-02-01T00:00:00+00:00"),
        detection_folder(tmp_path / "replay", replay=replay, started="2026-03-01T00:00:00+00:00"),
    ]
    for each in (folder, *others):
        add_detection(each, "somebody", tmp_path / "records", tmp_path / "key.pem")
    assert check_files(record_files(tmp_path / "records"), tmp_path / "records") == []
    assert [len(board.current) for board in read_leaderboard(tmp_path / "records").detections] == [1, 1, 1]


def test_an_older_version_of_a_detector_no_longer_stands(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidebench.methods.detectors.dsm import Dsm

    records = tmp_path / "records"
    file = add_detection(folder, "somebody", records, tmp_path / "key.pem")
    monkeypatch.setattr(Dsm, "version", 2)
    assert why_unranked(file) == "version 1 of dsm; 2 is the current one"
    (board,) = read_leaderboard(records).detections
    assert not board.current and len(board.stale) == 1
    build(records, tmp_path / "site", None)
    page = (tmp_path / "site" / "boards" / f"{board.name}.html").read_text(encoding="utf-8")
    assert "No record of this board still stands" in page and "version 1 of dsm" in page


def test_names_belong_to_their_owners_on_this_track_too(folder: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    file = add_detection(folder, "somebody", records, tmp_path / "key.pem")
    (tmp_path / "owners.json").write_bytes((records / "owners.json").read_bytes())
    assert check_on_base(records, records) == []
    with pytest.raises(BadInput, match="belongs to the key"):
        add_detection(detection_folder(tmp_path / "b", seed=1), "somebody", records, tmp_path / "other.pem")
    checked_file(file).write_text("{}", encoding="utf-8")
    (problem,) = check_files(record_files(records), records)
    assert (problem.file, problem.field) == (checked_file(file).name, "record")


def test_a_pair_is_one_victim_on_both_tracks(folder: Path, made: DetectionRecord, tmp_path: Path) -> None:
    records = tmp_path / "records"
    add_detection(folder, "somebody", records, tmp_path / "key.pem")
    other = detection_folder(tmp_path / "other", draw=2, sides_sha256="b" * 64)
    with pytest.raises(BadRecord, match=r"detection, victim\.sides_sha256: is not that of glyphs@1"):
        add_detection(other, "another", records, tmp_path / "other.pem")


def test_commands_of_extraction_say_that_it_is_another_track(folder: Path, tmp_path: Path) -> None:
    file = add_detection(folder, "somebody", tmp_path / "records", tmp_path / "key.pem")
    for call in (read_record, lambda file: challenge(file, None, 1)):  # type: ignore[arg-type]
        with pytest.raises(BadRecord, match=r"is a record of detectors: it has no candidates"):
            call(file)
