"""Attacks over their preparations, as metrics.json holds it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from sidebench.benchmark.measures.hits import nested_bands
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.results.rates import compare_prepared_attacks
from sidebench.benchmark.stats.comparison import AttackHits, holm
from sidebench.benchmark.stats.preparations import Prepared, compare_prepared, rate_over_preparations

MEASURE = make_measure("nl2c:n50:a0.5")
BANDS = nested_bands(MEASURE)


def prepared(name: str, counts: Mapping[int, int], *, random: bool = True) -> Prepared:
    """Return an attack that hits so many of 400 candidates by seed, as many of 100 groups, and nothing by chance."""
    none, nowhere = np.zeros(400, dtype=bool), np.zeros(100, dtype=int)
    found = {
        seed: AttackHits(np.arange(400) < count, none, np.bincount(np.arange(count) % 100, minlength=100), nowhere)
        for seed, count in counts.items()
    }
    return Prepared(name, found, random)


def in_bands(*attacks: Prepared) -> Sequence[Sequence[Prepared]]:
    return [list(attacks)] * len(BANDS)


def test_every_two_attacks_are_compared_in_every_band() -> None:
    plain = prepared("plain", {0: 60, 1: 70, 2: 65}, random=False)
    side, modes = prepared("side", {0: 80, 1: 130, 2: 90}), prepared("modes", {0: 200, 1: 240, 2: 210})
    found = compare_prepared_attacks(in_bands(plain, side, modes), MEASURE, BANDS)
    assert [(ratio.first, ratio.second) for ratio in found[:: len(BANDS)]] == [
        ("side", "plain"),
        ("modes", "plain"),
        ("modes", "side"),
    ]
    assert [ratio.band for ratio in found[: len(BANDS)]] == [band.name for band in BANDS]
    # Each pair has one p in as many bands; the pool is all attacks of the run.
    pairs = [(side, plain), (modes, plain), (modes, side)]
    every = [compare_prepared(*pair, [plain, side, modes]) for pair in pairs]
    chances = holm([over.p for over in every for _ in BANDS])
    assert [ratio.p for ratio in found] == pytest.approx(chances)
    last, over = found[-1], every[-1]
    assert last.ratio is not None and over.ratio.interval is not None and last.spread == over.spread
    assert (last.ratio.value, last.ratio.low, last.ratio.high) == (over.ratio.value, *over.ratio.interval)
    rate = rate_over_preparations(modes, [plain, side, modes])
    assert rate is not None and last.first_rate is not None and last.first_rate.value == rate.value
    assert (last.seeds, last.preparations, last.measure) == ([0, 1, 2], 3, MEASURE.id)
    assert found[len(BANDS)].verdict == "finds more"


def test_a_difference_is_claimed_below_five_percent_over_all_ratios() -> None:
    fewer, more = (50, 70, 59, 78, 58), (60, 70, 65, 80, 62)
    attacks = [prepared(name, dict(enumerate(counts))) for name, counts in (("fewer", fewer), ("more", more))]
    (found,) = compare_prepared_attacks([attacks], MEASURE, BANDS[:1])
    assert 0.05 < found.p < 0.1 and found.verdict == "no difference seen"
    # The same p in each of three bands counts three times, so a lone ratio's "finds more" may be none.
    attacks[0] = prepared("fewer", {0: 50, 1: 66, 2: 60, 3: 62, 4: 58})
    (alone,) = compare_prepared_attacks([attacks], MEASURE, BANDS[:1])
    every = compare_prepared_attacks(in_bands(*attacks), MEASURE, BANDS)
    assert alone.p < 0.05 < 3 * alone.p and alone.verdict == "finds more"
    assert [ratio.p for ratio in every] == pytest.approx([3 * alone.p] * 3)
    assert {ratio.verdict for ratio in every} == {"no difference seen"}


def test_one_shared_seed_is_no_claim_about_attacks() -> None:
    one, other = prepared("one", {0: 60, 1: 70}), prepared("other", {1: 20, 2: 30})
    assert compare_prepared_attacks(in_bands(one, other), MEASURE, BANDS) == []


def test_what_has_no_ratio_says_why_and_nothing_else() -> None:
    one, nothing = prepared("one", {0: 60, 1: 70}), prepared("nothing", {0: 0, 1: 9})
    found = compare_prepared_attacks(in_bands(one, nothing), MEASURE, BANDS)[0]
    assert (found.first, found.first_rate, found.ratio, found.p) == ("nothing", None, None, 1.0)
    assert found.verdict == "no ratio" and "the excess of nothing under seed 0 is 0.0000%" in found.ratio_refused


def test_attacks_without_control_hit_and_do_not_find() -> None:
    def raw(attack: Prepared) -> Prepared:
        hits = {seed: own._replace(control_credits=np.empty(0)) for seed, own in attack.hits.items()}
        return attack._replace(hits=hits)

    fewer = prepared("fewer", {0: 20, 1: 21, 2: 25, 3: 18, 4: 22})
    more = prepared("more", {0: 80, 1: 82, 2: 79, 3: 85, 4: 80})
    found = compare_prepared_attacks(in_bands(raw(fewer), raw(more)), MEASURE, BANDS)[0]
    assert (found.first, found.verdict) == ("more", "hits more (raw rate)")


def test_a_run_knows_which_attacks_prepare(finished: Any) -> None:
    prepares = {unit: finished.folder.is_prepared(f"{unit}.s0") for unit in ("carlini-uncond", "carlini-cond", "side")}
    assert prepares == {"carlini-uncond": False, "carlini-cond": True, "side": True}
    assert finished.metrics.attack_ratios == []
