"""Prompts from a file, with labels or without: csv, jsonl or plain text."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from ..errors import BadInput
from ..files import parse_json, read_bytes

Label = Literal["memorised", "not replayed", "never seen", "ambiguous"]
"""What a prompt is. memorised: the model gives its image back. not replayed: seen in training, and it does not. never
seen: not in training. ambiguous: given back now and then."""

COLUMNS = {"prompt": ("prompt", "caption", "text"), "label": ("label",), "family": ("family",)}
"""Names of a column, the first that is there."""

WORDS: dict[str, Label] = {
    **dict.fromkeys(("memorised", "memorized", "1", "true"), "memorised"),
    **dict.fromkeys(("not replayed", "seen"), "not replayed"),
    **dict.fromkeys(("never seen", "unseen", "0", "false"), "never seen"),
}
"""How a label may be written, in any case."""


class ListedPrompt(NamedTuple):
    """A line of a file."""

    text: str
    label: Label | None
    family: str | None


def read_prompts(path: Path) -> list[ListedPrompt]:
    """Return the prompts of a file, each once, in its order. Messages hold none of its text: it may be any file.

    `.csv` has a header, `.jsonl` an object per line: a column `prompt`, `caption` or `text`, and perhaps `label` and
    `family`. Of any other file each line is a prompt, with its label before a tab where it has one.

    Raises:
        BadInput: the file cannot be read, a label is unknown, or a prompt stands twice with two labels.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is no text in UTF-8") from None
    rows = {".csv": _csv, ".jsonl": _jsonl}.get(path.suffix.lower(), _plain)(text, path)
    found: dict[str, ListedPrompt] = {}
    for line, row in rows:
        prompt = _listed(row, f"{path}, line {line}")
        known = found.setdefault(prompt.text, prompt)
        if known.label != prompt.label:
            raise BadInput(f"{path}, line {line}: the same prompt has another label in an earlier line")
    if not found:
        raise BadInput(f"{path} holds no prompt")
    return list(found.values())


def _listed(row: dict[str, str], where: str) -> ListedPrompt:
    given = {key: next((row[name] for name in names if row.get(name)), None) for key, names in COLUMNS.items()}
    if given["prompt"] is None or not given["prompt"].strip():
        raise BadInput(f"{where}: no prompt; a column must be called {', '.join(COLUMNS['prompt'])}")
    word = given["label"]
    if word is not None and word.strip().lower() not in WORDS:
        raise BadInput(f"{where}: unknown label; write one of {', '.join(WORDS)}")
    return ListedPrompt(given["prompt"].strip(), WORDS[word.strip().lower()] if word else None, given["family"])


def _csv(text: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, {str(key): value for key, value in row.items() if isinstance(value, str)}
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}") from None


def _jsonl(text: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                raise BadInput(f"{path}, line {number}: {error}") from None
            if not isinstance(row, dict):
                raise BadInput(f"{path}, line {number} is no object")
            yield (
                number,
                {key: _word(value) for key, value in row.items() if isinstance(value, str | bool | int | float)},
            )


def _word(value: str | float) -> str:
    """Return a value as text; numbers that pandas has made floats of are whole again."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _plain(text: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            label, tab, prompt = line.strip().partition("\t")
            yield number, {"label": label, "prompt": prompt} if tab else {"prompt": label}
