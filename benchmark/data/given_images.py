"""Images that somebody generated already: a folder of them, a table, or an npz array, all of one size.

They are decoded as reference images are (`decode.py`) and kept decoded and memory-mapped in the same cache, so that
50,000 of them need no memory.
"""

from pathlib import Path

import numpy as np

from ..contracts import ImageForm
from ..errors import BadInput
from .dataset_files import split_names
from .image_cache import fingerprint, first_form, load_rows
from .pair import GIVEN, DataSource, Selection, beside
from .references import npz_arrays, read_npz

_NAMES = ("images", "samples", "x", "arr_0")
"""Arrays of an npz file that are taken for its images where there are several, in this order."""


def load_given(location: str, form: ImageForm | None = None) -> tuple[np.ndarray, str]:
    """Return images, uint8 N x C x H x W, in the order of their files' names or of the table's rows, and their hash.

    Args:
        location: A folder of images or tables (of one split), a parquet file, or an npz file; `images:` may stand
            before it.
        form: What folders and tables are decoded to; none: the size and channels of the first image. An array is
            taken as it is.

    Raises:
        BadInput: nothing is there, it holds several splits or no images, or images of several sizes.
    """
    path = beside(Path(), location.removeprefix(GIVEN))
    if Path(path).suffix.lower() == ".npz":
        images, _ = read_npz(Path(path), _array(Path(path)), None)
        return images, fingerprint(images)
    source = _source(path)
    wanted = form or first_form(source)
    shape = {"size": wanted.size, "channels": wanted.channels, "crop": wanted.crop}
    rows = load_rows(source.model_copy(update=shape))
    return rows.images, rows.fingerprint


def form_of(data: DataSource) -> ImageForm | None:
    """Return what a pair's images are decoded to; None of arrays, which are taken as they are."""
    if data.size is None or data.source not in ("hub", "folder"):
        return None
    return ImageForm(size=data.size, channels=data.channels, crop=data.crop)


def _source(path: str) -> DataSource:
    """Return the one split of a folder or table as a data source; its size is not known yet."""
    splits = split_names(path)
    if len(splits) > 1:
        raise BadInput(
            f"{Path(path).name} holds the splits {', '.join(splits)}: name the folder or file of one of them"
        )
    return DataSource(source="folder", path=path, size=1, crop="none", members=Selection(split=splits[0]))


def _array(path: Path) -> str:
    names = npz_arrays(path)
    found = [name for name in _NAMES if name in names] or names
    if not found or (len(names) > 1 and found == names):
        raise BadInput(f"{path.name} holds the arrays {', '.join(names) or 'none'}: call that of images {_NAMES[0]!r}")
    return found[0]
