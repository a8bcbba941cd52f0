"""What a run's units cost and found: logical cost by attack and seed, and all attacks at equal effort."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..contracts import Band, Measure
from ..files import read_info, read_json
from ..measures.ams_ums import ams_count
from ..protocol import PROBE_LIMIT
from ..stats.comparison import AttackHits
from ..stats.equal_cost import AtBudget, Currency, Finds, Spending, at_budget
from .ledgers import shard_costs
from .rates import attack_hits
from .run_folder import RunFolder
from .schema import Cost, Effort, Estimate
from .score_files import read_scores
from .shards import SAMPLES
from .unit_scores import Groups, UnitScores

Unit = tuple[str, str, int]
"""Name, attack, seed."""


class UnitFinds(NamedTuple):
    """What a unit's candidates, and the synthetic images that its `prepare` asked for, hit.

    Hits are those of the closest band and count every reference; without bands they are 0. `by_band` has, for the
    nested bands that were asked for, the finds of candidates and of synthetic images, among the references that take
    part in a comparison of both sides.
    """

    hits: int
    synthetic_images: int
    synthetic_hits: int
    by_band: Mapping[str, tuple[Finds, Finds]]


class _Prices(NamedTuple):
    """A unit's cost in one currency: of `prepare`, of all candidates, and of one synthetic image."""

    prepare: float
    generate: float
    a_synthetic: float


def unit_finds(
    folder: RunFolder,
    unit: str,
    measure: Measure,
    scores: UnitScores,
    hits: Sequence[tuple[Band, AttackHits]],
    groups: Groups,
) -> UnitFinds:
    """Count what a unit hit; `hits` are its candidates' in the nested bands of interest, none without bands."""
    keys = read_info(folder.state_file(unit))["cost"]["samples"]
    shards = (read_scores(folder, key, measure.space, SAMPLES) for key in keys)
    made = UnitScores(shards, [measure], scores.left_out) if keys else None
    synthetic = made.candidates if made else 0
    if not hits:
        return UnitFinds(0, synthetic, 0, {})
    return UnitFinds(
        hits=_count(scores, measure),
        synthetic_images=synthetic,
        synthetic_hits=_count(made, measure) if made else 0,
        by_band={band.name: _both_finds(measure, band, own, made, groups) for band, own in hits},
    )


def _both_finds(
    measure: Measure, band: Band, hits: AttackHits, made: UnitScores | None, groups: Groups
) -> tuple[Finds, Finds]:
    """Return the finds of a unit's candidates and of its synthetic images, which were `made` or not."""
    held_out = "held_out" in groups and not hits.same_groups
    none = np.zeros(0, dtype=bool)
    theirs = AttackHits(none, none, np.zeros_like(hits.training_credits), np.empty(0, dtype=np.int64))
    if made:
        theirs = attack_hits(measure, band, made, groups)
    return _finds(hits, held_out=held_out), _finds(theirs, held_out=held_out)


def costs(
    folder: RunFolder, units: Sequence[Unit], candidates: int, found: dict[str, UnitFinds]
) -> tuple[list[Cost], list[Effort], dict[str, Any]]:
    """Return logical costs, what the attacks find at equal effort, and what varies: seconds, the probe's deviation."""
    listed, varying = [], {}
    prices: dict[Currency, dict[str, _Prices]] = {"denoiser calls": {}, "denoiser-equivalents": {}}
    for name, attack, seed in units:
        parts = [read_info(folder.state_file(name))["cost"]]
        parts += _of_candidates(folder, name, candidates)
        listed.append(_cost(attack, seed, parts, found[name]))
        samples = _samples(folder, parts[0]["samples"])
        for currency, by_unit in prices.items():
            by_unit[name] = _prices(currency, parts, samples, found[name].synthetic_images)
        varying[name] = _varying(parts, read_json(folder.probe_file(name)), folder.kept_file(name).exists())
    efforts = [
        effort
        for band in (found[units[0][0]].by_band if units else ())
        for currency, by_unit in prices.items()
        for effort in equal_effort(units, band, currency, by_unit, found)
    ]
    return listed, efforts, {"units": varying}


def equal_effort(
    units: Sequence[Unit], band: str, currency: Currency, prices: dict[str, _Prices], found: dict[str, UnitFinds]
) -> list[Effort]:
    """Return what every attack finds at the total cost of each attack under the same seed; nothing for one alone."""
    efforts = []
    for seed in sorted({seed for _, _, seed in units}):
        mine = [(name, attack) for name, attack, own in units if own == seed]
        spending = {attack: _spending(found[name].by_band[band], prices[name], currency) for name, attack in mine}
        known = {attack: spent for attack, spent in spending.items() if spent is not None}
        if len(known) < 2:
            continue
        budgets: dict[float, list[str]] = {}
        for attack, spent in known.items():
            budgets.setdefault(spent.total, []).append(attack)
        efforts += [
            _effort(attack, seed, band, currency, " and ".join(of), budget, at_budget(spent, budget))
            for budget, of in sorted(budgets.items())
            for attack, spent in known.items()
        ]
    return efforts


def work_of_candidates(folder: RunFolder, unit: str, candidates: int) -> dict[str, dict[str, float]]:
    """Return what generating a unit's first `candidates` took, by its ledger: `nfe` and `flops` by phase."""
    parts = _of_candidates(folder, unit, candidates)
    return {key: _added(parts, key) for key in ("nfe", "flops")}


