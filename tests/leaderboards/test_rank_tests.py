"""Rank ranges: the tests of `compare` for all rows at once, and how often they are wrong."""

import itertools
import math

import numpy as np
import pytest
from made_records import changed
from scipy.stats import norm, ttest_ind
from simulated_attacks import World, draw

from sidebench.benchmark.stats.comparison import AttackHits, compare, holm
from sidebench.leaderboards import rank_tests
from sidebench.leaderboards.rank_tests import (
    Sample,
    all_pairs,
    at_equal_cost,
    samples_of,
    standing,
    standing_of,
    welch,
)
from sidebench.leaderboards.record import Record

GROUPS = 60


def sample(rate: float, rng: np.random.Generator, *, key: str = "k", seeds: tuple[int, ...] = (0,)) -> Sample:
    hits = {}
    for seed in seeds:
        sides = [rng.random(400) < each for each in (rate, 0.01)]
        credits = [np.bincount(rng.integers(0, GROUPS, side.sum()), minlength=GROUPS) for side in sides]
        hits[seed] = AttackHits(sides[0], sides[1], credits[0], credits[1])
    return Sample(key, hits)


def pooled(found: Sample, seeds: tuple[int, ...]) -> AttackHits:
    parts = [found.hits[seed] for seed in seeds]
    return AttackHits(
        *(np.concatenate([part[side] for part in parts]) for side in (0, 1)),
        *(np.sum([part[side] for part in parts], axis=0) for side in (2, 3)),
    )


def test_all_pairs_are_the_comparisons_one_by_one() -> None:
    rng = np.random.default_rng(0)
    rows = [sample(rate, rng, seeds=(0, 1) if rate < 0.2 else (1, 2)) for rate in rng.uniform(0.1, 0.3, 9)]
    p, direction = all_pairs(rows)
    for i in range(9):
        for j in range(9):
            common = tuple(sorted(set(rows[i].hits) & set(rows[j].hits)))
            if i != j:
                wanted = compare(pooled(rows[i], common), pooled(rows[j], common))
                assert p[i, j] == pytest.approx(wanted.p)
                assert direction[i, j] == np.sign(wanted.difference.value)


def scaled(found: Sample, factor: float) -> AttackHits:
    hits = pooled(found, (0,))
    return AttackHits(*(np.asarray(part) * factor for part in hits[:4]))


def test_at_equal_cost_hits_count_by_what_they_cost() -> None:
    rng = np.random.default_rng(4)
    rows = [sample(rate, rng) for rate in (0.3, 0.12, 0.2)]
    costs = [4.0, 1.0, 2.0]
    p, direction = all_pairs(at_equal_cost(rows, costs) or [])
    for i in range(3):
        for j in range(3):
            least = min(costs[i], costs[j])
            wanted = compare(scaled(rows[i], least / costs[i]), scaled(rows[j], least / costs[j]))
            if i != j:
                assert p[i, j] == pytest.approx(wanted.p)
                assert direction[i, j] == np.sign(wanted.difference.value)
    other = all_pairs(at_equal_cost(rows, [1000 * cost for cost in costs]) or [])
    assert np.allclose(p, other[0]) and np.array_equal(direction, other[1])
    assert at_equal_cost(rows, [1.0, 0.0, 1.0]) is None


def test_cheat_keeping_the_best_of_four_samples() -> None:
    rng = np.random.default_rng(5)
    plain, best_of_four = sample(0.2, rng), sample(0.4, rng)
    by_candidate = standing([best_of_four, plain], highest_first=True)
    by_cost = standing(at_equal_cost([best_of_four, plain], [200.0, 50.0]) or [], highest_first=True)
    assert by_candidate.best.tolist() == by_candidate.worst.tolist() == [1, 2]
    assert by_cost.best.tolist() == by_cost.worst.tolist() == [2, 1]


def test_equal_finds_for_equal_cost_are_called_different_rarely() -> None:
    wrong = 0
    for number in range(200):
        rng = np.random.default_rng(1_000 + number)
        rows = at_equal_cost([sample(0.31, rng), sample(0.16, rng)], [2.0, 1.0]) or []
        wrong += all_pairs(rows)[0][0, 1] < 0.05
    assert wrong <= 0.05 * 200


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    rows = [sample(rate, rng, key=f"{number % 2}") for number, rate in enumerate(rng.uniform(0.1, 0.3, 11))]
    whole = all_pairs(rows)
    monkeypatch.setattr(rank_tests, "BLOCK", 3)
    monkeypatch.setattr(rank_tests, "CANDIDATES", 7)
    for one, two in zip(whole, all_pairs(rows), strict=True):
        assert np.allclose(one, two)


