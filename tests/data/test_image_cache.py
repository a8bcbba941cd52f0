"""Images of a data set: every kind of picture decoded right, and the memory-mapped cache."""

import io
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_repositories import picture, picture_repository, picture_table
from PIL import Image

from sidebench.benchmark import files
from sidebench.benchmark.data import hub, image_cache
from sidebench.benchmark.data.decode import decode
from sidebench.benchmark.data.duplicates import duplicate_groups
from sidebench.benchmark.data.pair import DataSource, Selection, load_pair
from sidebench.benchmark.data.references import load_references
from sidebench.benchmark.errors import BadInput, BadPair

RNG = np.random.default_rng(0)


def png(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **more)
    return out.getvalue()


def grey(values: Any) -> np.ndarray:
    return decode(values, 4, 1, "none")[0]


# ---- Decoding ----


def test_values_of_an_image_of_the_right_size_are_kept() -> None:
    pixels = RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    expected = pixels.transpose(2, 0, 1)
    for value in (png(Image.fromarray(pixels)), {"bytes": png(Image.fromarray(pixels)), "path": None}, pixels):
        assert np.array_equal(decode(value, 4, 3, "centre"), expected)
    assert np.array_equal(decode(pixels.tolist(), 4, 3, "none"), expected)


def test_sixteen_bits_are_divided_by_257() -> None:
    deep = np.array([[0, 257, 65535, 128], [385, 386, 32768, 514], [0] * 4, [0] * 4], dtype=np.uint16)
    wanted = np.rint(deep / 257).astype(np.uint8)
    assert np.array_equal(grey(png(Image.fromarray(deep))), wanted)
    assert wanted[0].tolist() == [0, 1, 255, 0]


def test_sixteen_bits_of_colour_are_within_one_level() -> None:
    deep = RNG.integers(0, 65536, (4, 4, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    found = decode(b"\x89PNG\r\n\x1a\n" + body, 4, 3, "none").transpose(1, 2, 0)
    assert np.abs(found - deep / 257).max() <= 1


def test_bilevel_and_palette_and_grey_to_rgb() -> None:
    bits = RNG.integers(0, 2, (4, 4)).astype(bool)
    assert np.array_equal(grey(png(Image.fromarray(bits))), bits * np.uint8(255))
    palette = Image.new("P", (4, 4))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putdata([1] * 16)
    assert decode(png(palette), 4, 3, "none")[:, 0, 0].tolist() == [10, 20, 30]
    flat = np.full((4, 4), 77, dtype=np.uint8)
    assert (decode(flat, 4, 3, "none") == 77).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    if mode == "P":
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, 10, 20, 30])
        value = png(image, transparency=1)
    else:
        value = png(Image.new(mode, (4, 4), (0,) * len(mode)))
    assert (decode(value, 4, 3, "none") == 255).all()


def test_half_transparent_black_is_mid_grey() -> None:
    assert (decode(png(Image.new("RGBA", (4, 4), (0, 0, 0, 128))), 4, 3, "none") == 127).all()


def test_pictures_are_turned_upright() -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels[0] = 255  # the upper row is white, and the camera says: turned by 90 degrees
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = decode(png(Image.fromarray(pixels), exif=exif), 4, 3, "none")
    assert (upright[:, :, -1] == 255).all() and (upright[:, :, :-1] == 0).all()


def test_resizing_averages_and_crops_the_centre() -> None:
    checks = np.indices((32, 32)).sum(0) % 2 * np.uint8(255)
    assert np.abs(decode(checks.astype(np.uint8), 8, 1, "centre")[0, 2:-2, 2:-2].astype(int) - 127).max() <= 1
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = 200
    assert (decode(wide, 8, 1, "centre") == 200).all()
    assert decode(wide, 8, 1, "squash").min() == 0
    with pytest.raises(BadInput, match="8x24, wanted 8x8"):
        decode(wide, 8, 1, "none")


