"""Boards from records alone: what may be compared, in which order, and what stands apart and why.

A board holds the records that share all that a number depends on besides the method: the pair with model, data and
control, the whole protocol, number of candidates, measure and band. Defences are compared under one attack with
one set of settings, as a weaker attack would make a defence look better.
"""

import gc
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..benchmark.data.pair import Pair, load_pair, pair_names
from ..benchmark.errors import BadRecord
from ..benchmark.files import read_bytes
from ..benchmark.protocol import RANKED
from ..benchmark.registry import find, names, ships, split_ablation
from . import detection_boards, owners
from .badge import Badge, Checked, CheckedDetection, read_badge
from .detection_boards import DetectionBoard, DetectionEntry
from .detection_record import DetectionRecord, is_detection, parse_detection
from .rank_tests import Standing, at_equal_cost, samples_of, standing
from .read_records import parse_record, read_content, record_files
from .record import SCHEMA, BoardKind, Record
from .sum_tests import standing_of_sums
from .victims import outdated_pair

_Badge = TypeVar("_Badge", bound=Badge)

PLAIN = "carlini-uncond"
"""The attack that is plain sampling: what another one must beat to be worth its cost."""

LEAST_PREPARATIONS = 3
"""Preparations of a record that is ranked: one says little of an attack."""

LEAST_CANDIDATES = 256
"""Candidates per preparation of a record that is ranked."""

MOST_FRECHET = 2.0
"""Frechet distance of a ranked defence's images, in multiples of that of training images, both to other real images."""

WORDS = {1: "finds more", -1: "finds fewer", 0: "no difference seen"}


class Entry(NamedTuple):
    """A record with its file (relative, `/` between folders), the SHA-256 of its bytes, and its badge.

    `path` is where the file lies, None for a record that was not read from one; `schema` the one that it names;
    `maintainers` whether it is theirs, so that others may be tested against it (`owners.py`).
    """

    record: Record
    file: str
    sha256: str
    checked: Checked | None
    path: Path | None = None
    schema: str = SCHEMA
    maintainers: bool = False

    @property
    def id(self) -> str:
        """The record's name, as `Record.id` gives it, from the bytes of its file."""
        return self.sha256[:12]


class BoardRow(NamedTuple):
    """An entry on a board. Without a rank, `why` says in a sentence why it has none.

    `best` and `worst` are the ends of its rank range at equal candidates, `best_by_cost` and `worst_by_cost` at equal
    cost: None on boards of defences, and where a row of the board costs nothing. `against_plain` is what the test
    against the maintainers' plain sampling on the same board says, empty for that itself and where there is none.
    """

    entry: Entry
    best: int | None = None
    worst: int | None = None
    best_by_cost: int | None = None
    worst_by_cost: int | None = None
    against_plain: str = ""
    why: str = ""

    @property
    def record(self) -> Record:
        """The record of the entry."""
        return self.entry.record


class Board(NamedTuple):
    """Comparable records: `ranked` in order, `apart` never ranked.

    `reference` is the attack without a defence, by the maintainers.
    """

    name: str
    ranked: list[BoardRow]
    reference: list[BoardRow]
    apart: list[BoardRow]

    @property
    def first(self) -> Record:
        """A record of the board from which all that they share can be read: undefended, where there is one."""
        return (self.reference or self.ranked or self.apart)[0].record

    @property
    def kind(self) -> BoardKind:
        """Attacks or defences."""
        return (self.ranked or self.apart)[0].record.board


class Overall(NamedTuple):
    """Methods over boards of one kind, protocol version and number of candidates."""

    kind: BoardKind
    protocol: str
    candidates: int
    rows: list["OverallRow"]


class OverallRow(NamedTuple):
    """One method: on how many boards it stands, and what it reached there.

    `top` counts the boards on which a row of it has a rank range that starts at 1, `beats_plain` those on which one
    finds more than plain sampling. Only boards with at least two methods count, and no worked examples: their models
    were made to show how sidebench works.
    """

    method: str
    boards: int
    top: int
    beats_plain: int


class Leaderboard(NamedTuple):
    """Everything that is shown: boards, tables over boards, stale rows, and files that cannot be used with why.

    Boards of detectors stand apart: nothing of them is ranked with the others.
    """

    boards: list[Board]
    overall: list[Overall]
    stale: list[BoardRow]
    unusable: list[tuple[str, str]]
    detections: Sequence[DetectionBoard] = ()


