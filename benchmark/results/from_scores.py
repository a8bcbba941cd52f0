"""Every figure of a run that follows from its score files and ledgers alone: no image, no model, no reference image.

A run writes what this returns; whoever is handed a run folder calls it again and finds each number that somebody
changed afterwards (`leaderboards.make_records`).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..contracts import Measure
from ..data.captions import CaptionNumbers
from ..data.references import shared_groups
from ..measures.hits import nested_bands
from ..stats.comparison import AttackHits, pooled
from ..stats.preparations import Prepared
from . import reach
from .caption_flags import caption_flags
from .costs import Unit, UnitFinds, costs, unit_finds
from .exposures import exposure
from .guidance import guided_by_chance, read_check
from .likeness import said_of_unlike
from .own_images import own_images
from .rates import (
    attack_claim,
    attack_hits,
    compare_attacks,
    compare_prepared_attacks,
    measure_result,
    memorised_groups,
    nearest_by_group,
)
from .run_folder import RunFolder
from .schema import (
    AttackRatio,
    CaptionFlags,
    Compared,
    Cost,
    Effort,
    Exposure,
    LeakClaim,
    Metrics,
    OwnImages,
    Result,
    load_metrics,
)
from .score_files import read_all_scores
from .unit_scores import Groups, UnitScores


class Asked(NamedTuple):
    """What a run was asked for, as far as its figures depend on it."""

    units: Sequence[Unit]
    measures: Sequence[Measure]
    """The headline measure first."""
    candidates: int
    control: str
    fair: bool
    """Whether the control is a fair one, so that something is claimed."""


class Figures(NamedTuple):
    """The parts of metrics.json that follow from scores, and what varies between runs (seconds, deviations)."""

    own_images: list[OwnImages]
    caption_flags: list[CaptionFlags]
    exposures: list[Exposure]
    results: list[Result]
    claims: list[LeakClaim]
    comparisons: list[Compared]
    attack_ratios: list[AttackRatio]
    costs: list[Cost]
    efforts: list[Effort]
    reference_costs: list[Cost]
    varying: dict[str, Any]


def figures(
    folder: RunFolder,
    asked: Asked,
    groups: Groups,
    look: Callable[[str, UnitScores], None] | None = None,
    captions: CaptionNumbers | None = None,
) -> Figures:
    """Compute every figure of these units from what the folder has stored.

    `groups` is each reference's near-duplicate group, and `captions` its caption where it has one. `look` is shown each
    unit's name and its scores in the space of the headline measure, which are not kept.

    Raises:
        CorruptRun: a score file is missing or broken, or does not fit the references.
    """
    left_out = shared_groups(groups)
    reference = folder.reference() if asked.control == "reference-model" else None
    headline, deciding = asked.measures[0], _deciding(asked)
    bands = nested_bands(deciding) if deciding else []
    results: list[Result] = []
    finds: dict[str, UnitFinds] = {}
    compared: list[list[AttackHits]] = []
    nearest: list[tuple[np.ndarray, np.ndarray]] = []
    links: list[OwnImages] = []
    flags: list[CaptionFlags] = []
    exposed: list[Exposure] = []
    for name, attack, seed in asked.units:
        found: dict[str, Result] = {}
        for space, measures in _by_space(asked.measures).items():
            scores = UnitScores(read_all_scores(folder, name, space, asked.candidates), measures, left_out)
            theirs = (
                UnitScores(read_all_scores(reference, name, space, asked.candidates), measures) if reference else None
            )
            found |= {m.id: measure_result(attack, seed, m, scores, groups, theirs) for m in measures}
            if space == headline.space:
                nested = nested_bands(headline)
                ends = dict.fromkeys((*nested[:1], *nested[-1:]))
                hits = [(band, attack_hits(headline, band, scores, groups, theirs)) for band in ends]
                finds[name] = unit_finds(folder, name, headline, scores, hits, groups)
                if look is not None:
                    look(name, scores)
            if deciding is not None and deciding in measures:
                if captions is not None:
                    link = own_images(found[deciding.id], deciding, scores, groups, captions, theirs)
                    links += [link] if link is not None else []
                    called = caption_flags(folder, name, found[deciding.id], deciding, scores, groups, captions)
                    flags += [called] if called is not None else []
                compared.append([attack_hits(deciding, band, scores, groups, theirs) for band in bands])
                if asked.control == "iid":
                    nearest.append(nearest_by_group(deciding, scores, groups))
        bits = exposure(folder, name, attack, seed, asked.candidates)
        exposed += [bits] if bits is not None else []
        results += [found[measure.id] for measure in asked.measures]
    spent, efforts, varying = costs(folder, asked.units, asked.candidates, finds)

    def memorised_by(places: Sequence[int]) -> list[int]:
        return memorised_groups([nearest[place] for place in places], groups, left_out) if nearest else []

    return Figures(
        own_images=links,
        caption_flags=flags,
        exposures=exposed,
        results=results,
        claims=_claims(asked.units, compared, deciding, memorised_by) if asked.fair else [],
        comparisons=_comparisons(asked.units, compared, deciding),
        attack_ratios=_attack_ratios(folder, asked.units, compared, deciding),
        costs=spent,
        efforts=efforts,
        reference_costs=_reference_costs(reference, asked.units) if reference else [],
        varying=varying,
    )


def said_with_care(folder: RunFolder, units: Sequence[Unit], metrics: Metrics) -> list[LeakClaim]:
    """Return the claims of `metrics` as far as its reach and its images allow.

    Where an attack was guided by chance there is a remark; where images are not of the pair's kind no claim says that
    nothing was found.
    """
    strange = {attack for name, attack, _ in units if said_of_unlike(folder, name)}
    unguided = {attack for name, attack, _ in units if _is_guided_by_chance(folder, name)}
    remark = "in some preparation the classifier that guides it is no better than chance"
    found = []
    for claim in reach.said_within_reach(metrics):
        if claim.attack in strange and claim.says in ("none seen", "cannot tell", "cannot see"):
            claim = claim.model_copy(update={"says": "unlike images"})
        found.append(claim.model_copy(update={"remark": remark}) if claim.attack in unguided else claim)
    return found


def _is_guided_by_chance(folder: RunFolder, unit: str) -> bool:
    checked = read_check(folder, unit)
    return checked is not None and guided_by_chance(checked) is not None


def _by_space(measures: Sequence[Measure]) -> dict[str, list[Measure]]:
    spaces: dict[str, list[Measure]] = {}
    for measure in measures:
        spaces.setdefault(measure.space, []).append(measure)
    return spaces


def _deciding(asked: Asked) -> Measure | None:
    """Return the first measure with bands that can decide on this kind of control."""
    any_measure = asked.control in ("none", "reference-model")
    return next((measure for measure in asked.measures if measure.bands and (measure.decides or any_measure)), None)


def _claims(
    units: Sequence[tuple[str, str, int]],
    compared: Sequence[Sequence[AttackHits]],
    measure: Measure | None,
    called: Callable[[Sequence[int]], list[int]],
) -> list[LeakClaim]:
    """Return what each attack shows, its preparations taken together; nothing where no measure decides.

    `called` says which groups the units at some places have memorised.
    """
    if measure is None:
        return []
    by_attack = _by_attack(units)
    return [
        attack_claim(
            attack,
            [units[place][2] for place in places],
            [
                (band, pooled([compared[place][number] for place in places]))
                for number, band in enumerate(nested_bands(measure))
            ],
            measure,
            len(by_attack),
            called(places),
        )
        for attack, places in by_attack.items()
    ]


def _attack_ratios(
    folder: RunFolder,
    units: Sequence[tuple[str, str, int]],
    compared: Sequence[Sequence[AttackHits]],
    measure: Measure | None,
) -> list[AttackRatio]:
    """Compare the attacks over their preparations; nothing where each has one, or no measure decides."""
    by_attack = _by_attack(units)
    if measure is None or max(map(len, by_attack.values())) == 1:
        return []
    random = {attack: folder.is_prepared(units[places[0]][0]) for attack, places in by_attack.items()}
    bands = nested_bands(measure)
    prepared = [
        [
            Prepared(attack, {units[place][2]: compared[place][number] for place in places}, random[attack])
            for attack, places in by_attack.items()
        ]
        for number in range(len(bands))
    ]
    return compare_prepared_attacks(prepared, measure, bands)


def _by_attack(units: Sequence[tuple[str, str, int]]) -> dict[str, list[int]]:
    """Return the places of each attack's units, one per seed."""
    found: dict[str, list[int]] = {}
    for place, (_, attack, _) in enumerate(units):
        found.setdefault(attack, []).append(place)
    return found


def _comparisons(
    units: Sequence[tuple[str, str, int]], compared: Sequence[Sequence[AttackHits]], measure: Measure | None
) -> list[Compared]:
    """Compare the attacks in each nested band; nothing where no measure decides."""
    if measure is None:
        return []
    return compare_attacks([(attack, seed) for _, attack, seed in units], compared, measure, nested_bands(measure))


def _reference_costs(reference: RunFolder, units: Sequence[tuple[str, str, int]]) -> list[Cost]:
    """Return the reference run's costs of these units, in their order."""
    found = {(cost.attack, cost.seed): cost for cost in load_metrics(reference).costs}
    return [found[attack, seed] for _, attack, seed in units]
