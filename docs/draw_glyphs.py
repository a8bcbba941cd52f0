"""Draw the images of the pairs `glyphs` and `glyphs-clean`, once: captioned glyphs of matplotlib's DejaVuSans.

    python docs/draw_glyphs.py benchmark/data/zoo

What ships is the PNG bytes that this wrote (FreeType 2.14.3, Pillow 13), for another FreeType draws other pixels. A
caption is a Unicode name in lower case, its family the name up to " with ". All glyphs are at least `LEAST_RMS` apart.

`glyphs` holds ordinary glyphs, and what is planted for the coin of the split to deal out: cliques of k identical rows
(k = 1, 2, 4, 8, 16) and templates (four glyphs of one family). `glyphs-clean` holds every glyph once. The canaries are
random strings with glyphs that `glyphs` does not have; of half of them no copy is planted.
"""

import io
import sys
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

SIDE, POINTS, LEVELS = 16, 13, 16
LEAST_RMS = 0.10
SEED = 1930
CLIQUES = {1: 10, 2: 10, 4: 10, 8: 10, 16: 10}
"""Number of cliques by their number of copies."""
TEMPLATES, VARIANTS = 10, 4
ORDINARY = 960
MOST_OF_A_FAMILY = 3
"""Ordinary glyphs of one family."""
CANARIES = {1: 8, 2: 8, 4: 8, 8: 8}
LETTERS, LENGTH = "abcdefghijklmnopqrstuvwxyz0123456789", 16


class Glyph(NamedTuple):
    """A drawn character."""

    caption: str
    family: str
    image: np.ndarray


def draw_all() -> list[Glyph]:
    """Return all named characters that fit into the square, in the order of their numbers."""
    file = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    font = ImageFont.truetype(file, POINTS, layout_engine=ImageFont.Layout.BASIC)
    found = []
    for code in sorted(number for number in FT2Font(file).get_charmap() if number < 0x10000):
        name, image = unicodedata.name(chr(code), "").lower(), _draw(chr(code), font)
        if name and image is not None:
            found.append(Glyph(name, name.split(" with ")[0], image))
    return found


def _draw(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray | None:
    """Return a character in white, in the middle of a black square; None where it is empty or too large."""
    paper = Image.new("L", (4 * SIDE, 4 * SIDE))
    ImageDraw.Draw(paper).text((1.5 * SIDE, 2.5 * SIDE), character, fill=255, font=font, anchor="ls")
    box = paper.getbbox()
    if box is None or max(width := box[2] - box[0], height := box[3] - box[1]) > SIDE:
        return None
    left, top = box[0] - (SIDE - width) // 2, box[1] - (SIDE - height) // 2
    ink = np.asarray(paper)[top : top + SIDE, left : left + SIDE]
    # Sixteen levels: a third smaller, and no difference that anybody sees.
    return (np.rint(ink * ((LEVELS - 1) / 255)) * (255 // (LEVELS - 1))).astype(np.uint8)


def far_apart(glyphs: Sequence[Glyph], draw: np.random.Generator) -> list[Glyph]:
    """Keep glyphs, in random order, that are at least `LEAST_RMS` from all that are kept already."""
    pixels = np.stack([glyph.image for glyph in glyphs]).reshape(len(glyphs), -1).astype(np.float32) / 255
    kept: list[int] = []
    for number in draw.permutation(len(glyphs)):
        gaps = pixels[kept] - pixels[number]
        if not kept or np.sqrt((gaps**2).mean(1)).min() >= LEAST_RMS:
            kept.append(int(number))
    return [glyphs[number] for number in sorted(kept)]


def plant(glyphs: Sequence[Glyph], draw: np.random.Generator) -> tuple[list[dict[str, Any]], list[Glyph]]:
    """Return the rows of `glyphs`, in the order of the characters, and the glyphs of families that are not in it."""
    families: dict[str, list[Glyph]] = {}
    for glyph in glyphs:
        families.setdefault(glyph.family, []).append(glyph)
    order = [list(families)[number] for number in draw.permutation(len(families))]
    rows: list[tuple[Glyph, str, int]] = []
    for family in [name for name in order if len(families[name]) >= VARIANTS][:TEMPLATES]:
        order.remove(family)
        rows += [(glyph, "template", 1) for glyph in families[family][:VARIANTS]]
    for copies in [k for k, count in CLIQUES.items() for _ in range(count)]:
        rows += [(families[order.pop()][0], "clique", copies)] * copies
    end = len(rows) + ORDINARY
    while len(rows) < end:
        rows += [(glyph, "no", 1) for glyph in families[order.pop()][:MOST_OF_A_FAMILY]][: end - len(rows)]
    rank = {glyph.caption: number for number, glyph in enumerate(glyphs)}
    rows.sort(key=lambda row: rank[row[0].caption])
    unused = [families[name][0] for name in order]
    return [_row(glyph) | {"planted": planted, "copies": copies} for glyph, planted, copies in rows], unused


def canaries(glyphs: Sequence[Glyph], draw: np.random.Generator) -> list[dict[str, Any]]:
    """Return the canaries with their number of copies, and as many matched ones with none."""
    copies = [k for k, count in CANARIES.items() for _ in range(count)]
    chosen = [glyphs[number] for number in draw.permutation(len(glyphs))[: 2 * len(copies)]]
    made = []
    for number, glyph in enumerate(chosen):
        string = "".join(draw.choice(list(LETTERS), LENGTH))
        planted = number < len(copies)
        made.append({"image": _png(glyph.image), "caption": string, "copies": copies[number] if planted else 0})
    return made


def _row(glyph: Glyph) -> dict[str, Any]:
    return {"image": _png(glyph.image), "caption": glyph.caption, "family": glyph.family}


def _png(image: np.ndarray) -> dict[str, Any]:
    """Return an image as `datasets` keeps it; its pixels are left to parquet's compression, which sees all rows."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=0)
    return {"bytes": file.getvalue(), "path": None}


def write(rows: list[dict[str, Any]], file: Path) -> None:
    """Write rows as parquet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file, compression="zstd", compression_level=19)
    print(f"{file}: {len(rows):,} rows, {file.stat().st_size:,} bytes")


def main(out: Path) -> None:
    """Draw and write everything."""
    draw = np.random.default_rng(SEED)
    glyphs = far_apart(draw_all(), draw)
    planted, unused = plant(glyphs, draw)
    write(planted, out / "glyphs" / "glyphs.parquet")
    write([_row(glyph) for glyph in glyphs], out / "glyphs-clean" / "glyphs-clean.parquet")
    write(canaries(unused, draw), out / "glyphs-canaries" / "canaries.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
