"""AUC and TPR of detectors: by hand, against scikit-learn, families as units, and how often the intervals hold."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from sidebench.benchmark.errors import BadInput, TooFew
from sidebench.benchmark.stats.detection import Kinds, _weights, auc, block_of, check_kinds, detection, needed, tpr_at


def made(rng: np.random.Generator, families: int, size: int, shift: float) -> tuple[np.ndarray, Kinds]:
    """Return scores of as many families of either kind, all of a family's prompts nearly alike."""
    positive = np.repeat(np.arange(2 * families) < families, size)
    common = np.repeat(rng.normal(size=2 * families), size)
    scores = shift * positive + common + 0.1 * rng.normal(size=len(common))
    return scores, Kinds(positive, np.repeat(np.arange(2 * families), size))


def test_auc_is_scikit_learns_with_ties_too() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 5, 60).astype(float), rng.random(60) < 0.4
    assert auc(scores[positive], scores[~positive]) == pytest.approx(roc_auc_score(positive, scores))


@pytest.mark.parametrize(
    ("negatives", "fpr", "wanted"),
    [
        (np.arange(100.0), 0.01, 0.5),  # one of 100 may lie above: 98.5 passes, 97.5 does not
        (np.arange(99.0), 0.01, 0.5),  # none of 99 may
        (np.arange(200.0) / 2, 0.01, 0.0),  # the third of 200 is the threshold
        (np.full(100, 98.5), 0.01, 0.0),  # a tie with the threshold is not above it
        (np.arange(100.0), 0.02, 1.0),
    ],
)
def test_tpr_never_exceeds_the_false_positive_rate(negatives: np.ndarray, fpr: float, wanted: float) -> None:
    assert tpr_at(np.array([98.5, 97.5]), negatives, fpr) == wanted


def test_prompts_of_a_family_that_say_the_same_narrow_no_interval() -> None:
    rng = np.random.default_rng(1)
    scores, kinds = made(rng, 30, 1, 1.0)
    once = detection({"a": scores}, kinds, draws=500).aucs["a"]
    often = Kinds(np.repeat(kinds.positive, 20), np.repeat(kinds.families, 20))
    again = detection({"a": np.repeat(scores, 20)}, often, draws=500).aucs["a"]
    assert (again.value, *again.interval) == pytest.approx((once.value, *once.interval))


def test_prompts_of_one_family_are_not_compared_with_each_other() -> None:
    """All families hold both kinds and part perfectly inside, but not from each other."""
    families = np.repeat(np.arange(20), 2)
    kinds = Kinds(np.tile([True, False], 20), families)
    found = detection({"a": families + np.tile([0.5, 0.0], 20)}, kinds, draws=200).aucs["a"]
    assert found.value == 0.5 and found.interval.low < found.value < found.interval.high


def test_detectors_are_compared_on_the_same_draws() -> None:
    rng = np.random.default_rng(2)
    scores, kinds = made(rng, 60, 2, 1.5)
    noisy = scores + 3 * rng.normal(size=len(scores))
    found = detection({"good": scores, "same": 2 * scores + 1, "noisy": noisy}, kinds, draws=500)
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    tie, apart = pairs["good", "same"], pairs["good", "noisy"]
    assert tie.difference == (0, (0, 0)) and tie.p == tie.adjusted == 1
    assert apart.difference.interval.low > 0 and apart.adjusted == pytest.approx(3 * apart.p)
    width = apart.difference.interval.high - apart.difference.interval.low
    alone = [found.aucs[name].interval for name in ("good", "noisy")]
    assert width < sum(high - low for low, high in alone)
    again = detection({"noisy": noisy, "good": scores}, kinds, draws=500)
    assert again.aucs["good"] == found.aucs["good"], "which others there are changes no interval"


def test_rates_are_compared_on_the_same_draws_too() -> None:
    rng = np.random.default_rng(4)
    kinds = Kinds(np.arange(160) < 40, np.arange(160))
    scores = rng.normal(size=160) + 4 * kinds.positive
    noisy = scores + 4 * rng.normal(size=160)
    found = detection({"good": scores, "same": scores**3, "noisy": noisy}, kinds, (0.01,), draws=400)
    pairs = {(pair.first, pair.second): pair for pair in found.rate_pairs[0.01]}
    tie, apart = pairs["good", "same"], pairs["good", "noisy"]
    assert tie.difference == (0, (0, 0)) and tie.adjusted == 1
    rates = found.rates[0.01]
    assert apart.difference.value == rates["good"].value - rates["noisy"].value > 0.3
    assert apart.difference.interval.low > 0 and apart.adjusted == pytest.approx(3 * apart.p) and apart.adjusted < 0.05
    width = apart.difference.interval.high - apart.difference.interval.low
    assert width < sum(np.diff(rates[name].interval)[0] for name in ("good", "noisy"))


def test_no_mistake_has_an_interval() -> None:
    kinds = Kinds(np.arange(230) < 30, np.arange(230))
    found = detection({"perfect": kinds.positive.astype(float)}, kinds, draws=100)
    for value, (low, high) in (found.aucs["perfect"], found.rates[0.01]["perfect"]):
        assert value == high == 1 and low == pytest.approx(0.8865, abs=1e-3)


