"""Verification by challenge: candidates drawn after submission are reproduced from the submitted state.

A record commits to the hashes of its scores and states. Whoever checks it gets the run's folder (without images),
compares it with those hashes, draws candidates that nobody could know before, makes and scores them again, and compares
with what the scores say. That proves the scores, not how the state came about: for that the whole command is run
again.
"""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from ..benchmark.contracts import Measure, Progress
from ..benchmark.errors import BadRecord, BadSetting
from ..benchmark.files import write_json
from ..benchmark.measures.hits import in_band
from ..benchmark.progress import silent
from ..benchmark.registry import make_measure
from ..benchmark.results.run_folder import RunFolder, believed, unit_name
from ..benchmark.results.score_files import read_all_scores
from ..benchmark.results.unit_scores import UnitScores, stored_groups
from .badge import TOLERANCE, Checked, checked_file
from .make_records import file_hash, scores_hash, unit_hits
from .read_records import read_record
from .record import Record, pooled_hits


def challenge(
    file: Path,
    folder: RunFolder,
    count: int,
    *,
    pair: str | None = None,
    device: str = "auto",
    draw: str | None = None,
    progress: Progress = silent,
) -> Checked:
    """Make `count` candidates of the record in `file` again; how many agree is returned and written beside it.

    `folder` is the submitted run folder; `pair` a pair file where the pair does not ship; `draw` repeats an
    earlier draw.

    Raises:
        BadRecord: the folder is not the one that the record commits to, or does not hold what the record says.
        BadInput: the run cannot be set up here as it was.
        BadSetting: more candidates were asked for than there are.
    """
    record = read_record(file)
    total = record.candidates * len(record.seeds)
    if not 1 <= count <= total:
        raise BadSetting(f"between 1 and {total} candidates can be reproduced, not {count}")
    with believed(folder):
        return _challenged(file, folder, record, count, pair, device, draw, progress)


