"""A challenge of a record of detectors: honest folders are reproduced, and each kind of forgery is refused by name."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hub_repositories import captioned_pair, text_pipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.data import image_cache
from sidebench.benchmark.data.pair import Pair
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.errors import BadInput, BadRecord, BadSetting
from sidebench.benchmark.files import read_json, read_table, write_checked_json, write_table
from sidebench.benchmark.results.detection import against, counted
from sidebench.benchmark.runs.detect import detect
from sidebench.benchmark.sampling.views import AuditedModel
from sidebench.leaderboards.badge import CheckedDetection, checked_file, read_badge
from sidebench.leaderboards.build import build
from sidebench.leaderboards.challenge_detection import as_text, challenge_detection, drawn
from sidebench.leaderboards.check import check_files
from sidebench.leaderboards.detection_record import KINDS, DetectionRecord, pack, unpack
from sidebench.leaderboards.make_detection import make_detection_record
from sidebench.leaderboards.make_records import file_hash, write_record
from sidebench.leaderboards.owners import claim

pytest.importorskip("transformers")
Call = Callable[..., tuple[int, str, str]]
DETECTORS = ("anisotropy", "attention-entropy", "noise-norm")
MEMORISED, AMBIGUOUS, CAPTIONS, PROMPTS = 11, 2, 23, 38


class Submitted:
    """A pair, a detection of it with a file of negatives, and the record of that."""

    def __init__(self, place: Path) -> None:
        self.pair = captioned_pair(place, CAPTIONS, 13, text_pipeline(place / "sd"), public=True, made_by="a recipe")
        self.pair_file, self.negatives = place / "pair.yaml", place / "more.txt"
        self.pair_file.write_text(self.pair.model_dump_json(), encoding="utf-8")
        self.negatives.write_text("zebra\nquagga\n", encoding="utf-8")

    def challenge(self, file: Path, folder: Path, count: int = PROMPTS, **options: Any) -> CheckedDetection:
        named = {"pair": str(self.pair_file), "negatives": self.negatives, "device": "cpu"}
        return challenge_detection(file, folder, count, **{**named, **options})


def replaying(pair: Pair, patch: pytest.MonkeyPatch) -> None:
    """Make the model return the own image of some captions always, of two once in four times, of the others never."""
    known = load_references(pair)
    own, theirs, captions = known.training.floats(), known.held_out.floats(), known.training.captions or []
    sampled = AuditedModel.sample_prompts

    def sample(view: Any, candidates: Candidates, prompts: Sequence[str], **options: Any) -> Tensor:
        sampled(view, candidates, prompts, **options)  # what it costs is counted
        rows = [captions.index(prompt) for prompt in prompts]
        now_and_then = MEMORISED + (AMBIGUOUS if candidates.purpose == "label 1" else 0)
        return torch.stack([own[row] if row < now_and_then else theirs[row % len(theirs)] for row in rows])

    patch.setattr(AuditedModel, "sample_prompts", sample)


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Submitted, Path]]:
    place = tmp_path_factory.mktemp("submitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_cache, "cache", lambda: place / "cache")
        made = Submitted(place)
        replaying(made.pair, patch)
        settings = {name: {"noises": 1} for name in DETECTORS}
        folder = detect(
            made.pair, DETECTORS, out=place / "out", negatives=made.negatives, settings=settings, device="cpu"
        ).folder
        shutil.rmtree(folder / "blocks")  # what a submitter hands over
        yield made, folder


@pytest.fixture
def folder(submitted: tuple[Submitted, Path], tmp_path: Path) -> Path:
    """Return a copy that a test may change."""
    return Path(shutil.copytree(submitted[1], tmp_path / submitted[1].name))


def recorded(folder: Path, records: Path, **changes: Any) -> Path:
    """Write the record of a folder, perhaps with other fields than the folder gives."""
    record = make_detection_record(folder, "somebody").model_copy(update=changes)
    return write_record(claim([record], records, None)[0], records)


def rewritten(folder: Path, change: Callable[[dict[str, list[Any]]], None]) -> None:
    """Change the scores of a folder, and every figure with them, as somebody would who knows how they are made."""
    table = read_table(folder / "scores.parquet").to_pydict()
    change(table)
    write_table(folder / "scores.parquet", pa.table(table))
    said, families = read_json(folder / "detection.json"), np.array(table["family"])
    labels = np.array(table["label"])
    scores = {name: np.array(table[name]) for name in DETECTORS}
    figures = [against(kind, scores, labels, families, said["seed"]).model_dump(mode="json") for kind in KINDS]
    counts = {label: count.model_dump() for label, count in counted(labels, families).items() if label != "ambiguous"}
    write_checked_json(folder / "detection.json", {**said, "against": figures, "counts": {**said["counts"], **counts}})


# ---- Honest -----------------------------------------------------------------------------------------


def test_an_honest_folder_is_reproduced(submitted: tuple[Submitted, Path], tmp_path: Path) -> None:
    made, folder = submitted
    file = recorded(folder, tmp_path / "records")
    found = made.challenge(file, folder, 12)
    assert (found.checked, found.agreed, found.replayed, found.of) == (12, 12, 6, PROMPTS) and found.differ == {}
    assert found.largest < 1e-4, "another number of prompts at a time rounds otherwise"
    assert found.words == "reproduced 12 of 38 prompts" and found.words in as_text(found)
    assert found.wrong_at_most() == pytest.approx(1 - 0.05 ** (1 / 6)), "of either kind six were drawn"
    assert read_badge(file, file_hash(file), CheckedDetection) == found
    assert made.challenge(file, folder, 12, draw=found.draw).draw == found.draw
    assert check_files([file], tmp_path / "records") == []
    build(tmp_path / "records", tmp_path / "site", None)
    for page in ("boards", "records"):
        (text,) = [page.read_text(encoding="utf-8") for page in (tmp_path / "site" / page).glob("*.html")]
        assert "reproduced 12 of 12 drawn" in text and 'title="reproduced 12 of 38 prompts:' in text
    (csv,) = (tmp_path / "site" / "tables").glob("*.csv")
    assert "made_again_agreed" in csv.read_text(encoding="utf-8")


def test_a_draw_takes_captions_and_others_alike_as_far_as_there_are() -> None:
    captions, others = np.arange(5), np.arange(5, 105)
    for count, of_captions in ((1, 1), (2, 1), (8, 4), (50, 5), (105, 5)):
        rows = drawn("9" * 32, count, captions, others)
        assert len(set(rows.tolist())) == count and (rows < 5).sum() == of_captions
    assert (drawn("9" * 32, 5, captions, others[:0]) < 5).all()
    assert not np.array_equal(drawn("9" * 32, 8, captions, others), drawn("8" * 32, 8, captions, others))


def test_the_command_challenges_a_record_of_detectors(
    submitted: tuple[Submitted, Path], call: Call, tmp_path: Path
) -> None:
    made, folder = submitted
    file = recorded(folder, tmp_path / "records")
    asked = ["leaderboard", "check", file, "--run", folder, "--pair", made.pair_file, "--challenge", 2]
    code, out, err = call(*asked, "--negatives", made.negatives, "--device", "cpu")
    assert code == 0, err
    assert out.startswith("reproduced 2 of 38 prompts, 1 of them replayed for their label")
    for options in (["--prepare"], ["--model", "x"], ["--allow-pickle"]):
        code, _, err = call(*asked, *options)
        assert code == 2 and "is of detectors: leave out --prepare, --model and --allow-pickle" in err


# ---- Forged -----------------------------------------------------------------------------------------


def test_a_forged_score_is_found_by_its_detector(
    submitted: tuple[Submitted, Path], folder: Path, tmp_path: Path
) -> None:
    def change(table: dict[str, list[Any]]) -> None:
        table["noise-norm"][3] += 1.0 * (max(table["noise-norm"]) - min(table["noise-norm"]))

    rewritten(folder, change)
    file = recorded(folder, tmp_path / "records")
    found = submitted[0].challenge(file, folder)
    assert (found.agreed, found.differ) == (PROMPTS - 1, {"noise-norm": 1}) and not found.passed
    assert "1 of 38 reproduced prompts differ: 1 by noise-norm" in as_text(found)
    assert check_files([file], tmp_path / "records") == [], "a badge that says so is one"


def test_a_forged_label_is_found(submitted: tuple[Submitted, Path], folder: Path, tmp_path: Path) -> None:
    def change(table: dict[str, list[Any]]) -> None:
        places = [table["label"].index("memorised"), table["label"].index("not replayed")]
        for place, label in zip(places, ("not replayed", "memorised"), strict=True):
            table["label"][place] = label

    rewritten(folder, change)
    found = submitted[0].challenge(recorded(folder, tmp_path / "records"), folder)
    assert found.differ == {"label": 2} and found.agreed == PROMPTS - 2


def test_a_caption_that_is_called_ambiguous_to_leave_it_out_is_found(
    submitted: tuple[Submitted, Path], folder: Path, tmp_path: Path
) -> None:
    def change(table: dict[str, list[Any]]) -> None:
        place = table["label"].index("memorised", 2)
        for column in table.values():
            del column[place]

    rewritten(folder, change)
    said = read_json(folder / "detection.json")
    count = said["counts"]["ambiguous"]
    said["counts"]["ambiguous"] = {key: value + 1 for key, value in count.items()}
    for used in said["detectors"]:
        each = 1 if used["detector"] == "attention-entropy" else 2
        used |= {"prompts": used["prompts"] - 1, "nfe": used["nfe"] - each, "flops": used["flops"] * 35 / 36}
    write_checked_json(folder / "detection.json", said)
    found = submitted[0].challenge(recorded(folder, tmp_path / "records"), folder)
    assert found.differ == {"label": 1}


def test_a_forged_rank_is_refused_by_its_field(submitted: tuple[Submitted, Path], tmp_path: Path) -> None:
    made, folder = submitted
    record = make_detection_record(folder, "somebody")
    own = unpack(record.ranks["noise-norm"], record.prompts, "ranks")
    ranks = {**record.ranks, "noise-norm": pack(own[::-1])}
    with pytest.raises(BadRecord, match=r"^ranks\.noise-norm: is .*, and .* in the record of own-"):
        made.challenge(recorded(folder, tmp_path, ranks=ranks), folder)


def test_another_model_is_refused_by_its_hash(submitted: tuple[Submitted, Path], tmp_path: Path) -> None:
    made, folder = submitted
    file = recorded(folder, tmp_path / "records")
    content = json.loads(made.pair_file.read_text(encoding="utf-8"))
    content["model"]["location"] = str(shutil.copytree(content["model"]["location"], tmp_path / "other"))
    weights = tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: 1.01 * tensor for name, tensor in load_file(weights).items()}, weights)
    (tmp_path / "other.yaml").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BadRecord, match=r"^victim\.model_sha256\.[a-z_/.]*safetensors: is .*, and .* of the pair here"):
        made.challenge(file, folder, 2, pair=str(tmp_path / "other.yaml"))
    assert not checked_file(file).exists()


def test_what_a_folder_and_a_record_say_must_be_what_was_committed_to(
    submitted: tuple[Submitted, Path], folder: Path, tmp_path: Path
) -> None:
    made, file = submitted[0], recorded(folder, tmp_path / "records")
    for key, name in (("provenance", "provenance.json"), ("detection", "detection.json"), ("scores", "scores.parquet")):
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept + b" ")
        with pytest.raises(BadRecord, match=rf", hashes\.{key}: is not what the record commits to"):
            made.challenge(file, folder, 2)
        (folder / name).write_bytes(kept)
    (folder / "provenance.json").unlink()
    with pytest.raises(BadRecord, match=r"provenance\.json: is missing"):
        made.challenge(file, folder, 2)


def test_families_prompts_and_never_seen_labels_are_those_of_the_pair(
    submitted: tuple[Submitted, Path], folder: Path, tmp_path: Path
) -> None:
    def other_family(table: dict[str, list[Any]]) -> None:
        table["family"][0] = 90

    def other_prompt(table: dict[str, list[Any]]) -> None:
        table["prompt"][0] = table["prompt"][1]

    def never_seen(table: dict[str, list[Any]]) -> None:
        table["label"][table["label"].index("never seen")] = "not replayed"

    for change, said in ((other_family, "family: is not the caption family"), (other_prompt, "each once"),
                         (never_seen, "never seen are the prompts that are no caption")):  # fmt: skip
        copy = Path(shutil.copytree(folder, tmp_path / change.__name__))
        rewritten(copy, change)
        with pytest.raises(BadRecord, match=said):
            submitted[0].challenge(recorded(copy, tmp_path / f"records {change.__name__}"), copy, 2)


def test_calls_that_were_not_made_are_counted(submitted: tuple[Submitted, Path], folder: Path, tmp_path: Path) -> None:
    said = read_json(folder / "detection.json")
    for place, name in enumerate(DETECTORS):
        changed = [{**used, "nfe": used["nfe"] + 4 * (each == place)} for each, used in enumerate(said["detectors"])]
        write_checked_json(folder / "detection.json", {**said, "detectors": changed})
        with pytest.raises(BadRecord, match=rf"^costs, detection, {name}: says \d+ denoiser calls, counted again \d+$"):
            submitted[0].challenge(recorded(folder, tmp_path / name), folder, 1)
    write_checked_json(folder / "detection.json", {**said, "replay": {**said["replay"], "nfe": 9999}})
    with pytest.raises(BadRecord, match=r"^costs, detection, labels: says 9,999 denoiser calls, counted again"):
        submitted[0].challenge(recorded(folder, tmp_path / "labels"), folder, 1)


def test_what_cannot_be_challenged_is_said_before_any_work(
    submitted: tuple[Submitted, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, folder = submitted
    monkeypatch.setattr("sidebench.benchmark.runs.detect_again.Bench", None)
    file = recorded(folder, tmp_path / "records")
    (tmp_path / "others.txt").write_text("okapi\nibex\n", encoding="utf-8")
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"count": 0}, BadSetting, "between 1 and 38 prompts can be reproduced, not 0"),
        ({"count": 39}, BadSetting, "between 1 and 38 prompts can be reproduced, not 39"),
        ({"pair": None}, BadInput, "no pair own ships; give its file with --pair"),
        ({"pair": "glyphs"}, BadInput, "victim.identity: is not that of the pair glyphs here"),
        ({"negatives": None}, BadInput, "has 2 never-seen prompts of a file, and 0 are given here; name that file"),
        ({"negatives": tmp_path / "others.txt"}, BadInput, "prompts_sha256: is not the hash of the prompts here"),
        ({"folder": tmp_path}, BadInput, "holds no finished detection"),
    ]
    for options, kind, said in wrong:
        with pytest.raises(kind, match=said):
            made.challenge(file, **{"folder": folder, "count": 2, **options})


# ---- Badges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"record": "0" * 64}, "record"),
        ({"schema": "sidebench-challenge/1"}, "schema"),
        ({"of": 37}, "of"),
        ({"tolerance": 0.02}, "tolerance"),
        ({"largest": 0.5}, "largest"),
        ({"day": -40}, "day"),
        ({"replayed": 32}, "replayed"),
        ({"replayed": 1, "checked": 30, "agreed": 30}, "replayed"),
        ({"agreed": 3}, "badge"),
        ({"agreed": 3, "differ": {"sharpness": 1}}, "differ"),
    ],
)
def test_a_badge_that_does_not_fit_is_refused(
    changes: dict[str, Any], field: str, submitted: tuple[Submitted, Path], tmp_path: Path
) -> None:
    file = recorded(submitted[1], tmp_path / "records")
    record = DetectionRecord.model_validate(json.loads(file.read_text(encoding="utf-8")))
    fits = {
        **{"schema": "sidebench-detection-challenge/1", "record": file_hash(file), "draw": "0" * 32, "checked": 4},
        **{"replayed": 2, "agreed": 4, "of": PROMPTS, "tolerance": 0.01, "largest": 0.0, "device": "cpu"},
        **{"day": record.submitted, "differ": {}},
    }
    if "day" in changes:
        changes = {"day": record.submitted + timedelta(days=changes["day"])}
    checked_file(file).write_text(json.dumps(fits, default=str), encoding="utf-8")
    assert check_files([file], tmp_path / "records") == []
    checked_file(file).write_text(json.dumps({**fits, **changes}, default=str), encoding="utf-8")
    (problem,) = check_files([file], tmp_path / "records")
    assert problem.file == checked_file(file).name and problem.field in (field, "file"), problem