def test_significance_is_holms() -> None:
    rng = np.random.default_rng(2)
    rows = [sample(rate, rng) for rate in rng.uniform(0.1, 0.3, 10)]
    p, direction = all_pairs(rows)
    above = np.triu_indices(10, k=1)
    wanted = np.array(holm(p[above].tolist())) < 0.05
    found = standing(rows, highest_first=True).finds_more
    assert 0 < wanted.sum() < len(wanted)
    assert np.array_equal(found[above] != 0, wanted)
    assert np.array_equal(found[above][wanted], direction[above][wanted])
    assert np.array_equal(found, -found.T)


def test_two_of_three_differences_are_holms_and_neither_bonferronis_nor_of_more_tests() -> None:
    step = np.array([-0.01, 0.0, 0.01])
    rows = [0.30 + step, 0.25 + 1.5 * step, 0.24 + 2 * step]
    p = sorted(ttest_ind(one, two, equal_var=False).pvalue for one, two in itertools.combinations(rows, 2))
    # The second would not be significant three times over, nor the first six times.
    assert max(3 * p[0], 2 * p[1]) < 0.05 < min(6 * p[0], 3 * p[1], p[2])
    means = np.array([row.mean() for row in rows])
    direction = np.sign(means[:, None] - means[None]).astype(np.int8)
    found = standing_of(welch(rows, unvarying=1.0), direction, highest_first=True)
    assert list(zip(found.best.tolist(), found.worst.tolist(), strict=True)) == [(1, 1), (2, 3), (2, 3)]


def test_candidates_of_other_seeds_are_two_samples() -> None:
    """One group a side, so that candidates alone speak; the second row hits with 20 of the 30 of the first."""
    none = np.zeros(50, dtype=bool), np.array([0])
    one, two = (AttackHits(np.arange(50) < hits, none[0], np.array([hits]), none[1]) for hits in (30, 20))
    centre = 10 / 52
    for seed, square in ((0, 10 + 2), (1, 30 + 20 - 2 * 30 * 20 / 50 + 2)):
        p, _ = all_pairs([Sample("k", {0: one}), Sample("k", {seed: two})])
        error = math.sqrt((square / 52 - centre**2) / 52)
        assert p[0, 1] == pytest.approx(2 * norm.sf(centre / error))


def test_rank_ranges_by_hand() -> None:
    rng = np.random.default_rng(3)
    rows = [sample(rate, rng) for rate in (0.6, 0.3, 0.3, 0.05)]
    found = standing(rows, highest_first=True)
    assert list(zip(found.best.tolist(), found.worst.tolist(), strict=True)) == [(1, 1), (2, 3), (2, 3), (4, 4)]
    turned = standing(rows, highest_first=False)
    assert list(zip(turned.best.tolist(), turned.worst.tolist(), strict=True)) == [(4, 4), (2, 3), (2, 3), (1, 1)]


def test_one_row_and_equal_rows() -> None:
    rng = np.random.default_rng(4)
    row = sample(0.2, rng)
    alone = standing([row], highest_first=True)
    assert (alone.best.tolist(), alone.worst.tolist()) == ([1], [1])
    equal = standing([row] * 3, highest_first=True)
    assert (equal.best.tolist(), equal.worst.tolist()) == ([1, 1, 1], [3, 3, 3])


def test_no_common_seed_and_other_keys_leave_the_covariance_out() -> None:
    rng = np.random.default_rng(5)
    one = sample(0.3, rng)
    alike = Sample("k", one.hits)
    same, _ = all_pairs([one, alike])
    assert same[0, 1] == 1
    two = sample(0.22, rng)
    paired = Sample("k", {0: two.hits[0]})
    chances = [
        all_pairs([one, other])[0][0, 1]
        for other in (paired, Sample("other", paired.hits), Sample("k", {1: two.hits[0]}))
    ]
    # Without pairing the variance is the sum of both, whatever the data; here the draws are independent anyway.
    assert all(0 < chance < 1 for chance in chances) and len(set(chances)) > 1


@pytest.mark.simulation(few=400, full=2000)
@pytest.mark.parametrize(
    ("world", "key", "seed"),
    [
        (World((0.1, 0.1), (0.01, 0.01), 0.8, alike=0.5), "other", 0),
        (World((0.1, 0.1), (0.01, 0.01), 0.8, alike=0.0), "other", 1),
        (World((0.1, 0.1), (0.01, 0.01), 0.8, alike=0.0), "k", 1),
    ],
    ids=["groups unpaired", "nothing paired", "candidates unpaired"],
)
def test_equal_attacks_are_rarely_told_apart(world: World, key: str, seed: int, draws: int) -> None:
    """At most 5 %, and three standard errors of 2,000 draws."""
    rng = np.random.default_rng(6)
    wrong = 0
    for _ in range(draws):
        one, two = draw(world, rng)
        p, _direction = all_pairs([Sample("k", {0: one}), Sample(key, {seed: two})])
        wrong += p[0, 1] < 0.05
    assert wrong / draws < 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


def prepared(rates: tuple[float, ...], rng: np.random.Generator) -> Sample:
    """Return a row whose preparations find these shares."""
    parts = [sample(rate, rng, seeds=(seed,)).hits[seed] for seed, rate in enumerate(rates)]
    return Sample("k", dict(enumerate(parts)), random=True)


