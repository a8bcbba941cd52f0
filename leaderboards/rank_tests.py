"""Which rows of a board differ: every row tested against every other, and the rank ranges that follow.

The test of two rows is that of `benchmark.stats.comparison.compare`, written for all pairs at once from sums of
products, so that hundreds of rows take seconds. Where two records do not share what pairs them, the covariance is
left out:

- seeds: records are paired candidate by candidate under the seeds that both have. Without a common seed each gives
  as many seeds as the other has, and their candidates are independent.
- groups: duplicate groups line up only where the keyed names come under one key. Otherwise the groups count as
  independent samples. Attacks favour the same groups, so the covariance that is left out is above 0 and the test is
  conservative: it calls fewer rows different (simulated in tests/leaderboards/test_rank_tests.py).
- preparations: where one of the two attacks prepares something, the preparations in both records are units too
  (Welch's t test of their excesses), and the larger p counts: candidates say nothing of another preparation. One
  preparation of such an attack cannot be ranked against anything.

Records of images that are not public hold sums by preparation alone: see `sum_tests.py`.

At equal cost a row's hits are divided by what a candidate costs it, preparation included: the same tests then ask which
row finds more for a denoiser-equivalent. Costs are counted, so they add no variance.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from ..benchmark.registry import find, names, ships, split_ablation
from ..benchmark.stats.comparison import AttackHits, pooled
from .record import Part, Record, attack_hits

BLOCK = 512
"""Rows in one block of tests; bounds the memory of a board of thousands of rows."""

CANDIDATES = 16_384
"""Candidates in one product of values, likewise."""


class Sample(NamedTuple):
    """What one row hit by seed; credits line up by duplicate group between rows of the same key."""

    key: str
    hits: Mapping[int, AttackHits]
    cost: float = 1.0
    """What its hits are divided by, above 0: 1 compares at equal candidates."""
    random: bool = False
    """Another seed is another preparation."""


class Standing(NamedTuple):
    """Rank ranges `best`, `worst` (rows,), 1 first; `finds_more` (rows, rows) 1, -1 or 0: row against column.

    A row's best rank is one more than the rows that are significantly better, its worst the number of rows less
    those that are significantly worse. Where no row differs from any other, each has the range 1 to all.
    """

    best: np.ndarray
    worst: np.ndarray
    finds_more: np.ndarray


class _Block(NamedTuple):
    """Rows under the same seeds, as far as the tests need them."""

    keys: np.ndarray
    worth: np.ndarray
    """1 / cost of each row, (rows,)."""
    values: np.ndarray
    """What each candidate adds to the excess, (rows, candidates)."""
    credits: tuple[np.ndarray, np.ndarray]


def standing(samples: Sequence[Sample], *, highest_first: bool, alpha: float = 0.05) -> Standing:
    """Return the rank ranges of rows that are comparable, Holm-corrected over all pairs of them.

    Ranges hold together: with a chance of at least 1 - alpha no row is called better than one that it equals.
    """
    return standing_of(*all_pairs(samples), highest_first=highest_first, alpha=alpha)


def welch(values: Sequence[np.ndarray], *, unvarying: float) -> np.ndarray:
    """Return p (rows, rows), two-sided: Welch's t test of each two rows of numbers by preparation.

    Preparations are the units, so p is 1 where a row has one, and `unvarying` where neither of two varies.

    Examples:
        >>> rows = [np.array([0.30, 0.31, 0.29]), np.array([0.10, 0.11, 0.10]), np.array([0.2])]
        >>> welch(rows, unvarying=1.0).round(5)[0].tolist()
        [1.0, 5e-05, 1.0]
    """
    from scipy.stats import ttest_ind_from_stats

    sizes = np.array([len(own) for own in values])
    p = np.ones((len(values), len(values)))
    known = np.flatnonzero(sizes > 1)
    if not len(known):
        return p
    mean, spread = (np.array([float(take(own)) for own in values if len(own) > 1]) for take in (np.mean, _deviation))
    size = sizes[known]
    with np.errstate(all="ignore"):
        found = ttest_ind_from_stats(
            mean[:, None], spread[:, None], size[:, None], mean[None], spread[None], size[None], equal_var=False
        ).pvalue
    p[np.ix_(known, known)] = np.where(spread[:, None] + spread[None] > 0, found, unvarying)
    return p


def _deviation(values: np.ndarray) -> float:
    # The mean of 0.1, 0.1 and 0.1 is not 0.1: rounded, numbers that are all alike would vary.
    return float(values.std(ddof=1)) if np.ptp(values) else 0.0


def standing_of(p: np.ndarray, direction: np.ndarray, *, highest_first: bool, alpha: float = 0.05) -> Standing:
    """Return the rank ranges that follow from p (rows, rows), two-sided and uncorrected, Holm-corrected here.

    `direction` (rows, rows) is the sign of a row less a column.
    """
    found = np.triu(np.where(p <= _holm_limit(p, alpha), direction, 0), k=1).astype(np.int8)
    finds_more = found - found.T
    better = finds_more if highest_first else -finds_more
    rows = len(p)
    return Standing(1 + (better < 0).sum(axis=1), rows - (better > 0).sum(axis=1), finds_more)


def all_pairs(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Return p (rows, rows), two-sided and uncorrected, and the sign of the excess of a row less a column's."""
    rows = len(samples)
    p, direction = np.ones((rows, rows)), np.zeros((rows, rows), dtype=np.int8)
    blocks: dict[tuple[int, tuple[int, ...]], _Block] = {}
    chunks = list(_chunks(samples))
    for one, two in combinations_with_replacement(range(len(chunks)), 2):
        (first, ours), (second, theirs) = chunks[one], chunks[two]
        common = tuple(sorted(set(ours) & set(theirs)))
        shared = min(len(ours), len(theirs))
        pair = []
        for chunk, chosen in ((one, common or ours[:shared]), (two, common or theirs[:shared])):
            if (chunk, chosen) not in blocks:
                blocks[chunk, chosen] = _block([samples[row] for row in chunks[chunk][0]], chosen)
            pair.append(blocks[chunk, chosen])
        chances, ways = _test(pair[0], pair[1], paired=bool(common))
        p[np.ix_(first, second)], p[np.ix_(second, first)] = chances, chances.T
        direction[np.ix_(first, second)], direction[np.ix_(second, first)] = ways, -ways.T
    random = np.array([sample.random for sample in samples], dtype=bool)
    if random.any():
        by_seed = [np.array([hits.values.mean() for hits in own.hits.values()]) / own.cost for own in samples]
        p = np.where(random[:, None] | random[None], np.maximum(p, welch(by_seed, unvarying=0.0)), p)
    return p, direction


