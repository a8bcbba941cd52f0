"""What a challenge computes again beside candidates: the images and their sides, the reach, the quality of the images.

None of it follows from the scores that a run folder holds, so that a folder's word for it would otherwise be believed.
"""

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..benchmark.errors import BadRecord, SidebenchError
from ..benchmark.registry import Kind, find, make_measure, registered
from ..benchmark.results.unit_scores import sides_hash
from .make_records import quality_of
from .record import Record

if TYPE_CHECKING:
    from torch import Tensor

    from ..benchmark.data.references import References
    from ..benchmark.measures.output_path import OutputPath
    from ..benchmark.measures.scorer import Scorer
    from ..benchmark.runs.plan import RunPlan

SAME_AUC = 0.01
"""Largest difference of a classifier's AUC that other processors explain."""

SAME_SHARE = 0.02
"""The same of a share of images: what a band reaches, precision and recall."""

SAME_DISTANCE = 0.02
"""The same of a Frechet distance, relative."""


KINDS = {"nfe": "denoiser calls", "flops": "operations"}
"""What is counted of an attack's work, in words."""

SAME_COST = 0.02
"""Largest relative difference of what candidates cost that counts as the same: an attack may spend more on some."""

ALONE = (16, 64)
"""Fewest and most candidates that are made one by one for what each of them costs."""

SURE = 4.0
"""Standard errors by which the mean cost of drawn candidates may differ from that of all: once in 10,000 draws."""


def installed_plugin(kind: Kind, name: str, version: int, code: Mapping[str, str] | None, field: str) -> str:
    """Return the name under which a plug-in of a record is installed; `field` is its place in the record.

    Raises:
        BadRecord: it is not, or at another version; the message says what to install.
    """
    known = registered_plugin(kind, name, code, f"{field}.{kind}")
    if (here := find(kind, known).version) != version:
        raise BadRecord(f"{field}.version: is {version}, and {known} is at version {here} here")
    return known


def registered_plugin(kind: Kind, name: str, code: Mapping[str, str] | None, field: str) -> str:
    """Return a plug-in's name; where it is not installed, say what its code, as the record has it, makes necessary."""
    try:
        return registered(kind, name)
    except SidebenchError as error:
        if not code:
            raise
        if "file" in code:
            raise BadRecord(
                f"{field}: {name} is the submitter's own file ({code['file']}), and no file that a record names is "
                f"run; ask for the {kind} as an installed package (sidebench new {kind}) and a record of a run with it"
            ) from error
        what = f"{code.get('package', 'a package')} {code.get('version', '')}".strip()
        where = f" from {code['address']}" if "address" in code else ""
        raise BadRecord(f"{field}: {name} is not installed here; install {what}{where}") from error


Work = Mapping[str, Mapping[str, float]]
"""`nfe` and `flops`, each by phase."""


def check_cost(said: Work, counted: Work, unit: str, digits: int = 0, each: str = "") -> None:
    """Compare the work that was counted now with the work that the run says; `each` says of what, in messages.

    Raises:
        BadRecord: a phase takes more or less than the run says, by more than `SAME_COST`.
    """
    for kind, words in KINDS.items():
        for phase in sorted({*said[kind], *counted[kind]}):
            wanted, found = (work[kind].get(phase, 0) for work in (said, counted))
            if abs(wanted - found) > SAME_COST * max(wanted, found):
                raise BadRecord(
                    f"costs, {unit}, {phase}: says {wanted:,.{digits}f} {words}{each}, counted again "
                    f"{found:,.{digits}f}"
                )


def some_of(numbers: np.ndarray, candidates: int) -> list[int]:
    """Return up to `ALONE[1]` of the drawn candidates, and of few drawn ones `ALONE[0]` with others of the run.

    Examples:
        >>> some_of(np.array([700]), 1024)[:3], len(some_of(np.arange(1024), 1024))
        ([0, 68, 136], 64)
    """
    fewest, most = ALONE
    if len(numbers) > most:
        numbers = numbers[np.linspace(0, len(numbers) - 1, most).astype(int)]
    elif len(numbers) < fewest:
        others = np.linspace(0, candidates - 1, min(fewest, candidates)).astype(int)
        numbers = np.union1d(numbers, others)
    return [int(number) for number in numbers]


