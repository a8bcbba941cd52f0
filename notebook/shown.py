"""How results show themselves: at most ten lines of text, or a small block of HTML."""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

LINES = 10
"""The most that a result shows of itself as text."""

LONGEST = 400
"""Letters of the longest line."""


def first_lines(lines: Sequence[str], more: str = "") -> str:
    """Return lines as text, cut to what a reader takes in; `more` is where the rest stands.

    >>> first_lines(["one", "two"])
    'one\\ntwo'
    """
    cut = [line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..." for line in lines]
    if len(cut) <= LINES:
        return "\n".join(cut)
    rest = f"  and {len(cut) - LINES + 1} more lines" + (f": {more}" if more else "")
    return "\n".join([*cut[: LINES - 1], rest])


def block(title: str, table: "pd.DataFrame", lines: Sequence[str]) -> str:
    """Return a title, a table and some lines as HTML; whatever they hold is escaped."""
    head = f"<p><b>{html.escape(title)}</b></p>" if title else ""
    body = table.to_html(float_format=lambda value: f"{value:.4g}", na_rep="-", max_rows=20, border=0)
    return "".join(["<div>", head, body, *(f"<p><small>{html.escape(line)}</small></p>" for line in lines), "</div>"])
