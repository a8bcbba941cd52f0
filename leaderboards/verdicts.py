"""What pages say in plain words: of a record, and of a whole board."""

import json
from collections.abc import Sequence

from . import tables
from .corrected import corrected_low, leaking
from .detection_boards import DetectionBoard, Standing, standings
from .overview import shared
from .ranking import PLAIN, WORDS, Board, BoardRow, method_of
from .record import Record


def verdict(row: BoardRow, board: Board | None) -> list[str]:
    """Say in plain words what a record shows, where it stands, and how it compares with plain sampling."""
    lines = [_finding(row.record)]
    if row.best is not None and board is not None:
        rows = len(board.ranked)
        if row.record.excess.low > 0 >= corrected_low(row.record, rows):
            lines.append(f"Corrected for the {rows:,} results of its board, the excess may be chance.")
        lines.append(_rank_sentence(row, rows))
    if row.against_plain:
        plain = f"plain sampling ({PLAIN})"
        said = {
            WORDS[1]: f"it finds more than {plain}",
            WORDS[-1]: f"it finds fewer than {plain}",
            WORDS[0]: f"no difference from {plain} is seen",
        }
        lines.append(f"With as many candidates {said[row.against_plain]}.")
    return lines


def _finding(record: Record) -> str:
    found, seeds = tables.figures(record), len(record.seeds)
    who = record.claim.attack + (f" behind {method_of(record)}" if record.claim.defences else "")
    under = f"in {record.candidates:,} candidates" + (f" under each of {seeds} seeds" if seeds > 1 else "")
    if not record.claims_excess:
        held_out = "" if found.control_ams is None else f" and {tables.percent(found.control_ams)} % on held-out images"
        rates = f"{tables.percent(found.ams)} % on training images{held_out}"
        return f"{who} hits {rates}, {under}. Without a fair control no excess is claimed."
    low, high = tables.percent(record.excess.low), tables.percent(record.excess.high)
    over = "a reference model" if record.victim.same_groups else "held-out images"
    if record.excess.low > 0:
        groups = ("on average " if seeds > 1 else "") + tables.count(found.unique_groups)
        said = f"finds {groups} unique groups of training images, excess over {over} {low} to {high} %"
    elif record.excess.high < 0:
        said = f"hits less than {over}, which no leak explains ({low} to {high} %)"
    else:
        said = f"shows no excess over {over} in band {record.band}, where at most {high} % could have gone unseen"
    return f"{who} {said}, {under}."


def _rank_sentence(row: BoardRow, rows: int) -> str:
    if rows == 1:
        return "It is the only row of its board."
    if row.best == row.worst:
        return f"Its rank is {row.best} of {rows:,}."
    return f"Its rank is {row.best} to {row.worst} of {rows:,}: the tests see no difference from its neighbours."


def board_verdict(board: Board) -> str:
    """Say in a sentence or two what a board shows: whether something leaks, and who leads.

    Both hold for all rows at once: how many attacks find a leak by Bonferroni's limits (`corrected.py`), who leads by
    Holm's tests (`rank_tests.py`). That a defence leaves no leak is in its favour, so each has to show it by its own
    interval: other rows beside it must not help.
    """
    if not board.ranked:
        return "Nothing is ranked here."
    records, rows = [row.record for row in board.ranked], len(board.ranked)
    leaks = leaking(records) if board.kind == "attacks" else sum(record.excess.low > 0 for record in records)
    methods = {method_of(row.record) for row in board.ranked}
    # Somebody may have made a method again: then a row is no method.
    called = board.kind if len(methods) == rows else "rows"
    said = _attacked(leaks, rows, called) if board.kind == "attacks" else _defended(leaks, rows, called)
    # Where no attack finds anything, none finds most.
    return said if board.kind == "attacks" and not leaks else f"{said} {_leaders(board)}".strip()


def _attacked(leaks: int, rows: int, called: str) -> str:
    if rows == 1:
        return "The one attack here finds training images." if leaks else "The one attack here shows no leak."
    if leaks == rows:
        return f"All {rows:,} {called} find training images."
    if not leaks:
        return f"None of {rows:,} {called} shows a leak."
    return f"{leaks:,} of {rows:,} {called} {'find' if leaks > 1 else 'finds'} training images."


