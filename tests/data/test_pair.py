"""Pair files: the shipped ones are whole, and a user's own works from anywhere."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sidebench.benchmark.data import model_files, pipeline_folder
from sidebench.benchmark.data.pair import FOLDER, Pair, load_pair, pair_names
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.errors import BadInput, BadPair, TooFew, UnknownName, UnsafeFile
from sidebench.benchmark.registry import find, make_measure
from sidebench.benchmark.reports.catalogue import listing
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.plan import plan_run
from sidebench.benchmark.runs.write_results import _flags

EMBEDDED = [name for name in pair_names() if load_pair(name).model.location.startswith("zoo:")]


def test_pairs_that_nobody_has_run_say_so() -> None:
    listed = {row["name"]: row["checked"] for row in listing("pairs")}
    for name in pair_names():
        pair = load_pair(name)
        assert pair.verified == (name in EMBEDDED) and pair.name == name
        assert listed[name].startswith("yes" if pair.verified else "no: nobody")
        assert pair.verified or (pair.model.repo and pair.control != "iid" and pair.attacks)


def test_numbers_of_a_pair_that_nobody_has_run_carry_a_flag() -> None:
    assert not _flags([], None, digits())
    (flag,) = _flags([], None, digits(verified=False))
    assert "not verified" in flag and "real Hub" in flag


@pytest.mark.parametrize("name", EMBEDDED)
def test_shipped_pair_is_whole(name: str) -> None:
    pair = load_pair(name)
    folder = model_files.locate(pair.model.location)
    model_files.check_files(folder, pair.model.sha256)
    assert pair.name == name
    assert {Path(file).name for file in pair.model.sha256} >= {"diffusion_pytorch_model.safetensors", "config.json"}
    assert not [file for file in folder.rglob("*") if file.suffix in pipeline_folder.PICKLES]
    for measure in pair.measures:
        made = make_measure(measure)
        assert made.id == measure
        made.check(pair.data.rule.training, pair.data.rule.held_out, pair.allow_dense_neighbours)
    for attack, given in pair.attacks.items():
        find("attack", attack).Settings(**given.settings)
        assert given.origin.strip()


@pytest.mark.parametrize("name", EMBEDDED)
def test_shipped_data_are_the_pinned_ones(name: str) -> None:
    pair = load_pair(name)
    found = load_references(pair)
    assert found.fingerprint == pair.data.sha256
    assert (len(found.training), len(found.held_out)) == (pair.data.rule.training, pair.data.rule.held_out)
    assert not set(found.training.groups) & set(found.held_out.groups)


def test_unknown_name_lists_close_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean digits") as caught:
        load_pair("digts")
    assert "digits" in caught.value.close


CHANGED: dict[str, dict[str, Any]] = {
    "revision": {"revision": 2},
    "control": {"control": "surrogate"},
    "measures": {"measures": ["rms"]},
    "weights": {"model": {"location": "zoo:digits", "sha256": {"unet/config.json": "0"}}},
    "split": {"data": {"split": {"seed": 1, "duplicate_rms": 0.05, "training": 256, "held_out": 256, "pool": 512}}},
    "data": {"data": {"sha256": "0" * 64}},
    "protocol": {"protocol": {"micro_batch": 3}},
}
SAME: dict[str, dict[str, Any]] = {
    "title": {"title": "another"},
    "description": {"description": "another"},
    "notes": {"notes": "another"},
    "licence": {"licence": "another"},
    "reason": {"protocol": {"reason": "another"}},
}


def digits(**changes: Any) -> Pair:
    content = yaml.safe_load((FOLDER / "digits.yaml").read_text(encoding="utf-8"))
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(content.get(key), dict) else value
    return Pair(**content)


@pytest.mark.parametrize("what", CHANGED)
def test_identity_changes_with_what_can_change_a_number(what: str) -> None:
    assert digits(**CHANGED[what]).identity() != digits().identity()


@pytest.mark.parametrize("what", SAME)
def test_identity_ignores_prose(what: str) -> None:
    assert digits(**SAME[what]).identity() == digits().identity()


def test_changes_of_the_protocol_carry_their_reason() -> None:
    changed = {"protocol": {"sampler": {"steps": 10}, "reason": "the model is slow"}}
    assert _flags([], None, digits(**changed)) == ["the pair changes the protocol's sampler: the model is slow"]
    assert digits(**changed).identity() == digits(protocol={"sampler": {"steps": 10}}).identity()
    (flag,) = _flags([], None, digits(protocol={"micro_batch": 4}))
    assert flag.endswith("micro_batch, and gives no reason")


def test_identity_ignores_where_files_are() -> None:
    assert digits(model={"location": "/elsewhere"}).identity() == digits().identity()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a user's pair file with an npz of colourless images and a copy of the model beside it."""
    shutil.copytree(model_files.locate("zoo:digits"), tmp_path / "own" / "victim")
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "own" / "images.npz", pictures=images, kinds=np.arange(60))
    content = {
        "name": "own",
        "title": "own",
        "description": "own",
        "revision": 1,
        "control": "iid",
        "model": {"location": "victim"},
        "data": {
            "source": "npz",
            "path": "images.npz",
            "images": "pictures",
            "labels": "kinds",
            "split": {"seed": 0, "duplicate_rms": 0.01, "training": 24, "held_out": 24, "pool": 4},
        },
        "measures": ["nl2c:n4:a0.5", "rms"],
        "allow_dense_neighbours": True,
        "protocol": {"micro_batch": 8, "sampler": {"steps": 3}},
        "attacks": {"carlini-uncond": {"origin": "it has no settings"}},
        "licence": "none",
    }
    file = tmp_path / "own" / "own.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def test_own_pair_runs_from_another_folder(own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    plan = plan_run(load_pair("../own/own.yaml"), candidates=5, device="cpu")
    assert plan.protocol.micro_batch == 8 and plan.protocol.sampler.steps == 3
    result = runner.execute(plan)
    assert result.metrics is not None and not result.failures
    assert (result.metrics.pair, result.metrics.training_images, result.metrics.held_out_images) == ("own", 24, 24)
    assert result.folder.path.parent == Path("runs")
    for name in ("manifest.json", "metrics.json", "costs.json"):
        assert str(own.parent) not in (result.folder.path / name).read_text(encoding="utf-8")


