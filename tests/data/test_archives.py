"""Images in zip and tar archives: the same rows as of the folder that was packed, and one line where they cannot be."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hub_repositories import picture

from sidebench.benchmark.data import archives, image_cache
from sidebench.benchmark.data.pair import DataSource, Selection
from sidebench.benchmark.errors import BadInput, CannotWrite

Contents = Mapping[str, bytes]
PICTURES = {f"{number}.png": picture(number) for number in range(4)}


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the cache in this test's folder."""
    monkeypatch.setattr(image_cache, "cache", lambda: tmp_path / "cache")


def write_zip(file: Path, contents: Contents) -> None:
    with zipfile.ZipFile(file, "w") as packed:
        for name, content in contents.items():
            packed.writestr(name, content)


def write_tar(file: Path, contents: Contents) -> None:
    with tarfile.open(file, "w:gz" if file.suffix in (".gz", ".tgz") else "w") as packed:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))


def write(file: Path, contents: Contents) -> Path:
    """Pack contents by the file's extension; return its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    (write_zip if file.suffix.lower() == ".zip" else write_tar)(file, contents)
    return file.parent


def unpacked(place: Path, contents: Contents) -> Path:
    for name, content in contents.items():
        (place / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "train" / name).write_bytes(content)
    return place


def rows_of(place: Path, **more: Any) -> image_cache.Rows:
    return image_cache.load_rows(
        DataSource(source="folder", path=str(place), size=8, members=Selection(split="train"), **more)
    )


@pytest.mark.parametrize("name", ["train.zip", "train.tar", "train.tar.gz", "train.tgz", "train/part.ZIP"])
def test_an_archive_is_read_as_the_folder_that_was_packed(tmp_path: Path, name: str) -> None:
    contents = {**PICTURES, "note.heic": b"", ".DS_Store": b"", "__MACOSX/._0.png": b"x"}
    rows = rows_of(write(tmp_path / "data" / name, dict(reversed(contents.items()))))
    folder = rows_of(unpacked(tmp_path / "folder", PICTURES))
    assert rows.fingerprint == folder.fingerprint and len(rows.images) == 4
    assert rows.left_out == {".heic in archives": 1}
    assert not list((tmp_path / "cache").rglob(".unpacked-*"))


def test_folders_in_an_archive_are_classes_and_shards_are_none(tmp_path: Path) -> None:
    classes = {f"{kind}/{name}": content for kind in "ab" for name, content in PICTURES.items()}
    rows = rows_of(write(tmp_path / "data" / "train.zip", classes), labels="label")
    assert rows.labels is not None and rows.labels.tolist() == [0] * 4 + [1] * 4
    for shard in "01":
        place = write(tmp_path / "shards" / f"train-{shard}.zip", PICTURES)
    assert len(rows_of(place).images) == 8
    with pytest.raises(BadInput, match="no column 'label': it has image"):
        rows_of(place, labels="label")


def test_a_table_of_metadata_in_an_archive_gives_captions(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"file_name": f"{number}.png", "text": f"c{number}"}) + "\n" for number in (2, 0))
    place = write(tmp_path / "data" / "train.zip", {**PICTURES, "metadata.jsonl": lines.encode()})
    rows = rows_of(place, captions="text")
    assert rows.captions == ["c2", "c0"] and rows.left_out == {".png without a row of metadata": 2}


def samples(order: Callable[[str], Any]) -> Contents:
    """Return four samples of an image, a caption and a class, their files in some order."""
    texts = {f"{number}.txt": f"caption {number}".encode() for number in range(4)}
    classes = {f"{number}.cls": str(number % 2).encode() for number in range(4)}
    return dict(sorted({**PICTURES, **texts, **classes}.items(), key=lambda pair: order(pair[0])))


@pytest.mark.parametrize("name", ["train.tar", "train.tar.gz"])
def test_the_files_of_a_webdataset_may_lie_in_any_order(tmp_path: Path, name: str) -> None:
    how = {"images": "png", "captions": "txt", "labels": "cls"}
    by_row = rows_of(write(tmp_path / "sorted" / name, samples(lambda file: file)), **how)
    by_kind = rows_of(write(tmp_path / "unsorted" / name, samples(lambda file: (file[2:], file))), **how)
    assert by_row.captions == [f"caption {number}" for number in range(4)] == by_kind.captions
    assert by_row.fingerprint == by_kind.fingerprint
    assert by_kind.labels is not None and by_kind.labels.tolist() == [0, 1, 0, 1]


def test_a_field_of_a_webdataset_may_be_named(tmp_path: Path) -> None:
    assert len(rows_of(write(tmp_path / "data" / "train.tar", PICTURES), images="png").images) == 4


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"a.csv": b"1"}, r"archive train\.zip holds no images \(1 \.csv in archives\): pack the image files"),
        ({"../0.png": PICTURES["0.png"]}, r"holds a path that leads out of it: \.\./0\.png"),
        ({"/0.png": PICTURES["0.png"]}, "holds a path that leads out of it: /0"),
        ({"sub/0.png": PICTURES["0.png"][:-30]}, r"file train\.zip/sub/0\.png: no image .* cut short"),
    ],
)
def test_an_archive_that_cannot_be_used_is_named(tmp_path: Path, contents: Contents, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        rows_of(write(tmp_path / "data" / "train.zip", contents))
    assert not list((tmp_path / "cache").rglob(".unpacked-*"))


@pytest.mark.parametrize("name", ["train.zip", "train.tar.gz"])
def test_a_damaged_archive_is_named(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / "data" / name, PICTURES) / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BadInput, match=f"archive {name} cannot be read .*: it is damaged or cut short"):
        rows_of(file.parent)


def test_an_archive_that_does_not_fit_on_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write(tmp_path / "data" / "train.zip", PICTURES)
    usage = type("Usage", (), {"free": 300})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(CannotWrite, match=r"train\.zip needs more room unpacked than there is"):
        rows_of(place)
