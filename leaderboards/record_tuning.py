"""Where a record's settings come from: the curve that `sidebench tune` stored."""

from collections.abc import Sequence
from pathlib import Path

from ..benchmark.errors import BadInput
from ..benchmark.results.schema import Estimate
from ..benchmark.results.tuning_curve import Curve, read_curve
from .record import Record, Tuning, TuningPoint


def with_tunings(records: Sequence[Record], files: Sequence[Path]) -> list[Record]:
    """Return the records, each with the tuning of its attack on its pair behind its defences, where a file has one.

    Raises:
        BadInput: a file is no tuning, or one of something else.
    """
    made = list(records)
    for file in files:
        curve, pair = read_curve(file)
        place = next((place for place, record in enumerate(made) if _is_of(curve, record)), None)
        if place is None:
            method = " behind ".join([curve.attack, *curve.defences])
            raise BadInput(f"{file.name} tunes {method}, of which this run has no record")
        if pair != made[place].victim.identity:
            raise BadInput(f"{file.name} is a tuning on another pair than {made[place].victim.name} of this run")
        made[place] = made[place].model_copy(update={"tuning": _tuning(curve)})
    return made


def _is_of(curve: Curve, record: Record) -> bool:
    return curve.attack == record.claim.attack and sorted(curve.defences) == sorted(record.claim.defences)


def _tuning(curve: Curve) -> Tuning:
    points = []
    for point in curve.points:
        found = point.result.excess or point.result.training.ams
        excess = Estimate(value=found.value, low=found.low, high=found.high)
        points.append(TuningPoint(values=point.values, excess=excess))
    return Tuning(measure=curve.measure, candidates=curve.candidates, points=points)
