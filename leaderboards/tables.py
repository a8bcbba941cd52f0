"""Boards as tables: Markdown and plain text, CSV, LaTeX with booktabs, and the tables of a README."""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..benchmark.errors import BadInput
from ..benchmark.files import read_bytes, write_atomic
from . import detection_boards
from .detection_boards import DetectionBoard
from .ranking import Board, BoardRow, Leaderboard, Overall, method_of
from .record import OF_TEXT, Quality, Record

Format = Literal["md", "txt", "tex", "csv"]
FORMATS: tuple[Format, ...] = ("md", "txt", "csv", "tex")

BEGIN, END = "<!-- leaderboard: begin -->", "<!-- leaderboard: end -->"

QUALITY = ("frechet", "frechet_of_training", "precision", "recall", *OF_TEXT)
"""Columns of a record's quality in the CSV."""

README_ROWS = 10
"""Rows of a board that a README shows."""

README_BOARDS = 1
"""Boards that a README shows, the first ones; the others stand on the pages."""

EMPTY = "No record yet."


class Figures(NamedTuple):
    """A row's numbers over its seeds: rates over all candidates, the others per preparation (seed).

    Rates lie in [0, 1]; that of the control is on held-out images or of a reference model, None without either.
    """

    ams: float
    control_ams: float | None
    unique_groups: float
    equivalents: float
    hits_per_1000: float | None
    """None: there was no work."""


def figures(record: Record) -> Figures:
    """Return what the tables show of a record besides its excess."""
    bands = [record.headline(seed).bands[0] for seed in record.seeds]
    total = record.candidates * len(bands)
    control = [side.ams.count for band in bands if (side := band.reference or band.held_out) is not None]
    spent = sum(cost.denoiser_equivalents for cost in record.costs)
    hits = sum(cost.hits + cost.synthetic_hits for cost in record.costs)
    return Figures(
        ams=sum(band.training.ams.count for band in bands) / total,
        control_ams=sum(control) / total if len(control) == len(bands) else None,
        unique_groups=sum(band.training.groups for band in bands) / len(bands),
        equivalents=spent / len(bands),
        hits_per_1000=1000 * hits / spent if spent else None,
    )


def hardware(record: Record) -> str:
    """Return the class of hardware: accelerator, or processor with its cores."""
    made = record.made
    return made.accelerator or f"{made.processor}, {made.cores} cores"


def rank_range(row: BoardRow) -> str:
    """Return a rank range, "2" or "1-3", and a dash where the row is not ranked."""
    if row.best is None:
        return "-"
    return _range(row.best, row.worst or row.best)


def rank_by_cost(row: BoardRow) -> str:
    """Return the rank range at equal cost, a dash where there is none."""
    if row.best_by_cost is None:
        return "-"
    same = row.best_by_cost == row.worst_by_cost
    return f"{row.best_by_cost}" if same else f"{row.best_by_cost}-{row.worst_by_cost}"


def percent(value: float | None) -> str:
    """Return a rate in percent, a dash for None."""
    return "-" if value is None else f"{100 * value:z.2f}"


def count(value: float) -> str:
    """Return a mean count, with a decimal only where it has one."""
    return f"{value:z,.1f}".removesuffix(".0")


def excess_text(record: Record) -> str:
    """Return the excess with its interval in percent, a dash where none is claimed."""
    found = record.excess
    return "-" if not record.claims_excess else f"{percent(found.value)} [{percent(found.low)}, {percent(found.high)}]"


def made_again(row: BoardRow) -> str:
    """Return the badge, a dash where there is none."""
    return row.entry.checked.brief if row.entry.checked else "-"


