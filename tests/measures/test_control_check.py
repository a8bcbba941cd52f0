"""The two-sample classifier on sets that do and do not differ, and exact matched rates by enumeration."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.data.references import ImageSet, References, load_references
from sidebench.benchmark.errors import BadInput, TooFew
from sidebench.benchmark.measures import control_check
from sidebench.benchmark.stats import intervals


def image_set(images: np.ndarray, groups: np.ndarray) -> ImageSet:
    return ImageSet(images.astype(np.uint8), np.arange(len(images)), groups)


@pytest.fixture(scope="module")
def digits() -> References:
    return load_references(load_pair("digits"))


def random_split(pool: np.ndarray, size: int, rng: np.random.Generator, repeats: int = 1) -> tuple[ImageSet, ImageSet]:
    """Split a part of the pool at random; each image comes `repeats` times and is one group."""
    rows = np.repeat(rng.permutation(len(pool))[: 2 * size], repeats)
    half = size * repeats
    return image_set(pool[rows[:half]], rows[:half]), image_set(pool[rows[half:]], rows[half:])


# ---- without a shift ----


@pytest.mark.simulation(few=100, full=400)
def test_the_interval_holds_one_half_in_95_of_100_random_splits(digits: References, draws: int) -> None:
    pool = np.concatenate([digits.training.images, digits.held_out.images, digits.pool.images, digits.tuning.images])
    rng = np.random.default_rng(11)
    found = [control_check.two_sample(*random_split(pool, 100, rng), seed) for seed in range(draws)]
    covered = np.mean([not one.excludes_half for one in found])
    assert 0.93 <= covered <= 0.995
    aucs = np.array([one.auc for one in found])
    assert abs(aucs.mean() - 0.5) < 4 * aucs.std() / draws**0.5, "biased"
    width = np.mean([one.high - one.low for one in found]) / (2 * 1.96)
    assert 0.85 < width / aucs.std() < 1.35, "the interval is not as wide as the AUC varies"


@pytest.mark.simulation(few=100, full=400)
def test_the_interval_holds_one_half_where_images_are_duplicates(draws: int) -> None:
    rng = np.random.default_rng(12)
    pool = rng.normal(120, 30, (600, 1, 3, 4)).clip(0, 255)
    found = [control_check.two_sample(*random_split(pool, 40, rng, repeats=4), seed) for seed in range(draws)]
    assert np.mean([not one.excludes_half for one in found]) >= 0.93


def test_the_splits_of_digits_are_fair(digits: References) -> None:
    found = control_check.two_sample(digits.training, digits.held_out, 0)
    assert not found.excludes_half and found.low < 0.5 < found.high
    assert found.images == (256, 256)


def test_a_duplicate_group_is_never_split_between_folds() -> None:
    """Were it split, the classifier would know each group from training and come near AUC 1."""
    rng = np.random.default_rng(5)
    centres = rng.integers(60, 190, (60, 1, 6, 6))
    images = np.repeat(centres, 10, axis=0) + rng.integers(-2, 3, (600, 1, 6, 6))
    groups = np.repeat(np.arange(60), 10)
    together = control_check.two_sample(image_set(images[:300], groups[:300]), image_set(images[300:], groups[300:]), 0)
    apart = control_check.two_sample(
        image_set(images[:300], np.arange(300)), image_set(images[300:], np.arange(300, 600)), 0
    )
    assert apart.auc > 0.9
    assert together.auc < 0.7 and not together.excludes_half


# ---- with a shift ----


@pytest.mark.parametrize("kind", ["added", "multiplied"])
def test_five_percent_more_brightness_is_seen(digits: References, kind: str) -> None:
    held_out = digits.held_out
    bright = held_out.images + 0.05 * 255 if kind == "added" else held_out.images * 1.05
    found = control_check.two_sample(digits.training, image_set(np.rint(bright.clip(0, 255)), held_out.groups), 0)
    assert found.excludes_half and found.low > 0.5


def test_sets_that_are_told_apart_without_error_have_an_interval_below_one() -> None:
    rng = np.random.default_rng(7)
    dark, light = rng.integers(0, 60, (30, 1, 4, 4)), rng.integers(190, 250, (30, 1, 4, 4))
    found = control_check.two_sample(image_set(dark, np.arange(30)), image_set(light, np.arange(30, 60)), 0)
    assert found.auc == found.high == 1 and 0.7 < found.low < 0.95


@pytest.mark.parametrize("shape", [(1, 64, 48), (3, 33, 33)])
def test_large_images_are_reduced_and_a_shift_is_still_seen(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(8)
    images = rng.normal(120, 20, (60, *shape)).clip(0, 255)
    images[30:, :, : shape[1] // 2] += 12
    found = control_check.two_sample(
        image_set(images[:30], np.arange(30)), image_set(images[30:], np.arange(30, 60)), 0
    )
    assert found.low > 0.5


def test_at_most_so_many_images_are_used(digits: References, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_check, "MOST_IMAGES", 50)
    assert control_check.two_sample(digits.training, digits.pool, 0).images == (50, 50)


def test_the_same_seed_gives_the_same_result_and_another_other_folds(digits: References) -> None:
    first, again, other = (control_check.two_sample(digits.training, digits.held_out, seed) for seed in (1, 1, 2))
    assert first == again and first.auc != other.auc


def test_images_of_one_value_do_not_break_it() -> None:
    blank = np.full((20, 1, 4, 4), 9)
    found = control_check.two_sample(image_set(blank, np.arange(20)), image_set(blank, np.arange(20, 40)), 0)
    assert found.auc == 0.5 and not found.excludes_half


@pytest.mark.parametrize("auc", [0.5, 0.62, 0.9, 0.999])
@pytest.mark.parametrize("n", [20, 300])
def test_the_interval_ends_where_hanley_and_mcneil_say(auc: float, n: int) -> None:
    low, high = control_check.auc_interval(auc, n, n)
    assert 0 < low < auc < high < 1
    for theta in (low, high):
        q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
        spread = theta * (1 - theta) + (n - 1) * (q1 - theta**2 + q2 - theta**2)
        assert abs(auc - theta) == pytest.approx(1.959964 * (2 * spread / n**2) ** 0.5, rel=1e-5)


def test_too_few_groups_are_refused() -> None:
    rng = np.random.default_rng(9)
    images = rng.integers(0, 255, (40, 1, 4, 4))
    few = image_set(images[:20], np.repeat(np.arange(5), 4))
    with pytest.raises(TooFew, match="5 near-duplicate groups among the held-out images"):
        control_check.two_sample(image_set(images[20:], np.arange(100, 120)), few, 0)


def test_images_of_other_shape_are_refused() -> None:
    sets = [image_set(np.zeros((20, 1, size, 4)), np.arange(20)) for size in (4, 5)]
    with pytest.raises(BadInput, match=r"1x4x4.*1x5x4"):
        control_check.two_sample(sets[0], sets[1], 0)


# ---- matched rates ----


@pytest.mark.parametrize(("training", "held_out"), [(7, 1), (7, 3), (8, 7), (6, 6)])
def test_matched_rates_are_those_of_all_parts(training: int, held_out: int) -> None:
    hits = np.array([0, 1, 2, 3, training - 1, training, 2])
    parts = list(itertools.combinations(range(training), held_out))
    rates = [np.mean([any(image < m for image in part) for m in hits]) for part in parts]
    assert intervals.matched_rate(hits, training, held_out) == pytest.approx(np.mean(rates), rel=1e-12)


@pytest.mark.parametrize("held_out", [1, 10, 50_000, 999_999])
@pytest.mark.parametrize("hits", [1, 3, 40])
def test_matched_rates_are_exact_for_a_million_images(held_out: int, hits: int) -> None:
    training = 10**6
    missed = Fraction(1)
    for j in range(hits):
        missed *= Fraction(max(0, training - held_out - j), training - j)
    assert intervals.matched_rate(np.array([hits]), training, held_out) == pytest.approx(float(1 - missed), rel=1e-11)


def test_equal_sizes_change_nothing() -> None:
    assert intervals.matched_rate(np.array([0, 1, 5, 0]), 50, 50) == 0.5


def test_candidates_that_hit_everything_are_hits() -> None:
    assert math.isclose(intervals.matched_rate(np.array([10**6, 0]), 10**6, 3), 0.5)


@pytest.mark.parametrize(
    ("hits", "training", "held_out", "kind"),
    [
        ([1], 5, 6, BadInput),
        ([6], 5, 2, BadInput),
        ([-1], 5, 2, BadInput),
        ([0.5], 5, 2, BadInput),
        ([[1]], 5, 2, BadInput),
        ([], 5, 2, TooFew),
        ([1], 5, 0, TooFew),
    ],
)
def test_impossible_counts_are_refused(hits: list[int], training: int, held_out: int, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        intervals.matched_rate(np.array(hits), training, held_out)
