"""A pair by names alone: columns, variants, controls, sizes; and what does not fit is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_repositories import picture, picture_table

from sidebench.benchmark.data import image_cache, references
from sidebench.benchmark.data.pair import Pair, load_pair, write_pair
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.models.pair_from_names import chosen_pairs, pair_of
from sidebench.benchmark.runs.plan import plan_run

CLAIM = (
    "control iid is claimed by whoever ran this: test is a random part of the same pool of images as train, and the "
    "model was not trained on it"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the cache in this test's folder."""
    monkeypatch.setattr(image_cache, "cache", lambda: tmp_path / "cache")


def by_name(data: Path | str, **more: Any) -> Pair:
    return pair_of("zoo:digits", str(data), **{"split": "train", "holdout": "test", **more})


def table(folder: Path, **columns: Any) -> Path:
    """Write parquet files without a header of features: a struct of bytes and path, and what else is given."""
    folder.mkdir()
    images = [{"bytes": picture(seed), "path": None} for seed in range(4)]
    for split in ("train", "test"):
        pq.write_table(pa.table({"photo": images, **columns}), folder / f"{split}.parquet")
    return folder


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.list_(pa.string())], ids=str)
def test_captions_are_found_without_a_header_of_features(tmp_path: Path, kind: Any) -> None:
    words = [["a"], ["b"], ["c"], ["d"]] if pa.types.is_list(kind) else list("abcd")
    pair = by_name(table(tmp_path / "data", said=pa.array(words, kind), count=[1, 2, 3, 4]))
    assert (pair.data.images, pair.data.captions, pair.data.labels) == ("photo", "said", None)
    assert load_references(pair.model_copy(update={"control": "surrogate"})).training.captions == list("abcd")


def test_of_several_texts_the_one_with_a_known_name_is_taken(tmp_path: Path) -> None:
    place = table(tmp_path / "data", url=list("abcd"), caption=list("efgh"))
    assert by_name(place).data.captions == "caption"
    assert by_name(place, caption_column="url").data.captions == "url"
    assert by_name(table(tmp_path / "two", a=list("abcd"), b=list("efgh"))).data.captions is None


def test_columns_of_a_table_of_datasets_are_found_by_their_types(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture_table(tmp_path / "data" / f"{split}.parquet", range(3), captions=True)
    data = by_name(tmp_path / "data").data
    assert (data.images, data.captions, data.labels) == ("img", "text", "label")
    named = by_name(tmp_path / "data", image_column="a", caption_column="b", label_column="c").data
    assert (named.images, named.captions, named.labels) == ("a", "b", "c")


def test_an_iid_control_is_somebodys_claim(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = str(table(tmp_path / "data"))
    plain, claimed = by_name(place), by_name(place, control="iid")
    assert (plain.control, plain.claim) == ("surrogate", "") and (claimed.control, claimed.claim) == ("iid", CLAIM)
    assert plain.identity() != claimed.identity()
    write_pair(claimed, tmp_path / "pair.yaml")
    assert load_pair(str(tmp_path / "pair.yaml")).claim == CLAIM
    chosen_pairs([], "zoo:digits", place, "train", "test", control="iid")
    assert CLAIM in caplog.text


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"control": "iid", "holdout": None}, "control iid needs a held-out split"),
        ({"control": "none"}, "control none: by name it is iid or surrogate, and none without held-out images"),
        ({"variant": "fp16", "model": "./mine.py:x"}, "--variant fp16: a model of your own has no variants"),
        ({"dataset": "file.csv"}, "file.csv is a file: name the folder that it is in, or an .npz file"),
        ({"dataset": "a.npz", "image_column": "x"}, "--image-column: an npz file has arrays"),
        ({"dataset": "a.npz", "config": "x"}, "--dataset-config: an npz file has arrays"),
        ({"dataset": "a.npz", "holdout": "b.npz:"}, "'b.npz:' is no array of an npz file: write it as FILE.npz:ARRAY"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path / "data")
    (tmp_path / "file.csv").write_text("a")
    with pytest.raises(BadInput, match=message):
        pair_of(**{"model": "zoo:digits", "dataset": "data", "split": "train", "holdout": "test", **more})


