"""Folders of image files: what is read, and that nothing else is left out without a word."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_repositories import picture
from PIL import Image

from sidebench.benchmark.data import image_cache
from sidebench.benchmark.data.folder_files import list_folder
from sidebench.benchmark.data.named_folder import did_you_mean
from sidebench.benchmark.data.pair import DataSource, Selection, load_pair
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.errors import BadInput


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the cache in this test's folder."""
    monkeypatch.setattr(image_cache, "cache", lambda: tmp_path / "cache")


def fill(folder: Path, *names: str, seed: int = 0) -> Path:
    """Write pictures, each another one, under these names; what is no PNG by its name has no image in it."""
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(seed + number) if file.suffix.lower() == ".png" else b"something")
    return folder


def source(place: Path, **more: Any) -> DataSource:
    return DataSource(source="folder", path=str(place), size=8, members=Selection(split="train"), **more)


def test_an_extension_is_the_same_in_any_spelling(tmp_path: Path) -> None:
    names = ["train/0.png", "train/1.PNG", "train/2.Png", "train/3.pNg"]
    rows = image_cache.load_rows(source(fill(tmp_path / "data", *names)))
    wanted = [np.asarray(Image.open(io.BytesIO(picture(seed)))).transpose(2, 0, 1) for seed in range(4)]
    assert np.array_equal(rows.images, wanted) and rows.left_out == {}


def test_what_is_not_read_is_counted_by_kind(tmp_path: Path) -> None:
    names = ["train/0.png", "train/1.png", "train/a.heic", "train/b.HEIC", "train/c.npy", "train/none", "test/0.png"]
    beside = ["extra/0.png", "metadata.csv", "README.md", "LICENSE", ".hidden/0.png", "train/.DS_Store", "train/0.txt"]
    place = fill(tmp_path / "data", *names, *beside)
    expected = {".heic": 2, ".npy": 1, ".txt": 1, "without an extension": 1}
    outside = {".png in no split": 1, "metadata.csv in no split": 1}
    assert list_folder(place).left_out == expected | outside
    pair = load_pair("digits").model_copy(update={"data": source(place)})
    assert load_references(pair).left_out == (
        "7 files of the data set are not read: 2 .heic, 1 .npy, 1 .png in no split, 1 .txt, "
        "1 metadata.csv in no split, 1 without an extension"
    )


def test_a_file_beside_the_images_that_comes_later_is_counted_too(tmp_path: Path) -> None:
    place = fill(tmp_path / "data", "train/0.png", "train/1.png")
    assert image_cache.load_rows(source(place)).left_out == {}
    fill(place, "train/2.avif")
    assert image_cache.load_rows(source(place)).left_out == {".avif": 1}


def test_images_without_a_row_of_metadata_are_counted(tmp_path: Path) -> None:
    place = fill(tmp_path / "data", *(f"train/{number}.png" for number in range(5)))
    with (place / "train" / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file_name", "text"], ["3.png", "three"], ["1.png", ""]])
    rows = image_cache.load_rows(source(place, captions="text"))
    assert len(rows.images) == 2 and rows.captions == ["three", None]
    assert rows.left_out == {".png without a row of metadata": 3}
    assert image_cache.load_rows(source(place, captions="text")).left_out == rows.left_out, "from the cache"


def test_images_win_over_as_many_tables_or_texts(tmp_path: Path) -> None:
    names = [f"train/{number}.{kind}" for number in range(3) for kind in ("png", "txt", "json")]
    found = list_folder(fill(tmp_path / "data", *names))
    assert found.builder == "imagefolder" and len(found.files["train"]) == 3
    assert found.left_out == {".json": 3, ".txt": 3}


def test_a_file_that_two_patterns_of_a_split_find_is_one_row(tmp_path: Path) -> None:
    found = list_folder(fill(tmp_path / "data", "train/train-1/0.png", "test/1.png"))
    assert [len(files) for files in found.files.values()] == [1, 1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train/0.heic", "train/1.avif", "train/2.heic"],
            r"nothing can be read \(2 .heic, 1 .avif\); save the images",
        ),
        (["train/0.heic", "test/0.png"], "no file of split 'train' can be read; not read are 1 .heic"),
        ([], "holds no file"),
    ],
)
def test_a_split_of_which_nothing_is_left_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(BadInput, match=message):
        image_cache.load_rows(source(fill(tmp_path / "data", *names)))


