"""A record of the detection track: how well detectors find the captions of a pair that its model gives back.

It is made from a folder of `sidebench detect` and stands for itself: every figure follows from the ranks of the prompts
under each detector, their labels and their caption families, which it holds in the order of the folder's prompts. A
score itself is not told, and no text of a prompt. Such records have boards of their own and are never ranked with
extraction.
"""

import base64
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..benchmark.data.prompt_files import Label
from ..benchmark.errors import BadRecord, first_problem
from ..benchmark.results.detection import FPRS, AgainstNegatives, Count, DetectorUsed, Negatives, Replay, against
from ..benchmark.stats.detection import draws_for
from .record import Record, Victim
from .signed_record import Frozen, SignedRecord

SCHEMA = "sidebench-detection-record/1"
"""Written by this version, published in schemas/."""

FOLDER = "detection"
"""Where such records lie in a folder of records, beside those of a protocol."""

SCORED: tuple[Label, ...] = ("memorised", "not replayed", "never seen")
"""Labels of scored prompts; their places are what `labels` packs."""

KINDS: tuple[Negatives, ...] = get_args(Negatives)

FPR_KEYS = {f"{fpr:g}" for fpr in FPRS}
"""False positive rates as figures are named by them."""

MOST_HELD = 2**26
"""Memorised times scored prompts times detectors and three more, at most: the comparison holds a number for each pair
of prompts under each detector, and three more while it is begun. With a block of draws they fill 0.8 GB."""

MOST_DRAWN = 2**29
"""Draws times what each draw looks at, prompts under each detector and pairs of these, at most: half a minute."""

MOST_ADDED = 2**37
"""Draws times memorised times scored prompts times detectors and one more, at most: products, a quarter minute."""


class DetectionHashes(Frozen):
    """SHA-256 of the files of the folder that the record was made from."""

    provenance: str = Field(pattern=r"^[0-9a-f]{64}$", description="of provenance.json, which says when it was begun")
    detection: str = Field(pattern=r"^[0-9a-f]{64}$", description="of detection.json")
    scores: str = Field(pattern=r"^[0-9a-f]{64}$", description="of scores.parquet")


class DetectionMade(Frozen):
    """With what the scores were made: hardware class and versions. Nothing that names a machine."""

    device: str = Field(max_length=16, description="cpu, cuda or mps")
    accelerator: str | None = Field(max_length=128, description="model name of the accelerator")
    processor: str = Field(max_length=128, description="model name of the processor")
    system: str = Field(max_length=64, description="operating system and architecture")
    cores: int = Field(ge=1, description="processor cores")
    threads: int = Field(ge=1, description="threads of torch")
    micro_batch: int = Field(ge=1, description="rows that the denoiser sees at a time")
    versions: dict[str, str] = Field(description="Python and every package that can move a number")
    mixed: bool = Field(description="the work was continued under other versions or hardware")


class DetectionRecord(SignedRecord):
    """What a set of detectors is worth on one pair, complete."""

    schema_: str = Field(SCHEMA, alias="schema", description="name and version of this schema")
    track: Literal["detection"] = Field(description="never ranked with extraction, or with images that were given")
    victim: Victim = Field(description="the pair")
    prompts_sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="hash of all prompts with their families, before any was labelled"
    )
    negatives: int = Field(ge=0, description="never-seen prompts that came from a file, and not from the pair")
    replay: Replay = Field(description="how labels came from images")
    seed: int = Field(ge=0, lt=2**63, description="seed of all noises, and of the draws of families")
    counts: dict[Label, Count] = Field(description="prompts by label; ambiguous ones are not scored")
    labels: str = Field(description="label of each scored prompt: 0 memorised, 1 not replayed, 2 never seen (`pack`)")
    families: str = Field(description="caption family of each scored prompt, numbered from 0 (`pack`)")
    detectors: list[DetectorUsed] = Field(min_length=1, max_length=64, description="each detector, by name")
    ranks: dict[str, str] = Field(
        description="by detector, the rank of each scored prompt's number from 0, the same for equal ones (`pack`)"
    )
    against: list[AgainstNegatives] = Field(description="AUC, TPR and pairs of detectors by kind of other prompts")
    hashes: DetectionHashes = Field(description="what the record rests on")
    made: DetectionMade = Field(description="hardware class and versions")
    command: str = Field(max_length=8000, description="the command that makes the detection again")

    @property
    def prompts(self) -> int:
        """How many prompts were scored."""
        return sum(self.counts[label].prompts for label in SCORED)

    @property
    def labelled(self) -> int:
        """How many prompts have a label, ambiguous ones included."""
        return sum(count.prompts for count in self.counts.values())

    def file(self, records: Path, name: str = "") -> Path:
        """Return where the record stands below a folder of records; `name` is its `id` unless given."""
        return records / FOLDER / self.victim.name / f"detection-{name or self.id}.json"