def samples_of(records: Sequence[Record]) -> list[Sample]:
    """Return what the tests need of records of one board.

    Raises:
        BadRecord: packed bits do not fit the number of candidates.
    """
    by_key: dict[str, dict[Part, dict[str, int]]] = {}
    for record in records:
        training: dict[str, int] = {}
        control = training if record.victim.same_groups else {}  # a reference model hits the same groups
        places = by_key.setdefault(record.key_id, {"training": training, "control": control})
        for hits in record.hits:
            for part, known in places.items():
                for name in getattr(hits, f"{part}_groups"):
                    known.setdefault(name, len(known))
    return [
        Sample(
            record.key_id,
            {hits.seed: attack_hits(record, hits, by_key[record.key_id]) for hits in record.hits},
            random=prepares(record),
        )
        for record in records
    ]


def prepares(record: Record) -> bool:
    """Return whether another seed is another preparation of a record's attack: what ships says so itself.

    Of others it is taken for granted: what they book, and as what, is their own word.
    """
    attack = record.claim.attack
    known = split_ablation(attack)[0]
    if known in names("attack") and ships("attack", known):
        return bool(find("attack", attack).prepares())
    return True


def at_equal_cost(samples: Sequence[Sample], costs: Sequence[float]) -> list[Sample] | None:
    """Return the samples with each row's cost per candidate; None where a row costs nothing, which compares with none.

    Examples:
        >>> at_equal_cost([Sample("", {})], [0.0]) is None
        True
    """
    if min(costs, default=0.0) <= 0:
        return None
    return [sample._replace(cost=cost) for sample, cost in zip(samples, costs, strict=True)]


def _chunks(samples: Sequence[Sample]) -> Iterator[tuple[list[int], tuple[int, ...]]]:
    """Yield row numbers with their seeds: rows of the same seeds, at most BLOCK at a time."""
    by_seeds: dict[tuple[int, ...], list[int]] = {}
    for row, sample in enumerate(samples):
        by_seeds.setdefault(tuple(sorted(sample.hits)), []).append(row)
    for seeds, rows in by_seeds.items():
        for start in range(0, len(rows), BLOCK):
            yield rows[start : start + BLOCK], seeds


