"""Text as wide as its reader's terminal: sentences wrapped and tables folded, without breaking a number in two."""

import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

OF_A_FILE = 120
"""Columns where there is no terminal: a file, a pipe, a log."""

LEAST = 40
"""Columns of the narrowest terminal that anything is folded for."""

_KEPT = "\0"
"""Stands for a space in an interval, at which no line ends."""

Row = Mapping[str, Any]


def reader_width() -> int:
    """Return how many columns the reader has."""
    return max(LEAST, shutil.get_terminal_size((OF_A_FILE, 24)).columns) if sys.stdout.isatty() else OF_A_FILE


def wrapped(text: str, width: int | None) -> str:
    """Return a text in lines of the width; what goes on in the next line stands two spaces further in.

    >>> print(wrapped("a sentence of several words", 16))
    a sentence of
      several words
    """
    if width is None:
        return text
    return "\n".join("\n".join(_in_lines(line, width)) for line in text.split("\n"))


def _in_lines(line: str, width: int) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())]
    whole = re.sub(r"\[[-\d., ]+\]", lambda interval: interval.group().replace(" ", _KEPT), line.lstrip())
    lines = textwrap.wrap(
        whole,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [each.replace(_KEPT, " ") for each in lines] or [line]


def table(
    rows: Sequence[Row], width: int | None = None, *, keys: int = 1, aligned: str = "", plain: bool = False
) -> str:
    """Return rows as a table, folded until no line is longer than the width.

    First what is the same in every row is said once above the table, then long titles are broken, then the first two
    columns become headings, then words in cells are broken; what is still too wide goes on in a second table. A table
    that cannot be folded any further is wider.

    Args:
        rows: Cells by column, the same columns in each.
        width: Columns of a line; None: as wide as it comes.
        keys: How many columns at the left say what a row is of: a second table has them too.
        aligned: "l" or "r" for each column; "": by what is in it.
        plain: Leave figures as they are written.
    """
    columns = dict(zip(rows[0] if rows else (), aligned, strict=False))
    show = _Shown(columns, plain, width)
    text = show.rows(rows)
    if width is None or not rows or _fits(text, width):
        return text
    names = list(rows[0])
    once = [name for name in names[1:] if len(rows) > 1 and len({str(row[name]) for row in rows}) == 1]
    left = [name for name in names if name not in once]
    said = [f"no {name}" if rows[0][name] == "-" else f"{name} {rows[0][name]}" for name in once]
    head = wrapped(f"in every row: {', '.join(said)}", width) if said else ""
    keyed = [name for name in names[:keys] if name in left]
    kept = [{name: row[name] for name in left} for row in rows]
    for fold in (_titles_folded, _first_as_heading, _first_as_heading, _words_folded):
        kept, keyed, show = fold(kept, keyed, show, width)
        text = show.rows(kept)
        if _fits(text, width):
            break
    else:
        text = "\n\n".join(show.rows(part) for part in _parts(kept, keyed, show, width))
    return "\n".join(filter(None, [head, text]))


class _Shown:
    """How rows are shown: alignment by column, and the headings that stand above groups of rows."""

    def __init__(
        self, aligned: Mapping[str, str], plain: bool, width: int | None, headings: Sequence[str] = ()
    ) -> None:
        self.aligned = aligned
        self.plain = plain
        self.width = width
        self.headings = headings
        """Of each row; none: there are no headings."""

    def rows(self, rows: Sequence[Row]) -> str:
        """Return rows as text."""
        from tabulate import tabulate

        if not rows:
            return ""
        sides = {"l": "left", "r": "right"}
        # A title that was broken is known by its words.
        align = [sides[self.aligned[" ".join(name.split())]] for name in rows[0]] if self.aligned else None
        text = tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=self.plain, colalign=align)
        lines = [line.rstrip() for line in text.split("\n")]
        return "\n".join(self._with_headings(lines, rows) if self.headings else lines)

    def _with_headings(self, lines: list[str], rows: Sequence[Row]) -> list[str]:
        heights = [max(str(cell).count("\n") + 1 for cell in row.values()) for row in rows]
        place = len(lines) - sum(heights)
        found, last = lines[:place], None
        for heading, height in zip(self.headings, heights, strict=True):
            found += [] if heading == last else [wrapped(heading, self.width)]
            found += [f"  {line}" for line in lines[place : place + height]]
            place, last = place + height, heading
        titles = len(lines) - sum(heights)
        return [f"  {line}" for line in found[:titles]] + found[titles:]


_Folded = tuple[list[dict[str, Any]], list[str], _Shown]


def _fits(text: str, width: int) -> bool:
    return max(map(len, text.split("\n"))) <= width


def _titles_folded(rows: list[dict[str, Any]], keys: list[str], show: _Shown, width: int) -> _Folded:
    """Break the titles of columns that are wider than what stands below them."""
    titles = {}
    for name in rows[0]:
        cells = max(len(line) for row in rows for line in str(row[name]).split("\n"))
        titles[name] = "\n".join(textwrap.wrap(name, max(cells, 6), break_long_words=False, break_on_hyphens=False))
    return [{titles[name]: cell for name, cell in row.items()} for row in rows], [titles[name] for name in keys], show


def _first_as_heading(rows: list[dict[str, Any]], keys: list[str], show: _Shown, width: int) -> _Folded:
    """Take the first column away where it stays the same for rows on end, and write it above these.

    A second time it goes behind the first one's headings.
    """
    name = next(iter(rows[0]))
    above = [f"{heading}, " for heading in show.headings] or [""] * len(rows)
    headings = [f"{heading}{row[name]}" for heading, row in zip(above, rows, strict=True)]
    if len(rows[0]) < 3 or len(list(groupby(headings))) == len(rows):
        return rows, keys, show
    left = [{key: cell for key, cell in row.items() if key != name} for row in rows]
    return left, [key for key in keys if key != name], _Shown(show.aligned, show.plain, width, headings)


def _words_folded(rows: list[dict[str, Any]], keys: list[str], show: _Shown, width: int) -> _Folded:
    """Break sentences in cells, to a quarter of the width."""
    most = max(width // 4, 12)
    return [{name: _cell(cell, most) for name, cell in row.items()} for row in rows], keys, show


def _cell(cell: Any, most: int) -> Any:
    # A figure with its interval stays in one line.
    if not isinstance(cell, str) or re.match(r"[-+]?[\d.,]+ \[", cell):
        return cell
    return "\n".join(textwrap.wrap(cell, most, break_long_words=False, break_on_hyphens=False))


def _parts(rows: list[dict[str, Any]], keys: list[str], show: _Shown, width: int) -> list[list[dict[str, Any]]]:
    """Return the table in parts side by side that each fit, with the keys in each."""
    parts: list[list[str]] = []
    for name in (name for name in rows[0] if name not in keys):
        wider = [*keys, *(parts[-1] if parts else []), name]
        if parts and _fits(show.rows([{key: row[key] for key in wider} for row in rows]), width):
            parts[-1].append(name)
        else:
            parts.append([name])
    return [[{key: row[key] for key in (*keys, *part)} for row in rows] for part in parts]