@pytest.mark.parametrize("name", ["set[v1]", "[D_DATA]", "a*b", "what?", "{a,b}"])
def test_a_path_is_no_pattern(tmp_path: Path, name: str) -> None:
    place = fill(tmp_path / name / "data[1]", "train/0.png", "train/[1].png")
    fill(tmp_path / "v", "data1/train/0.png")
    assert len(image_cache.load_rows(source(place)).images) == 2


def test_paths_of_a_pair_file_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    text = """{name: mine, title: t, description: d, revision: 1, control: none, licence: none,
        model: {location: %s}, data: {source: folder, path: %s, size: 8, members: {split: train}}}"""
    file = tmp_path / "there" / "pair.yaml"
    file.parent.mkdir()
    for written, expected in (("~/pics", tmp_path / "pics"), ("~no such/p", file.parent / "~no such/p")):
        file.write_text(text % (written, written), encoding="utf-8")
        pair = load_pair(str(file))
        assert Path(str(pair.data.path)) == expected and Path(pair.model.location) == expected
        with pytest.raises(BadInput, match=f"no such folder of images: .*{expected.name}"):
            load_references(pair)


def captioned(place: Path, captions: list[Any]) -> DataSource:
    """Write a table of pictures with these captions and return it as data."""
    import datasets

    images = [{"bytes": picture(seed), "path": None} for seed in range(len(captions))]
    table = datasets.Dataset.from_dict({"image": images, "text": captions}).cast_column("image", datasets.Image())
    place.mkdir()
    table.to_parquet(place / "train.parquet")
    return source(place, captions="text")


@pytest.mark.parametrize(
    "captions", [["a", None, "c"], [["a", "b"], [], ["c"]], [[None, "a"], [None], ["c", None]]], ids=str
)
def test_a_row_without_a_caption_has_none(tmp_path: Path, captions: list[Any]) -> None:
    data = captioned(tmp_path / "data", captions)
    assert image_cache.load_rows(data).captions == ["a", None, "c"]
    pair = load_pair("digits")
    with pytest.raises(BadInput, match="1 of 3 images of split train have no caption, the first is row 1: fill"):
        load_references(pair.model_copy(update={"data": data}))
    others = data.model_copy(update={"members": Selection(split="train", indices=[0, 2])})
    assert load_references(pair.model_copy(update={"data": others})).training.captions == ["a", "c"]


def test_an_empty_caption_is_a_caption(tmp_path: Path) -> None:
    data = captioned(tmp_path / "data", ["a", ""])
    assert load_references(load_pair("digits").model_copy(update={"data": data})).training.captions == ["a", ""]


@pytest.mark.parametrize("make", [int, float, bool, lambda number: {"a": number}], ids=["int", "float", "bool", "dict"])
def test_what_is_no_text_is_no_caption(tmp_path: Path, make: Callable[[int], Any]) -> None:
    with pytest.raises(BadInput, match=r"row 0: column 'text' holds .*, not captions"):
        image_cache.load_rows(captioned(tmp_path / "data", [make(number) for number in range(3)]))


# ---- What is wrong with a file is said of that file ----


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 12345\n"


def test_pointers_of_git_lfs_are_named(tmp_path: Path) -> None:
    place = fill(tmp_path / "data", *(f"train/{number}.png" for number in range(3)))
    for number in (1, 2):
        (place / "train" / f"{number}.png").write_bytes(POINTER)
    with pytest.raises(BadInput, match=r"2 of 3 files are Git LFS pointers \(train/1\.png\): run `git lfs pull`"):
        image_cache.load_rows(source(place))
    captioned(tmp_path / "table", ["a"])
    (tmp_path / "table" / "train.parquet").write_bytes(POINTER)
    with pytest.raises(BadInput, match=r"1 of 1 files are Git LFS pointers \(train\.parquet\)"):
        image_cache.load_rows(source(tmp_path / "table"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (picture(0)[:-30], "the file is cut short"),
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>not found", "it is a web page"),
        (b"anything", "its format is none that Pillow knows"),
    ],
)
def test_an_image_that_cannot_be_read_is_named_by_its_file(tmp_path: Path, content: bytes, message: str) -> None:
    place = fill(tmp_path / "data", "train/a/0.png", "train/a/1.png")
    (place / "train" / "a" / "1.png").write_bytes(content)
    with pytest.raises(BadInput, match=f"train of data, row 1, column 'image', file a/1.png: no image .*: {message}"):
        image_cache.load_rows(source(place))


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    file = Path(str(captioned(tmp_path / "data", ["a"]).path)) / "train.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"train of data cannot be read: train\.parquet is damaged"):
        image_cache.load_rows(source(file.parent))