def _challenged(
    file: Path,
    folder: RunFolder,
    record: Record,
    count: int,
    pair: str | None,
    device: str,
    draw: str | None,
    progress: Progress,
) -> Checked:
    total = record.candidates * len(record.seeds)
    measure = make_measure(record.measure)
    check_commitment(record, folder)
    stored = {seed: _stored(record, folder, seed, measure) for seed in record.seeds}
    draw = draw or secrets.token_hex(16)
    places = np.sort(np.random.default_rng(int(draw, 16)).choice(total, size=count, replace=False))
    chosen = {
        seed: (places[places // record.candidates == number] % record.candidates)
        for number, seed in enumerate(record.seeds)
    }
    device, again = _make_again(record, folder, chosen, measure, pair, device, progress)
    agreed, largest = 0, 0.0
    for seed, scores in again.items():
        same, gap = _compare(stored[seed], scores, chosen[seed], measure)
        agreed, largest = agreed + same, max(largest, gap)
    found = Checked(
        schema="sidebench-challenge/1",
        record=file_hash(file),
        draw=draw,
        checked=count,
        agreed=agreed,
        of=total,
        tolerance=TOLERANCE,
        largest=largest,
        device=device,
        day=datetime.now(UTC).date(),
    )
    write_json(checked_file(file), found.model_dump(mode="json", by_alias=True))
    return found


def as_text(found: Checked) -> str:
    """Say in plain words what a challenge found."""
    if not found.passed:
        return (
            f"{found.checked - found.agreed:,} of {found.checked:,} drawn candidates differ, scores by up to "
            f"{found.largest:.4f} where {found.tolerance:g} is allowed (draw {found.draw}): this state does not make "
            f"these scores here"
        )
    return (
        f"{found.words}, all within {found.tolerance:g} (largest difference {found.largest:.4f}): at 95 % confidence "
        f"at most {100 * found.wrong_at_most():.1f} % of the scores are not what the state makes"
    )


def check_commitment(record: Record, folder: RunFolder) -> None:
    """Compare a run folder with the hashes that a record commits to.

    Raises:
        BadRecord: a file is another one; the field is named.
    """
    wanted = {"manifest": record.hashes.manifest, "metrics": record.hashes.metrics}
    found = {"manifest": file_hash(folder.manifest_file), "metrics": file_hash(folder.path / "metrics.json")}
    for seed in record.seeds:
        unit = unit_name(record.claim.attack, seed)
        wanted |= {f"scores.{seed}": record.hashes.scores[str(seed)], f"state.{seed}": record.hashes.state[str(seed)]}
        found |= {f"scores.{seed}": scores_hash(folder, unit), f"state.{seed}": file_hash(folder.state_file(unit))}
    for name, digest in wanted.items():
        if found[name] != digest:
            raise BadRecord(f"{folder.path.name}, hashes.{name}: is not what the record commits to")


def _stored(record: Record, folder: RunFolder, seed: int, measure: Measure) -> UnitScores:
    """Return a unit's stored scores, after comparing them with the hits that the record names."""
    unit = unit_name(record.claim.attack, seed)
    found = unit_hits(folder, unit, measure, stored_groups(folder))
    said = pooled_hits([record], [seed])[0]
    pairs = {
        "training": (said.training_hits, found.training_hits),
        "control": (said.control_hits, found.control_hits),
    }
    for name, (ours, theirs) in pairs.items():
        if not np.array_equal(ours, theirs):
            raise BadRecord(f"{folder.path.name}, hits of seed {seed}, {name}: are not those of the stored scores")
    return UnitScores(read_all_scores(folder, unit, measure.space, record.candidates), [measure])


def _make_again(
    record: Record,
    folder: RunFolder,
    chosen: Mapping[int, np.ndarray],
    measure: Measure,
    pair: str | None,
    device: str,
    progress: Progress,
) -> tuple[str, dict[int, UnitScores]]:
    """Return the kind of device, and the drawn candidates' scores by seed, made from the stored state."""
    from ..benchmark import environment
    from ..benchmark.data.references import load_references
    from ..benchmark.measures.scorer import Scorer
    from ..benchmark.registry import registered
    from ..benchmark.runs.makers import InProcess
    from ..benchmark.runs.replay import make_again, planned_again
    from ..benchmark.runs.victim import load_victim, output_path

    plan = planned_again(folder, registered("attack", record.claim.attack), record.seeds, pair, device)
    maker = InProcess(load_victim(plan))
    references, where = load_references(plan.pair), environment.pick_device(plan.model.device)
    path = output_path(plan, references, lambda: maker.model)
    scorer = Scorer(references, [measure], plan.protocol.top_k, where, path)
    again, done = {}, 0
    for unit in plan.units:
        parts = []
        size = plan.batching.shard
        for start in range(0, len(chosen[unit.seed]), size):
            numbers = chosen[unit.seed][start : start + size]
            images, nan = make_again(folder, plan, unit, maker, numbers.tolist())
            parts.append(scorer.score(images, numbers, nan.numpy(), measure.space))
            done += len(numbers)
            progress("candidates reproduced", done, sum(map(len, chosen.values())))
        if parts:
            again[unit.seed] = UnitScores(parts, [measure])
    return plan.model.device.partition(":")[0], again


def _compare(stored: UnitScores, again: UnitScores, numbers: np.ndarray, measure: Measure) -> tuple[int, float]:
    """Return how many of the candidates agree on both sides, and the largest difference of a score."""
    agree, largest = np.ones(len(numbers), dtype=bool), 0.0
    for side in stored.sides:
        before = stored.best_scores[measure.id, side][numbers]
        now = again.best_scores[measure.id, side]
        gap = np.nan_to_num(np.abs(before - now), nan=1.0)
        gap[np.isnan(before) & np.isnan(now)] = 0.0
        hits = [in_band(scores, measure.bands[0], measure) for scores in (before, now)]
        agree &= (gap <= TOLERANCE) & (hits[0] == hits[1])
        largest = max(largest, float(gap.max()))
    return int(agree.sum()), largest