AnyRecord = Record | DetectionRecord
"""A record of whichever track."""


def is_detection(content: Any) -> bool:
    """Return whether a JSON value says that it is a record of the detection track."""
    return isinstance(content, dict) and str(content.get("schema", "")).startswith("sidebench-detection-record/")


def parse_detection(content: Any, name: str) -> DetectionRecord:
    """Return the record of a JSON value; `name` is what an error calls it.

    Raises:
        BadRecord: a field is missing, unknown or impossible, or the schema is newer than this version's.
    """
    if content.get("schema") != SCHEMA:
        raise BadRecord(f"{name}, schema: {content.get('schema')!r} is not known here, {SCHEMA} is; update sidebench")
    try:
        record = DetectionRecord.model_validate(content)
    except ValidationError as error:
        raise BadRecord(first_problem(error).of(name)) from None
    check_sizes(record, name)
    return record


def check_sizes(record: DetectionRecord, name: str) -> None:
    """Refuse what no page can show, and sizes that would take the time or memory of whoever checks it.

    Raises:
        BadRecord: it is such a record.
    """
    if record.counts.keys() != set(get_args(Label)):
        raise BadRecord(f"{name}, counts: must name each label once")
    if any(count.prompts < 0 or count.families < 0 for count in record.counts.values()):
        raise BadRecord(f"{name}, counts: cannot be below 0")
    if _too_many(record.counts["memorised"].prompts, record.prompts, len(record.detectors)):
        raise BadRecord(f"{name}, counts: {record.prompts:,} prompts of {len(record.detectors)} detectors are too many")
    if [each.negatives for each in record.against] != list(KINDS):
        raise BadRecord(f"{name}, against: must have one entry for each of {', '.join(KINDS)}")
    known = sorted(used.detector for used in record.detectors)
    for number, each in enumerate(record.against):
        if fault := _misfit(each, known):
            raise BadRecord(f"{name}, against.{number}.{fault[0]}: {fault[1]}")


def _too_many(memorised: int, prompts: int, detectors: int) -> bool:
    """Return whether to compute the figures of so many takes more time or memory than a check may."""
    draws, compared = draws_for(detectors), memorised * prompts
    return (
        compared * (detectors + 3) > MOST_HELD
        or draws * (prompts * detectors + math.comb(detectors, 2)) > MOST_DRAWN
        or draws * compared * (detectors + 1) > MOST_ADDED
    )


def _misfit(each: AgainstNegatives, known: Sequence[str]) -> tuple[str, str] | None:
    """Return (field, message) where figures are of other detectors or false positive rates than there are."""
    if bool(each.refused) == bool(each.rates):
        return "refused", "is there exactly where there are no rates"
    if each.rates and sorted(rates.detector for rates in each.rates) != known:
        return "rates", "must have one entry per detector"
    if any(rates.tpr.keys() != each.rates[0].tpr.keys() or not rates.tpr.keys() <= FPR_KEYS for rates in each.rates):
        return "rates", f"have a TPR at each of the same rates, out of {', '.join(sorted(FPR_KEYS))}"
    if not {*each.tpr_pairs, *each.left_out} <= FPR_KEYS:
        return "tpr_pairs", f"are by a rate out of {', '.join(sorted(FPR_KEYS))}"
    pairs = [pair for own in (each.pairs, *each.tpr_pairs.values()) for pair in own]
    if not {end for pair in pairs for end in (pair.first, pair.second)} <= set(known):
        return "pairs", "compare a detector that the record does not have"
    return None


