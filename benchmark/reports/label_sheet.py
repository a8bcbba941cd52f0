"""The blinded contact sheet: a person says which pairs are copies, which gives precision by threshold.

`label/sheet.html` shows candidates beside their nearest reference, from both sets in one random order and
with no hint of set or score; `label/key.json`, kept apart, says what was shown. The answers come back as
`label/answers.json`. All three stay in the run folder: they hold, or point at, somebody's images.
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..candidates import generator
from ..contracts import Measure, Side
from ..errors import BadInput, CorruptRun, TooFew, first_problem
from ..files import read_json, read_state, write_json, write_text
from ..measures import hits
from ..measures.shard_scores import SIDES
from ..protocol import CONFIDENCE
from ..registry import make_measure
from ..results.run_folder import RunFolder, asked_candidates, believing, stored_pair
from ..results.score_files import read_all_scores
from ..stats.intervals import wilson
from .templates import environment

if TYPE_CHECKING:
    from ..data.references import References

KEY_SCHEMA: Literal["sidebench-label-key/1"] = "sidebench-label-key/1"
ANSWERS_SCHEMA = "sidebench-label-answers/1"
PAIRS_PER_SET = 200
STRATA = 10
"""Equal parts of the stored score range; what lies beyond it is one more."""

_SHOWN = 256
"""Larger images are shown reduced to this many pixels a side."""

Answer = Literal["copy", "not a copy", "unsure"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)


class Item(_Record):
    """One pair of the sheet."""

    set: Side
    unit: str
    candidate: int = Field(ge=0)
    reference: int = Field(ge=0)
    score: float
    stratum: int = Field(ge=0)
    weight: float = Field(ge=1)
    """Pairs of the run that this one stands for: those of its stratum over those drawn from it."""


class Key(_Record):
    """label/key.json."""

    schema_: Literal["sidebench-label-key/1"] = Field(alias="schema")
    sheet: str
    """Hash of what the sheet shows; answers name it."""
    measure: str
    seed: int
    thresholds: list[float]
    """Closest first."""
    items: dict[str, Item]


class Answers(_Record):
    """label/answers.json, as the sheet's button saves it."""

    schema_: Literal["sidebench-label-answers/1"] = Field(alias="schema")
    sheet: str
    answers: dict[str, Answer]


class _Matches(NamedTuple):
    """All valid candidates of a run with their best match on one side, a row each."""

    units: list[str]
    unit: np.ndarray
    candidate: np.ndarray
    reference: np.ndarray
    score: np.ndarray


def make_sheet(
    folder: RunFolder, references: "References", measure_id: str, pairs_per_set: int = PAIRS_PER_SET, seed: int = 0
) -> Path:
    """Draw pairs, write `label/key.json` and `label/sheet.html`, and return the sheet's path.

    For each set at most `pairs_per_set` of its (candidate, nearest reference) pairs are drawn, over all
    units, in equal numbers from each stratum of the score as far as there are any. The same run and seed
    give the same sheet.

    Raises:
        BadInput: the references are not the run's, or answers to another sheet lie in the folder.
        TooFew: `pairs_per_set` is below 1, or the run has no valid candidate.
    """
    if pairs_per_set < 1:
        raise TooFew(f"pairs per set must be at least 1, was {pairs_per_set}")
    manifest = read_json(folder.manifest_file)
    if manifest.get("data", {}).get("sha256") != references.fingerprint:
        raise BadInput(f"{folder.path.name} is unfinished or was scored against other images than these")
    measure = make_measure(measure_id)
    cuts = _cuts(measure)
    drawn: list[tuple[Item, np.ndarray, np.ndarray]] = []
    for side in references.groups():
        matches = _matches(folder, manifest, measure, side)
        chosen = _draw(matches, _strata(matches.score, cuts, measure), pairs_per_set, seed, side)
        drawn += _with_images(folder, references, matches, chosen, side)
    order = _permutation(len(drawn), seed, "order")
    items = {f"{place:04d}": drawn[i] for place, i in enumerate(order.tolist(), start=1)}
    shown = [{"id": name, "left": _picture(left), "right": _picture(right)} for name, (_, left, right) in items.items()]
    sheet = hashlib.sha256(json.dumps(shown).encode()).hexdigest()[:16]
    _refuse_orphans(folder, sheet)
    key = Key(
        schema=KEY_SCHEMA,
        sheet=sheet,
        measure=measure.id,
        seed=seed,
        thresholds=cuts,
        items={name: item for name, (item, _, _) in items.items()},
    )
    write_json(folder.path / "label" / "key.json", key.model_dump(by_alias=True, mode="json"))
    target = folder.path / "label" / "sheet.html"
    page = _page(shown, sheet, pixelated=references.training.images.shape[-1] <= 64)
    write_text(target, page)
    return target


