"""The static site: an index, one page per board, one per record; plain HTML that needs no network and no script.

Every text of a record is escaped by the templates (`pages/*.html.j2`). The same records give the same bytes.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..benchmark.errors import BadInput
from ..benchmark.files import parse_json, read_bytes, refuse_links, write_text
from ..benchmark.registry import Kind, find, names, ships, split_ablation
from ..benchmark.reports import detection, page
from ..benchmark.reports.templates import environment
from ..benchmark.results.schema import Estimate, Result
from . import board_charts, overview, ranking, schema, tables, verdicts
from .detection_boards import DetectionBoard, has_figures, standings
from .ranking import PLAIN, Board, BoardRow, Leaderboard, method_of
from .record import Record
from .svg import COLOURS, ChartLine, Scale, number, scale

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

PAGES = Path(__file__).parent / "pages"

STATIC = ("style.css", "script.js")

TOKENS = Path(page.__file__).parent / "tokens.css"
"""The colours that reports have too."""

PAPER = "https://arxiv.org/abs/2410.02467"
ARXIV = re.compile(r"arXiv (\d{4}\.\d{4,5})")

LISTING = "files.json"
"""Names every file of a built site, so that the next build removes what is gone and nothing else."""

SPACE = """---
title: sidebench leaderboard
colorFrom: blue
colorTo: gray
sdk: static
pinned: false
---
Static pages made by `sidebench leaderboard build`; open index.html. With this file the folder is a static Space.
"""


def write_site(found: Leaderboard, out: Path) -> int:
    """Write the site and return its number of files. Files of an earlier build that are gone are removed.

    Raises:
        BadInput: the folder holds something else than an earlier build, or cannot be written.
    """
    listing = out / LISTING
    try:
        if out.exists() and not listing.is_file() and (not out.is_dir() or any(out.iterdir())):
            raise BadInput(f"{out} is not an earlier build and not empty; choose another folder with --out")
        out.mkdir(parents=True, exist_ok=True)
        refuse_links(out)
        before, names = _listed(listing), {LISTING}
        # First of all, so that a call that is killed leaves a folder that the next one knows for a build.
        _write_listing(listing, before | names)
        for name, text in site_files(found):
            file = out / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
            names.add(name)
        for name in before - names:
            (out / name).unlink(missing_ok=True)
        _write_listing(listing, names)
    except OSError as error:
        raise BadInput(f"cannot write to {out}: {error.strerror}; choose another folder with --out") from None
    return len(names)


def site_files(found: Leaderboard) -> Iterator[tuple[str, str]]:
    """Yield name and text of each file of the site."""
    yield "README.md", SPACE
    yield TOKENS.name, TOKENS.read_text(encoding="utf-8")
    for name in STATIC:
        yield name, (PAGES / name).read_text(encoding="utf-8")
    for file in sorted(schema.FOLDER.glob("*.json")):
        yield f"schemas/{file.name}", file.read_text(encoding="utf-8")
    yield "index.html", index_page(found)
    yield "stale.html", _page("stale.html.j2", "", found=found)
    for place, table in enumerate(found.overall, start=1):
        for form in tables.FORMATS:
            yield f"tables/overall-{place}.{form}", tables.overall_table(table, form)
    for board in found.boards:
        yield f"boards/{board.name}.html", board_page(board)
        for form in tables.FORMATS:
            yield f"tables/{board.name}.{form}", tables.board_table(board, form)
        for row in [*board.ranked, *board.apart]:
            yield from _record_files(row, board)
    for row in found.stale:
        yield from _record_files(row, None)
    for detections in found.detections:
        yield from _detection_files(detections)


def _record_files(row: BoardRow, board: Board | None) -> Iterator[tuple[str, str]]:
    """Yield a record's page, and its own file, byte for byte, where there is one."""
    yield f"records/{row.entry.id}.html", record_page(row, board)
    if row.entry.path is not None:
        yield f"records/{row.entry.id}.json", row.entry.path.read_text(encoding="utf-8")