def command(pair: str, detectors: Sequence[DetectorUsed], replay: Replay, seed: int, negatives: int) -> str:
    """Return the command that makes a detection again, every setting spelled out."""
    parts = ["sidebench", "detect", pair, *(part for used in detectors for part in ("--detector", used.detector))]
    parts += ["--images", str(replay.images), "--steps", str(replay.steps), "--seed", str(seed)]
    parts += ["--negatives", "FILE"] if negatives else []
    for used in detectors:
        for key in sorted(used.settings):
            parts += ["--set", f"{used.detector}.{key}={json.dumps(used.settings[key])}"]
    return shlex.join(parts)


# ---- What was scored --------------------------------------------------------------------------------


def pack(numbers: np.ndarray) -> str:
    """Return whole numbers from 0, each below how many they are or 3, as text: bytes, lowest first, in base64.

    Each takes as many bytes as their count does. Nothing is compressed, so there is one text for the same numbers.

    Examples:
        >>> pack(np.array([1, 0, 1, 2]))
        'AQABAg=='
    """
    each = numbers.astype("<u4")[:, None].view(np.uint8)
    return base64.b64encode(each[:, : _width(len(numbers))].tobytes()).decode()


def _width(count: int) -> int:
    """Return the bytes that each of so many numbers takes: 1 to 255, 2 to 65,535."""
    return max(1, -(-count.bit_length() // 8))


def unpack(text: str, count: int, name: str) -> np.ndarray:
    """Return the numbers that `pack` packed, (count,) int64.

    Raises:
        BadRecord: the text does not hold exactly so many, or is not the one that `pack` gives.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except ValueError:
        raise BadRecord(f"{name}: is not packed numbers") from None
    width = _width(count)
    if len(content) != width * count:
        raise BadRecord(f"{name}: holds another number of entries than the {count:,} scored prompts")
    if base64.b64encode(content).decode() != text:
        raise BadRecord(f"{name}: is not written as numbers are packed")
    each = np.zeros((count, 4), dtype=np.uint8)
    each[:, :width] = np.frombuffer(content, dtype=np.uint8).reshape(count, width)
    return each.view("<u4")[:, 0].astype(np.int64)


def dense(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value from 0, equal ones alike.

    >>> dense(np.array([0.5, -1.0, 0.5, 7.0])).tolist()
    [1, 0, 1, 2]
    """
    ranks: np.ndarray = np.unique(values, return_inverse=True)[1]
    return ranks


class Scored(BaseModel):
    """The scored prompts of a record, unpacked."""

    model_config = ConfigDict(arbitrary_types_allowed=True, frozen=True)

    labels: np.ndarray
    """(N,) labels."""
    families: np.ndarray
    """(N,) int64."""
    ranks: Mapping[str, np.ndarray]
    """(N,) int64 by detector."""

    def figures(self, seed: int) -> list[AgainstNegatives]:
        """Return what follows from the ranks: AUC, TPR and pairs of detectors, by kind of other prompts."""
        scores = {name: own.astype(np.float64) for name, own in self.ranks.items()}
        return [against(kind, scores, self.labels, self.families, seed) for kind in KINDS]


def unpacked(record: DetectionRecord) -> Scored:
    """Return what a record says of each scored prompt.

    Raises:
        BadRecord: an entry is missing, or is one that `pack` does not give; the message begins with the field.
    """
    count = record.prompts
    places, families = unpack(record.labels, count, "labels"), unpack(record.families, count, "families")
    if (places >= len(SCORED)).any():
        raise BadRecord(f"labels: are the numbers 0 to {len(SCORED) - 1}")
    if sorted(record.ranks) != [used.detector for used in record.detectors]:
        raise BadRecord("ranks: must have one entry per detector")
    ranks = {name: unpack(text, count, f"ranks.{name}") for name, text in record.ranks.items()}
    for name, own in {"families": families, **{f"ranks.{name}": own for name, own in ranks.items()}}.items():
        if not np.array_equal(own, dense(own)):
            raise BadRecord(f"{name}: leave out a number")
    return Scored(labels=np.array(SCORED)[places], families=families, ranks=ranks)
