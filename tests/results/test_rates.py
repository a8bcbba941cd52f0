"""Rates made from scores: who sets a threshold and who is tested, what has an upper end, what is compared with what."""

import numpy as np
import pytest

from sidebench.benchmark.contracts import Band, Neighbours, Side
from sidebench.benchmark.data.references import shared_groups
from sidebench.benchmark.measures.shard_scores import Pairs, ShardScores
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.results.rates import (
    attack_claim,
    compare_attacks,
    measure_result,
    memorised_groups,
    nearest_by_group,
)
from sidebench.benchmark.results.schema import BandResult, Result
from sidebench.benchmark.results.unit_scores import Groups, UnitScores
from sidebench.benchmark.stats.comparison import AttackHits, excess_of
from sidebench.benchmark.stats.intervals import unique_bound, unique_count

RMS = make_measure("rms")
NEAR = Band("near", 0.0, 0.1)
RMS.bands = (NEAR,)
FAR = 0.9


def unit(
    nearest: dict[Side, tuple[np.ndarray, np.ndarray]],
    groups: Groups,
    pairs: list[tuple[int, int]] | None = None,
) -> UnitScores:
    """Return the scores of candidates whose nearest references, by side, are these at these distances.

    `pairs` are candidates and training images at a distance of 0.05.
    """
    count = len(next(iter(nearest.values()))[0])
    neighbours = {
        side: Neighbours(ids[:, None].astype(np.int32), *[distances[:, None].astype(np.float32)] * 2)
        for side, (ids, distances) in nearest.items()
    }
    none = np.zeros(count, dtype=bool)
    rows, ids = np.array(pairs or np.empty((0, 2)), dtype=np.int32).T
    found: dict[Side, Pairs] = {
        "training": Pairs(rows, ids, np.full(len(rows), 0.05, dtype=np.float32)),
        "held_out": Pairs(*[np.empty(0, dtype=np.int32)] * 2, np.empty(0, dtype=np.float32)),
    }
    shard = ShardScores(np.arange(count), none, none, neighbours, found)
    return UnitScores([shard], [RMS], shared_groups(groups))


