"""Intervals, thresholds and tests: pure functions of counts, NumPy, SciPy and statsmodels, no torch.

`intervals` (a rate, a difference, a unique count), `thresholds` (set to a held-out hit rate), `comparison` (two
attacks, label swaps), `richness` (other numbers of candidates), `equal_cost` (other budgets). Each function names its
paper, or says that it is ours and which simulation it rests on. May import words only; `data` stands beside it.

    >>> from sidebench.benchmark.stats import wilson
    >>> low, high = wilson(3, 1000)  # 3 of 1,000 candidates hit
    >>> round(low, 4), round(high, 4)
    (0.001, 0.0088)
"""

from .comparison import AttackHits, compare, holm, label_swap, sign_flip, verdicts
from .equal_cost import Finds, Spending, at_budget
from .intervals import Excess, Interval, excess, matched_rate, paired_difference, poisson_exact, unique_count, wilson
from .richness import Distinct, chao1, chao2, curve, good_toulmin, rarefaction
from .thresholds import Matches, Threshold, calibrate, evaluate

__all__ = [
    "AttackHits",
    "Distinct",
    "Excess",
    "Finds",
    "Interval",
    "Matches",
    "Spending",
    "Threshold",
    "at_budget",
    "calibrate",
    "chao1",
    "chao2",
    "compare",
    "curve",
    "evaluate",
    "excess",
    "good_toulmin",
    "holm",
    "label_swap",
    "matched_rate",
    "paired_difference",
    "poisson_exact",
    "rarefaction",
    "sign_flip",
    "unique_count",
    "verdicts",
    "wilson",
]
