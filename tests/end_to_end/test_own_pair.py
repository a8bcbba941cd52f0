"""A pair file of the user's own: it runs from anywhere, and what does not fit is refused before any work."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sidebench.benchmark.data import model_files
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.errors import BadInput, BadPair, TooFew, UnsafeFile
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.plan import plan_run


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
    assert plan.batching.micro_batch == 8 and plan.protocol.sampler.steps == 3
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
        ({"model": {"location": "nowhere"}}, BadInput, "no such folder of a model: .*nowhere"),
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


def test_images_of_another_size_are_refused_in_the_plan_and_where_they_came_later(own: Path) -> None:
    plan = plan_run(load_pair(str(own)), candidates=5, device="cpu", out=own.parent / "runs")
    images = np.random.default_rng(0).integers(0, 256, (60, 9, 9), dtype=np.uint8)
    np.savez(own.parent / "images.npz", pictures=images, kinds=np.arange(60))
    with pytest.raises(BadInput, match="9x9x1, the model makes 8x8x1"):
        plan_run(load_pair(str(own)), candidates=5, device="cpu", out=own.parent / "runs")
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
