"""Thresholds of flags: at most one held-out caption in 50, set on one half of them."""

import numpy as np
import pytest

from sidebench.benchmark.errors import TooFew
from sidebench.benchmark.stats.flags import flag_threshold, halves


@pytest.mark.parametrize("captions", [50, 99, 100, 128, 1000])
def test_at_most_one_caption_in_fifty_lies_below_and_one_more_would_be_too_many(captions: int) -> None:
    scores = np.random.default_rng(captions).random(captions)
    threshold = flag_threshold(scores)
    assert (scores < threshold).sum() == captions // 50 and (scores <= threshold).sum() / captions > 1 / 50


def test_ties_at_the_edge_are_not_flagged() -> None:
    assert (np.zeros(100) < flag_threshold(np.zeros(100))).sum() == 0


def test_too_few_captions_set_no_threshold() -> None:
    with pytest.raises(TooFew, match="1 in 50 cannot be calibrated on 49 held-out captions"):
        flag_threshold(np.arange(49.0))


def test_families_are_halved_whole() -> None:
    families = np.repeat(np.arange(101), 3)
    first = halves(families)
    assert all(len(set(first[families == family])) == 1 for family in range(101))
    assert len(np.unique(families[first])) in (50, 51) and (halves(families) == first).all()
