"""Every key of metrics.json, declared once with a sentence; and its making from committed scores."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from . import tally
from .contracts import Band, Measure, Side
from .protocol import CONFIDENCE
from .scoring import ShardScores
from .statistics import excess, unique_count, wilson

SCHEMA = "sidebench-metrics/1"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Rate(_Record):
    """A count of candidates over N_G, with its interval."""

    count: int = Field(description="candidates in the band")
    value: float = Field(description="count / N_G")
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end of the 95 % interval")


class Difference(_Record):
    """A difference of two rates, with its interval."""

    value: float = Field(description="training rate minus held-out rate")
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end of the 95 % interval")


class SideResult(_Record):
    """What was hit on one side, in one band."""

    ams: Rate = Field(description="candidates whose best match is in the band (Wilson interval)")
    ums: Rate = Field(description="distinct references that any candidate has in the band, over N_G")
    ums_best: Rate = Field(description="distinct best matches in the band, over N_G")
    groups: int = Field(description="distinct duplicate groups among the best matches in the band")
    largest_group: int = Field(description="images in the largest duplicate group hit (k of k-eidetic)")


class BandResult(_Record):
    """One band on both sides."""

    band: str = Field(description="name; high+mid is the union of both")
    low: float = Field(description="lower edge of the score")
    high: float = Field(description="upper edge of the score")
    training: SideResult = Field(description="against the training images")
    held_out: SideResult = Field(description="against the held-out images, the control")
    excess: Difference = Field(description="AMS on training minus AMS on held-out images")


class Percentiles(_Record):
    """The best-match score that 95 % of the candidates stay short of."""

    training: float | None = Field(description="against the training images")
    held_out: float | None = Field(description="against the held-out images")


class Result(_Record):
    """One attack, seed and measure."""

    attack: str = Field(description="name of the attack")
    seed: int = Field(description="run seed")
    measure: str = Field(description="id of the measure, with its preprocessing")
    candidates: int = Field(description="N_G, broken images included")
    nan: int = Field(description="images with values that are not finite; never a match")
    constant: int = Field(description="images of one single value; never a match")
    bands: list[BandResult] = Field(description="fixed bands, closest first, then their unions")
    percentile_95: Percentiles = Field(description="95th percentile of the best-match score")


class Cost(_Record):
    """Logical work of one attack and seed, whatever was resumed or shared."""

    attack: str = Field(description="name of the attack")
    seed: int = Field(description="run seed")
    nfe: dict[str, int] = Field(description="denoiser calls (one sample each) by phase")
    flops: dict[str, float] = Field(description="operations outside the denoiser by phase")
    denoiser_flops: int = Field(description="operations of one denoiser call on one sample")
    denoiser_equivalents: float = Field(description="nfe plus flops / denoiser_flops, over all phases")
    skipped_steps: int = Field(description="steps at which guidance was singular and left out")


class Metrics(_Record):
    """metrics.json: functions of the committed score shards and of logical cost, nothing that varies."""

    schema_: str = Field(SCHEMA, alias="schema", description="name and version of this schema")
    run_id: str = Field(description="deterministic id of the run")
    pair: str = Field(description="name of the pair")
    pair_revision: int = Field(description="revision of the pair")
    protocol: str = Field(description="protocol version")
    control: str = Field(description="kind of control: iid, surrogate, reference-model, none")
    training_images: int = Field(description="|X|")
    held_out_images: int = Field(description="|H|")
    training_groups: int = Field(description="duplicate groups in X")
    held_out_groups: int = Field(description="duplicate groups in H")
    results: list[Result] = Field(description="one per attack, seed and measure")
    costs: list[Cost] = Field(description="one per attack and seed")
    flags: list[str] = Field(description="what a reader must know before using the numbers")


class UnitScores:
    """The columns of one unit that metrics need: best matches and pairs, for one measure."""

    def __init__(self, shards: Iterable[ShardScores], measures: Sequence[Measure]) -> None:
        self.candidates = self.nan = self.constant = 0
        best: dict[tuple[str, Side], list[np.ndarray]] = {}
        ids: dict[Side, list[np.ndarray]] = {"training": [], "held_out": []}
        pair_ids: dict[tuple[str, Side], list[np.ndarray]] = {}
        pair_scores: dict[tuple[str, Side], list[np.ndarray]] = {}
        numbers: list[np.ndarray] = []
        for shard in shards:
            self.candidates += len(shard.candidates)
            self.nan += int(shard.nan.sum())
            self.constant += int(shard.constant.sum())
            numbers.append(shard.candidates)
            for side in ids:
                ids[side].append(shard.best_ids(side))
                for measure in measures:
                    key = (measure.id, side)
                    best.setdefault(key, []).append(shard.best_scores(measure, side))
                    found, scores = shard.pair_scores(measure, side)
                    pair_ids.setdefault(key, []).append(found)
                    pair_scores.setdefault(key, []).append(scores)
        self.numbers = np.concatenate(numbers)
        self.best_ids = {side: np.concatenate(parts) for side, parts in ids.items()}
        self.best_scores = {key: np.concatenate(parts) for key, parts in best.items()}
        self.pair_ids = {key: np.concatenate(parts) for key, parts in pair_ids.items()}
        self.pair_scores = {key: np.concatenate(parts) for key, parts in pair_scores.items()}


def measure_result(
    attack: str, seed: int, measure: Measure, scores: UnitScores, groups: dict[Side, np.ndarray]
) -> Result:
    """Compute every rate of one unit under one measure; `groups` has each reference's duplicate group."""
    bands = [*measure.bands, *tally.cumulative_bands(measure.bands, distance=measure.distance)]
    best = {side: scores.best_scores[measure.id, side] for side in groups}
    return Result(
        attack=attack,
        seed=seed,
        measure=measure.id,
        candidates=scores.candidates,
        nan=scores.nan,
        constant=scores.constant,
        bands=[_band_result(measure, band, scores, groups) for band in bands],
        percentile_95=Percentiles(
            training=tally.percentile_of_best(best["training"], distance=measure.distance),
            held_out=tally.percentile_of_best(best["held_out"], distance=measure.distance),
        ),
    )