def check_varying_cost(said: Work, each: Sequence[Work], unit: str) -> None:
    """Compare the work of candidates, counted one by one, with what the run says of all of them for each candidate.

    An attack that leaves finished candidates alone takes longer for some than for others, so that those of a draw take
    more or less than all do. Allowed are `SURE` standard errors of the draw's mean.

    Raises:
        BadRecord: they differ by more than that, or every candidate takes the same and it is not what the run says.
    """
    for kind, words in KINDS.items():
        for phase in sorted({*said[kind], *(name for work in each for name in work[kind])}):
            counted = np.array([work[kind].get(phase, 0.0) for work in each])
            wanted, found = said[kind].get(phase, 0.0), float(counted.mean())
            error = SURE * float(counted.std(ddof=1)) / len(counted) ** 0.5 if len(counted) > 1 else 0.0
            if abs(wanted - found) > max(error, SAME_COST * max(wanted, found)):
                raise BadRecord(
                    f"costs, {unit}, {phase}: says {wanted:,.1f} {words} a candidate, counted again {found:,.1f}"
                    + (f", with {error:,.1f} to be expected by the draw" if error else "")
                )


def check_victim(record: Record, references: "References") -> None:
    """Compare the images that the pair has here with those that the record says it has.

    Raises:
        BadRecord: other images, other sides, or a control check that comes out otherwise.
    """
    from ..benchmark.data.fits import Fits
    from ..benchmark.runs.write_results import control_check, references_table

    found = {"data_sha256": references.fingerprint, "sides_sha256": sides_hash(references_table(references))}
    for field, value in found.items():
        if getattr(record.victim, field) != value:
            raise BadRecord(f"victim.{field}: the images of {record.victim.name} here are others, or otherwise divided")
    said, again = record.victim.control_check, control_check(references, Fits(references.content()))
    if (said is None) != (again is None):
        raise BadRecord("victim.control_check: is there exactly where held-out images are")
    if said is None or again is None:
        return
    if said.told_apart != again.told_apart or abs(said.auc - again.auc) > SAME_AUC:
        raise BadRecord(f"victim.control_check: the AUC is {said.auc:.3f}, computed again {again.auc:.3f}")


def check_reach(record: Record, plan: "RunPlan", references: "References", scorer: "Scorer") -> None:
    """Compare what the record says its bands can see with what they can.

    Raises:
        BadRecord: a share is another one.
    """
    from dataclasses import replace

    from ..benchmark.data.fits import Fits
    from ..benchmark.runs.write_results import reach_of_run

    alone = replace(plan, measures=(make_measure(record.measure),))
    again = reach_of_run(alone, references, scorer, Fits(references.content()))
    if [(said.band, said.how) for said in record.reach] != [(found.band, found.how) for found in again]:
        raise BadRecord("reach: is of other bands, or came about otherwise")
    for said, found in zip(record.reach, again, strict=True):
        for side in ("training", "held_out"):
            ours, theirs = getattr(said, side), getattr(found, side)
            if (ours is None) != (theirs is None):
                raise BadRecord(f"reach, {said.band}, {side}: is there for one of both alone")
            if ours is not None and abs(ours.count - theirs.count) > SAME_SHARE * theirs.images:
                both = f"says {100 * ours.value:.1f} %, computed again {100 * theirs.value:.1f} %"
                raise BadRecord(f"reach, {said.band}, {side}: {both}")


def check_quality(
    record: Record,
    images: Mapping[str, Sequence["Tensor"]],
    references: "References",
    path: "OutputPath | None" = None,
    sent: Mapping[str, np.ndarray | None] | None = None,
    left_out: Container[str] = (),
) -> None:
    """Compare the quality in a record with that of all of its candidates, reproduced, by unit.

    `path` knows the autoencoder of the model, where it has one, and `sent` each candidate's caption, by unit.
    `left_out` are figures that the record's version of the schema does not have.

    Raises:
        BadRecord: a figure is another one, is missing, or cannot be had of these images.
    """
    from ..benchmark.measures.caption_accuracy import caption_accuracy
    from ..benchmark.measures.image_quality import assess

    found = assess(images, references, path=path)
    if record.quality is None or "skipped" in found:
        if (record.quality is None) != ("skipped" in found):
            raise BadRecord("quality: is there exactly where images are small enough for it, and others outside of X")
        return
    shown = caption_accuracy({unit: (own, (sent or {}).get(unit)) for unit, own in images.items()}, references)
    again = quality_of({unit: own | shown.get(unit, {}) for unit, own in found.items()}, list(images))
    for field, said, computed in ((name, getattr(record.quality, name), value) for name, value in again or ()):
        if field in left_out or said is computed is None:
            continue
        if said is None or computed is None:
            raise BadRecord(f"quality.{field}: is there exactly where the model and its captions allow it")
        allowed = SAME_DISTANCE * computed if field.startswith("frechet") else SAME_SHARE
        if abs(said - computed) > allowed:
            raise BadRecord(f"quality.{field}: says {said:.4g}, all candidates reproduced have {computed:.4g}")
