"""What an attack is said to show: an excess, none, or that this control cannot tell."""

import numpy as np
import pytest

from sidebench.benchmark.measures.hits import nested_bands
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.results.rates import attack_claim
from sidebench.benchmark.results.schema import LeakClaim
from sidebench.benchmark.stats.comparison import SWAP_SEED, AttackHits, no_leak_test
from sidebench.benchmark.stats.owned import Owned, Strata, lower_limit, upper_limit

MEASURE = make_measure("nl2c:n50:a0.5")
GROUPS, CANDIDATES = 100, 1000


def claimed(*bands: tuple[list[int], list[int]], attacks: int = 1) -> LeakClaim:
    """Claim what hits by group of X and of H say, band by band, closest first; groups without a hit are left out."""
    found = []
    for band, (ours, theirs) in zip(nested_bands(MEASURE), bands, strict=True):
        credits = [np.array(side + [0] * (GROUPS - len(side)), dtype=float) for side in (ours, theirs)]
        hits = [np.arange(CANDIDATES) < side.sum() for side in credits]
        hits[1] = np.roll(hits[1], int(hits[0].sum()))
        found.append((band, AttackHits(hits[0].astype(float), hits[1].astype(float), credits[0], credits[1])))
    return attack_claim("side", [0], found, MEASURE, attacks)


NOTHING: tuple[list[int], list[int]] = ([], [])


def test_a_leak_in_the_widest_band_alone_is_an_excess() -> None:
    found = claimed(NOTHING, ([1] * 2, [1] * 2), ([3] * 60, [1] * 20))
    assert (found.says, found.closest, found.widest) == ("excess", "high+mid+low", "high+mid+low")
    assert found.bands[0].at_least == 0 < found.bands[2].at_least < 0.16 < found.bands[2].at_most
    assert found.bands[2].p < 0.01 < found.bands[0].p


def test_the_closest_and_the_widest_band_with_an_excess_are_named() -> None:
    found = claimed(([1] * 30, []), ([2] * 40, [1]), ([1] * 50, [1] * 50))
    assert (found.says, found.closest, found.widest) == ("excess", "high", "high+mid")


def test_the_level_is_shared_by_the_attacks_of_a_run() -> None:
    bands = (([1] * 6, []),) * 3
    assert claimed(*bands).says == "excess" and claimed(*bands, attacks=10).says != "excess"
    assert claimed(*bands, attacks=10).bands[0].p == pytest.approx(10 * claimed(*bands).bands[0].p)


@pytest.mark.parametrize(
    ("bands", "says"),
    [
        (([NOTHING] * 3), "none seen"),
        ([NOTHING, NOTHING, ([1], [1, 1, 1])], "none seen"),  # the upper limit says all there is
        ([NOTHING, NOTHING, ([100], [1])], "cannot tell"),  # one image a hundred times: a leak, or chance
        ([NOTHING, ([1] * 10, [1] * 12), ([2] * 20, [2] * 20)], "none seen"),
        ([NOTHING, NOTHING, ([1] * 2, [2] * 60)], "control does not fit"),
    ],
)
def test_without_an_excess_it_is_said_what_that_means(bands: list[tuple[list[int], list[int]]], says: str) -> None:
    found = claimed(*bands)
    assert found.says == says and found.closest is None and found.least_groups == 5
    assert found.bands[2].at_most >= sum(bands[2][0]) / CANDIDATES / 2


def test_limits_share_their_level_between_attacks_and_bands() -> None:
    """20 groups of X own a candidate each: which of them a limit leaves depends on the level, which 5 % is of all."""
    bands = (([1] * 12, []), ([1] * 16, []), ([1] * 20, []))
    zeros = np.zeros(GROUPS, dtype=int)
    for attacks in (1, 4):
        found = claimed(*bands, attacks=attacks)
        for (ours, _), band in zip(bands, found.bands, strict=True):
            credits = np.repeat([1.0, 0.0], [len(ours), GROUPS - len(ours)])[:, None]
            owned = Owned(credits, np.zeros((GROUPS, 1)), Strata(zeros, zeros), CANDIDATES)
            assert band.at_least == pytest.approx(lower_limit(owned, 0, 0.05 / attacks / 3, SWAP_SEED))
            assert band.at_least < lower_limit(owned, 0, 0.05 / attacks, SWAP_SEED)
            # The upper limit is each attack's and band's own.
            assert band.at_most == pytest.approx(upper_limit(owned, 0, 0.05, SWAP_SEED))
            assert band.at_most > len(ours) / CANDIDATES


def test_the_p_of_a_band_is_that_of_the_largest_of_all() -> None:
    bands = (([1] * 5, []), ([1] * 9, [1] * 4), ([2] * 12, [2] * 8))
    found = claimed(*bands, attacks=2)
    hits = []
    for sides in bands:
        credits = [np.array(side + [0] * (GROUPS - len(side)), dtype=float) for side in sides]
        hits.append(AttackHits(np.zeros(CANDIDATES), np.zeros(CANDIDATES), *credits))
    test = no_leak_test(hits)
    assert [band.p for band in found.bands] == pytest.approx(np.minimum(1, 2 * test.family).tolist())
    assert (test.family > 1.2 * test.bands).any()


def test_as_many_groups_as_a_test_needs_are_enough() -> None:
    """Five of 100 + 100 all lie in X with chance 0.029, four with 0.059; ten attacks need eight."""
    enough, few = ([20] * 3, [20] * 2), ([20] * 2, [20] * 2)
    assert claimed(NOTHING, NOTHING, enough).says == "none seen"
    found = claimed(NOTHING, NOTHING, few)
    assert (found.says, found.groups_hit, found.least_groups) == ("cannot tell", 4, 5)
    ten = claimed(NOTHING, NOTHING, enough, attacks=10)
    assert (ten.says, ten.least_groups) == ("cannot tell", 8)


def test_a_control_that_does_not_fit_must_show_it_over_all_bands() -> None:
    """Of eight groups of H seven would all lie there with chance 0.007: too little for one of three bands."""
    assert claimed(NOTHING, NOTHING, ([], [1] * 8)).says == "none seen"
    assert claimed(NOTHING, NOTHING, ([], [1] * 12)).says == "control does not fit"
