"""Verification by challenge of a record of detectors: prompts drawn after submission are labelled and scored once more.

A record commits to the hashes of three files. Whoever checks it gets the folder of `sidebench detect`, compares it with
those hashes, makes the record again from it, and compares the pair, its prompts and their families with what the record
says. Prompts that nobody could know before are then replayed for their label, with the noises of the record's seed, and
scored by every detector; what that costs is counted.
"""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..benchmark.contracts import Progress
from ..benchmark.data.pair import load_pair, pair_names
from ..benchmark.errors import BadInput, BadRecord, BadSetting, CorruptRun
from ..benchmark.files import read_table, write_json
from ..benchmark.progress import silent
from ..benchmark.registry import make_detector
from ..benchmark.results.detection import DETECTION_FILE, PROVENANCE_FILE
from ..benchmark.runs.detect_again import Cost, DetectionAgain
from .badge import TOLERANCE, CheckedDetection, checked_file
from .challenge_checks import check_cost, installed_plugin
from .detection_record import DetectionRecord, parse_detection
from .figures_again import differences
from .make_detection import SCORES_FILE, is_detection_folder, make_detection_record, victim_of
from .make_records import file_hash
from .read_records import read_content

FILES = {"provenance": PROVENANCE_FILE, "detection": DETECTION_FILE, "scores": SCORES_FILE}
"""Files that a record commits to, by the key of its hash."""

FAR = 1e6
"""Largest difference that is told, in widths."""

OWN_WORDS = ("submitter", "submitted", "owner", "signature")
"""What of a record does not follow from its folder."""


def challenge_detection(
    file: Path,
    folder: Path,
    count: int,
    *,
    pair: str | None = None,
    negatives: Path | None = None,
    device: str = "auto",
    draw: str | None = None,
    progress: Progress = silent,
) -> CheckedDetection:
    """Label and score `count` prompts of the record in `file` once more; the outcome is written beside it.

    `folder` is the submitted folder of `sidebench detect`; `pair` a pair file where the pair does not ship, and
    `negatives` the file of never-seen prompts where there was one, both in the words of whoever challenges; `draw`
    repeats an earlier draw.

    Raises:
        BadRecord: the folder is not the one that the record commits to, does not hold what the record says, or is of
            other prompts, labels or costs than the pair has.
        BadInput: it is no folder of a detection, or the pair or its negatives are others here.
        BadSetting: more prompts were asked for than there are.
    """
    record = parse_detection(read_content(file), file.name)
    if not 1 <= count <= record.labelled:
        raise BadSetting(f"between 1 and {record.labelled:,} prompts can be reproduced, not {count}")
    if not is_detection_folder(folder):
        raise BadInput(f"{folder}: holds no finished detection; name the folder that `sidebench detect` made")
    _check_commitment(record, folder)
    _check_content(record, folder)
    for number, used in enumerate(record.detectors):
        installed_plugin("detector", used.detector, used.version, used.code, f"detectors.{number}")
    again = _again(record, pair, negatives, device, progress)
    said = _Said.of(folder, again)
    _check_pair(record, again)
    draw = draw or secrets.token_hex(16)
    rows = drawn(draw, count, np.flatnonzero(again.captions), np.flatnonzero(~again.captions))
    wrong, largest = _compared(record, said, again, rows)
    _check_costs(record, again)
    different = np.zeros(count, dtype=bool)
    for own in wrong.values():
        different |= own
    checked = CheckedDetection(
        record=file_hash(file),
        draw=draw,
        checked=count,
        replayed=int(again.captions[rows].sum()),
        agreed=int((~different).sum()),
        of=record.labelled,
        tolerance=TOLERANCE,
        largest=largest,
        device=str(again.bench().device).partition(":")[0],
        day=datetime.now(UTC).date(),
        differ={name: int(own.sum()) for name, own in wrong.items() if own.any()},
    )
    write_json(checked_file(file), checked.model_dump(mode="json", by_alias=True))
    return checked


def as_text(found: CheckedDetection) -> str:
    """Say in plain words what a challenge found."""
    if not found.passed:
        named = ", ".join(f"{count:,} by {name}" for name, count in sorted(found.differ.items()))
        return (
            f"{found.words}: {named}; scores by up to {found.largest:.4f} widths of the middle half, where "
            f"{found.tolerance:g} is allowed (draw {found.draw}): this model does not make these labels and scores here"
        )
    return (
        f"{found.words}, {found.replayed:,} of them replayed for their label, all scores within {found.tolerance:g} "
        f"widths of the middle half (largest difference {found.largest:.4f}): at 95 % confidence at most "
        f"{100 * found.wrong_at_most():.1f} % of either kind, captions of training images and never-seen prompts, are "
        f"not what the model makes"
    )


