"""Every kept file of a run is read as it was written or found damaged, and what hangs on a damaged one goes with it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.errors import CorruptRun
from sidebench.benchmark.files import (
    JSON_HASH,
    read_info,
    read_json,
    read_state,
    read_table,
    write_checked_json,
    write_state,
)
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.shards import shard_of
from sidebench.benchmark.results.whole import drop_damaged, is_whole

KINDS = [
    "images/side.s0/00000016-00000032.safetensors",
    "state/side.s0/state.safetensors",
    "state/shared/*.safetensors",
    "state/side.s0/probe.json",
    "scores/side.s0.pixels.00000000-00000016.parquet",
    "scores/side.s0.pixels.00000000-00000016.pairs.parquet",
    "scores/side.s0.pixels.00000000-00000016.bins.parquet",
    "references.parquet",
    "manifest.json",
]
FIRST = shard_of(range(16))
UNITS = {"carlini-uncond.s0", "carlini-cond.s0", "side.s0"}


def content(file: Path) -> Any:
    """Return what a file holds, comparable by `==`."""
    if file.suffix == ".safetensors":
        state = read_state(file)
        return state.info, {name: (t.dtype, t.shape, t.tolist()) for name, t in state.tensors.items()}
    return read_table(file) if file.suffix == ".parquet" else read_json(file)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_is_found_or_changes_nothing(kind: str, finished: Any, tmp_path: Path) -> None:
    """Nine kinds of files, 20 flips each; at most the padding of a format and what it stores twice may go unseen."""
    source = min(finished.folder.path.glob(kind))
    before, wanted = source.read_bytes(), content(source)
    file, rng, unseen = tmp_path / source.name, np.random.default_rng(KINDS.index(kind)), 0
    for place in rng.integers(0, len(before), 20).tolist():
        mask = int(rng.integers(1, 256))
        file.write_bytes(before[:place] + bytes([before[place] ^ mask]) + before[place + 1 :])
        if is_whole(file):
            unseen += 1
            found = content(file)
            if file.suffix == ".json":  # the name of the hash itself was changed
                found = {name: value for name, value in found.items() if name in wanted}
            assert found == wanted, (place, mask)
    assert unseen < 20
    assert not is_whole(_cut(file, before))


def _cut(file: Path, before: bytes) -> Path:
    file.write_bytes(before[: len(before) * 2 // 3])
    return file


def test_every_flip_of_pixels_and_scores_is_found(finished: Any, tmp_path: Path) -> None:
    source = finished.folder.images_file("side.s0", FIRST)
    before, pixels = source.read_bytes(), read_state(source).tensors["images"].numpy().tobytes()
    start, file = before.index(pixels), tmp_path / "0.safetensors"
    for place in np.random.default_rng(0).integers(start, start + len(pixels), 20).tolist():
        file.write_bytes(before[:place] + bytes([before[place] ^ 255]) + before[place + 1 :])
        with pytest.raises(CorruptRun, match=r"0\.safetensors is not what was written"):
            read_state(file)
        assert "cost" in read_info(file)  # what is said of the images is still known


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_earlier_versions_are_read(kind: str, finished: Any, tmp_path: Path) -> None:
    """They carry no hash, and nothing is said of them."""
    source = min(finished.folder.path.glob(kind))
    file, wanted = tmp_path / source.name, content(source)
    if file.suffix == ".safetensors":
        state = read_state(source)
        save_file(dict(state.tensors), file, {"info": json.dumps(state.info)})
        assert read_info(file) == state.info
    elif file.suffix == ".parquet":
        pq.write_table(read_table(source), file, compression="zstd")
    else:
        file.write_text(json.dumps(wanted), encoding="utf-8")
    assert is_whole(file) and content(file) == wanted


def test_json_is_checked_as_it_will_be_read(tmp_path: Path) -> None:
    write_checked_json(tmp_path / "a.json", {"pair": (1, 2.5), "by number": {1: None}, "text": "ä"})
    assert read_json(tmp_path / "a.json") == {"pair": [1, 2.5], "by number": {"1": None}, "text": "ä"}
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert JSON_HASH in text
    (tmp_path / "a.json").write_text(text.replace("2.5", "2.6"), encoding="utf-8")
    with pytest.raises(CorruptRun, match=r"a\.json is not what was written \(its SHA-256 differs\); .* --fresh"):
        read_json(tmp_path / "a.json")


# ---- What goes with a damaged file ----


@pytest.fixture
def copy(finished: Any, tmp_path: Path) -> RunFolder:
    """Return a copy of the finished run that may be damaged, without its pages and pictures."""
    target = tmp_path / "run"
    for part in ("state", "images", "scores"):
        shutil.copytree(finished.folder.path / part, target / part)
    for name in ("manifest.json", "references.parquet"):
        shutil.copy(finished.folder.path / name, target)
    return RunFolder(target)


def files_of(folder: RunFolder) -> set[str]:
    return {file.relative_to(folder.path).as_posix() for file in folder.path.rglob("*") if file.is_file()}


def damage(file: Path) -> None:
    before = file.read_bytes()
    file.write_bytes(before[:-60] + bytes([before[-60] ^ 1]) + before[-59:])


def test_nothing_is_dropped_from_a_whole_run(copy: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    before = files_of(copy)
    drop_damaged(copy, UNITS)
    drop_damaged(copy, set())
    assert files_of(copy) == before and not caplog.messages


@pytest.mark.parametrize(
    ("name", "more"),
    [
        (
            "images/side.s0/00000016-00000032.safetensors",
            {f"scores/side.s0.pixels.00000016-00000032{part}.parquet" for part in ("", ".pairs", ".bins")},
        ),
        ("state/side.s0/state.safetensors", {"state/side.s0/kept.json"}),
        ("state/side.s0/probe.json", set()),
        ("scores/side.s0.pixels.00000016-00000032.bins.parquet", set()),
        ("references.parquet", set()),
    ],
)
def test_what_hangs_on_a_damaged_file_goes_with_it(
    name: str, more: set[str], copy: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    write_checked_json(copy.kept_file("side.s0"), {"content": "0"})
    before = files_of(copy)
    damage(copy.path / name)
    drop_damaged(copy, UNITS)
    assert before - files_of(copy) == {name, *more}
    assert caplog.messages == [f"{name} was changed or cut; it is rebuilt"]


@pytest.mark.parametrize("missing", [False, True])
def test_states_go_with_the_samples_that_they_were_made_of(
    missing: bool, copy: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    before, sample = files_of(copy), min(copy.shared_samples().folder.iterdir())
    sample.unlink() if missing else damage(sample)
    drop_damaged(copy, UNITS)
    gone = before - files_of(copy)
    states = {f"state/{unit}.s0/state.safetensors" for unit in ("carlini-cond", "side")}
    assert {name for name in gone if name.startswith("state/")} == {f"state/shared/{sample.name}", *states}
    assert len(caplog.messages) == (2 if missing else 3)


def test_what_another_call_made_is_refused_and_left(copy: RunFolder) -> None:
    damage(copy.images_file("side.s0", FIRST))
    before = files_of(copy)
    with pytest.raises(CorruptRun, match=r"images/side\.s0/00000000-.*: add --attack side --seed 0"):
        drop_damaged(copy, UNITS - {"side.s0"})
    assert files_of(copy) == before


def test_a_state_is_the_same_bytes_whenever_it_is_written(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(3.0),
        "a": torch.ones(2, dtype=torch.bfloat16),
        "none": torch.zeros(0),
        "one": torch.tensor(1),
    }
    for name in ("first", "second"):
        write_state(tmp_path / name, AttackState(tensors, {"nan": float("nan"), "numbers": [1, 2]}))
        tensors = dict(reversed(tensors.items()))
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    found = read_state(tmp_path / "first")
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())
    assert found.tensors["a"].dtype == torch.bfloat16 and found.info["numbers"] == [1, 2]
