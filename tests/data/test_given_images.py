"""Images that exist already: the same from a folder, a table and an array, in one order, refused where unclear."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sidebench.benchmark.contracts import ImageForm
from sidebench.benchmark.data.given_images import form_of, load_given
from sidebench.benchmark.data.pair import DataSource, ModelSource, Selection, load_pair
from sidebench.benchmark.errors import BadInput


@pytest.fixture
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)


def _folder(place: Path, images: np.ndarray) -> str:
    place.mkdir(parents=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(place / f"{number:03}.png")
    return str(place)


def _table(file: Path, images: np.ndarray) -> str:
    folder = Path(_folder(file.parent / "bytes", images))
    rows = [{"bytes": part.read_bytes(), "path": None} for part in sorted(folder.iterdir())]
    pq.write_table(pa.table({"image": rows}), file)
    return str(file)


def test_folder_table_and_array_are_the_same_images(tmp_path: Path, colours: np.ndarray) -> None:
    np.savez(tmp_path / "all.npz", arr_0=colours, arr_1=np.zeros(5))
    places = [
        _folder(tmp_path / "flat", colours),
        _table(tmp_path / "rows.parquet", colours),
        str(tmp_path / "all.npz"),
    ]
    found = [load_given(f"images:{place}") for place in places]
    for images, digest in found:
        assert np.array_equal(images, colours.transpose(0, 3, 1, 2))
        assert digest == found[0][1]
    other, changed = load_given(_folder(tmp_path / "other", colours[::-1]))
    assert not np.array_equal(other, found[0][0]) and changed != found[0][1]


def test_grey_stays_grey_unless_the_pair_says_colour(tmp_path: Path, colours: np.ndarray) -> None:
    place = _folder(tmp_path / "grey", colours[..., 0])
    assert load_given(place)[0].shape == (5, 1, 6, 6)
    images, _ = load_given(place, ImageForm(size=3, channels=3, crop="centre"))
    assert images.shape == (5, 3, 3, 3) and (images[:, 0] == images[:, 2]).all()


def test_a_pair_decides_the_form_of_folders_alone() -> None:
    assert form_of(load_pair("digits").data) is None
    data = DataSource(source="folder", path="x", size=32, channels=1, crop="squash", members=Selection(split="train"))
    assert form_of(data) == ImageForm(size=32, channels=1, crop="squash")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda place, images: str(place / "nowhere"), "no such folder of images"),
        (lambda place, images: str(place / "nowhere.npz"), "no such data file: nowhere.npz"),
        (
            lambda place, images: (
                [_folder(place / "two/train", images), _folder(place / "two/test", images)] and str(place / "two")
            ),
            "two holds the splits train, test: name the folder or file of one of them",
        ),
        (lambda place, images: _folder(place / "wide", images[:, :3]), "the first image is 3x6; square ones"),
    ],
)
def test_what_cannot_be_taken_is_said(
    make: Callable[[Path, np.ndarray], str], said: str, tmp_path: Path, colours: np.ndarray
) -> None:
    with pytest.raises(BadInput, match=said):
        load_given(make(tmp_path, colours))


def test_images_of_several_sizes_and_unclear_arrays_are_refused(tmp_path: Path, colours: np.ndarray) -> None:
    place = Path(_folder(tmp_path / "mixed", colours))
    Image.fromarray(colours[0, :4, :4]).save(place / "004.png")
    with pytest.raises(BadInput, match=r"row 4, .*an image is 4x4, wanted 6x6"):
        load_given(str(place))
    np.savez(tmp_path / "unclear.npz", first=colours, second=colours)
    with pytest.raises(BadInput, match="holds the arrays first, second: call that of images 'images'"):
        load_given(str(tmp_path / "unclear.npz"))
    np.savez(tmp_path / "floats.npz", images=colours / 255)
    with pytest.raises(BadInput, match="want uint8"):
        load_given(str(tmp_path / "floats.npz"))


def test_a_location_says_its_family() -> None:
    assert ModelSource(location="images:there").family == "images"
    with pytest.raises(ValueError, match="belong together"):
        ModelSource(location="there", family="images")
    with pytest.raises(ValueError, match="belong together"):
        ModelSource(location="images:there", family="pixel")
