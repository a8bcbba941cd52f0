"""What is said of detectors: by AUC and by TPR, which differ and which are ties."""

import numpy as np

from sidebench.benchmark.reports.detection import verdict
from sidebench.benchmark.results.detection import AgainstNegatives, against

LABELS = np.array(["memorised"] * 40 + ["never seen"] * 120)


def found(**scores: np.ndarray) -> AgainstNegatives:
    return against("never seen", scores, LABELS, np.arange(160), seed=0)


def test_which_differ_and_which_are_ties_is_said_by_auc_and_by_tpr() -> None:
    rng = np.random.default_rng(0)
    good = rng.normal(size=160) + 4 * (np.arange(160) < 40)
    each = found(good=good, same=2 * good, chance=rng.normal(size=160))
    assert set(each.tpr_pairs) == {"0.01"} and len(each.tpr_pairs["0.01"]) == 3
    lines = [f"{word} by {by}" for by in ("AUC", "TPR at 1.0% FPR") for word in ("shown", "ties")]
    said = verdict(each)
    assert [line.partition(":")[0].replace(" (Holm, 5 %)", "") for line in said] == lines
    assert "good above chance; same above chance" in said[0] and said[3].endswith(": good = same")


def test_nothing_shown_is_said_of_all_pairs() -> None:
    rng = np.random.default_rng(1)
    good = rng.normal(size=160) + 2 * (np.arange(160) < 40)
    near = {name: good + 0.1 * rng.normal(size=160) for name in ("b", "c")}
    said = verdict(found(a=good, **near))
    assert said == [
        "ties by AUC: all pairs: a = b, a = c, b = c",
        "ties by TPR at 1.0% FPR: all pairs: a = b, a = c, b = c",
    ]


def test_a_lone_detector_is_compared_with_nothing() -> None:
    assert verdict(found(a=np.arange(160.0))) == []
