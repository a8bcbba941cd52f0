"""Make a record of the detection track from a folder of `sidebench detect`."""

from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ..benchmark.data.pair import load_pair, pair_names
from ..benchmark.errors import BadInput, BadRecord, CorruptRun, first_problem
from ..benchmark.files import read_table
from ..benchmark.results.detection import (
    DETECTION_FILE,
    PROVENANCE_FILE,
    DetectionResult,
    Provenance,
    counted,
    read_detection,
    read_provenance,
)
from . import owners
from .check import check_record, claims_same
from .detection_record import (
    SCHEMA,
    SCORED,
    DetectionHashes,
    DetectionMade,
    DetectionRecord,
    Scored,
    check_sizes,
    command,
    dense,
    pack,
)
from .figures_again import differences
from .make_records import file_hash, held, write_record
from .read_records import read_any, record_files
from .record import Victim

SCORES_FILE = "scores.parquet"


def is_detection_folder(folder: Path) -> bool:
    """Return whether a folder holds a finished detection."""
    return (folder / DETECTION_FILE).is_file()


def make_detection_record(folder: Path, submitter: str, today: date | None = None) -> DetectionRecord:
    """Return the record of a finished detection.

    Raises:
        BadInput: labels came from a file, the images are not public, or an earlier version made the folder.
        BadRecord: a figure of detection.json is not what the scores say.
        CorruptRun: a file is missing or was changed.
    """
    result = read_detection(folder / DETECTION_FILE)
    if result.replay is None:
        raise BadInput(f"{folder.name}: its labels came from a file, which nobody can check: no record")
    if not (folder / PROVENANCE_FILE).is_file():
        raise BadInput(
            f"{folder.name} does not say what its numbers are of: delete {DETECTION_FILE} in it and give the same "
            f"command again, which takes what is there"
        )
    noted = read_provenance(folder / PROVENANCE_FILE)
    if not noted.public:
        raise BadInput(
            f"{folder.name}: a record says of each caption whether it is memorised, and the images of {noted.pair} are "
            f"not public: no record"
        )
    scored = _scored(folder, result)
    _check_figures(folder, result, noted, scored)
    try:
        return _made(folder, result, noted, scored, submitter, today or datetime.now(UTC).date())
    except ValidationError as error:
        raise BadRecord(first_problem(error).of(f"{folder.name} makes no record")) from None


def add_detection(folder: Path, submitter: str, records: Path, key_file: Path | None = None) -> Path:
    """Make the record of a detection, check it beside those that are there, write it and return its file.

    Raises:
        BadRecord: the record would be refused; it is not written then.
        BadInput: there can be no record, the name is somebody else's, or the key cannot be used.
    """
    record = make_detection_record(folder, submitter)
    check_sizes(record, folder.name)
    if found := check_record(record):
        field, message = found[0]
        raise BadRecord(f"{folder.name}, {field}: {message}")
    with held(records):
        for file in record_files(records):
            if claims_same(read_any(file), record):
                raise BadRecord(f"{folder.name}, detectors: is claimed in {file.name} already, by the same submitter")
        return write_record(owners.claim([record], records, key_file)[0], records)


def _scored(folder: Path, result: DetectionResult) -> Scored:
    table = read_table(folder / SCORES_FILE)
    wanted = [used.detector for used in result.detectors]
    if table.column_names != ["prompt", "family", "label", *wanted]:
        raise CorruptRun(f"{folder.name}/{SCORES_FILE}: has other columns than the detectors of {DETECTION_FILE}")
    labels = np.array(table["label"].to_pylist())
    if not set(labels.tolist()) <= set(SCORED):
        raise CorruptRun(f"{folder.name}/{SCORES_FILE}, label: is none of {', '.join(SCORED)}")
    families = dense(table["family"].to_numpy())
    return Scored(labels=labels, families=families, ranks={name: dense(table[name].to_numpy()) for name in wanted})


def _check_figures(folder: Path, result: DetectionResult, noted: Provenance, scored: Scored) -> None:
    """Compute every figure of detection.json again, and refuse the first that differs."""
    if result.plan.get("pair") != noted.identity or result.pair != noted.pair:
        raise BadRecord(f"{folder.name}/{PROVENANCE_FILE}, identity: is of another pair than {DETECTION_FILE}")
    said = {
        "against": [each.model_dump(mode="json") for each in result.against],
        "counts": {label: result.counts[label].model_dump() for label in SCORED},
    }
    counts = counted(scored.labels, scored.families)
    again = {
        "against": [each.model_dump(mode="json") for each in scored.figures(result.seed)],
        "counts": {label: counts[label].model_dump() for label in SCORED},
    }
    if (found := next(differences(said, again), None)) is not None:
        key, ours, theirs = found
        raise BadRecord(
            f"{folder.name}/{DETECTION_FILE}, {key}: says {ours}, its scores say {theirs}; delete the file and give "
            f"the same command again"
        )


def _made(
    folder: Path, result: DetectionResult, noted: Provenance, scored: Scored, submitter: str, today: date
) -> DetectionRecord:
    assert result.replay is not None
    here = noted.environments[0]
    return DetectionRecord(
        schema=SCHEMA,
        track="detection",
        submitter=submitter,
        submitted=today,
        victim=victim_of(noted),
        prompts_sha256=result.plan["prompts"],
        negatives=noted.negatives,
        replay=result.replay,
        seed=result.seed,
        counts=result.counts,
        labels=pack(np.array([SCORED.index(label) for label in scored.labels])),
        families=pack(scored.families),
        detectors=result.detectors,
        ranks={name: pack(own) for name, own in scored.ranks.items()},
        against=result.against,
        hashes=DetectionHashes(
            provenance=file_hash(folder / PROVENANCE_FILE),
            detection=file_hash(folder / DETECTION_FILE),
            scores=file_hash(folder / SCORES_FILE),
        ),
        made=DetectionMade(
            device=noted.device,
            accelerator=here["accelerator"] if noted.device == "cuda" else None,
            **{key: here[key] for key in ("processor", "system", "cores", "threads", "versions")},
            micro_batch=noted.micro_batch,
            mixed=len(noted.environments) > 1,
        ),
        command=command(result.pair, result.detectors, result.replay, result.seed, noted.negatives),
    )


def victim_of(noted: Provenance) -> Victim:
    """Return what a record says of the pair."""
    shipped = load_pair(noted.pair) if noted.pair in pair_names() else None
    return Victim(
        name=noted.pair,
        revision=noted.revision,
        identity=noted.identity,
        family=noted.family,
        sources={part: {key: own[key] for key in ("repo", "commit")} for part, own in noted.sources.items()},
        model_sha256=noted.model_sha256,
        data_sha256=noted.data_sha256,
        sides_sha256=noted.sides_sha256,
        control=noted.control,
        reference_sha256={},
        control_check=None,
        training_images=noted.training_images,
        held_out_images=noted.held_out_images,
        training_groups=noted.training_groups,
        held_out_groups=noted.held_out_groups,
        made_by=noted.made_by,
        public=noted.public,
        worked_example=shipped is not None and shipped.model.location.startswith("zoo:"),
    )