def test_differences_that_all_draws_agree_on_are_as_sure_as_both_numbers() -> None:
    kinds = Kinds(np.arange(60) < 30, np.arange(60))
    found = detection({"perfect": -np.arange(60.0), "constant": np.zeros(60)}, kinds, draws=100)
    (pair,) = found.pairs
    ends = [found.aucs[name].interval for name in ("perfect", "constant")]
    assert pair.difference.interval == (ends[0].low - ends[1].high, ends[0].high - ends[1].low)


def test_one_of_many_detectors_can_be_shown_to_differ() -> None:
    rng = np.random.default_rng(0)
    kinds = Kinds(np.arange(60) < 30, np.arange(60))
    many = {f"chance {number}": rng.normal(size=60) for number in range(10)}
    found = detection({"perfect": -np.arange(60.0), **many}, kinds, draws=10)
    assert all(pair.adjusted < 0.05 for pair in found.pairs if pair.first == "perfect")


def test_few_families_are_not_compared_and_many_prompts_of_few_show_no_rare_rate() -> None:
    kinds = Kinds(np.arange(230) < 30, np.concatenate([np.arange(30), 30 + np.arange(200) % 12]))
    found = detection({"a": np.arange(230.0), "b": np.zeros(230)}, kinds, draws=10)
    assert found.pairs == [] and found.rates == found.rate_pairs == {} and set(found.aucs) == {"a", "b"}


def test_a_rate_that_too_few_negatives_can_show_is_left_out() -> None:
    kinds = Kinds(np.arange(110) < 11, np.arange(110))
    scores = np.arange(110.0)
    assert detection({"a": scores}, kinds, draws=10).rates == {}
    more = Kinds(np.arange(5011) < 11, np.arange(5011))
    assert set(detection({"a": np.arange(5011.0)}, more, draws=10).rates) == {0.01, 0.001}
    assert (needed(0.01), needed(0.001), needed(0.0001)) == (100, 5_000, 50_000)


@pytest.mark.parametrize(("positives", "word"), [(9, "memorised"), (1, "memorised"), (41, "other")])
def test_too_few_families_are_refused(positives: int, word: str) -> None:
    kinds = Kinds(np.arange(50) < positives, np.arange(50))
    with pytest.raises(TooFew, match=f"famil.* of {word} prompts: AUC and TPR need 10 of either kind"):
        check_kinds(kinds)
    with pytest.raises(TooFew):
        detection({"a": np.zeros(50)}, kinds)


def test_draws_are_held_in_blocks_of_bounded_size() -> None:
    kinds = Kinds(np.arange(20_000) < 20, np.arange(20_000) % 30)
    blocks = [len(ours) for ours, _ in _weights(kinds, 0, 450)]
    assert blocks == [200, 200, 50] and (block_of(16_000), block_of(10**7)) == (250, 1)


def test_a_score_that_is_no_number_is_refused() -> None:
    kinds = Kinds(np.arange(40) < 20, np.arange(40))
    with pytest.raises(BadInput, match="odd: a score is not finite"):
        detection({"odd": np.full(40, np.nan)}, kinds)


@pytest.mark.simulation(few=60, full=600)
@pytest.mark.parametrize(("positives", "negatives", "shift"), [(12, 300, 3.0), (30, 200, 2.0)])
def test_few_memorised_families_make_no_interval_too_narrow(
    positives: int, negatives: int, shift: float, draws: int
) -> None:
    rng, held = np.random.default_rng(5), 0
    kinds = Kinds(np.arange(positives + negatives) < positives, np.arange(positives + negatives))
    for _ in range(draws):
        scores = rng.normal(size=positives + negatives) + shift * kinds.positive
        low, high = detection({"a": scores}, kinds, (), draws=300).aucs["a"].interval
        held += low <= norm.cdf(shift / np.sqrt(2)) <= high
    assert held >= 0.9 * draws


@pytest.mark.simulation(few=40, full=400)
def test_equal_detectors_are_rarely_shown_to_differ_by_tpr(draws: int) -> None:
    """As good as each other, mistaken on other prompts: 1 in 100 at most, so that a p-value errs to the safe side."""
    rng, shown = np.random.default_rng(6), 0
    kinds = Kinds(np.arange(250) < 50, np.arange(250))
    for _ in range(draws):
        common = rng.normal(size=250) + 2.8 * kinds.positive
        scores = {name: common + rng.normal(size=250) for name in "ab"}
        shown += detection(scores, kinds, (0.01,), draws=300).rate_pairs[0.01][0].p < 0.05
    assert shown <= 0.05 * draws


@pytest.mark.simulation(few=60, full=1000)
def test_intervals_hold_the_truth_where_families_go_together(draws: int) -> None:
    """40 families of either kind, four prompts each that nearly agree: AUC in 93 of 100, never below nine in ten."""
    rng, held, naive = np.random.default_rng(3), 0, 0
    truth = norm.cdf(1.0 / np.hypot(np.sqrt(1.01), np.sqrt(1.01)))
    for _ in range(draws):
        scores, kinds = made(rng, 40, 4, 1.0)
        low, high = detection({"a": scores}, kinds, (), draws=300).aucs["a"].interval
        held += low <= truth <= high
        low, high = detection({"a": scores}, kinds._replace(families=np.arange(320)), (), draws=300).aucs["a"].interval
        naive += low <= truth <= high
    assert held >= 0.88 * draws and naive < 0.8 * draws
