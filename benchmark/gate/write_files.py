"""The gate's answer as files."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BadInput
from ..files import MADE, check_output, write_atomic, write_json, write_text
from .exports import card, sarif
from .text import as_dict, as_markdown, junit

if TYPE_CHECKING:
    from .decision import Decision


def check_places(files: Iterable[Path | None], *, force: bool = False) -> None:
    """Refuse a file that could not be written, before minutes of work.

    Raises:
        BadInput: the file is a folder or another's, or its folder cannot be made or written to.
    """
    for file in files:
        if file is None:
            continue
        check_output(file, force=force)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent):
                pass
        except OSError as error:
            raise BadInput(f"cannot write {file}: {error.strerror or error}") from None


class Wanted(NamedTuple):
    """The files that were asked for."""

    junit: Path | None = None
    summary: Path | None = None
    report: Path | None = None
    sarif: Path | None = None
    card: Path | None = None


def write_files(decision: "Decision", wanted: Wanted, policy_file: str = "") -> None:
    """Write what was asked for, and gate.json into the gate's own folder if there is one.

    `policy_file` is the place in a repository that a SARIF log points to.
    """
    if wanted.junit is not None:
        tree = junit(decision)
        write_atomic(wanted.junit, lambda file: tree.write(file, encoding="utf-8", xml_declaration=True))
    if wanted.summary is not None:
        write_text(wanted.summary, as_markdown(decision))
    if wanted.sarif is not None:
        write_json(wanted.sarif, sarif(decision, policy_file))
    if wanted.card is not None:
        write_text(wanted.card, f"{card(decision)}\n<!-- {MADE.decode()} -->\n")
    if wanted.report is not None:
        from .page import write_page

        write_page(decision, wanted.report)
    if decision.folder is not None:
        write_json(decision.folder / "gate.json", as_dict(decision))
