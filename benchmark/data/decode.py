"""One value of an image column -> uint8 C x H x W, in one documented way.

1. The pixels are turned upright by their EXIF orientation.
2. Depth: 16-bit grey is divided by 257 and rounded, so that 65,535 becomes 255; of 16-bit colour PIL keeps the upper
   byte, at most one level off that; a bilevel image becomes 0 and 255.
3. Palettes are looked up; whatever is transparent is composited over white.
4. Grey or RGB, as the pair says (grey from RGB by ITU-R 601 luma).
5. Crop, then resize by PIL's antialiased bicubic filter; an image that has the size already keeps its values.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import BadInput
from .git_lfs import FIX, is_pointer

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Raised whenever a decoded value may change; part of the cache's key."""

Crop = Literal["centre", "squash", "none"]
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L")


def decode(value: Any, size: int, channels: int, crop: Crop) -> np.ndarray:
    """Decode one value of an image column.

    `value` is what `datasets` gives with decoding off ({"bytes", "path"}), bytes, a PIL image, or an array of
    numbers, H x W or H x W x C, uint8 or uint16.

    Raises:
        BadInput: it is no image, of a kind that has no agreed meaning in 8 bits, or (crop none) of another size.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(_open(value))
    flat = _eight_bits(image).convert("L" if channels == 1 else "RGB")
    if flat.size != (size, size):
        if crop == "none":
            raise BadInput(f"an image is {flat.height}x{flat.width}, wanted {size}x{size}, and crop is none")
        box = _square(flat) if crop == "centre" else None
        flat = flat.resize((size, size), Image.Resampling.BICUBIC, box=box)
    pixels = np.asarray(flat, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def shape_of(value: Any) -> tuple[int, int, Literal[1, 3]]:
    """Return (height, width, channels) of one value of an image column: grey is 1, all colour 3.

    Raises:
        BadInput: it is no image.
    """
    from PIL import ImageOps

    image = ImageOps.exif_transpose(_open(value))
    return image.height, image.width, 1 if image.mode[0] in "1LI" else 3


def _open(value: Any) -> "Image":
    from PIL import Image, UnidentifiedImageError

    if isinstance(value, Image.Image):
        return value
    if isinstance(value, dict) and value.keys() >= {"bytes", "path"}:
        value = value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    try:
        if isinstance(value, bytes):
            image = Image.open(io.BytesIO(value))
            image.load()
            return image
        array = np.asarray(value)
        if array.ndim not in (2, 3):
            raise ValueError("neither H x W nor H x W x C")
        array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        return Image.fromarray(array.astype(np.uint8) if _holds_bytes(array) else array)
    except (UnidentifiedImageError, OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"no image can be read from it: {_why(value, error)}") from None


def _why(value: Any, error: Exception) -> str:
    """Say why bytes are no image; nothing of what they are."""
    if isinstance(value, bytes):
        if not value:
            return "the file is empty"
        if is_pointer(value):
            return f"it is a Git LFS pointer; {FIX}"
        if value.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
            return "it is a web page, as a failed download leaves one"
        if "truncated" in str(error).lower():
            return "the file is cut short; bring a whole copy"
    return {"UnidentifiedImageError": "its format is none that Pillow knows"}.get(type(error).__name__, "") or (
        f"it is damaged ({type(error).__name__})"
    )


def _holds_bytes(array: np.ndarray) -> bool:
    """Whether a column of plain numbers holds 8-bit values: lists come back as int64."""
    wide = array.dtype.kind in "iu" and array.dtype.itemsize > 2
    return bool(wide and array.size and array.min() >= 0 and array.max() <= 255)


def _eight_bits(image: "Image") -> "Image":
    """Return L, RGB or their like without transparency."""
    from PIL import Image

    if image.mode == "I" and image.format == "PNG":  # older versions of PIL open 16-bit grey so
        image = Image.fromarray(np.asarray(image).astype(np.uint16))
    if image.mode not in _MODES:
        raise BadInput(f"an image is of mode {image.mode}, which has no agreed meaning in 8 bits")
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.rint(np.asarray(image, dtype=np.float64) / 257).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        transparent = image.convert("RGBA")
        white = Image.new("RGBA", transparent.size, "white")
        return Image.alpha_composite(white, transparent)
    return image


def _square(image: "Image") -> tuple[float, float, float, float]:
    """Return the largest centred square as (left, upper, right, lower)."""
    side = min(image.size)
    left, upper = (image.width - side) // 2, (image.height - side) // 2
    return left, upper, left + side, upper + side