def _band_result(measure: Measure, band: Band, scores: UnitScores, groups: dict[Side, np.ndarray]) -> BandResult:
    sides: dict[str, Any] = {}
    credits: dict[str, np.ndarray] = {}
    hits: dict[str, np.ndarray] = {}
    for side, own_groups in groups.items():
        best = scores.best_scores[measure.id, side]
        hits[side] = tally.in_band(best, band, distance=measure.distance)
        frequencies = tally.best_frequencies(
            scores.best_ids[side], best, band, len(own_groups), distance=measure.distance
        )
        credits[side] = tally.by_group(frequencies, own_groups)
        pairs = tally.ums_frequencies(
            scores.pair_ids[measure.id, side],
            scores.pair_scores[measure.id, side],
            band,
            len(own_groups),
            distance=measure.distance,
        )
        sizes = tally.by_group(np.ones(len(own_groups), dtype=np.int64), own_groups)
        sides[side] = SideResult(
            ams=_rate(int(hits[side].sum()), scores.candidates),
            ums=_unique(pairs, scores.candidates),
            ums_best=_unique(frequencies, scores.candidates),
            groups=int((credits[side] > 0).sum()),
            largest_group=int(sizes[credits[side] > 0].max(initial=0)),
        )
    found = excess(
        credits["training"],
        credits["held_out"],
        int((hits["training"] & ~hits["held_out"]).sum()),
        int((hits["held_out"] & ~hits["training"]).sum()),
        scores.candidates,
        CONFIDENCE,
    )
    return BandResult(
        band=band.name,
        low=band.low,
        high=band.high,
        training=sides["training"],
        held_out=sides["held_out"],
        excess=Difference(value=found.value, low=found.interval.low, high=found.interval.high),
    )


def _rate(count: int, n: int) -> Rate:
    interval = wilson(count, n, CONFIDENCE)
    return Rate(count=count, value=count / n, low=interval.low, high=interval.high)


def _unique(frequencies: np.ndarray, n: int) -> Rate:
    count = int((frequencies > 0).sum())
    interval = unique_count(frequencies, len(frequencies), CONFIDENCE)
    return Rate(count=count, value=count / n, low=interval.low / n, high=interval.high / n)


def rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Flatten the results to one row per attack, seed, measure and band, for metrics.csv."""
    table = []
    for result in metrics.results:
        head = result.model_dump(include={"attack", "seed", "measure", "candidates", "nan", "constant"})
        for band in result.bands:
            row = {**head, "band": band.band}
            for side in ("training", "held_out"):
                found: SideResult = getattr(band, side)
                for name in ("ams", "ums", "ums_best"):
                    rate: Rate = getattr(found, name)
                    row |= {f"{side}_{name}{suffix}": value for suffix, value in _columns(rate).items()}
                row[f"{side}_groups"] = found.groups
            row |= {
                "excess": band.excess.value,
                "excess_low": band.excess.low,
                "excess_high": band.excess.high,
            }
            table.append(row)
    return table


def _columns(rate: Rate) -> dict[str, float]:
    return {"_count": rate.count, "": rate.value, "_low": rate.low, "_high": rate.high}