def far(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(count, dtype=int), np.full(count, FAR)


def band_of(result: Result) -> BandResult:
    return result.bands[0]


# ---- calibrated thresholds ----


def test_half_of_the_candidates_set_the_threshold_and_the_others_are_tested() -> None:
    """Twice as many groups of X as of H, four times as many images: q = 1 % of X is 0.5 % of H."""
    count = 8000
    groups: Groups = {"training": np.repeat(np.arange(20), 2), "held_out": 20 + np.arange(10)}
    even = np.arange(count) % 2 == 0
    place = np.arange(count) // 2
    held_out = np.where(even, 0.1 + place * 1e-4, FAR)
    training = np.where(even, FAR, np.where(place < 100, 0.01, FAR))
    # The first ten of those that calibrate are training images' own; the next one is a tie, which counts.
    training[even & (place < 10)] = 0.05
    training[even & (place == 10)] = held_out[even & (place == 10)]
    scores = unit({"training": (place % 40, training), "held_out": (place % 10, held_out)}, groups)
    found = measure_result("mine", 0, RMS, scores, groups).calibrated[0]
    # Of 4,000 that calibrate 20 are owned by held-out images, those at places 10 to 29.
    assert found.tau == pytest.approx(0.1 + 29e-4, abs=1e-6) and found.candidates == 4000
    assert found.training is not None and found.held_out is not None
    assert (found.training.count, found.held_out.count) == (100, 0)
    assert found.excess is not None and found.excess.value == pytest.approx(100 / 4000)


# ---- unique images ----


@pytest.mark.parametrize("groups", [np.arange(60), np.repeat(np.arange(20), 3)], ids=["apart", "near-duplicates"])
@pytest.mark.parametrize("each", [1, 4])
def test_images_that_come_in_rare_clusters_have_no_upper_end(groups: np.ndarray, each: int) -> None:
    """Twelve candidates find one or four images each, that no other one finds."""
    pairs = [(row, each * row + image) for row in range(12) for image in range(each)]
    sides: Groups = {"training": groups, "held_out": 60 + np.arange(60)}
    scores = unit({"training": far(100), "held_out": far(100)}, sides, pairs)
    ums = band_of(measure_result("mine", 0, RMS, scores, sides)).training.ums
    assert ums.count == 12 * each
    clusters = each >= 3 or len(np.unique(groups)) < len(groups)
    assert ums.one_sided == clusters
    if clusters:
        assert (ums.low, ums.high) == (unique_bound(12 * each, np.full(12, each)) / 100, ums.value)
    else:
        assert (ums.low, ums.high) == tuple(end / 100 for end in unique_count(np.repeat([1, 0], [12, 48]), 60))


def test_clusters_that_are_found_again_and_again_have_an_upper_end() -> None:
    pairs = [(row, 4 * (row % 10) + image) for row in range(40) for image in range(4)]
    sides: Groups = {"training": np.arange(60), "held_out": 60 + np.arange(60)}
    scores = unit({"training": far(100), "held_out": far(100)}, sides, pairs)
    ums = band_of(measure_result("mine", 0, RMS, scores, sides)).training.ums
    assert not ums.one_sided and ums.count == 40 and ums.high > ums.value


# ---- what is compared ----


def test_the_matched_rate_is_that_of_as_many_images_without_those_of_both_sides() -> None:
    """By hand: 1/2 where one of four images is in band, 5/6 where two are, of which two would be drawn."""
    pairs = [(0, 0), (2, 1), (2, 2), (3, 4)]
    nearest: dict[Side, tuple[np.ndarray, np.ndarray]] = {"training": far(4), "held_out": far(4)}
    sides: Groups = {"training": np.array([0, 1, 2, 3, 9]), "held_out": np.array([5, 6, 9])}
    found = band_of(measure_result("mine", 0, RMS, unit(nearest, sides, pairs), sides))
    assert found.matched_ams == pytest.approx((1 / 2 + 5 / 6) / 4)
    alike: Groups = {"training": np.arange(5), "held_out": 5 + np.arange(5)}
    assert band_of(measure_result("mine", 0, RMS, unit(nearest, alike, pairs), alike)).matched_ams is None


def test_a_measure_with_two_scales_decides_nothing() -> None:
    sides: Groups = {"training": np.arange(4), "held_out": 4 + np.arange(4)}
    hits = np.arange(8) % 4, np.where(np.arange(8) < 4, 0.01, FAR)
    scores = unit({"training": hits, "held_out": far(8)}, sides)
    own = make_measure("rms")
    own.bands, own.decides = (NEAR,), False
    found = measure_result("mine", 0, own, scores, sides)
    assert band_of(found).excess is None is band_of(found).label_swap_p
    assert band_of(found).training.ams.count == 4 and band_of(found).owned_training is None
    assert "rulers of their own" in found.calibrated[0].refused
    assert band_of(measure_result("mine", 0, RMS, scores, sides)).excess is not None


def test_a_tie_is_half_of_either_side() -> None:
    sides: Groups = {"training": np.arange(4), "held_out": 4 + np.arange(4)}
    ids, same = np.arange(8) % 4, np.full(8, 0.05)
    nearer = np.where(np.arange(8) < 2, 0.04, 0.05)
    found = band_of(
        measure_result("mine", 0, RMS, unit({"training": (ids, nearer), "held_out": (ids, same)}, sides), sides)
    )
    assert (found.owned_training, found.owned_held_out) == (5, 3)
    assert found.excess is not None and found.excess.value == pytest.approx(2 / 8)
    # What each side is hit by itself does not ask whose a candidate is.
    assert (found.training.ams.count, found.held_out.ams.count if found.held_out else None) == (8, 8)


def test_a_group_is_as_near_as_the_nearest_candidate_of_any_preparation() -> None:
    """30 groups of X of two images each, and 30 of H, to each of which a candidate comes within 0.3."""
    sides: Groups = {"training": np.repeat(np.arange(30), 2), "held_out": 30 + np.arange(30)}
    image, theirs = np.arange(90) % 60, np.arange(90) >= 60

    def prepared(copied: range) -> tuple[np.ndarray, np.ndarray]:
        # Candidate i lies next to image i; of a group that is copied the first image is, the second one is far off.
        near = np.isin(image // 2, copied) & (image % 2 == 0)
        training = image, np.where(theirs, FAR, np.where(near, 0.01, 0.5))
        held_out = image % 30, np.where(theirs, 0.3, FAR)
        return nearest_by_group(RMS, unit({"training": training, "held_out": held_out}, sides), sides)

    none: Groups = {side: np.zeros(len(own), dtype=bool) for side, own in sides.items()}
    first, second = prepared(range(10)), prepared(range(10, 20))
    assert first[0] == pytest.approx([0.01] * 10 + [0.5] * 20) and first[1] == pytest.approx([0.3] * 30)
    # p is 1 / 31 for a copied group, and 20 of 30 may be called at 0.05 * 20 / 30; ten may not.
    assert memorised_groups([first, second], sides, none) == list(range(20))
    assert memorised_groups([first], sides, none) == []


def test_attacks_are_compared_under_the_same_seed_and_in_each_band() -> None:
    def hits(count: int) -> AttackHits:
        credits = np.repeat([1, 0], [count, 100 - count])
        return AttackHits(np.arange(400) < count, np.zeros(400, dtype=bool), credits, np.zeros(100, dtype=int))

    units = [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("c", 2)]
    every = [[hits(10 + 3 * number), hits(20 + 3 * number)] for number in range(5)]
    bands = [NEAR, Band("wide", 0.0, 0.2)]
    found = compare_attacks(units, every, RMS, bands)
    assert [(row.first, row.second, row.seed, row.band) for row in found] == [
        ("b", "a", seed, band) for seed in (0, 1) for band in ("near", "wide")
    ]
    assert all(row.difference.value == pytest.approx(3 / 400) for row in found)


def test_limits_over_a_reference_model_are_one_sided() -> None:
    """Its own hits on the same groups are the control: the limits are ends of the paired interval."""
    ours, theirs = np.repeat([2, 1, 0], [20, 10, 70]), np.repeat([0, 1], [80, 20])
    hits = AttackHits(np.arange(400) < 50, np.arange(400) >= 380, ours, theirs, same_groups=True)
    claim = attack_claim("side", [0], [(NEAR, hits)], RMS, 2)
    assert claim.says == "excess" and claim.least_groups is None
    (band,) = claim.bands
    assert band.at_least == excess_of(hits, 1 - 2 * 0.05 / 2).interval.low > 0
    assert band.at_most == pytest.approx(excess_of(hits, 0.90).interval.high)