def _of_candidates(folder: RunFolder, unit: str, candidates: int) -> list[dict[str, Any]]:
    """Return the cost of each shard; of one that holds later candidates too, the part of the first ones."""
    found = []
    for shard, cost in shard_costs(folder, unit, candidates):
        wanted = min(candidates, shard.numbers.stop) - shard.numbers.start
        found.append(cost if wanted == len(shard.numbers) else _share(cost, wanted, len(shard.numbers)))
    return found


def _share(cost: dict[str, Any], wanted: int, made: int) -> dict[str, Any]:
    """Return what `wanted` of a shard's candidates cost: every candidate of an attack takes the same calls."""
    scaled = {key: {phase: value * wanted / made for phase, value in cost[key].items()} for key in ("nfe", "flops")}
    counted = {key: cost.get(key, 0) * wanted / made for key in ("skipped_steps", "seconds", "processor_seconds")}
    return {**cost, **scaled, **counted}


def _count(scores: UnitScores, measure: Measure) -> int:
    return ams_count(scores.best_scores[measure.id, "training"], measure.bands[0], measure)


def _finds(hits: AttackHits, *, held_out: bool) -> Finds:
    # A tie counts on both sides: finds are whole.
    groups, control = (np.ceil(credits).astype(np.int64) for credits in (hits.training_credits, hits.control_credits))
    return Finds(
        images=len(hits.training_hits),
        training=int(groups.sum()),
        held_out=int(control.sum()) if held_out else None,
        groups=groups,
    )


def _samples(folder: RunFolder, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return what the synthetic images of a unit cost, file by file."""
    return [dict(read_info(folder.shared_samples().file(key))) for key in keys]


def _prices(
    currency: Currency, parts: Sequence[dict[str, Any]], samples: Sequence[dict[str, Any]], synthetic: int
) -> _Prices:
    """Return prices from the cost of `prepare` (first) and of each shard, and from that of the synthetic images."""

    def worth(part: dict[str, Any]) -> float:
        if currency == "denoiser calls":
            return float(sum(part["nfe"].values()))
        return _equivalents(part["nfe"], part["flops"], parts[0]["denoiser_flops"])

    own = [
        {"nfe": {"prepare": info["nfe"]}, "flops": {k: info.get(k, 0.0) for k in ("defence", "decoding")}}
        for info in samples
    ]
    return _Prices(worth(parts[0]), sum(map(worth, parts[1:])), sum(map(worth, own)) / max(synthetic, 1))


def _spending(found: tuple[Finds, Finds], prices: _Prices, currency: Currency) -> Spending | None:
    if not prices.generate:
        return None
    return Spending(*found, *prices, counts_synthetic=currency == "denoiser-equivalents")


def _effort(attack: str, seed: int, band: str, currency: Currency, of: str, budget: float, found: AtBudget) -> Effort:
    return Effort(
        attack=attack,
        seed=seed,
        band=band,
        currency=currency,
        budget=budget,
        budget_of=of,
        candidates=found.candidates,
        synthetic_images=found.synthetic,
        hits=Estimate.of(*found.training),
        held_out_hits=None if found.held_out is None else Estimate.of(*found.held_out),
        groups=None if found.groups is None else Estimate.of(*found.groups),
        kind=found.kind,
        refused=found.refused,
    )


def _cost(attack: str, seed: int, parts: Sequence[dict[str, Any]], found: UnitFinds) -> Cost:
    nfe, flops = _added(parts, "nfe"), _added(parts, "flops")
    denoiser_flops = int(parts[0]["denoiser_flops"])
    work = _equivalents(nfe, flops, denoiser_flops)
    return Cost(
        attack=attack,
        seed=seed,
        nfe={phase: int(count) for phase, count in nfe.items()},
        flops=flops,
        denoiser_flops=denoiser_flops,
        denoiser_equivalents=work,
        synthetic_images=found.synthetic_images,
        synthetic_hits=found.synthetic_hits,
        hits=found.hits,
        hits_per_1000_equivalents=1000 * (found.hits + found.synthetic_hits) / work if work else None,
        skipped_steps=int(sum(part["skipped_steps"] for part in parts)),
    )


def _equivalents(nfe: Mapping[str, float], flops: Mapping[str, float], denoiser_flops: float) -> float:
    """Return calls plus other work in calls; images that exist already have no denoiser, and cost nothing."""
    return float(sum(nfe.values()) + (sum(flops.values()) / denoiser_flops if denoiser_flops else 0.0))


def _added(parts: Sequence[dict[str, Any]], key: str) -> dict[str, float]:
    phases = sorted({phase for part in parts for phase in part[key]})
    return {phase: sum(part[key].get(phase, 0) for part in parts) for phase in phases}


def _varying(parts: Sequence[dict[str, Any]], probe: dict[str, Any], kept: bool) -> dict[str, Any]:
    return {
        # What making the state took, whether this run made it or took one that was kept.
        "prepare_seconds": parts[0]["seconds"],
        "state_kept": kept,
        "generate_seconds": sum(part["seconds"] for part in parts[1:]),
        "processor_seconds": sum(part.get("processor_seconds", 0.0) for part in parts),
        "probe": {**probe, "above_limit": probe["share_off"] > PROBE_LIMIT},
    }
