"""A record against itself: counts, rates, intervals, hits and cost say the same thing in several ways.

Every rule yields (field, message) for what it finds. Rates and intervals are computed again from the hits, so a
number that was changed by hand contradicts another field.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from ..benchmark.contracts import Measure
from ..benchmark.errors import BadRecord
from ..benchmark.measures.hits import nested_bands
from ..benchmark.measures.shard_scores import SIDES
from ..benchmark.protocol import CALIBRATION_RATES, CONFIDENCE
from ..benchmark.registry import make_measure
from ..benchmark.results.rates import swap_p
from ..benchmark.results.schema import BandResult, Calibrated, Cost, Estimate, Rate, Result, Richness, SideResult
from ..benchmark.stats.comparison import AttackHits, excess_of
from ..benchmark.stats.intervals import Excess, wilson
from ..benchmark.stats.thresholds import calibrates
from .record import Cell, Part, Record, pooled_hits

CONTROLS = {"iid": {"held_out"}, "surrogate": {"held_out"}, "reference-model": {"reference"}, "none": set()}
"""What stands beside the training images in each band, by kind of control."""

Found = Iterator[tuple[str, str]]
"""(field, message) of every problem that one rule finds."""


def counts(record: Record) -> Found:
    """Check every count and rate by band, threshold and curve."""
    for number, result in enumerate(record.results):
        field = f"results.{number}"
        if result.candidates != record.candidates:
            yield f"{field}.candidates", f"{result.candidates} are not the record's {record.candidates}"
        if not 0 <= result.nan + result.constant <= result.candidates or min(result.nan, result.constant) < 0:
            yield f"{field}.nan", "broken images cannot be more than all"
        for position, band in enumerate(result.bands):
            yield from _band(record, result, band, f"{field}.bands.{position}")
        yield from _unions(result, make_measure(result.measure), field)
        yield from _calibrated(result, record, field)
        if result.richness is not None:
            yield from _richness(result, result.richness, f"{field}.richness")


def _band(record: Record, result: Result, band: BandResult, field: str) -> Found:
    sides = {"training": band.training, "held_out": band.held_out, "reference": band.reference}
    present = {name for name, found in sides.items() if found is not None}
    if present != {"training"} | CONTROLS[record.victim.control]:
        yield field, f"has {', '.join(sorted(present))}, which does not fit the control {record.victim.control}"
    for name, found in sides.items():
        if found is not None:
            side = "held_out" if name == "held_out" else "training"
            yield from _side(record, result, found, side, f"{field}.{name}")
    control = band.held_out or band.reference
    claimed = control is not None and (band.held_out is None or make_measure(result.measure).decides)
    older = control is not None and record.victim.public and not record.hits[0].owned
    if not older and ((band.excess is None) == claimed or (band.label_swap_p is None) == claimed):
        yield f"{field}.excess", "is there exactly where there is a control that the measure can use"
    if band.excess is not None:
        if not _follows(record, result, band):
            yield f"{field}.excess.value", "does not follow from what both sides own"
        yield from _interval(band.excess, f"{field}.excess", -max(1.0, _ratio(record)))
    if band.label_swap_p is not None and not 0 < band.label_swap_p <= 1:
        yield f"{field}.label_swap_p", "is no p-value"
    if band.matched_ams is not None and not 0 <= band.matched_ams <= band.training.ams.value + 1e-9:
        yield f"{field}.matched_ams", "cannot exceed the rate on all training images"


def _follows(record: Record, result: Result, band: BandResult) -> bool:
    """Return whether the excess is that of both sides' shares, as far as the record has them."""
    assert band.excess is not None
    if band.reference is not None:
        return _overlapping(record) or _near(band.excess.value, band.training.ams.value - band.reference.ams.value)
    if band.owned_training is None or band.owned_held_out is None or len(record.victim.classes) > 1:
        return True
    value = (band.owned_training - _ratio(record) * band.owned_held_out) / result.candidates
    return _near(band.excess.value, value)


def _ratio(record: Record) -> float:
    """Return how many training groups there are for one of the control's."""
    groups = record.victim.compared_groups()
    return groups["training"] / max(1, groups["control"])


def _overlapping(record: Record) -> bool:
    """Return whether groups of both sides were left out, so that the excess is not of the whole rates."""
    check = record.victim.control_check
    return check is not None and check.overlapping_groups > 0