def _defended(leaks: int, rows: int, called: str) -> str:
    if rows == 1:
        return f"Behind the one defence here {'a leak is left' if leaks else 'no leak is seen'}."
    if leaks == rows:
        return f"Behind all {rows:,} {called} a leak is left."
    if not leaks:
        return f"Behind none of {rows:,} {called} a leak is seen."
    return f"Behind {rows - leaks:,} of {rows:,} {called} no leak is seen."


def _leaders(board: Board) -> str:
    """Name who leads at equal candidates, and of attacks also at equal cost."""
    if len(board.ranked) == 1:
        return ""
    first = {
        "At equal candidates": [row.best == 1 for row in board.ranked],
        "At equal cost": [row.best_by_cost == 1 for row in board.ranked],
    }
    said = {when: _lead([row for row, leads in zip(board.ranked, tie, strict=True) if leads], board)
            for when, tie in first.items() if any(tie)}  # fmt: skip
    if len(said) == 2 and len(set(said.values())) == 1:
        said = {"At equal candidates and at equal cost": next(iter(said.values()))}
    return " ".join(f"{when} {words}." for when, words in said.items())


def _lead(tie: Sequence[BoardRow], board: Board) -> str:
    """Say that one row leads or some share the lead; a tie by its size where it is large."""
    if len(tie) == len(board.ranked):
        return "the tests see no difference between them"
    names = list(dict.fromkeys(method_of(row.record) for row in tie))
    attacks = board.kind == "attacks"
    if len(tie) == 1:
        return f"{names[0]} {'finds most' if attacks else 'leaves least'}"
    who = f"{', '.join(names[:-1])} and {names[-1]}" if 1 < len(names) < 4 else f"{len(tie):,} rows"
    return f"{'most is found' if attacks else 'least is left'} by a tie of {who}"


def board_notes(boards: Sequence[Board]) -> dict[str, str]:
    """Return by name what tells boards apart that are called the same, e.g. "guidance_scale 1.0"."""
    called: dict[tuple[str, str, str], list[Board]] = {}
    for board in boards:
        attack = board.first.claim.attack if board.kind == "defences" else ""
        called.setdefault((board.kind, board.first.victim.name, attack), []).append(board)
    found = {}
    for own in called.values():
        facts = [_facts(board) for board in own]
        keys = [key for key in facts[0] if len({fact.get(key) for fact in facts}) > 1]
        for board, fact in zip(own, facts, strict=True):
            found[board.name] = ", ".join(f"{key} {fact[key]}" for key in keys if key in fact)
    return found


def heading_notes(boards: Sequence[Board]) -> dict[str, str]:
    """Return by name what a heading says beside the victim's name, where several boards of a kind are of that name."""
    notes, found = board_notes(boards), {}
    for board in boards:
        victim = board.kind, board.first.victim.name
        alike = [_words(other) for other in boards if (other.kind, other.first.victim.name) == victim]
        said = [word for word in _words(board) if any(word not in other for other in alike)]
        if not said and len(alike) > 1 and board.kind == "attacks":
            said = [notes[board.name]]
        found[board.name] = ", ".join(said)
    return found


def _words(board: Board) -> list[str]:
    identity = board.first.victim.identity
    return [f"model {word[:8]}" if word == identity else word for word in shared(board)]


def detectors_verdict(board: DetectionBoard) -> list[str]:
    """Say which detectors lead by AUC in the newest record of a board, in a sentence per kind of other prompts."""
    if not board.current:
        return []
    record = board.current[0].record
    return [_leading(standings(record, each), each.negatives) for each in record.against if each.rates]


def _leading(found: Sequence[Standing], negatives: str) -> str:
    first = [row for row in found if row.best == 1]
    names = [f"{row.used.detector} ({row.rates.auc.value:.2f})" for row in first]
    where = f"Memorised against {negatives}, by AUC:"
    if len(first) == len(found) > 1:
        return f"{where} no difference between {len(found)} detectors is seen; {names[0]} has the highest."
    if len(first) == 1:
        return f"{where} {names[0]} is first of {len(found)}."
    listed = ", ".join(names[:-1]) + f" and {names[-1]}"
    return f"{where} a tie of {listed} is first of {len(found)}."


def _facts(board: Board) -> dict[str, str]:
    """Return what a board is about and its first columns do not show, as text by name."""
    record = board.first
    facts = {"model": record.victim.identity[:8], "micro-batch": str(record.made.micro_batch)}
    facts |= {"sampler": f"{record.protocol.sampler.name}, {record.protocol.sampler.steps} steps"}
    if board.kind == "defences":
        facts |= {key: json.dumps(value) for key, value in record.claim.settings.items()}
    return facts