def test_own_images_keep_rows_and_labels(own: Path) -> None:
    found = load_references(load_pair(str(own)))
    assert found.training.images.shape == (24, 1, 8, 8)
    assert found.training.labels is not None and (found.training.labels == found.training.rows).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": {"location": "nowhere"}}, BadInput, r"model_index\.json is missing"),
        ({"path": "nothing.npz"}, BadInput, r"no such data file: nothing\.npz"),
        ({"images": "photos"}, BadInput, "no array 'photos': it has pictures, kinds"),
        ({"images": "kinds"}, BadInput, "want uint8"),
        ({"labels": "names"}, BadInput, "names"),
        ({"sha256": "0" * 64}, BadInput, "not the pinned ones"),
        ({"path": "own.yaml"}, BadInput, r"own\.yaml"),
        ({"training": 50}, TooFew, "asks for 78 images, the data set has 60"),
    ],
)
def test_own_pair_with_a_fault_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str, own: Path
) -> None:
    content = yaml.safe_load(own.read_text(encoding="utf-8"))
    if "training" in changes:
        content["data"]["split"] |= changes
    elif "model" in changes:
        content |= changes
    else:
        content["data"] |= changes
    own.write_text(yaml.safe_dump(content), encoding="utf-8")
    pair = load_pair(str(own))
    with pytest.raises(error, match=message):
        plan_run(pair, candidates=5, device="cpu")
        load_references(pair)


def test_npz_needs_a_path(own: Path) -> None:
    content = yaml.safe_load(own.read_text(encoding="utf-8"))
    del content["data"]["path"]
    own.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(BadPair, match="npz needs path"):
        load_pair(str(own))


def test_images_of_another_size_are_refused(own: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 9, 9), dtype=np.uint8)
    np.savez(own.parent / "images.npz", pictures=images, kinds=np.arange(60))
    plan = plan_run(load_pair(str(own)), candidates=5, device="cpu", out=own.parent / "runs")
    with pytest.raises(BadInput, match="9x9x1, the model makes 8x8x1"):
        runner.execute(plan)


def test_other_weights_and_pickles_are_refused(own: Path) -> None:
    pinned = load_pair("digits").model.sha256
    weights = own.parent / "victim" / "unet" / "diffusion_pytorch_model.safetensors"
    content = yaml.safe_load(own.read_text(encoding="utf-8"))
    content["model"]["sha256"] = pinned
    own.write_text(yaml.safe_dump(content), encoding="utf-8")
    plan_run(load_pair(str(own)), candidates=5, device="cpu")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UnsafeFile, match="SHA-256"):
        plan_run(load_pair(str(own)), candidates=5, device="cpu")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UnsafeFile, match="only pickled weights"):
        plan_run(load_pair(str(own)), candidates=5, device="cpu")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("control: none\n", "control stands twice, the first time in line"),
        ("attacks: {side: {settings: {blocks: &b [*b]}}}\n", r"\*b contains itself"),
        ("when: 2001-99-99\n", "'2001-99-99' cannot be read as a date"),
    ],
)
def test_a_pair_file_is_strict_yaml(tmp_path: Path, more: str, message: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text((FOLDER / "digits.yaml").read_text(encoding="utf-8") + more, encoding="utf-8")
    with pytest.raises(BadPair, match=rf"^pair file own\.yaml, line \d+: {message}"):
        load_pair(str(file))