def _block(samples: Sequence[Sample], seeds: Sequence[int]) -> _Block:
    values, credits = [], []
    for sample in samples:
        hits = pooled([sample.hits[seed] for seed in seeds])
        values.append(hits.values.astype(np.float32))
        credits.append((hits.training_credits, hits.weights * hits.control_credits))
    training, control = (_rows([row[part] for row in credits]) for part in (0, 1))
    keys, worth = np.array([sample.key for sample in samples]), np.array([1 / sample.cost for sample in samples])
    return _Block(keys, worth, np.stack(values), (training, control))


def _rows(credits: Sequence[np.ndarray]) -> np.ndarray:
    """Return credits as rows of one length, less their means over groups."""
    table = np.zeros((len(credits), max(map(len, credits))))
    for row, own in zip(table, credits, strict=True):
        row[: len(own)] = own - own.mean()
    return table


def _test(first: _Block, second: _Block, *, paired: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return p and the sign of the difference for all rows of one block against all of another."""
    from scipy.special import ndtr, stdtr

    n = first.values.shape[1]
    ours, theirs = (block.values.sum(axis=1, dtype=np.float64) for block in (first, second))
    squares = [np.einsum("ij,ij->i", block.values, block.values, dtype=np.float64) for block in (first, second)]
    cross = _products(first.values, second.values) if paired else np.outer(ours, theirs) / n
    # Of two rows the dearer one's hits count for less; the cheaper one's stay whole, so that no value exceeds 1.
    larger = np.maximum(first.worth[:, None], second.worth[None, :])
    mine, other = first.worth[:, None] / larger, second.worth[None, :] / larger
    gaps = mine * ours[:, None] - other * theirs[None, :]
    # By candidate, Bonett and Price: one more candidate on either side.
    centre = gaps / (n + 2)
    moment = (mine**2 * squares[0][:, None] + other**2 * squares[1][None, :] - 2 * mine * other * cross + 2) / (n + 2)
    p = 2 * ndtr(-np.abs(centre) / np.sqrt((moment - centre**2) / (n + 2)))
    sizes = [min(side.shape[1] for side in sides) for sides in zip(first.credits, second.credits, strict=True)]
    if min(sizes) > 1:
        spread = _group_variance(first, second, mine, other)
        error = np.sqrt(np.maximum(spread, 0))
        away = np.divide(np.abs(gaps), error, out=np.full_like(gaps, np.inf), where=error > 0)
        by_group = np.where((error == 0) & (gaps == 0), 1.0, 2 * stdtr(min(sizes) - 1, -away))
        p = np.maximum(p, by_group)
    return p, np.sign(gaps).astype(np.int8)


def _products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return all products of rows; whole numbers below 2^24 are exact in float32, and most values are whole."""
    total = np.zeros((len(first), len(second)))
    for start in range(0, first.shape[1], CANDIDATES):
        part = slice(start, start + CANDIDATES)
        total += first[:, part] @ second[:, part].T
    return total


def _group_variance(first: _Block, second: _Block, mine: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the variance of the difference of hits, weighted by `mine` and `other`, with groups as units."""
    same_key = first.keys[:, None] == second.keys[None, :]
    total = np.zeros((len(first.keys), len(second.keys)))
    for ours, theirs in zip(first.credits, second.credits, strict=True):
        groups = min(ours.shape[1], theirs.shape[1])
        own, others = (ours**2).sum(axis=1), (theirs**2).sum(axis=1)
        covariance = np.where(same_key, ours[:, :groups] @ theirs[:, :groups].T, 0.0)
        weighted = mine**2 * own[:, None] + other**2 * others[None, :] - 2 * mine * other * covariance
        total += groups / (groups - 1) * weighted
    return total


def _holm_limit(p: np.ndarray, alpha: float) -> float:
    """Return the largest p that Holm's procedure calls significant, or -1 where none is.

    Only the values below alpha are sorted: of the millions that thousands of rows give, most are not.
    """
    tests = len(p) * (len(p) - 1) // 2
    small = np.sort(p[np.triu(p < alpha, k=1)])
    kept = small * (tests - np.arange(len(small))) < alpha
    passed = len(small) if kept.all() else int(np.argmin(kept))
    return float(small[passed - 1]) if passed else -1.0