def answers_file(folder: RunFolder) -> Path:
    """Return where a person's answers to the sheet lie, if there are any."""
    return folder.path / "label" / "answers.json"


@believing
def precision(folder: RunFolder) -> dict[str, Any]:
    """Return precision by threshold for each set, from label/answers.json and label/key.json.

    The precision at a threshold is the weighted share of copies among the decided pairs within it; pairs
    answered "unsure" are left out and counted, and `if_unsure_not` and `if_unsure_copy` bound what they
    could do. Within a stratum the answered pairs stand for all of them, so a sheet that was answered in
    part, in the order shown, is a smaller sample and no biased one. The interval is Wilson's with Kish's
    effective sample size (sum w)^2 / sum w^2 in place of n (Dean and Pagano 2015, J. Surv. Stat. Methodol.
    3:484). `value` and its interval are None where no decided pair lies within the threshold.

    Raises:
        BadInput: there is no sheet or no answer file, or they do not fit together; the field is named.
    """
    key = _read_key(folder)
    answers = _read_answers(folder, key)
    measure = make_measure(key.measure)
    sets = {}
    for side in SIDES:
        mine = {name: item for name, item in key.items.items() if item.set == side}
        if not mine:
            continue
        given = {name: answers.answers[name] for name in mine if name in answers.answers}
        weights = _reweighted(mine, given)
        sets[side] = {
            "items": len(mine),
            "answered": len(given),
            "unsure": sum(answer == "unsure" for answer in given.values()),
            "by_threshold": [
                _precision_within(mine, given, weights, threshold, measure) for threshold in key.thresholds
            ],
        }
    return {"measure": key.measure, "distance": measure.distance, "sheet": key.sheet, "sets": sets}


@believing
def sheet_for(folder: RunFolder, pair_name: str | None, pairs_per_set: int, seed: int) -> Path:
    """Make the sheet of a run by its headline measure, with the references of its pair.

    Raises:
        BadInput: the pair is not the one that the run was made with.
    """
    from ..data.pair import load_pair
    from ..data.references import load_references

    identity = read_json(folder.manifest_file)["identity"]
    pair = load_pair(pair_name or stored_pair(folder))
    if pair.identity() != identity["pair_identity"]:
        raise BadInput(f"{folder.path.name} was made with another pair than {pair.name}; name its file with --pair")
    return make_sheet(folder, load_references(pair), identity["measures"][0], pairs_per_set, seed)