def read_leaderboard(records: Path) -> Leaderboard:
    """Read every record below a folder and rank what can be ranked.

    A record that cannot be read (damaged, or of a newer schema) is listed with its error and does not keep the
    others from being shown; so is a badge that does not fit its record, whose row then has none.
    """
    # Records hold no cycles; of thousands of them the collector took half of the time that reading takes.
    collects = gc.isenabled()
    gc.disable()
    try:
        entries, of_detectors, unusable = _read(records)
    finally:
        if collects:
            gc.enable()
    return rank(entries)._replace(unusable=unusable, detections=detection_boards.boards(of_detectors))


def why_unranked(file: Path) -> str:
    """Return why a record is stale or kept apart on the boards of its folder, or nothing where it is ranked."""
    entries, of_detectors, unusable = _read(owners.folder_of(file))
    stale = _stale(entries)
    for row in (row for board in detection_boards.boards(of_detectors) for row in (*board.current, *board.stale)):
        if row.entry.path.resolve() == file.resolve():
            return row.why
    for entry in entries:
        if entry.path is not None and entry.path.resolve() == file.resolve():
            return stale.get(entry.file) or _why_apart(entry.record)
    return next((why for name, why in unusable if file.name == Path(name).name), "it is in no folder of records")


def _read(records: Path) -> tuple[list[Entry], list[DetectionEntry], list[tuple[str, str]]]:
    entries, of_detectors, unusable = [], [], []
    registry = _registry(records)
    for file in record_files(records):
        name = file.relative_to(records).as_posix()
        try:
            content = read_content(file)
            record = parse_detection(content, file.name) if is_detection(content) else parse_record(content, file.name)
            if isinstance(record, Record):
                _complete(record, file.name)
            sha256 = hashlib.sha256(read_bytes(file)).hexdigest()
            if isinstance(registry, BadRecord):
                raise registry
            if fault := registry.fault(record, content, sha256):
                raise BadRecord(f"{file.name}, {fault[0]}: {fault[1]}")
        except (BadRecord, OSError) as error:
            unusable.append((name, str(error)))
            continue
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            # A number or name that no rule looked for; the others are ranked all the same.
            unusable.append((name, f"{file.name} cannot be ranked ({type(error).__name__}: {error})"))
            continue
        if isinstance(record, DetectionRecord):
            badge = _badge(file, sha256, CheckedDetection, name, unusable)
            of_detectors.append(DetectionEntry(record, name, sha256, file, checked=badge))
            continue
        checked = _badge(file, sha256, Checked, name, unusable)
        entries.append(Entry(record, name, sha256, checked, file, content["schema"], registry.is_maintainers(record)))
    return entries, of_detectors, unusable


def _badge(file: Path, sha256: str, kind: type[_Badge], name: str, unusable: list[tuple[str, str]]) -> _Badge | None:
    """Return the badge of a record, if there is one that can be read; why not goes to `unusable`."""
    try:
        return read_badge(file, sha256, kind)
    except BadRecord as error:
        unusable.append((name, str(error)))
        return None


def _registry(records: Path) -> owners.Owners | BadRecord:
    """Return who owns which name, or why that cannot be said: then no record counts."""
    try:
        return owners.read_owners(records)
    except BadRecord as error:
        return error


def rank(entries: Sequence[Entry]) -> Leaderboard:
    """Return the boards of these entries; the order of the entries does not matter."""
    entries = sorted(entries, key=lambda entry: entry.file)
    stale = _stale(entries)
    current = [entry for entry in entries if entry.file not in stale]
    groups: dict[str, list[Entry]] = {}
    for entry in current:
        groups.setdefault(_board_key(entry.record), []).append(entry)
    boards = [_board(key, group, current) for key, group in groups.items()]
    boards.sort(key=lambda board: (board.kind, board.first.victim.worked_example, board.name))
    return Leaderboard(
        boards,
        overall(boards),
        [BoardRow(entry, why=stale[entry.file]) for entry in entries if entry.file in stale],
        [],
    )


def overall(boards: Iterable[Board]) -> list[Overall]:
    """Return one table per kind, protocol version and number of candidates; these are never mixed."""
    found: dict[tuple[BoardKind, str, int], list[Board]] = {}
    for board in boards:
        if board.first.victim.worked_example:
            continue
        if len({method_of(row.record) for row in board.ranked}) > 1:
            key = board.kind, board.first.protocol.version, board.first.candidates
            found.setdefault(key, []).append(board)
    return [Overall(*key, _overall_rows(group)) for key, group in sorted(found.items())]


