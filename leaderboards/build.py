"""`sidebench leaderboard build`: records in, site and README tables out."""

from pathlib import Path
from typing import NamedTuple

from ..benchmark.errors import BadInput
from .ranking import Leaderboard, read_leaderboard
from .site import write_site
from .tables import readme_tables, update_readme

DEFAULT_OUT = Path("leaderboard-site")


class Built(NamedTuple):
    """What was built, in words; one warning per file that cannot be used."""

    text: str
    warnings: list[str]


def build(records: Path, out: Path | None, readme: Path | None, *, check: bool = False) -> Built:
    """Write the site to `out` and the tables into `readme`; without a README the site has a default folder.

    With `check` nothing is written.

    Raises:
        BadInput: the folder of records does not exist, the site's folder holds something else, or the README has
            no markers or, with `check`, is out of date.
    """
    if check and (readme is None or out is not None):
        raise BadInput("--check compares a README and writes nothing: give it --readme FILE and no --out")
    found = read_folder(records)
    lines = [_summary(found)]
    if readme is not None:
        changed = update_readme(readme, readme_tables(found), check=check)
        lines.append(f"{readme}: {'tables written' if changed else 'up to date'}")
    if out is not None or readme is None:
        target = out or DEFAULT_OUT
        lines.append(f"files in {target}: {write_site(found, target):,}; open {target / 'index.html'}")
    return Built("\n".join(lines), [f"left out: {error}" for _, error in found.unusable])


def read_folder(records: Path) -> Leaderboard:
    """Read and rank the records of a folder.

    Raises:
        BadInput: there is no such folder.
    """
    if not records.is_dir():
        raise BadInput(
            f"no such folder of records: {records}; go where the board's checkout is, or give --records FOLDER"
        )
    return read_leaderboard(records)


def _summary(found: Leaderboard) -> str:
    ranked, apart = (sum(len(getattr(board, part)) for board in found.boards) for part in ("ranked", "apart"))
    detectors = f", boards of detectors: {len(found.detections)}" if found.detections else ""
    return (
        f"boards: {len(found.boards)}{detectors}, rows ranked: {ranked:,}, listed apart: {apart:,}, "
        f"stale: {len(found.stale):,}, left out: {len(found.unusable):,}"
    )