def precision_rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per set and threshold of what `precision` found."""
    return [
        {
            "set": side.replace("_", "-"),
            "threshold": f"{point['threshold']:g}",
            "precision": _span(point),
            "labelled": point["decided"],
            "unsure": point["unsure"],
        }
        for side, known in found["sets"].items()
        for point in known["by_threshold"]
    ]


def as_text(found: dict[str, Any]) -> str:
    """Return precision by threshold of both sets as a table."""
    from tabulate import tabulate

    rows = precision_rows(found)
    return f"precision by threshold, {found['measure']}\n" + tabulate(rows, headers="keys", disable_numparse=True)


def _span(point: dict[str, Any]) -> str:
    if point["value"] is None:
        return "-"
    return f"{point['value']:.3f} [{point['low']:.3f}, {point['high']:.3f}]"


# ---- Drawing ----------------------------------------------------------------------------------------


def _cuts(measure: Measure) -> list[float]:
    """Return the upper ends of the strata, closest first: equal parts of the stored range, and band edges."""
    if not np.isfinite(measure.floor):
        raise BadInput(f"measure {measure.id} stores no range of scores, so there is nothing to stratify by")
    near = hits.closest(measure)
    cuts = {round(near + (measure.floor - near) * part / STRATA, 9) for part in range(1, STRATA + 1)}
    cuts |= {hits.far_edge(band, measure) for band in measure.bands}
    return sorted(cuts, reverse=not measure.distance)


def _matches(folder: RunFolder, manifest: dict[str, Any], measure: Measure, side: Side) -> _Matches:
    count = asked_candidates(manifest)
    units = folder.scored_units(manifest, measure.space)
    columns: list[list[np.ndarray]] = [[] for _ in _Matches._fields[1:]]
    for number, unit in enumerate(units):
        for scores in read_all_scores(folder, unit, measure.space, count):
            best = scores.best_scores(measure, side)
            rows = np.flatnonzero(np.isfinite(best))
            own = [np.full(len(rows), number), scores.candidates[rows], scores.best_ids(side)[rows], best[rows]]
            for column, values in zip(columns, own, strict=True):
                column.append(values)
    if not any(map(len, columns[0])):
        raise TooFew(f"{folder.path.name} has no valid candidate that was scored by {measure.id}")
    return _Matches(units, *(np.concatenate(parts) for parts in columns))


def _strata(scores: np.ndarray, cuts: Sequence[float], measure: Measure) -> np.ndarray:
    """Return each score's stratum: the first cut that it is within, or the number of cuts."""
    strata: np.ndarray = (~hits.within(scores, np.asarray(cuts)[:, None], measure)).sum(axis=0)
    return strata


def _draw(matches: _Matches, strata: np.ndarray, most: int, seed: int, side: Side) -> list[tuple[int, int, float]]:
    """Return (position in `matches`, stratum, weight) of the drawn pairs."""
    sizes = np.bincount(strata)
    drawn = []
    for stratum, number in enumerate(_shares(sizes.tolist(), most)):
        if number:
            members = np.flatnonzero(strata == stratum)
            order = _permutation(len(members), seed, f"{side} {stratum}")
            drawn += [(int(members[i]), stratum, float(sizes[stratum] / number)) for i in order[:number]]
    return drawn