@pytest.mark.parametrize("value", [b"no image", b"", "text", 3.5, np.zeros((2, 2, 7), dtype=np.uint8), None])
def test_what_is_no_image_is_refused(value: Any) -> None:
    with pytest.raises(BadInput):
        decode(value, 4, 3, "centre")


def test_floating_point_images_are_refused() -> None:
    with pytest.raises(BadInput, match="mode F"):
        decode(png(Image.fromarray(np.ones((4, 4), dtype=np.float32)), "TIFF"), 4, 1, "none")


# ---- The cache ----


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the cache in this test's folder."""
    monkeypatch.setattr(image_cache, "cache", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def folder_of(place: Path, **more: Any) -> DataSource:
    content = {"source": "folder", "path": str(place), "size": 8, "members": Selection(split="train"), **more}
    return DataSource(**{"held_out": Selection(split="test"), "labels": "label", **content})


def test_rows_are_decoded_once_and_mapped(kept: Path, tmp_path: Path) -> None:
    place = picture_repository(tmp_path / "noise", train=5, test=3, captions=True)
    data = folder_of(place, captions="text")
    rows = image_cache.load_rows(data)
    assert isinstance(rows.images, np.memmap) and rows.images.shape == (8, 3, 8, 8)
    assert rows.splits == {"train": range(5), "test": range(5, 8)}
    assert rows.captions is not None and rows.captions[5] == "picture number 10000"
    assert rows.labels is not None and rows.labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0]
    for number, seed in ((3, 3), (6, 10_001)):
        assert np.array_equal(rows.images[number], np.asarray(Image.open(io.BytesIO(picture(seed)))).transpose(2, 0, 1))
    assert rows.fingerprint == image_cache.fingerprint(np.array(rows.images))
    (folder,) = (kept / "images").iterdir()
    before = (folder / "pixels.u8").stat().st_mtime_ns
    again = image_cache.load_rows(data)
    assert again.fingerprint == rows.fingerprint and (folder / "pixels.u8").stat().st_mtime_ns == before


def test_key_follows_content_and_decoding_not_names(kept: Path, tmp_path: Path) -> None:
    place = picture_repository(tmp_path / "noise", train=5, test=3)
    image_cache.load_rows(folder_of(place))
    place.rename(tmp_path / "renamed")
    moved = folder_of(tmp_path / "renamed")
    image_cache.load_rows(moved)
    assert len(list((kept / "images").iterdir())) == 1
    image_cache.load_rows(moved.model_copy(update={"channels": 1}))
    picture_table(tmp_path / "renamed" / "data" / "train-00000-of-00001.parquet", range(1, 6))
    changed = image_cache.load_rows(moved)
    assert len(list((kept / "images").iterdir())) == 3
    assert np.array_equal(changed.images[0], np.asarray(Image.open(io.BytesIO(picture(1)))).transpose(2, 0, 1))


