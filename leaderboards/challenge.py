"""Verification by challenge: candidates drawn after submission are reproduced from the submitted state.

A record commits to the hashes of its scores, states and ledgers. Whoever checks it gets the run's folder (without
images), compares it with those hashes, makes the record again from it, draws candidates that nobody could know before,
makes and scores them again, and compares scores, groups and cost with what the folder says; a reference model's
candidates of the same numbers likewise. What does not follow from scores is computed again too (`challenge_checks.py`),
the quality of the images where every candidate is drawn. That proves the scores, not how the state came about: for that
`prepare` makes the states again.
"""

import hashlib
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from ..benchmark.contracts import Measure, Model, Progress, Side
from ..benchmark.data.pair import IN_TRAINING
from ..benchmark.errors import BadRecord, BadSetting
from ..benchmark.files import read_info, write_json
from ..benchmark.measures.hits import as_distances, far_edge, in_band
from ..benchmark.measures.shard_scores import ShardScores
from ..benchmark.progress import silent
from ..benchmark.protocol import VERSION
from ..benchmark.registry import make_measure
from ..benchmark.results.costs import work_of_candidates
from ..benchmark.results.run_folder import RunFolder, believed, unit_name
from ..benchmark.results.score_files import read_all_scores
from ..benchmark.results.secret_seeds import nonce_in, seed_of
from ..benchmark.results.unit_scores import Groups, UnitScores
from .badge import TOLERANCE, Checked, Prepared, checked_file
from .challenge_checks import (
    KINDS,
    Work,
    check_cost,
    check_quality,
    check_reach,
    check_varying_cost,
    check_victim,
    installed_plugin,
    registered_plugin,
    some_of,
)
from .figures_again import differences
from .make_records import file_hash, make_records, scores_hash
from .read_records import read_content, read_record
from .record import OF_TEXT, Record

if TYPE_CHECKING:
    from torch import Tensor

    from ..benchmark.data.references import References
    from ..benchmark.measures.scorer import Scorer
    from ..benchmark.runs.makers import Maker
    from ..benchmark.runs.plan import RunPlan, Unit


def challenge(
    file: Path,
    folder: RunFolder,
    count: int,
    *,
    pair: str | None = None,
    model: str | Model | None = None,
    device: str = "auto",
    draw: str | None = None,
    prepare: bool = False,
    allow_pickle: bool = False,
    progress: Progress = silent,
) -> Checked:
    """Make `count` candidates of the record in `file` again; how many agree is returned and written beside it.

    `folder` is the submitted run folder; `pair` a pair file where the pair does not ship, and `model` what was attacked
    in place of the pair's model, both in the words of whoever challenges; `draw` repeats an earlier draw; with
    `prepare` the attack is prepared again too, which takes as long as it took.

    Raises:
        BadRecord: the folder is not the one that the record commits to, or does not hold what the record says; or the
            pair's images, or the cost of the drawn candidates, are others.
        BadInput: the run cannot be set up here as it was.
        BadSetting: more candidates were asked for than there are.
    """
    record = read_record(file)
    total = record.candidates * len(record.seeds)
    if not 1 <= count <= total:
        raise BadSetting(f"between 1 and {total} candidates can be reproduced, not {count}")
    with believed(folder):
        named = _Named(pair, model, device, allow_pickle)
        return _challenged(file, folder, record, count, named, draw, prepare, progress)


class _Named(NamedTuple):
    """What whoever challenges names, beside the folder."""

    pair: str | None
    model: str | Model | None
    device: str
    allow_pickle: bool