def _shares(sizes: Sequence[int], most: int) -> list[int]:
    """Share out `most` places equally; what a stratum cannot fill goes to the others, closest first."""
    shares = [0] * len(sizes)
    left = min(most, sum(sizes))
    while left:
        open_ = [i for i, size in enumerate(sizes) if shares[i] < size]
        each = max(1, left // len(open_))
        for i in open_:
            more = min(each, sizes[i] - shares[i], left)
            shares[i] += more
            left -= more
    return shares


def _permutation(size: int, seed: int, stream: str) -> np.ndarray:
    import torch

    order: np.ndarray = torch.randperm(size, generator=generator(seed, "label", 0, stream)).numpy()
    return order


def _with_images(
    folder: RunFolder,
    references: "References",
    matches: _Matches,
    chosen: Sequence[tuple[int, int, float]],
    side: Side,
) -> Iterator[tuple[Item, np.ndarray, np.ndarray]]:
    """Yield each drawn pair as its entry of the key, the candidate and the reference (C x H x W uint8)."""
    read: tuple[str, range, np.ndarray] = "", range(0), np.empty(0)
    part = references.training if side == "training" else references.held_out
    for i, stratum, weight in sorted(chosen):
        unit, number = matches.units[matches.unit[i]], int(matches.candidate[i])
        if unit != read[0] or number not in read[1]:
            shard = folder.shard_with(unit, number)
            read = unit, shard.numbers, read_state(folder.images_file(unit, shard)).tensors["images"].numpy()
        item = Item(
            set=side,
            unit=unit,
            candidate=number,
            reference=int(matches.reference[i]),
            score=float(matches.score[i]),
            stratum=stratum,
            weight=weight,
        )
        yield item, read[2][number - read[1].start], part.images[item.reference]


def _refuse_orphans(folder: RunFolder, sheet: str) -> None:
    """Refuse to replace a sheet whose answers lie in the folder: they would fit nothing any more."""
    file = answers_file(folder)
    if file.exists() and read_json(file).get("sheet") != sheet:
        raise BadInput("label/answers.json answers another sheet than this one; move it away before making a new one")


# ---- The page ---------------------------------------------------------------------------------------


def _picture(image: np.ndarray) -> str:
    """Return an image, C x H x W uint8, as a PNG data URI; grey unless it has three channels."""
    from PIL import Image

    pixels = image.transpose(1, 2, 0) if len(image) == 3 else image[0]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((_SHOWN, _SHOWN))
    stream = io.BytesIO()
    picture.save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _page(shown: list[dict[str, str]], sheet: str, *, pixelated: bool) -> str:
    template = environment().get_template("label.html.j2")
    return template.render(pairs=shown, sheet=sheet, schema=ANSWERS_SCHEMA, pixelated=pixelated)


# ---- Reading answers --------------------------------------------------------------------------------


def _read_key(folder: RunFolder) -> Key:
    file = folder.path / "label" / "key.json"
    if not file.exists():
        raise BadInput(f"{folder.path.name} has no label/key.json: make the sheet first")
    try:
        return Key.model_validate(read_json(file))
    except ValidationError as error:
        raise CorruptRun(_first(error, "label/key.json")) from None


def _read_answers(folder: RunFolder, key: Key) -> Answers:
    file = answers_file(folder)
    if not file.exists():
        raise BadInput("there is no label/answers.json: save it from label/sheet.html and put it beside the sheet")
    try:
        found = Answers.model_validate(read_json(file))
    except ValidationError as error:
        raise BadInput(_first(error, "label/answers.json")) from None
    if found.sheet != key.sheet:
        raise BadInput(f"label/answers.json, sheet: answers sheet {found.sheet[:40]!r}, the key is of {key.sheet!r}")
    if unknown := sorted(found.answers.keys() - key.items.keys()):
        raise BadInput(f"label/answers.json, answers.{unknown[0][:40]}: the sheet has no such item")
    return found


def _first(error: ValidationError, file: str) -> str:
    """Say in one line what is wrong with the first bad field."""
    found = first_problem(error)
    return f"{found._replace(key=found.key[:80]).of(file)}, was {str(found.given)[:40]!r}"


# ---- Precision --------------------------------------------------------------------------------------


def _reweighted(items: dict[str, Item], given: dict[str, Answer]) -> dict[str, float]:
    """Return weights of the answered items that add up to their strata's sizes."""
    drawn: dict[int, int] = {}
    answered: dict[int, int] = {}
    for name, item in items.items():
        drawn[item.stratum] = drawn.get(item.stratum, 0) + 1
        answered[item.stratum] = answered.get(item.stratum, 0) + (name in given)
    return {name: items[name].weight * drawn[s] / answered[s] for name in given for s in [items[name].stratum]}


def _precision_within(
    items: dict[str, Item], given: dict[str, Answer], weights: dict[str, float], threshold: float, measure: Measure
) -> dict[str, Any]:
    """Return the figures of one set at one threshold."""
    near = hits.within(np.array([items[name].score for name in given]), threshold, measure)
    inside = [name for name, hit in zip(given, near, strict=True) if hit]
    total: dict[str, float] = dict.fromkeys(("copy", "not a copy", "unsure"), 0.0)
    for name in inside:
        total[given[name]] += weights[name]
    decided = [name for name in inside if given[name] != "unsure"]
    found: dict[str, Any] = {
        "threshold": threshold,
        "decided": len(decided),
        "unsure": len(inside) - len(decided),
        "copies": sum(given[name] == "copy" for name in decided),
        "pairs_in_run": sum(total.values()),
    }
    everything = sum(total.values())
    found["if_unsure_not"] = total["copy"] / everything if everything else None
    found["if_unsure_copy"] = (total["copy"] + total["unsure"]) / everything if everything else None
    if not decided:
        return found | {"value": None, "low": None, "high": None, "effective": 0.0}
    value = total["copy"] / (total["copy"] + total["not a copy"])
    own = np.array([weights[name] for name in decided])
    effective = float(own.sum() ** 2 / (own**2).sum())
    interval = wilson(value * effective, effective, CONFIDENCE)
    return found | {"value": value, "low": interval.low, "high": interval.high, "effective": effective}