def clean(text: str) -> str:
    """Return text of a record on one line, without characters that are invisible or turn the order of letters."""
    if text.isprintable():  # none of the letters below; nearly every text, and tables of thousands of rows have many
        return " ".join(text.split())
    shown = "".join(" " if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") else letter for letter in text)
    return " ".join(shown.split())


def conditions(board: Board) -> str:
    """Return in one line what all rows of a board share."""
    record, victim = board.first, board.first.victim
    against = f", against {clean(record.claim.attack)} with one set of settings" if board.kind == "defences" else ""
    example = "; worked example, public data" if victim.worked_example else ""
    made = f"; made by: {clean(victim.made_by)}" if victim.made_by else ""
    return (
        f"{board.kind}{against}; revision {victim.revision}, protocol {record.protocol.version}, control "
        f"{victim.control}, {record.candidates:,} candidates, {record.measure}, band {record.band}{made}{example}"
    )


def varying(rows: Sequence[BoardRow]) -> dict[str, str]:
    """Return by entry id the settings in which a method's rows differ from each other, e.g. "clusters 32"."""
    by_method: dict[str, list[BoardRow]] = {}
    for row in rows:
        by_method.setdefault(method_of(row.record), []).append(row)
    found = {}
    for own in by_method.values():
        settings = [_settings(row.record) for row in own]
        values: dict[str, set[str | None]] = {key: set() for each in settings for key in each}
        for each in settings:
            for key, seen in values.items():
                seen.add(each.get(key))
        keys = sorted(key for key, seen in values.items() if len(seen) > 1)
        for row, each in zip(own, settings, strict=True):
            found[row.entry.id] = clean(", ".join(f"{key} {each[key]}" for key in keys if key in each))
    return found


def _settings(record: Record) -> dict[str, str]:
    owners = {"": record.claim.settings, **{f"{name}.": own for name, own in record.claim.defences.items()}}
    return {f"{owner}{key}": json.dumps(value) for owner, own in owners.items() for key, value in own.items()}


# ---- One table in four formats ----------------------------------------------------------------------


def board_table(board: Board, form: Format) -> str:
    """Return a board's table; rows apart stand in the CSV, and below the text."""
    if form == "csv":
        return _csv([_raw(row) for row in [*board.ranked, *board.reference, *board.apart]])
    shown = [*board.reference, *board.ranked]
    parts = [_table(shown, board, form)] if shown else []
    if board.apart and form != "tex":
        parts.append("Not ranked:\n\n" + _table(board.apart, board, form, why=True))
    return "\n\n".join(parts) + "\n"


def overall_table(found: Overall, form: Format) -> str:
    """Return the table over boards."""
    word = found.kind.removesuffix("s")
    rows = [
        {
            word: row.method if form == "csv" else _escape(form)(row.method),
            "boards": row.boards,
            "in the top tie on": row.top,
            **({"finds more than plain sampling on": row.beats_plain} if found.kind == "attacks" else {}),
        }
        for row in found.rows
    ]
    return _csv(rows) if form == "csv" else _tabulate(rows, form) + "\n"


def detection_table(board: DetectionBoard, form: Format) -> str:
    """Return the table of a board of detectors: a row per record, kind of other prompts and detector."""
    found = detection_boards.rows(board)
    if form == "csv":
        return _csv(found)
    text = _escape(form)
    figures = ("AUC", *dict.fromkeys(key for row in found for key in row if key.endswith(" FPR")))
    table = [
        {
            "record": row["record"],
            "submitter": text(row["submitter"]),
            "against": row["against"],
            "rank": _range(row["best rank"], row["worst rank"]),
            "detector": text(row["detector"]),
            **{key: _with_ends(row, key) for key in figures},
            "NFE a prompt": f"{row['NFE a prompt']:.1f}",
        }
        for row in found
    ]
    return _tabulate(table, form)


def _with_ends(row: Mapping[str, Any], key: str) -> str:
    return f"{row[key]:.3f} [{row[f'{key}, low']:.3f}, {row[f'{key}, high']:.3f}]" if key in row else "-"


def _range(best: int, worst: int) -> str:
    return str(best) if best == worst else f"{best}-{worst}"


def _table(rows: Sequence[BoardRow], board: Board, form: Format, *, why: bool = False, brief: bool = False) -> str:
    different, text = varying([*board.ranked, *board.apart]), _escape(form)
    of_text = says_captions(board)
    table = []
    for row in rows:
        found, method = figures(row.record), method_of(row.record)
        if settings := different.get(row.entry.id):
            method = f"{method} ({settings})"
        table.append(
            {
                "why" if why else "rank": row.why if why else rank_range(row),
                **({} if why or board.kind == "defences" else {"rank at equal cost": rank_by_cost(row)}),
                board.kind.removesuffix("s"): "no defence" if row in board.reference else text(method),
                "submitter": text(row.record.submitter),
                "excess, %": excess_text(row.record),
                "unique groups": count(found.unique_groups),
                "AMS, %": percent(found.ams),
                "control AMS, %": percent(found.control_ams),
                **(_quality(row.record, of_text) if board.kind == "defences" else {}),
                "preparations": len(row.record.seeds),
                "denoiser-equivalents": f"{found.equivalents:z,.0f}",
                "hits per 1,000 equivalents": "-" if found.hits_per_1000 is None else f"{found.hits_per_1000:.2f}",
                "hardware": text(hardware(row.record)),
                "reproduced": made_again(row),
            }
        )
    if brief:
        table = [{key: value for key, value in row.items() if key not in NOT_BRIEF} for row in table]
    return _tabulate(table, form)


def _quality(record: Record, of_text: bool) -> dict[str, str]:
    """Return how good the images are that a defence leaves; dashes where the record does not say."""
    quality = record.quality
    known = {
        "Frechet": None if quality is None else f"{quality.frechet:.3f} ({quality.frechet_of_training:.3f})",
        "precision": None if quality is None else f"{quality.precision:.2f}",
        "recall": None if quality is None else f"{quality.recall:.2f}",
    }
    if of_text:
        known |= {"Frechet, latents": latents(quality), "shows its caption, %": shown(quality)}
    return {key: text or "-" for key, text in known.items()}


def says_captions(board: Board) -> bool:
    """Return whether any row of a board says how often images show their captions, or how far their latents are."""
    qualities = [row.record.quality for row in (*board.reference, *board.ranked, *board.apart)]
    return any(getattr(quality, key, None) is not None for quality in qualities for key in OF_TEXT)


def latents(quality: Quality | None) -> str:
    """Return the Frechet distance in latents, in brackets that of the training images; "" where it is not said."""
    if quality is None or quality.frechet_latents is None:
        return ""
    real = quality.frechet_latents_of_training
    return f"{quality.frechet_latents:.1f}" + ("" if real is None else f" ({real:.1f})")


def shown(quality: Quality | None) -> str:
    """Return how many images show their training caption, in brackets those of held-out ones; "" where not said."""
    if quality is None or quality.caption_accuracy is None:
        return ""
    others = quality.held_out_caption_accuracy
    return f"{100 * quality.caption_accuracy:.1f}" + ("" if others is None else f" ({100 * others:.1f})")


NOT_BRIEF = (
    *("AMS, %", "control AMS, %", "precision", "recall", "Frechet, latents", "shows its caption, %"),
    *("denoiser-equivalents", "hardware"),
)
"""Columns that a README leaves to the pages."""


WORDS = {
    *("rank", "rank at equal cost", "why", "attack", "defence", "submitter", "hardware", "reproduced"),
    *("record", "against", "detector"),
}
"""Columns that are aligned as text."""


def _tabulate(rows: Sequence[dict[str, Any]], form: Format) -> str:
    from tabulate import tabulate

    style = {"md": "github", "txt": "simple", "tex": "latex_booktabs"}[form]
    aligned = ["left" if key in WORDS else "right" for key in rows[0]]
    return tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=aligned)


