"""What somebody can do to a run folder before he hands it in: 145 changes, each by its number.

Most are sealed again: the hashes that a file carries and SHA256SUMS are those of the changed content, as somebody who
lies would leave them.
"""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from sidebench.benchmark.contracts import AttackState
from sidebench.benchmark.files import read_json, read_state, read_table, sha256, write_state, write_table
from sidebench.benchmark.files import write_checked_json as seal
from sidebench.benchmark.results.sums import SUMS

JSON: tuple[str, ...] = ("manifest.json", "metrics.json", "costs.json", "audit.json", "quality.json", "results.json")
JSON += ("state/side.s0/probe.json", "evidence/side.s0/pairs.json")
UNITS = ("carlini-uncond.s0", "carlini-cond.s0", "side.s0")
SCORES = "scores/side.s0.pixels.00000000-00000016"
TABLES = ("references.parquet", f"{SCORES}.parquet", f"{SCORES}.pairs.parquet", f"{SCORES}.bins.parquet")
STATES = ("state/side.s0/state.safetensors", "images/side.s0/00000000-00000016.safetensors")
BINARY = (*TABLES, *STATES, "hash.key", "metrics.csv")

VALUES: tuple[Any, ...] = (None, -1, 2**63, 10**15, 1e308, -0.5, True, "", "x" * 5000, "../../outside", "<script>")
VALUES += ([], {}, [[]], "carlini-uncond", "\u200b=1+1", 0)

Change = Callable[[Path, random.Random, Path], None]


def _leaf(file: str) -> Change:
    """Replace or remove one value somewhere in a JSON file."""

    def change(folder: Path, rng: random.Random, outside: Path) -> None:
        content = read_json(folder / file)
        place: Any = content
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = rng.choice(keys)
            if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.15:
                break
            place = place[key]
        if rng.random() < 0.2:
            del place[key]
        else:
            place[key] = rng.choice(VALUES)
        seal(folder / file, content)

    return change


def _cut(file: str) -> Change:
    def change(folder: Path, rng: random.Random, outside: Path) -> None:
        (folder / file).write_bytes((folder / file).read_bytes()[: rng.randrange(400)])

    return change


def _invert(file: str) -> Change:
    def change(folder: Path, rng: random.Random, outside: Path) -> None:
        content = bytearray((folder / file).read_bytes())
        for _ in range(8):
            content[rng.randrange(len(content))] ^= 255
        (folder / file).write_bytes(content)

    return change


def _swap(file: str, other: str) -> Change:
    def change(folder: Path, rng: random.Random, outside: Path) -> None:
        before = (folder / file).read_bytes()
        (folder / file).write_bytes((folder / other).read_bytes())
        (folder / other).write_bytes(before)

    return change


def _column(file: str) -> Change:
    """Change numbers of one column of a table, its type, or its length."""

    def change(folder: Path, rng: random.Random, outside: Path) -> None:
        table = read_table(folder / file)
        name = rng.choice(table.column_names)
        kind = rng.randrange(4)
        if kind == 0:
            table = table.drop_columns([name])
        elif kind == 1:
            table = table.slice(0, rng.randrange(max(1, len(table))))
        elif kind == 2:
            table = table.set_column(table.column_names.index(name), name, pa.array(["x"] * len(table)))
        else:
            values = [rng.choice((-1, 2**31 - 1, 0)) for _ in range(len(table))]
            table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.int64()))
        write_table(folder / file, table)

    return change


def _tensors(file: str) -> Change:
    """Give tensors another shape, type or value."""

    def change(folder: Path, rng: random.Random, outside: Path) -> None:
        state = read_state(folder / file)
        name = rng.choice(sorted(state.tensors))
        made = rng.choice((torch.zeros(0), torch.full((3,), torch.nan), torch.zeros(2, 2, dtype=torch.int64)))
        write_state(folder / file, AttackState({**state.tensors, name: made}, state.info))

    return change


def _link(name: str) -> Change:
    """Put a link to what is outside in place of a file or folder."""

    def change(folder: Path, rng: random.Random, outside: Path) -> None:
        _remove(folder / name)
        (folder / name).symlink_to(outside if not Path(name).suffix else outside / "thesis.tex")

    return change


def _pipe(name: str) -> Change:
    def change(folder: Path, rng: random.Random, outside: Path) -> None:
        _remove(folder / name)
        os.mkfifo(folder / name)

    return change


def _folder(name: str) -> Change:
    def change(folder: Path, rng: random.Random, outside: Path) -> None:
        _remove(folder / name)
        (folder / name).mkdir()

    return change


def _gone(name: str) -> Change:
    return lambda folder, rng, outside: _remove(folder / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


CHANGES: list[tuple[str, Change]] = [
    *((f"leaf of {file}, {n}", _leaf(file)) for file in JSON for n in range(9)),
    *((f"{file} cut", _cut(file)) for file in (*BINARY, *JSON)),
    *((f"{file} inverted", _invert(file)) for file in BINARY),
    *((f"column of {file}, {n}", _column(file)) for file in TABLES for n in range(4)),
    *((f"tensors of {file}, {n}", _tensors(file)) for file in STATES for n in range(3)),
    ("unit swapped", _swap(STATES[1], "images/carlini-cond.s0/00000000-00000016.safetensors")),
    ("scores swapped", _swap(TABLES[1], "scores/side.s0.pixels.00000016-00000032.parquet")),
    ("tables swapped", _swap(TABLES[1], TABLES[2])),
    ("manifest swapped", _swap("manifest.json", "metrics.json")),
    ("costs swapped", _swap("costs.json", "audit.json")),
    *((f"{name} a link", _link(name)) for name in (".lock", "label", "replay", "hash.key", "metrics.json", "evidence")),
    *((f"{name} a link", _link(name)) for name in ("report.html", TABLES[0], "state", "images/side.s0", SUMS)),
    *((f"{name} a pipe", _pipe(name)) for name in ("metrics.json", TABLES[1], SUMS, "label", ".lock", "report.html")),
    *((f"{name} a folder", _folder(name)) for name in ("metrics.json", "manifest.json", SUMS, ".lock", "hash.key")),
    *((f"{name} gone", _gone(name)) for name in ("audit.json", TABLES[0], "evidence", STATES[1], "costs.json")),
]


def mutate(folder: Path, number: int, outside: Path) -> str:
    """Carry out one change and seal the results again, as far as they are still files; return its name."""
    name, change = CHANGES[number]
    change(folder, random.Random(number), outside)
    sums = folder / SUMS
    if sums.is_file() and not sums.is_symlink():
        lines = [line.split("  ", 1)[1] for line in sums.read_text(encoding="utf-8").splitlines()]
        there = [line for line in lines if (folder / line).is_file()]
        sums.write_text("".join(f"{sha256(folder / line)}  {line}\n" for line in there), encoding="utf-8")
    return name