def _detection_files(board: DetectionBoard) -> Iterator[tuple[str, str]]:
    """Yield the page and tables of a board of detectors, and page and file of each of its records."""
    yield (
        f"boards/{board.name}.html",
        _page("detection_board.html.j2", "../", board=board, has_figures=has_figures(board)),
    )
    if has_figures(board):
        for form in tables.FORMATS:
            yield f"tables/{board.name}.{form}", tables.detection_table(board, form)
    for row in [*board.current, *board.stale]:
        command = row.record.command.replace(" --", "\n--").split("\n")
        schema_file = schema.file_name(row.entry.schema)
        values = {"row": row, "board": board, "command": command, "schema": schema_file}
        yield f"records/{row.entry.id}.html", _page("detection_record.html.j2", "../", **values)
        yield f"records/{row.entry.id}.json", row.entry.path.read_text(encoding="utf-8")


def index_page(found: Leaderboard) -> str:
    """Return the first page: every board with what it shows, and methods over boards."""
    rows = [row for board in found.boards for row in board.ranked]
    common = overview.in_common(found.boards)
    return _page(
        "index.html.j2",
        "",
        found=found,
        only_examples=all(board.first.victim.worked_example for board in found.boards),
        ranked=len(rows),
        again=sum(row.entry.checked is not None and row.entry.checked.passed for row in rows),
        notes=verdicts.board_notes(found.boards),
        one_name=verdicts.heading_notes(found.boards),
        verdicts={board.name: verdicts.board_verdict(board) for board in found.boards},
        overall_words=tables.OVERALL_WORDS,
        plain=PLAIN,
        rankings=overview.rankings(found.boards),
        defences=overview.defences(found.boards),
        models=overview.models(found.boards),
        in_common=common,
        facts={b.name: [fact for fact in overview.shared(b)[3:] if fact not in common] for b in found.boards},
    )


def board_page(board: Board) -> str:
    """Return the page of one board."""
    shown = _distinct(board.ranked, COLOURS)
    different = tables.varying([*board.reference, *board.ranked, *board.apart])
    labels = [_label(row, different) for row in shown]
    lines = [
        ChartLine(label, points)
        for label, row in zip(labels, shown, strict=True)
        if (points := board_charts.curve(row.record, row.record.seeds[0]))
    ]
    return _page(
        "board.html.j2",
        "../",
        board=board,
        least=(ranking.LEAST_PREPARATIONS, ranking.LEAST_CANDIDATES),
        most_frechet=number(ranking.MOST_FRECHET),
        different=different,
        of_text=tables.says_captions(board),
        same=overview.same_in_all([row.record for row in [*board.reference, *board.ranked]]),
        scale=_excess_scale([row.record for row in [*board.ranked, *board.reference]]),
        chart=board_charts.groups_chart(lines),
        labels=[line.label for line in lines],
        costs=board_charts.cost_chart(shown, labels),
        cost_labels=labels,
        guided=board_charts.guidance_chart(board.ranked),
        tunings=[(row, board_charts.tuning_chart(row.record.tuning)) for row in shown if row.record.tuning],
    )


def record_page(row: BoardRow, board: Board | None) -> str:
    """Return the page of one record; `board` is None for a stale one."""
    record = row.record
    lines = [ChartLine(f"seed {seed}", points) for seed in record.seeds if (points := board_charts.curve(record, seed))]
    return _page(
        "record.html.j2",
        "../",
        row=row,
        board=board,
        verdict=verdicts.verdict(row, board),
        measures=_by_measure(record),
        means=overview.means(record),
        manifest=_manifest(record, row.entry.schema),
        command=record.command.replace(" --", "\n--").split("\n"),
        schema=schema.file_name(row.entry.schema),
        claimed=record.claims_excess,
        chart=board_charts.groups_chart(lines),
        labels=[line.label for line in lines],
        tuning=board_charts.tuning_chart(record.tuning) if record.tuning else None,
    )


# ---- Parts of a page --------------------------------------------------------------------------------