def method_of(record: Record) -> str:
    """Return what a board ranks: the attack, or the defences in their order."""
    return " + ".join(record.claim.defences) or record.claim.attack


def equivalents_per_candidate(record: Record) -> float:
    """Return what a candidate costs in denoiser-equivalents, its share of the preparation included."""
    return sum(cost.denoiser_equivalents for cost in record.costs) / (record.candidates * len(record.seeds))


def _complete(record: Record, name: str) -> None:
    """Raise BadRecord where a part is missing that a page shows; whether the parts agree is for `check` to say."""
    seeds = sorted(set(record.seeds))
    there = {
        "results": [found.seed for found in record.results if found.measure == record.measure and found.bands],
        "costs": [cost.seed for cost in record.costs],
        "hits": [hits.seed for hits in record.hits] if record.victim.public else record.seeds,
    }
    for field, found in there.items():
        if seeds != record.seeds or found != seeds:
            raise BadRecord(f"{name}, {field}: must have one entry per seed, in order")
    points = record.tuning.points if record.tuning else []
    if any(not point.values or set(point.values) != set(points[0].values) for point in points):
        raise BadRecord(f"{name}, tuning: every point must give values to the same settings")
    samples_of([record])


# ---- What may stand together ------------------------------------------------------------------------


def _key(content: Any) -> str:
    return json.dumps(content, sort_keys=True)


def _comparable(record: Record) -> dict[str, Any]:
    shared = record.model_dump(mode="json", include={"track", "protocol", "candidates", "measure", "band"})
    # Hashes say what the victim is; where it came from does not change it, and older records do not say.
    return {**shared, "victim": record.victim.model_dump(mode="json", exclude={"control_check", "sources"})}


def _attack_key(record: Record) -> str:
    """Return what an attack with its settings is compared under, whatever defends.

    A defence in training makes another model, so here a victim is its images and their sides, not its name or weights.
    """
    claim = record.claim.model_dump(mode="json", include={"attack", "version", "access", "settings"})
    images = record.victim.model_dump(mode="json", include={"family", "data_sha256", "sides_sha256", "control"})
    return _key({**_comparable(record), "victim": images, "claim": claim})


def _board_key(record: Record) -> str:
    if record.claim.defences:
        return _attack_key(record)
    return _key(_comparable(record))


def _stale(entries: Iterable[Entry]) -> dict[str, str]:
    """Return why an entry no longer stands, by file."""
    shipped = {name: load_pair(name) for name in pair_names()}
    found: dict[str, str] = {}
    newest: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda entry: (entry.record.submitted, entry.file)):
        if why := _outdated(entry.record, shipped):
            found[entry.file] = why
            continue
        record = entry.record
        own = [record.owner, owners.normal(record.submitter), sorted(record.seeds)]
        key = _key([own, _board_key(record), record.claim.model_dump(mode="json", exclude={"version"})])
        if older := newest.get(key):
            found[older.file] = f"superseded by record {entry.id} of {record.submitted}, same submitter and claim"
        newest[key] = entry
    return found


def _outdated(record: Record, shipped: Mapping[str, Pair]) -> str:
    version, victim = record.protocol.version, record.victim
    if version not in RANKED:
        return f"protocol {version}; {' and '.join(RANKED)} are ranked"
    if (latest := _latest_version(record.claim.attack)) and record.claim.version < latest:
        return f"version {record.claim.version} of {record.claim.attack}; {latest} is the current one"
    return outdated_pair(victim, shipped.get(victim.name))


def _latest_version(attack: str) -> int | None:
    """Return the version of an attack that ships with sidebench, None of others."""
    known = split_ablation(attack)[0]
    return find("attack", attack).version if known in names("attack") and ships("attack", known) else None