def drawn(draw: str, count: int, captions: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the prompts of a draw: captions of training images and others alike, as far as there are any.

    Captions are few and decide every figure: of all prompts alike, 32 draws among thousands would miss them.

    Examples:
        >>> drawn("7" * 32, 4, np.arange(2), np.arange(2, 9)).tolist()[:2]
        [0, 1]
    """
    rng = np.random.default_rng(int(draw, 16))
    of_others = max(count - len(captions), min(count // 2, len(others)))
    parts = [
        rng.choice(captions, count - of_others, replace=False),
        rng.choice(others, of_others, replace=False),
    ]
    found: np.ndarray = np.sort(np.concatenate(parts))
    return found


# ---- What the record commits to ---------------------------------------------------------------------


def _check_commitment(record: DetectionRecord, folder: Path) -> None:
    for key, name in FILES.items():
        if not (folder / name).is_file():
            raise BadRecord(f"{folder.name}/{name}: is missing, and the record commits to it")
        if file_hash(folder / name) != getattr(record.hashes, key):
            raise BadRecord(f"{folder.name}, hashes.{key}: is not what the record commits to")


def _check_content(record: DetectionRecord, folder: Path) -> None:
    """Make the record of this folder again and compare it with what was submitted, field by field."""
    made = make_detection_record(folder, record.submitter)
    unasked = dict.fromkeys(OWN_WORDS, True)
    said, again = (each.model_dump(mode="json", exclude=unasked) for each in (record, made))
    if found := next(differences(said, again), None):
        key, ours, theirs = found
        raise BadRecord(f"{key}: is {str(ours)[:80]}, and {str(theirs)[:80]} in the record of {folder.name}")


# ---- What it was made of ----------------------------------------------------------------------------


def _again(
    record: DetectionRecord, pair: str | None, negatives: Path | None, device: str, progress: Progress
) -> DetectionAgain:
    """Return the pair of the record with its prompts, checked to be the same."""
    if pair is None and record.victim.name not in pair_names():
        raise BadInput(f"victim.name: no pair {record.victim.name} ships; give its file with --pair")
    named = load_pair(pair or record.victim.name)
    if named.identity() != record.victim.identity:
        where = "give its file with --pair" if pair is None else "it is another pair, or another revision"
        raise BadInput(f"victim.identity: is not that of the pair {named.name} here; {where}")
    again = DetectionAgain(named, negatives, record.seed, device, progress)
    if again.negatives != record.negatives:
        raise BadInput(
            f"negatives: the record has {record.negatives:,} never-seen prompts of a file, and {again.negatives:,} are "
            f"given here; name that file with --negatives"
        )
    if again.prompts.sha256() != record.prompts_sha256:
        raise BadInput("prompts_sha256: is not the hash of the prompts here; the file of --negatives holds other ones")
    return again


def _check_pair(record: DetectionRecord, again: DetectionAgain) -> None:
    """Compare model and images, and how the labels were made, with what the record says of them."""
    said, here = (each.model_dump(mode="json") for each in (record.victim, victim_of(again.provenance())))
    if found := next(differences({"victim": said}, {"victim": here}), None):
        key, ours, theirs = found
        raise BadRecord(f"{key}: is {str(ours)[:80]}, and {str(theirs)[:80]} of the pair here")
    if record.replay.guidance_scale != again.guidance:
        scale = record.replay.guidance_scale
        raise BadRecord(f"replay.guidance_scale: is {scale:g}, and {again.guidance:g} is that of the pair here")


class _Said(NamedTuple):
    """What the folder says of each prompt."""

    labels: np.ndarray
    """(N,) labels, ambiguous ones included."""
    scores: Mapping[str, np.ndarray]
    """(N,) float64 by detector; NaN where a prompt was not scored."""

    @classmethod
    def of(cls, folder: Path, again: DetectionAgain) -> "_Said":
        """Read scores.parquet, and compare prompts, families and never-seen labels with those of the pair.

        Raises:
            BadRecord: one of these is another, or a prompt that has to be scored is not.
        """
        table, count = read_table(folder / SCORES_FILE), len(again.prompts.texts)
        name, rows = f"{folder.name}/{SCORES_FILE}", np.asarray(table["prompt"].to_pylist(), dtype=np.int64)
        if len(np.unique(rows)) < len(rows) or not ((rows >= 0) & (rows < count)).all():
            raise BadRecord(f"{name}, prompt: are not numbers of {count:,} prompts, each once")
        if not np.array_equal(table["family"].to_numpy(), again.prompts.families[rows]):
            raise BadRecord(f"{name}, family: is not the caption family of each prompt")
        labels = np.full(count, "ambiguous", dtype="<U12")
        labels[rows] = table["label"].to_pylist()
        if not np.array_equal(labels == "never seen", ~again.captions):
            raise BadRecord(f"{name}, label: never seen are the prompts that are no caption of a training image alone")
        scores = {}
        for detector in table.column_names[3:]:
            scores[detector] = np.full(count, np.nan)
            scores[detector][rows] = table[detector].to_numpy()
            if not np.isfinite(scores[detector][rows]).all():
                raise CorruptRun(f"{name}, {detector}: is no finite number for each prompt")
        return cls(labels, scores)


# ---- What is drawn ----------------------------------------------------------------------------------


def _compared(
    record: DetectionRecord, said: _Said, again: DetectionAgain, rows: np.ndarray
) -> tuple[dict[str, np.ndarray], float]:
    """Return which drawn prompts differ, (n,) bool by `label` or detector, and the largest difference of a score."""
    wrong, largest = {"label": np.zeros(len(rows), dtype=bool)}, 0.0
    captions = again.captions[rows]
    if captions.any():
        labels, replay = again.labelled(rows[captions], record.replay.images, record.replay.steps)
        if replay.measure != record.replay.measure:
            raise BadRecord(f"replay.measure: is {record.replay.measure}, and labels are made by {replay.measure} here")
        wrong["label"][captions] = labels != said.labels[rows[captions]]
    scored = said.labels[rows] != "ambiguous"
    for used in record.detectors if scored.any() else ():
        detector = make_detector(used.detector, used.settings)
        gap = np.zeros(len(rows))
        before, now = said.scores[used.detector][rows[scored]], again.scores(detector, rows[scored])
        gap[scored] = differences_of(before, now, spread(said.scores[used.detector]))
        wrong[used.detector], largest = gap > TOLERANCE, max(largest, float(gap.max()))
    return wrong, largest


def differences_of(before: np.ndarray, now: np.ndarray, width: float) -> np.ndarray:
    """Return by how many widths scores differ, at most `FAR`; any difference is one where the width is 0.

    >>> differences_of(np.array([1.0, 2.0]), np.array([1.0, 2.5]), 2.0).tolist()
    [0.0, 0.25]
    """
    gap: np.ndarray = np.abs(before - now)
    found: np.ndarray = np.sign(gap) if width == 0 else np.minimum(gap, FAR * width) / width
    return found


def spread(scores: np.ndarray) -> float:
    """Return the distance between the quartiles of a detector's scores, the width of their middle half.

    What moves a rank is a difference that counts beside it; a few scores that are far out do not widen it. Where half
    of the scores are equal it is that between the ends.

    >>> spread(np.array([0.0, 1.0, 2.0, 3.0, np.nan, 4.0]))
    2.0
    """
    known = scores[np.isfinite(scores)]
    low, high = np.quantile(known, (0.25, 0.75))
    return float((high - low) or np.ptp(known))


def _check_costs(record: DetectionRecord, again: DetectionAgain) -> None:
    """Compare denoiser calls and operations with what the first prompts say that all of them take.

    Raises:
        BadRecord: the record says more or less.
    """
    said = {used.detector: Cost(used.nfe, used.flops) for used in record.detectors}
    found = {
        used.detector: again.cost_of_scores(make_detector(used.detector, used.settings), used.prompts)
        for used in record.detectors
    }
    said["labels"] = Cost(record.replay.nfe, 0)
    found["labels"] = again.cost_of_labels(record.replay.images, record.replay.steps)
    ours, theirs = (
        {"nfe": {name: cost.nfe for name, cost in each.items()}, "flops": {n: c.flops for n, c in each.items()}}
        for each in (said, found)
    )
    check_cost(ours, theirs, "detection")