def test_folder_of_picture_files(kept: Path, tmp_path: Path) -> None:
    for split, seeds in (("train", range(4)), ("test", range(4, 7))):
        for seed in seeds:
            file = tmp_path / "files" / split / f"{seed % 2}" / f"{seed}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(seed, mode="L"))
    found = load_references(load_pair("digits").model_copy(update={"data": folder_of(tmp_path / "files", channels=1)}))
    assert (len(found.training), len(found.held_out), len(found.pool)) == (4, 3, 0)
    assert found.training.labels is not None and sorted(found.training.labels.tolist()) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "photo"}, "has no column 'photo': it has img, label"),
        ({"images": "label"}, "row 0, column 'label'"),
        ({"labels": "kind"}, "has no column 'kind'"),
        ({"members": Selection(split="validation")}, "no split 'validation': it has train, test"),
        ({"members": Selection(split="train", indices=[0, 9])}, "below 5"),
        ({"held_out": Selection(split="train", indices=[0])}, "same rows"),
        ({"path": "nowhere"}, "no such folder"),
        ({"crop": "none", "size": 4}, "8x8, wanted 4x4"),
    ],
)
def test_data_with_a_fault_are_refused(kept: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    place = picture_repository(tmp_path / "noise", train=5, test=3)
    data = folder_of(place).model_copy(update=changes)
    with pytest.raises(BadInput, match=message):
        load_references(load_pair("digits").model_copy(update={"data": data}))


@pytest.mark.parametrize("table", [True, False])
def test_the_counter_counts_all_images(
    table: bool, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "BLOCK", 4)
    (tmp_path / "data").mkdir()
    if table:
        picture_table(tmp_path / "data" / "train.parquet", range(9))
    else:
        for number in range(9):
            (tmp_path / "data" / f"{number}.png").write_bytes(picture(number))
    said: list[tuple[str, int, int]] = []
    columns = {} if table else {"images": None, "labels": None}
    data = folder_of(tmp_path / "data", held_out=None, **columns)
    image_cache.load_rows(data, lambda *told: said.append(told))
    assert [told for told in said if told[0] == "decoding train"] == [
        ("decoding train", 4, 9),
        ("decoding train", 8, 9),
        ("decoding train", 9, 9),
    ]


def test_damaged_file_is_refused_and_leaves_nothing(kept: Path, tmp_path: Path) -> None:
    file = picture_table(tmp_path / "data" / "train.parquet", range(5))
    content = file.read_bytes()
    file.write_bytes(content[:300] + bytes(200) + content[500:])
    with pytest.raises(BadInput):
        image_cache.load_rows(folder_of(tmp_path / "data", held_out=None))
    assert not [found for found in kept.rglob("*") if found.is_file()]


def test_rows_cannot_name_files_of_this_machine(kept: Path, tmp_path: Path) -> None:
    from datasets import Dataset

    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(0))
    place = tmp_path / "data"
    place.mkdir()
    Dataset.from_dict({"img": [{"bytes": None, "path": str(secret)}]}).to_parquet(place / "train.parquet")
    with pytest.raises(BadInput, match="holds no image"):
        image_cache.load_rows(folder_of(place, held_out=None, labels=None))


def test_seeded_split_of_a_folder_is_not_copied_into_memory(kept: Path, tmp_path: Path) -> None:
    place = picture_repository(tmp_path / "noise", train=20, test=3)
    rule = load_pair("digits").data.rule.model_copy(update={"training": 8, "held_out": 6, "pool": 2})
    data = folder_of(place, held_out=None, split=rule)
    found = load_references(load_pair("digits").model_copy(update={"data": data}))
    whole = image_cache.load_rows(data).images
    for part, size in ((found.training, 8), (found.held_out, 6), (found.tuning, 4)):
        assert len(part) == size and isinstance(part.images, np.memmap)
        assert np.array_equal(part.images, whole[part.rows])
    view = whole[5:15]
    assert np.array_equal(image_cache.take(view, np.array([0, 2, 9])), whole[[5, 7, 14]])
    assert np.array_equal(np.concatenate(list(image_cache.blocks(view))), view)