def _why_apart(record: Record) -> str:
    """Return why a current record is not ranked, or nothing where it is."""
    victim = record.victim
    if record.track == "images":
        return "images as given: nobody else can reproduce them, and how they were chosen is not known"
    if record.claim.access == "oracle":
        return "the attack sees more than an attacker can (oracle)"
    if victim.control == "reference-model":
        return "control reference-model: held against another model, not against held-out images"
    if victim.control != "iid":
        return f"control {victim.control}: the rates have no fair control, so no excess is claimed"
    if local := [name for name, code in record.claim.code.items() if "package" not in code]:
        return f"{local[0]} is a file of the submitter's own; others need a package to run it"
    if len(record.seeds) < LEAST_PREPARATIONS or record.candidates < LEAST_CANDIDATES:
        return (
            f"{len(record.seeds)} preparations of {record.candidates:,} candidates; ranked are at least "
            f"{LEAST_PREPARATIONS} of {LEAST_CANDIDATES:,}"
        )
    if record.claim.defences and (poor := _poor_quality(record)):
        return poor
    if not record.claims_excess:
        return "training and held-out images are distinguishable by a classifier, so the control is only a surrogate"
    return ""


def _poor_quality(record: Record) -> str:
    """Return why a defence is not ranked for what it does to the images, or nothing where they are good enough."""
    quality = record.quality
    if quality is None:
        return "the record does not say how good the images are that the defence leaves"
    if quality.frechet <= MOST_FRECHET * quality.frechet_of_training:
        return ""
    return (
        f"the defence spoils the images: Frechet distance {quality.frechet:.3g}, over {MOST_FRECHET:g} times that of "
        f"training images ({quality.frechet_of_training:.3g})"
    )


# ---- Order ------------------------------------------------------------------------------------------


def _board(key: str, entries: Sequence[Entry], current: Iterable[Entry]) -> Board:
    apart = [BoardRow(entry, why=why) for entry in entries if (why := _why_apart(entry.record))]
    record = entries[0].record
    ranked = _ranked([entry for entry in entries if not _why_apart(entry.record)], record.board)
    reference = []
    if record.claim.defences:
        reference = [
            BoardRow(entry, why="the same attack without a defence")
            for entry in current
            if entry.maintainers and not entry.record.claim.defences
            if _attack_key(entry.record) == key and not _why_apart(entry.record)
        ]
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    board = Board("", ranked, reference, apart)
    return board._replace(name=f"{board.first.victim.name}-{board.kind}-{digest}")


def _ranked(entries: Sequence[Entry], kind: BoardKind) -> list[BoardRow]:
    attacks = kind == "attacks"
    sign = -1 if attacks else 1
    entries = sorted(entries, key=lambda entry: (sign * entry.record.excess.value, entry.id))
    found, by_cost = _standings([entry.record for entry in entries], attacks=attacks)
    # Nobody else's: whoever could put up plain sampling with many hits would make every other attack look weak.
    plain_rows = [row for row, entry in enumerate(entries) if entry.maintainers and entry.record.claim.attack == PLAIN]
    plain = plain_rows[0] if attacks and plain_rows else None
    return [
        BoardRow(
            entry,
            best=int(found.best[row]),
            worst=int(found.worst[row]),
            best_by_cost=None if by_cost is None else int(by_cost.best[row]),
            worst_by_cost=None if by_cost is None else int(by_cost.worst[row]),
            against_plain="" if plain is None or row in plain_rows else WORDS[int(found.finds_more[row, plain])],
        )
        for row, entry in enumerate(entries)
    ]


def _standings(records: Sequence[Record], *, attacks: bool) -> tuple[Standing, Standing | None]:
    """Return where the records stand at equal candidates, and attacks at equal cost where each costs something."""
    if all(record.victim.public for record in records):
        samples = samples_of(records)
        paid = at_equal_cost(samples, [equivalents_per_candidate(each) for each in records]) if attacks else None
        by_cost = None if paid is None else standing(paid, highest_first=True)
        return standing(samples, highest_first=attacks), by_cost
    found = standing_of_sums(records, highest_first=attacks)
    assert found is not None
    return found, standing_of_sums(records, highest_first=True, by_cost=True) if attacks else None


def _overall_rows(boards: Sequence[Board]) -> list[OverallRow]:
    rows = []
    for method in {method_of(row.record) for board in boards for row in board.ranked}:
        own = [[row for row in board.ranked if method_of(row.record) == method] for board in boards]
        own = [found for found in own if found]
        rows.append(
            OverallRow(
                method,
                boards=len(own),
                top=sum(any(row.best == 1 for row in found) for found in own),
                beats_plain=sum(any(row.against_plain == WORDS[1] for row in found) for found in own),
            )
        )
    return sorted(rows, key=lambda row: (-row.top, -row.beats_plain, -row.boards, row.method))