@pytest.mark.parametrize("option", ["config", "image_column", "caption_column", "label_column", "variant", "control"])
def test_what_a_pair_says_itself_is_refused_beside_it(option: str) -> None:
    spelt = "dataset-config" if option == "config" else option.replace("_", "-")
    with pytest.raises(BadInput, match=f"--{spelt} goes with --model and --dataset; a pair file says"):
        chosen_pairs(["digits"], None, None, None, None, **{option: "x"})


# ---- Arrays ----


def arrays(file: Path, seed: int = 0, **shapes: tuple[int, ...]) -> Path:
    draw = np.random.default_rng(seed)
    np.savez(file, **{name: draw.integers(0, 256, shape, dtype=np.uint8) for name, shape in shapes.items()})
    return file


def test_arrays_of_an_npz_file_are_splits(tmp_path: Path) -> None:
    file = arrays(tmp_path / "a.npz", x=(40, 8, 8), y=(30, 8, 8))
    pair = by_name(file, split="x", holdout="y")
    other = by_name(file, split="x", holdout=f"{arrays(tmp_path / 'b.npz', 1, z=(30, 8, 8))}:z")
    found = load_references(pair)
    with np.load(file) as stored:
        assert np.array_equal(found.training.images[:, 0], stored["x"])
        assert np.array_equal(found.held_out.images[:, 0], stored["y"])
    assert len(load_references(other).held_out) == 30 and load_references(other).fingerprint != found.fingerprint
    assert pair.name == "digits.a.npz" and pair.control == "surrogate"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((9, 1, 8, 8), r"a.npz, y: images are 1x8x8, the model makes 8x8x1 .*; N x H x W x C is wanted: move the chan"),
        ((9, 6, 6), r"a.npz, y: images are 6x6x1, the model makes 8x8x1 .*; resize them, or save them as files"),
    ],
)
def test_arrays_of_another_size_than_the_models_are_refused_unread(
    shape: tuple[int, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = by_name(arrays(tmp_path / "a.npz", x=(40, 8, 8), y=shape), split="x", holdout="y")
    monkeypatch.setattr(references, "_read_npz", None)
    with pytest.raises(BadInput, match=message):
        plan_run(pair, candidates=4, device="cpu")


@pytest.mark.parametrize(
    ("kind", "mend"),
    [
        (np.float32, "uint8 is wanted: multiply values of 0 .. 1 by 255 and round"),
        (bool, "uint8 is wanted: multiply values of 0 .. 1 by 255"),
        (np.int64, r"uint8 is wanted: .astype\(numpy.uint8\) where the values are 0 .. 255"),
    ],
)
def test_arrays_of_other_numbers_say_what_to_do(kind: Any, mend: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((40, 8, 8), dtype=kind))
    pair = by_name(tmp_path / "a.npz", split="x", holdout=None)
    for refuse in (lambda: plan_run(pair, candidates=4, device="cpu"), lambda: load_references(pair)):
        with pytest.raises(BadInput, match=f"a.npz, x: want uint8 N x H x W .x C., found .* .40, 8, 8.; {mend}"):
            refuse()


def test_n_of_nl2_follows_from_the_smaller_side(tmp_path: Path) -> None:
    def measures(held_out: int, **more: Any) -> list[str]:
        file = arrays(tmp_path / f"{held_out}.npz", x=(600, 8, 8), y=(held_out, 8, 8))
        pair = by_name(file, split="x", holdout="y" if held_out else None)
        return [measure.id for measure in plan_run(pair, candidates=4, device="cpu", **more).measures]

    assert measures(120) == ["nl2c:n12:a0.5", "nl2:n12:a0.5", "rms"]
    assert measures(550) == ["nl2c:n50:a0.5", "nl2:n50:a0.5", "rms"]
    assert measures(19) == ["rms"]
    with pytest.raises(BadInput, match="n = 50 neighbours of 120 images; at most 12 unless"):
        measures(120, measures=["nl2c:n50:a0.5"])