def _side(record: Record, result: Result, found: SideResult, side: str, field: str) -> Found:
    images, groups = getattr(record.victim, f"{side}_images"), getattr(record.victim, f"{side}_groups")
    usable = result.candidates - result.nan - result.constant
    for name, most in (("ams", usable), ("ums", images), ("ums_best", min(images, found.ams.count))):
        yield from _rate(getattr(found, name), result.candidates, most, f"{field}.{name}")
    wilson_ends = wilson(max(0, min(found.ams.count, result.candidates)), result.candidates, CONFIDENCE)
    if not (_near(found.ams.low, wilson_ends.low) and _near(found.ams.high, wilson_ends.high)):
        yield f"{field}.ams.low", "is not Wilson's interval of the count"
    if found.ums_best.count > found.ums.count:
        yield f"{field}.ums_best.count", "best matches cannot be more than all matches"
    if (found.ams.count > 0) != (found.ums_best.count > 0) or (found.ams.count > 0) != (found.groups > 0):
        yield f"{field}.groups", "hits and what they hit must both be there, or neither"
    if not 0 <= found.groups <= min(groups, found.ums_best.count):
        yield (
            f"{field}.groups",
            f"cannot be {found.groups}, with {found.ums_best.count} best matches in {groups} groups",
        )
    if not (found.groups > 0) <= found.largest_group <= (images - groups + 1 if found.groups else 0):
        yield f"{field}.largest_group", f"no group of {found.largest_group} can be among {images} images"


def _rate(rate: Rate, candidates: int, most: int, field: str) -> Found:
    if not 0 <= rate.count <= most:
        yield f"{field}.count", f"{rate.count} is impossible, at most {most} can be"
    if not _near(rate.value, rate.count / candidates):
        yield f"{field}.value", f"times {candidates} candidates is not the count {rate.count}"
    yield from _interval(rate, field, 0.0)


def _interval(found: Estimate, field: str, least: float) -> Found:
    if not least - 1e-9 <= found.low <= found.value + 1e-9:
        yield f"{field}.low", "must lie below the value"
    if found.high < found.value - 1e-9:
        yield f"{field}.high", "must lie above the value"


def _unions(result: Result, measure: Measure, field: str) -> Found:
    """Bands are disjoint: unions have the sum of the candidates, and at most the sum of the images."""
    disjoint = len(measure.bands)
    for position in range(disjoint, len(result.bands)):
        parts = result.bands[: position - disjoint + 2]
        for side in (*SIDES, "reference"):
            union, each = getattr(result.bands[position], side), [getattr(part, side) for part in parts]
            if union is None or any(part is None for part in each):
                continue
            where = f"{field}.bands.{position}.{side}"
            if union.ams.count != sum(part.ams.count for part in each):
                yield f"{where}.ams.count", "is not the sum of its bands"
            for name in ("ums", "ums_best"):
                counts = [getattr(part, name).count for part in each]
                if not max(counts) <= getattr(union, name).count <= sum(counts):
                    yield f"{where}.{name}.count", "does not fit the bands that it is the union of"


def _calibrated(result: Result, record: Record, field: str) -> Found:
    if [found.q for found in result.calibrated] != list(CALIBRATION_RATES):
        yield f"{field}.calibrated", "must have one entry per calibration rate of the protocol"
    odd = int((~calibrates(np.arange(record.candidates))).sum())
    for position, found in enumerate(result.calibrated):
        where = f"{field}.calibrated.{position}"
        if found.candidates != odd:
            yield f"{where}.candidates", f"is {found.candidates}, the candidates with odd numbers are {odd}"
        yield from _threshold(record, found, where, odd)


def _threshold(record: Record, found: Calibrated, where: str, odd: int) -> Found:
    parts = (found.tau, found.training, found.held_out, found.excess)
    if any((part is None) != bool(found.refused) for part in parts):
        yield f"{where}.refused", "a threshold is either refused or there with its rates"
    for side in SIDES:
        rate: Rate | None = getattr(found, side)
        if rate is not None:
            yield from _rate(rate, odd, odd, f"{where}.{side}")
    if found.excess and found.training and found.held_out:
        yield from _interval(found.excess, f"{where}.excess", -max(1.0, _ratio(record)))
    if found.tau is not None and not (found.tau_low is not None and found.tau_high is not None):
        yield f"{where}.tau_low", "a threshold has an interval"
    elif found.tau is not None and not found.tau_low <= found.tau <= found.tau_high:  # type: ignore[operator]
        yield f"{where}.tau", "must lie in its interval"