def _challenged(
    file: Path,
    folder: RunFolder,
    record: Record,
    count: int,
    named: _Named,
    draw: str | None,
    prepare: bool,
    progress: Progress,
) -> Checked:
    if record.protocol.version != VERSION:
        raise BadRecord(f"protocol.version: is {record.protocol.version}, and candidates are made here by {VERSION}")
    installed(record)
    total = record.candidates * len(record.seeds)
    measure = make_measure(record.measure)
    seeds = seeds_of(record, folder)
    check_commitment(record, folder, seeds)
    version = _version(read_content(file)["schema"])
    _check_content(record, folder, left_out(version))
    draw = draw or secrets.token_hex(16)
    places = np.sort(np.random.default_rng(int(draw, 16)).choice(total, size=count, replace=False))
    chosen = {
        seed: (places[places // record.candidates == number] % record.candidates) for number, seed in enumerate(seeds)
    }
    again = _Again.of(record, seeds, folder, measure, named)
    check_victim(record, again.references)
    if version >= WITH_REACH:
        check_reach(record, again.plan, again.references, again.scorer)
    prepared = _prepare_again(again, folder) if prepare else None
    agreed, largest, done = 0, 0.0, 0
    images: dict[str, list[Tensor]] = {}
    sent: dict[str, np.ndarray | None] = {}
    for unit in again.plan.units:
        numbers = chosen[unit.seed]
        if len(numbers):
            found = again.compare(folder, unit, numbers)
            same = found.agree
            if again.reference is not None:
                theirs = again.reference.compare(folder.reference(), again.reference.unit(unit), numbers)
                same, largest = same & theirs.agree, max(largest, theirs.largest)
            agreed, largest, done = agreed + int(same.sum()), max(largest, found.largest), done + len(numbers)
            images[unit.name] = found.images if count == total else []
            sent[unit.name] = found.captions
            progress("candidates reproduced", done, count)
    if count == total and agreed == total:
        check_quality(record, images, again.references, again.scorer.path, sent, left_out(version).get("quality", ()))
    checked = Checked(
        schema="sidebench-challenge/1",
        record=file_hash(file),
        draw=draw,
        checked=count,
        agreed=agreed,
        of=total,
        tolerance=TOLERANCE,
        largest=largest,
        device=again.plan.model.device.partition(":")[0],
        day=datetime.now(UTC).date(),
        prepared=prepared,
    )
    write_json(checked_file(file), checked.model_dump(mode="json", by_alias=True))
    return checked


def as_text(found: Checked) -> str:
    """Say in plain words what a challenge found."""
    if not found.passed:
        return (
            f"{found.checked - found.agreed:,} of {found.checked:,} drawn candidates differ, scores by up to "
            f"{found.largest:.4f} where {found.tolerance:g} is allowed (draw {found.draw}): this state does not make "
            f"these scores here"
        )
    states = f"; prepared again: {found.prepared} states" if found.prepared else ""
    return (
        f"{found.words}, all within {found.tolerance:g} (largest difference {found.largest:.4f}): at 95 % confidence "
        f"at most {100 * found.wrong_at_most():.1f} % of the scores are not what the state makes{states}"
    )


def seeds_of(record: Record, folder: RunFolder) -> list[int]:
    """Return the run seed of each preparation of a record, which may tell no more than their numbers.

    Raises:
        BadRecord: the folder's nonce is not the one that the record commits to.
    """
    if record.nonce is None:
        return record.seeds
    nonce = nonce_in(folder)
    if hashlib.sha256(nonce).hexdigest() != record.nonce:
        raise BadRecord(f"{folder.path.name}, nonce: is not what the record commits to")
    return [seed_of(nonce, number) for number in record.seeds]


def check_commitment(record: Record, folder: RunFolder, seeds: Sequence[int]) -> None:
    """Compare a run folder with the hashes that a record commits to.

    Raises:
        BadRecord: a file is another one; the field is named.
    """
    wanted = {"manifest": record.hashes.manifest, "metrics": record.hashes.metrics}
    found = {"manifest": file_hash(folder.manifest_file), "metrics": file_hash(folder.path / "metrics.json")}
    for key, seed in zip(map(str, record.seeds), seeds, strict=True):
        unit = unit_name(record.claim.attack, seed)
        wanted |= {f"scores.{key}": record.hashes.scores[key], f"state.{key}": record.hashes.state[key]}
        found |= {f"scores.{key}": scores_hash(folder, unit), f"state.{key}": file_hash(folder.state_file(unit))}
        if record.hashes.ledger:
            wanted[f"ledger.{key}"] = record.hashes.ledger[key]
            found[f"ledger.{key}"] = file_hash(folder.ledger_file(unit))
    for name, digest in wanted.items():
        if found[name] != digest:
            later = " (a later run into the same folder changes it)" if name in ("manifest", "metrics") else ""
            raise BadRecord(f"{folder.path.name}, hashes.{name}: is not what the record commits to{later}")


OWN_WORDS = ("submitter", "submitted", "tuning", "owner", "signature")
"""What of a record does not follow from its run: who claims it and when, and where the settings came from."""

WITH_REACH = 5
"""The first version whose records say what a band can see."""

SINCE: Mapping[int, Mapping[str, Any]] = {
    WITH_REACH: dict.fromkeys(("track", "paired", "reach", "own_images", "caption_flags", "exposures"), True),
    6: {"quality": set(OF_TEXT)},
}
"""What records of before each version do not say, as pydantic's `exclude` has it."""


def left_out(version: int) -> dict[str, Any]:
    """Return the fields that records of a version of the schema do not have, as pydantic's `exclude` has it."""
    return {name: what for since, fields in SINCE.items() if version < since for name, what in fields.items()}


def _version(schema: str) -> int:
    return int(schema.rpartition("/")[2])


def _check_content(record: Record, folder: RunFolder, unsaid: Mapping[str, Any]) -> None:
    """Make the record of this folder again and compare it with what was submitted, field by field, but the `unsaid`.

    Raises:
        BadRecord: a field is another one, or a figure of the folder is not what its scores say.
    """
    (made,) = make_records(folder, record.submitter, [record.claim.attack])
    unasked = {**dict.fromkeys(OWN_WORDS, True), **unsaid}
    said, again = (each.model_dump(mode="json", exclude=unasked) for each in (record, made))
    if found := next(differences(said, again), None):
        key, ours, theirs = found
        raise BadRecord(f"{key}: is {str(ours)[:80]}, and {str(theirs)[:80]} in the record of {folder.path.name}")


class _Compared(NamedTuple):
    """Candidates that were reproduced, beside what is stored of them."""

    agree: np.ndarray
    """(N,) bool."""
    largest: float
    """Largest difference of a score."""
    images: list["Tensor"]
    """uint8, n x C x H x W each, in order."""
    captions: np.ndarray | None
    """(N,) the number of the caption that the run says it sent for each, None where it sent none."""


class _Again(NamedTuple):
    """What it takes to make a record's candidates and scores again."""

    plan: "RunPlan"
    maker: "Maker"
    references: "References"
    scorer: "Scorer"
    measure: Measure
    reference: "_Again | None" = None
    """The same of the reference model, where one is the control."""

    @classmethod
    def of(cls, record: Record, seeds: Sequence[int], folder: RunFolder, measure: Measure, named: _Named) -> Self:
        """Load model and images, checked to be those of the run."""
        from ..benchmark.runs.replay import planned_again

        plan = planned_again(
            folder,
            installed(record),
            seeds,
            named.pair,
            named.device,
            model=named.model,
            allow_pickle=named.allow_pickle,
        )
        again, other = cls._planned(plan, measure), plan.reference()
        return again if other is None else again._replace(reference=cls._planned(other, measure))

    @classmethod
    def _planned(cls, plan: "RunPlan", measure: Measure) -> Self:
        from ..benchmark import environment
        from ..benchmark.data.references import load_references
        from ..benchmark.measures.scorer import Scorer
        from ..benchmark.runs.makers import InProcess
        from ..benchmark.runs.victim import load_victim, output_path

        maker = InProcess(load_victim(plan))
        references, where = load_references(plan.pair), environment.pick_device(plan.model.device)
        path = output_path(plan, references, lambda: maker.model)
        return cls(plan, maker, references, Scorer(references, [measure], plan.protocol.top_k, where, path), measure)

    def unit(self, like: "Unit") -> "Unit":
        """Return the unit of the same attack and seed."""
        return next(unit for unit in self.plan.units if unit.name == like.name)

    def compare(self, folder: RunFolder, unit: "Unit", numbers: np.ndarray) -> _Compared:
        """Make these candidates again and compare them with the stored scores.

        Raises:
            BadRecord: they cost something else than the run's ledger says.
        """
        from ..benchmark.runs.replay import make_again

        parts, spent, images = [], [], []
        for start in range(0, len(numbers), self.plan.batching.shard):
            some = numbers[start : start + self.plan.batching.shard]
            made = make_again(folder, self.plan, unit, self.maker, some.tolist())
            spent.append(made.cost)
            images.append(made.images)
            parts.append(self.scorer.score(made.images, some, made.nan.numpy(), self.measure.space))
        stored = read_all_scores(folder, unit.name, self.measure.space, self.plan.candidates)
        before, now = UnitScores(stored, [self.measure]), UnitScores(parts, [self.measure])
        candidates = self.plan.candidates
        said = _per_candidate([work_of_candidates(folder, unit.name, candidates)], candidates)
        try:
            check_cost(said, _per_candidate(spent, len(numbers)), unit.name, digits=1, each=" a candidate")
        except BadRecord:
            # Perhaps this attack takes longer for some than for others: only one by one do they show it.
            chosen = some_of(numbers, candidates)
            alone = [make_again(folder, self.plan, unit, self.maker, [number]).cost for number in chosen]
            check_varying_cost(said, [_per_candidate([work], 1) for work in alone], unit.name)
        agree, largest = agreement(before, now, parts, numbers, self.references.groups(), self.measure)
        return _Compared(agree, largest, images, None if before.captions is None else before.captions[numbers])


def installed(record: Record) -> str:
    """Return the name of the record's attack; it is installed here, and so is every defence of the record.

    Raises:
        BadRecord: one is not, or the attack is of another version; the message says what a challenge needs.
    """
    claim = record.claim
    for name in claim.defences:
        if not name.startswith(IN_TRAINING):
            registered_plugin("defence", name, claim.code.get(name, {}), f"claim.defences.{name}")
    return installed_plugin("attack", claim.attack, claim.version, claim.code.get(claim.attack), "claim")


def _per_candidate(works: Sequence[Mapping[str, Any]], candidates: int) -> Work:
    """Return what all of this work together comes to for each of so many candidates."""
    return {
        kind: {
            phase: sum(work[kind].get(phase, 0) for work in works) / candidates
            for phase in {name for work in works for name in work[kind]}
        }
        for kind in KINDS
    }


def agreement(
    stored: UnitScores,
    again: UnitScores,
    parts: Sequence[ShardScores],
    numbers: np.ndarray,
    groups: Groups,
    measure: Measure,
) -> tuple[np.ndarray, float]:
    """Return which candidates agree, (N,) bool, and the largest difference of a score.

    Compared are, on both sides, score, hit, near-duplicate group and number of pairs in reach.

    `parts` are the shards of `again`; another group counts as the same where both are as near, within the tolerance.
    """
    agree, largest = np.ones(len(numbers), dtype=bool), 0.0
    for side in stored.sides:
        before = stored.best_scores[measure.id, side][numbers]
        now = again.best_scores[measure.id, side]
        gap = np.nan_to_num(np.abs(before - now), nan=1.0)
        gap[np.isnan(before) & np.isnan(now)] = 0.0
        hits = [in_band(scores, measure.bands[0], measure) for scores in (before, now)]
        named = groups[side][stored.best_ids[side][numbers]]
        agree &= (gap <= TOLERANCE) & (hits[0] == hits[1]) & _is_nearest(parts, named, groups[side], side)
        agree &= _same_pairs(stored, again, numbers, side, measure)
        largest = max(largest, float(gap.max()))
    return agree, largest


def _is_nearest(parts: Sequence[ShardScores], named: np.ndarray, groups: np.ndarray, side: Side) -> np.ndarray:
    """Return whether each candidate's named group is its nearest, or as near within the tolerance; (N,) bool."""
    ids, distances = (
        np.concatenate([getattr(part.neighbours[side], name) for part in parts]) for name in ("ids", "distances")
    )
    near = distances <= distances[:, :1] * (1 + TOLERANCE) + TOLERANCE * np.finfo(np.float32).eps
    found: np.ndarray = ((groups[ids] == named[:, None]) & near).any(axis=1)
    return found


def _same_pairs(stored: UnitScores, again: UnitScores, numbers: np.ndarray, side: Side, measure: Measure) -> np.ndarray:
    """Return whether candidates have as many references in the widest band, but for those at its edge; (N,) bool."""
    edge = float(as_distances(np.array(far_edge(measure.bands[-1], measure)), measure))

    def counted(scores: UnitScores, within: float) -> np.ndarray:
        close = as_distances(scores.pair_scores[measure.id, side], measure) <= within
        return np.bincount(scores.pair_rows[measure.id, side][close], minlength=scores.candidates)

    inner, outer = edge - 2 * TOLERANCE, edge
    clear, possible = (counted(stored, within)[numbers] for within in (inner, outer))
    found: np.ndarray = (clear <= counted(again, outer)) & (counted(again, inner) <= possible)
    return found


def _prepare_again(again: _Again, folder: RunFolder) -> Prepared:
    """Prepare every unit once more, in a folder that is thrown away.

    Raises:
        BadRecord: a preparation takes more or less than its state says.
    """
    import torch

    from ..benchmark.contracts import Budget
    from ..benchmark.results.checkpoints import FolderCheckpoints

    same = True
    for unit in again.plan.units:
        with tempfile.TemporaryDirectory() as place:
            kept = FolderCheckpoints(Path(place) / "shared")
            budget = Budget(unit.seed, again.plan.candidates, FolderCheckpoints(Path(place) / "own"), silent)
            made = again.maker.prepare(unit, again.plan.sampling, budget, kept)
        check_cost(read_info(folder.state_file(unit.name))["cost"], made.cost, unit.name)
        stored = folder.attack_state(unit.name)
        same &= stored.info == made.state.info and stored.tensors.keys() == made.state.tensors.keys()
        same = same and all(torch.equal(stored.tensors[name], tensor) for name, tensor in made.state.tensors.items())
    return "the same" if same else "others"