@pytest.mark.parametrize("name", ["pixels.u8", "texts.json", "rows.json", "part-*.u8", "part-*.json"])
@pytest.mark.parametrize("how", ["inverted", "cut", "missing", "a folder"])
def test_what_was_changed_or_cut_is_decoded_again(
    name: str, how: str, kept: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = folder_of(picture_repository(tmp_path / "noise", train=12, test=3, captions=True), captions="text")
    chosen = np.array([1, 4, 7])

    def read() -> tuple[Any, ...]:
        rows = image_cache.load_rows(data)
        assert rows.labels is not None
        part = image_cache.take(rows.images, chosen)
        return rows.fingerprint, rows.images.tolist(), rows.labels.tolist(), rows.captions, part.tolist()

    before = read()
    (file,) = kept.glob(f"images/*/{name}")
    content = file.read_bytes()
    file.unlink()
    if how == "inverted":
        middle = slice(len(content) // 4, len(content) // 2)
        file.write_bytes(content[: middle.start] + bytes(255 - b for b in content[middle]) + content[middle.stop :])
    elif how == "cut":
        file.write_bytes(content[:-5])
    elif how == "a folder":
        file.mkdir()
        with pytest.raises(BadInput, match="cannot write"):
            read()
        return
    assert read() == before
    said = [] if how == "missing" and name.endswith("s.json") and name != "texts.json" else caplog.messages
    assert all("were changed or cut; they are decoded again" in line for line in said)
    assert file.read_bytes() == content
    caplog.clear()
    assert read() == before and not caplog.messages


def test_a_cache_that_cannot_be_used_is_one_line(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    data = folder_of(picture_repository(tmp_path / "noise", train=5, test=3))
    kept.write_text("a file where the folder should be", encoding="utf-8")
    unusable = r"cannot use the cache .*{}.*: (Not a directory|File exists); set HF_HOME to another folder$"
    with pytest.raises(BadInput, match=unusable.format("cache")):
        image_cache.load_rows(data)
    kept.unlink()
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "file" / "datasets"))
    with pytest.raises(BadInput, match=unusable.format("datasets")):
        image_cache.load_rows(data)


def test_what_killed_writers_left_goes_after_a_day(kept: Path, tmp_path: Path) -> None:
    data = folder_of(picture_repository(tmp_path / "noise", train=5, test=3))
    image_cache.load_rows(data)
    (folder,) = (kept / "images").iterdir()
    alive, dead = folder / ".pixels.u8.alive.tmp", folder / ".pixels.u8.dead.tmp"
    for file in (alive, dead):
        file.touch()
    os.utime(dead, times=(time.time() - 90_000,) * 2)
    image_cache.load_rows(data)
    assert alive.exists() and not dead.exists()


def test_pair_needs_whole_sources() -> None:
    with pytest.raises(ValueError, match="hub needs repo and members and size"):
        DataSource(source="hub")
    with pytest.raises(ValueError, match="needs split"):
        DataSource(source="scikit-learn-digits")
    with pytest.raises(BadPair, match="split by seed"):
        _ = DataSource(source="folder", path="x", size=8, members=Selection(split="train")).rule


# ---- Duplicates ----


def test_duplicates_are_those_of_all_pairs() -> None:
    base = RNG.integers(40, 216, (30, 3, 16, 16))
    near = base[:10] + RNG.integers(-3, 4, (10, 3, 16, 16))
    flat = base[10:20].mean((2, 3), keepdims=True) + np.zeros((10, 3, 16, 16))  # near in means, far in pixels
    images = np.concatenate([base, near, base[:3], flat]).astype(np.uint8)
    floats = images.reshape(len(images), -1) / 255
    distances = np.sqrt(((floats[:, None] - floats[None]) ** 2).mean(-1))
    for rms in (0.0, 0.005, 0.02, 0.2):
        groups = duplicate_groups(images, rms)
        linked = distances <= rms + 1e-9
        for _ in range(6):
            linked = linked @ linked
        assert np.array_equal(groups[:, None] == groups[None], linked), rms
        first = [np.flatnonzero(groups == group)[0] for group in range(groups.max() + 1)]
        assert first == sorted(first)


def test_notes_of_what_was_fetched_survive_a_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cache", lambda: tmp_path)
    found = hub.Listing("model", "a/b", "main", "0" * 40, {"x.json": 2}, False, "mit")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "x.json").write_bytes(b"{}")
    noted = hub.remember(found, tmp_path / "snapshot", ["x.json"], {})
    assert noted.sha256 == {"x.json": files.sha256(tmp_path / "snapshot" / "x.json")}
    assert hub.recall("model", "a/b", "main", {}) is None  # the file itself is not there
    (file,) = (tmp_path / "fetched").iterdir()
    file.write_text("{broken", encoding="utf-8")
    assert hub.recall("model", "a/b", "main", {}) is None