def _richness(result: Result, richness: Richness, field: str) -> Found:
    found = result.bands[0].training
    for name, count in (("groups", found.groups), ("images", found.ums.count)):
        points = getattr(richness, name)
        seen = [point.value for point in points if point.kind == "observed"]
        if not all(_near(value, count) for value in seen):
            yield f"{field}.{name}", f"does not pass through the {count} that were found"
        values = [point.value for point in points]
        if any(later < earlier - 1e-6 for earlier, later in pairwise(values)):
            yield f"{field}.{name}", "a curve of distinct images cannot fall"
        if any(not point.low - 1e-6 <= point.value <= point.high + 1e-6 for point in points):
            yield f"{field}.{name}", "a point lies outside its interval"
    for name, count in (("chao1_groups", found.groups), ("chao2_images", found.ums.count)):
        if getattr(richness, name).value < count - 1e-6:
            yield f"{field}.{name}", "a lower bound on all cannot be below what was found"


def hits(record: Record) -> Found:
    """Compute counts, groups and the excess of the headline band from the hits, as far as the record has them."""
    if not record.victim.public:
        yield from _shares(record)
        return
    try:
        each = [pooled_hits([record], [seed])[0] for seed in record.seeds]
        together = pooled_hits([record], record.seeds)[0]
    except BadRecord as error:
        field, _, message = str(error).partition(": ")
        yield field, message
        return
    problems: list[tuple[str, str]] = []
    for position, (seed, found) in enumerate(zip(record.seeds, each, strict=True)):
        band = record.headline(seed).bands[0]
        problems += _named(record, position, "training", found.training_hits, band)
        problems += _named(record, position, "control", found.control_hits, band)
        if not problems:
            problems += _excess_again(seed, found, band)
    yield from problems
    if not problems and not _same(record.excess, excess_of(together, CONFIDENCE)):
        yield "excess", f"{record.excess.value:.6f} and its interval do not follow from the hits"


def _shares(record: Record) -> Found:
    """Compare what both sides own by preparation and band with the results; intervals are for a challenge."""
    wanted = [(seed, band.name) for seed in record.seeds for band in nested_bands(make_measure(record.measure))]
    if [(share.seed, share.band) for share in record.shares] != wanted:
        yield "shares", "must have one entry per preparation and nested band, in order"
        return
    for position, share in enumerate(record.shares):
        found = {band.band: band for band in record.headline(share.seed).bands}[share.band]
        owned: dict[Part, tuple[float, float | None]]
        owned = {"training": (share.training, found.owned_training), "control": (share.control, found.owned_held_out)}
        for part, (said, results) in owned.items():
            field, cells = f"shares.{position}.{part}", getattr(share, f"{part}_groups")
            if results is not None and not _near(said, results):
                yield field, f"is {said:g}, the results say {results:g}"
            yield from _cells(cells, said, record.victim.compared_groups()[part], f"{field}_groups")
    yield from _paired(record)
    excesses = [record.headline(seed).bands[0].excess for seed in record.seeds]
    known = [found.value for found in excesses if found is not None]
    if len(known) == len(record.seeds) and not _near(record.excess.value, sum(known) / len(known)):
        yield "excess.value", "is not the mean of the preparations"


def _paired(record: Record) -> Found:
    """A table of counts adds up to what the record's own side of it owns, once for each attack and band."""
    shares = {(share.seed, share.band): share for share in record.shares}
    keys = [(found.seed, found.band, found.attack) for found in record.paired]
    if len(set(keys)) < len(keys) or not {key[:2] for key in keys} <= shares.keys():
        yield "paired", "must have at most one entry per preparation, nested band and other attack"
        return
    for position, found in enumerate(record.paired):
        own = shares[found.seed, found.band]
        wanted = (own.training, own.control, record.candidates - own.training - own.control)
        if not all(_near(sum(row), said) for row, said in zip(found.counts, wanted, strict=True)):
            yield f"paired.{position}.counts", "do not add up to the candidates that either side owns"