def _page(template: str, root: str, **values: Any) -> str:
    return _environment().get_template(template).render(root=root, paper=PAPER, **values)


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    from jinja2 import StrictUndefined

    made = environment(PAGES, auto_reload=False, keep_trailing_newline=True, undefined=StrictUndefined)
    made.filters |= {
        "at": lambda axis, value: f"{axis.share(value):.4f}",
        "clean": tables.clean,
        "json": lambda value: json.dumps(value, sort_keys=True, ensure_ascii=False),
        "method": method_of,
    }
    made.globals |= {
        "board_verdict": verdicts.board_verdict,
        "compared": detection.compared,
        "count": tables.count,
        "detector_verdict": detection.verdict,
        "detectors_verdict": verdicts.detectors_verdict,
        "excess_text": tables.excess_text,
        "figures": tables.figures,
        "hardware": tables.hardware,
        "latents": tables.latents,
        "number": number,
        "overall_title": tables.overall_title,
        "paper_of": _paper_of,
        "percent": tables.percent,
        "rank_by_cost": tables.rank_by_cost,
        "rank_range": tables.rank_range,
        "rate": _rate,
        "said": said,
        "shown": tables.shown,
        "standings": standings,
        "tpr_title": detection.tpr_title,
        "unit_scale": scale(0.0, 1.0, 4),
    }
    return made


@lru_cache(maxsize=4096)
def said(text: str) -> "Markup":
    """Return text of a record: one line, in a direction of its own, so that it can disguise nothing around it."""
    from markupsafe import Markup

    return Markup("<bdi>{}</bdi>").format(tables.clean(text))


def _rate(found: Estimate | None) -> str:
    from markupsafe import Markup

    if found is None:
        return "-"
    ends = (tables.percent(end) for end in (found.value, found.low, found.high))
    return Markup('{} <span class="ci">[{}, {}]</span>').format(*ends)


def _paper_of(kind: Kind, name: str) -> str:
    """Return the paper of what ships, linked where it is on arXiv; nothing of others, whose word it would be."""
    from markupsafe import Markup

    known = split_ablation(name)[0]
    if known not in names(kind) or not ships(kind, known):
        return ""
    said = find(kind, known).paper
    if said == "none" or not (arxiv := ARXIV.search(said)):
        return "" if said == "none" else Markup("; {}").format(said)
    before, after = said[: arxiv.start()], said[arxiv.end() :]
    link = Markup('<a href="https://arxiv.org/abs/{}">{}</a>').format(arxiv[1], arxiv[0])
    return Markup("; {}{}{}").format(before, link, after)


def _excess_scale(records: Sequence[Record]) -> Scale:
    """Return one axis for all rows of a board, 0 included."""
    ends = [end for record in records for end in (record.excess.low, record.excess.high)]
    return scale(min([0.0, *ends]), max([0.0, *ends]), 4)


def _distinct(rows: Sequence[BoardRow], wanted: int) -> list[BoardRow]:
    """Return the first row of each method, as many as wanted."""
    first: dict[str, BoardRow] = {}
    for row in rows:
        first.setdefault(method_of(row.record), row)
    return list(first.values())[:wanted]


def _label(row: BoardRow, different: dict[str, str]) -> str:
    settings = different.get(row.entry.id)
    return method_of(row.record) + (f" ({settings})" if settings else "") + f", {row.record.submitter}"


def _by_measure(record: Record) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for result in record.results:
        found.setdefault(result.measure, []).append(result)
    return found


def _manifest(record: Record, schema_name: str) -> str:
    """Return a record without its numbers as JSON: what it takes to reproduce it."""
    numbers = {"results", "hits", "costs", "tuning", "excess"}
    # An older record holds nothing of what later versions added.
    stored = record.model_dump(mode="json", by_alias=True, exclude=numbers, exclude_unset=True)
    content = {**stored, "schema": schema_name}
    # JSON writes letters beyond ASCII by number, so nothing in it can turn the order of letters or hide.
    return json.dumps(content, indent=1, sort_keys=True)


def _write_listing(listing: Path, names: set[str]) -> None:
    write_text(listing, json.dumps(sorted(names), indent=0) + "\n")


def _listed(listing: Path) -> set[str]:
    """Return the files of the earlier build; names that lead out of the folder are none of ours."""
    try:
        names = parse_json(read_bytes(listing))
    except (OSError, ValueError):
        return set()
    safe = {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()
    return {name for name in safe if not Path(name).is_absolute() and ".." not in Path(name).parts}
