"""Intervals, thresholds and tests: pure functions of counts, NumPy, SciPy and statsmodels, no torch.

`intervals` (a rate, a difference, a unique count), `owned` (training against held-out groups: label swaps, limits of a
leak), `thresholds` (set to a chance rate), `comparison` (an excess, two attacks), `preparations` (two attacks over
their preparations), `richness` (other numbers of candidates), `equal_cost` (other budgets). Each function names its
paper, or says that it is ours and which simulation it rests on. May import words only; `data` stands beside it.

    >>> from sidebench.benchmark.stats import wilson
    >>> low, high = wilson(3, 1000)  # 3 of 1,000 candidates hit
    >>> round(low, 4), round(high, 4)
    (0.001, 0.0088)
"""

from .comparison import AttackHits, compare, excess_of, holm, no_leak_test, verdicts
from .equal_cost import Finds, Spending, at_budget
from .intervals import Excess, Interval, excess, matched_rate, paired_difference, poisson_exact, unique_count, wilson
from .owned import Owned, Strata, SwapTest, lower_limit, size_classes, swap_test, upper_limit
from .preparations import Prepared, compare_prepared, rate_over_preparations
from .richness import Distinct, chao1, chao2, curve, good_toulmin, rarefaction
from .thresholds import Threshold, calibrate

__all__ = [
    "AttackHits",
    "Distinct",
    "Excess",
    "Finds",
    "Interval",
    "Owned",
    "Prepared",
    "Spending",
    "Strata",
    "SwapTest",
    "Threshold",
    "at_budget",
    "calibrate",
    "chao1",
    "chao2",
    "compare",
    "compare_prepared",
    "curve",
    "excess",
    "excess_of",
    "good_toulmin",
    "holm",
    "lower_limit",
    "matched_rate",
    "no_leak_test",
    "paired_difference",
    "poisson_exact",
    "rarefaction",
    "rate_over_preparations",
    "size_classes",
    "swap_test",
    "unique_count",
    "upper_limit",
    "verdicts",
    "wilson",
]