def _escape(form: Format) -> Callable[[str], str]:
    """Return what makes a record's text safe in a table; LaTeX is escaped by tabulate itself."""
    return markdown if form == "md" else clean


def markdown(text: str) -> str:
    """Return text that Markdown shows as it is: no HTML, no emphasis, no link."""
    plain = clean(text).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_{}\[\]#|~!@>$^\"']|:(?=//)|(?<=www)\.)", r"\\\1", plain)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    import pandas as pd

    cells = [{key: _cell(value) for key, value in row.items()} for row in rows]
    return pd.DataFrame(cells).to_csv(index=False, lineterminator="\n")


_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula, full-width letters among them."""


def _cell(value: Any) -> Any:
    """Return text that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = clean(value)  # first: a letter that is not shown may hide what a formula begins with
    return f"'{text}" if text.startswith(_FORMULA) or value.startswith(("\t", "\r", "\n")) else text


def _raw(row: BoardRow) -> dict[str, Any]:
    record, found, checked = row.record, figures(row.record), row.entry.checked
    ends = {"": record.excess.value, "_low": record.excess.low, "_high": record.excess.high}
    return {
        "rank_best": row.best,
        "rank_worst": row.worst,
        "rank_by_cost_best": row.best_by_cost,
        "rank_by_cost_worst": row.worst_by_cost,
        "not_ranked_because": row.why,
        "attack": record.claim.attack,
        "access": record.claim.access,
        "settings": json.dumps(record.claim.settings, sort_keys=True),
        "defences": json.dumps(record.claim.defences, sort_keys=True),
        "submitter": record.submitter,
        "submitted": record.submitted.isoformat(),
        **{f"excess{end}": value if record.claims_excess else None for end, value in ends.items()},
        "unique_groups": found.unique_groups,
        "ams": found.ams,
        "control": record.victim.control,
        "control_ams": found.control_ams,
        "candidates": record.candidates,
        "seeds": " ".join(map(str, record.seeds)),
        "denoiser_equivalents": found.equivalents,
        "hits_per_1000_equivalents": found.hits_per_1000,
        **{f"quality_{key}": getattr(record.quality, key, None) for key in QUALITY},
        "hardware": hardware(record),
        "made_again": checked.checked if checked else None,
        "made_again_agreed": checked.agreed if checked else None,
        "against_plain_sampling": row.against_plain,
        "record": row.entry.id,
    }