def _cells(cells: Sequence[Cell], owned: float, groups: int, field: str) -> Found:
    if sum(cell.candidates for cell in cells) > owned + 1e-9 or sum(cell.groups for cell in cells) > groups:
        yield field, "hold more than there is"
    for cell in cells:
        if not cell.groups * (cell.least - 0.5) <= cell.candidates <= cell.groups * cell.most:
            yield field, f"{cell.groups} groups of {cell.least} to {cell.most} each cannot own {cell.candidates:g}"
    if any(later.least < earlier.most for earlier, later in pairwise(cells)):
        yield field, "must be in order"


def _named(record: Record, position: int, part: Part, shares: np.ndarray, band: BandResult) -> Found:
    named = record.hits[position]
    names: dict[str, int | float] = getattr(named, f"{part}_groups")
    field, count = f"hits.{position}.{part}", float(shares.sum())
    result = band.training if part == "training" else band.held_out or band.reference
    said = float(result.ams.count) if result is not None else 0.0
    whole = _overlapping(record)
    if named.owned:
        own = band.owned_training if part == "training" else band.owned_held_out
        said, whole = said if own is None else own, False
    if count > said or (count < said and not whole):
        yield field, f"{count:g} candidates hit, the results say {said:g}"
    if sum(names.values()) != count or any(credit < 0.5 for credit in names.values()):
        yield f"{field}_groups", f"the groups' counts do not add up to the {count:g} candidates that hit"
    groups = result.groups if result is not None else 0
    fewer = _overlapping(record) or named.owned
    if len(names) > record.victim.compared_groups()[part] or len(names) > groups or (len(names) < groups and not fewer):
        yield f"{field}_groups", f"{len(names)} groups are named, the results say {groups}"
    if not all(re.fullmatch("[0-9a-f]{16}", name) for name in names):
        yield f"{field}_groups", "names a group by something else than a keyed hash"


def _excess_again(seed: int, hits: AttackHits, band: BandResult) -> Found:
    field = f"results of seed {seed}, band {band.band}"
    if band.excess is not None and not _same(band.excess, excess_of(hits, CONFIDENCE)):
        yield f"{field}, excess", "does not follow from the hits"
    if band.label_swap_p is not None and not _near(band.label_swap_p, swap_p(hits)):
        yield f"{field}, label_swap_p", "does not follow from the hits"


def costs(record: Record) -> Found:
    """Check that work adds up, and hits per work."""
    for position, cost in enumerate(record.costs):
        field = f"costs.{position}"
        band = record.headline(cost.seed).bands[0]
        if min([*cost.nfe.values(), *cost.flops.values(), cost.skipped_steps, cost.denoiser_flops, 0]) < 0:
            yield field, "work cannot be negative"
            continue
        calls, operations = sum(cost.nfe.values()), sum(cost.flops.values())
        if (record.victim.family == "images") != (cost.denoiser_flops == 0) or (calls and not cost.denoiser_flops):
            yield (
                f"{field}.denoiser_flops",
                f"cannot be {cost.denoiser_flops} of a victim of family {record.victim.family}",
            )
            continue
        work = calls + (operations / cost.denoiser_flops if cost.denoiser_flops else 0.0)
        if not _near(cost.denoiser_equivalents, work, relative=1e-9):
            yield f"{field}.denoiser_equivalents", f"calls and operations add up to {work:,.0f}"
        if cost.hits != band.training.ams.count:
            yield f"{field}.hits", f"is {cost.hits}, the results say {band.training.ams.count}"
        if not 0 <= cost.synthetic_hits <= cost.synthetic_images:
            yield f"{field}.synthetic_hits", f"cannot be {cost.synthetic_hits} of {cost.synthetic_images}"
        yield from _hits_per_work(field, cost, work)


def _hits_per_work(field: str, cost: Cost, work: float) -> Found:
    field, stated = f"{field}.hits_per_1000_equivalents", cost.hits_per_1000_equivalents
    if not work:
        if stated:  # earlier versions wrote 0 where the quotient is not defined
            yield field, "no work was done, so it is not defined"
        return
    rate = 1000 * (cost.hits + cost.synthetic_hits) / work
    if stated is None or not _near(stated, rate, relative=1e-9):
        yield field, f"hits and work make it {rate:.4f}"


def _near(first: float, second: float, relative: float = 0.0) -> bool:
    return abs(first - second) <= 1e-9 + relative * abs(second)


def _same(stored: Estimate, again: Excess) -> bool:
    ends = ((stored.value, again.value), (stored.low, again.interval.low), (stored.high, again.interval.high))
    return all(_near(first, second) for first, second in ends)