def table(place: Path, **columns: list[Any]) -> Path:
    """Write a parquet table without a header of features."""
    place.mkdir(parents=True)
    pq.write_table(pa.table(columns), place / "train.parquet")
    return place


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": ["https://a.org/1.jpg"]}, "column 'x' holds addresses, not images: download them first"),
        ({"x": ["s3://bucket/1.jpg"]}, "column 'x' holds addresses"),
        ({"x": ["img/1.jpg"]}, "column 'x' holds text, not images"),
        ({"x": [1.5]}, "column 'x' holds numbers, not images"),
        ({"x": [None]}, "row 0, column 'x' holds no image: it is empty"),
        ({"x": [{"bytes": None, "path": "/etc/passwd"}]}, "it names passwd, which is no file of the split"),
    ],
    ids=str,
)
def test_a_column_that_holds_no_images_is_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        image_cache.load_rows(source(table(tmp_path / "data", **columns), images="x"))


def test_the_only_column_of_images_is_found_or_asked_for(tmp_path: Path) -> None:
    image = {"bytes": picture(0), "path": None}
    assert len(image_cache.load_rows(source(table(tmp_path / "one", a=[image], b=[1]))).images) == 1
    for name, columns, message in (
        ("none", {"URL": ["https://a.org/1.jpg"], "n": [1]}, "no column holds images; 'URL' holds addresses"),
        ("two", {"a": [image], "b": [image]}, r"several columns hold images: name one \(--image-column, data.images\)"),
        ("numbers", {"a": [1]}, "no column is known to hold images: name one"),
    ):
        with pytest.raises(BadInput, match=message):
            image_cache.load_rows(source(table(tmp_path / name, **columns)))


# ---- A table of metadata above the splits ----


def metadata(place: Path, *rows: tuple[str, str]) -> None:
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
    (place / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_metadata_at_the_root_gives_captions_to_every_split(tmp_path: Path) -> None:
    place = fill(tmp_path / "data", "train/0.png", "train/1.png", "test/0.png")
    metadata(place, ("test/0.png", "t0"), ("train/1.png", "c1"), ("train/0.png", "c0"))
    rows = image_cache.load_rows(source(place, captions="text"))
    assert rows.captions == ["c1", "c0"] and rows.left_out == {}
    both = image_cache.load_rows(source(place, captions="text", held_out=Selection(split="test")))
    assert both.captions == ["c1", "c0", "t0"] and both.splits == {"train": range(2), "test": range(2, 3)}


def test_metadata_that_names_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    place = fill(tmp_path / "data", "train/0.png", "test/0.png")
    metadata(place, ("train/0.png", "a"), ("train/7.png", "b"))
    with pytest.raises(BadInput, match=r"row 1, column 'image' holds no image: it names 7.png, which is no file"):
        image_cache.load_rows(source(place, captions="text"))


def test_metadata_without_names_of_files_is_refused(tmp_path: Path) -> None:
    place = fill(tmp_path / "data", "train/0.png")
    (place / "train" / "metadata.csv").write_text("name,text\n0.png,a\n")
    with pytest.raises(BadInput, match="its table of metadata has no column file_name"):
        image_cache.load_rows(source(place))


def test_a_mistyped_folder_is_answered_with_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model" / "unet").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert did_you_mean("modell/unet") == "; did you mean model/unet?"
    assert did_you_mean(str(tmp_path / "model" / "unett")).endswith("model/unet?")
    for name in ("model/unet", "google/ddpm", "other", "", "model/zzz"):
        assert did_you_mean(name) == "", name