def test_preparations_are_units_where_an_attack_prepares() -> None:
    rng = np.random.default_rng(8)
    plain = sample(0.2, rng, seeds=(0, 1, 2))
    lucky, steady = prepared((0.10, 0.30, 0.55), rng), prepared((0.31, 0.32, 0.33), rng)
    rows = [plain, lucky, steady]
    p, _ = all_pairs(rows)
    pooled_alone, _ = all_pairs([row._replace(random=False) for row in rows])
    # Of 1,200 candidates a third hits in both; another preparation of the first may find a third or three times that.
    assert pooled_alone[0, 1] < 0.001 < 0.3 < p[0, 1]
    by_seed = [[hits.values.mean() for hits in row.hits.values()] for row in rows]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        welch = ttest_ind(by_seed[one], by_seed[two], equal_var=False).pvalue
        assert p[one, two] == p[two, one] == pytest.approx(max(welch, pooled_alone[one, two]))
    assert p[0, 2] < 0.05
    single = steady._replace(hits={0: steady.hits[0]})
    assert all_pairs([plain, single])[0][0, 1] == 1, "one preparation says nothing of another"


def test_at_equal_cost_preparations_count_by_what_they_cost() -> None:
    """Twice the hits for twice the cost: candidate by candidate, and preparation by preparation, the same."""
    rng = np.random.default_rng(11)
    dear, cheap = prepared((0.40, 0.42, 0.38), rng), prepared((0.20, 0.22, 0.19), rng)
    rows = at_equal_cost([dear, cheap], [2.0, 1.0]) or []
    by_seed = [[hits.values.mean() / row.cost for hits in row.hits.values()] for row in rows]
    alone, _ = all_pairs([row._replace(random=False) for row in rows])
    welch = ttest_ind(*by_seed, equal_var=False).pvalue
    assert all_pairs(rows)[0][0, 1] == pytest.approx(max(welch, alone[0, 1]))
    assert standing(rows, highest_first=True).best.tolist() == [1, 1]
    assert standing([dear, cheap], highest_first=True).best.tolist() == [1, 2]


def test_preparations_that_do_not_vary_say_nothing() -> None:
    assert welch([np.full(3, 0.5), np.full(3, 0.1)], unvarying=1.0).tolist() == [[1, 1], [1, 1]]


def test_preparations_without_a_hit_stand_behind_those_that_hit() -> None:
    rng = np.random.default_rng(9)
    nothing = np.zeros(400, dtype=bool), np.zeros(GROUPS, dtype=np.int64)
    silent = Sample("k", {seed: AttackHits(nothing[0], nothing[0], *nothing[1:] * 2) for seed in range(3)})
    found = standing([prepared((0.5, 0.52, 0.48), rng), silent], highest_first=True)
    assert found.best.tolist() == found.worst.tolist() == [1, 2]


@pytest.mark.simulation(few=300, full=2000)
def test_attacks_that_vary_by_preparation_are_rarely_told_apart(draws: int) -> None:
    """At most 5 %, and three standard errors of 2,000 draws; candidates alone call a third of them different."""
    rng = np.random.default_rng(10)
    wrong = alone = 0
    for _ in range(draws):
        rows = [prepared(tuple(np.minimum(0.9, 0.2 * np.exp(rng.normal(0, 0.3, 3)))), rng) for _ in range(2)]
        wrong += all_pairs(rows)[0][0, 1] < 0.05
        alone += all_pairs([row._replace(random=False) for row in rows])[0][0, 1] < 0.05
    assert wrong / draws < 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5 < 0.3 < alone / draws


def test_groups_line_up_by_name(real_records: list) -> None:
    samples = samples_of(real_records)
    assert len({found.key for found in samples}) == 1
    for record, found in zip(real_records, samples, strict=True):
        hits = found.hits[0]
        assert hits.training_hits.sum() == hits.training_credits.sum() == sum(record.hits[0].training_groups.values())
        assert len(hits.training_credits) == record.victim.training_groups
    p, _ = all_pairs(samples)
    from sidebench.leaderboards.record import pooled_hits

    assert p[0, 2] == pytest.approx(compare(*pooled_hits([real_records[0], real_records[2]], [0])).p)


@pytest.mark.usefixtures("real_prepares")
def test_whether_an_attack_prepares_is_not_what_its_record_books(real_records: list[Record]) -> None:
    """A preparation booked as generation would let one lucky preparation be ranked by its many candidates."""
    for record in real_records:
        spent = record.costs[0]
        booked = spent.model_copy(update={"nfe": {"generate": sum(spent.nfe.values())}, "flops": {}})
        found = samples_of([changed(record, costs=[booked])])[0].random
        assert found == (record.claim.attack in ("side", "carlini-cond")), record.claim.attack
        assert samples_of([changed(record, attack="a-stranger", costs=[booked])])[0].random