# ---- README -----------------------------------------------------------------------------------------


def readme_tables(board_list: Leaderboard) -> str:
    """Return the Markdown that stands between the markers of a README: of the board with most rows in ranks."""
    parts, left = [], 0
    so_far = 0
    for board in sorted(board_list.boards, key=lambda board: -len(board.ranked)):
        shown = [*board.reference, *board.ranked[:README_ROWS]]
        if (len(shown) < 2 and len(board_list.boards) > 1) or so_far == README_BOARDS:
            left += 1
            continue
        so_far += 1
        parts.append(f"**{board.first.victim.name}**: {markdown(conditions(board))}")
        parts.append(_table(shown or board.apart[:README_ROWS], board, "md", why=not shown, brief=True))
        if len(board.ranked) > README_ROWS:
            parts.append(f"and {len(board.ranked) - README_ROWS:,} rows more.")
    if left:
        parts.append(f"Boards that are left to the pages: {left:,}.")
    if not parts:
        return EMPTY
    return "\n\n".join([*parts, HOW_TO_READ])


HOW_TO_READ = (
    "Rank ranges hold every rank that the tests allow: rows whose ranges overlap are tied (paired tests of all rows "
    "against all, Holm-corrected, 5 %). At equal cost hits are divided by their denoiser-equivalents (NFE), "
    "preparation included. Excess, the share that training images own less chance, carries its 95 % interval; unique "
    "groups are per preparation, hits per 1,000 denoiser-equivalents. Frechet: distance of a defence's images to "
    "images outside of the training set, in brackets that of the training images; above twice that a defence has no "
    "rank."
)


def overall_title(found: Overall) -> str:
    """Return what an overall table is about, in one line."""
    return f"{found.kind}, protocol {found.protocol}, {found.candidates:,} candidates"


OVERALL_WORDS = (
    "A board counts where at least two methods stand on it, worked examples aside. In the top tie: a row of the method "
    "has a rank range that starts at 1. Boards of another protocol or number of candidates have a table of their own."
)


def with_tables(text: str, tables: str, name: str) -> str:
    """Return a README's text with these tables between its markers.

    Raises:
        BadInput: the markers are missing, stand twice or in the wrong order.
    """
    begin, end = text.find(BEGIN), text.find(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or begin > end:
        raise BadInput(f"{name} needs the line {BEGIN} once and below it {END}; the tables stand between them")
    return text[: begin + len(BEGIN)] + f"\n{tables}\n" + text[end:]


def update_readme(file: Path, tables: str, *, check: bool) -> bool:
    """Put the tables into a README and return whether that changed it.

    Raises:
        BadInput: the file cannot be read, has no markers, or, with `check`, is out of date; then it is not written.
    """
    try:
        text = read_bytes(file).decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise BadInput(f"{file} cannot be read: {why}") from None
    wanted = with_tables(text, tables, file.name)
    if wanted == text:
        return False
    if check:
        raise BadInput(f"{file} is out of date: run `sidebench leaderboard build --readme {file}`")
    # Through a link, as an editor does: a README may be one, and what stands around the tables is kept.
    write_atomic(file.resolve(), lambda part: part.write_bytes(wanted.encode()))
    return True
