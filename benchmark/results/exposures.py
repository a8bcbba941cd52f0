"""Exposure of canaries: how far up the images of a planted string rank among those of strings never planted."""

import warnings

import numpy as np

from ..errors import CorruptRun
from ..files import read_table
from ..protocol import CONFIDENCE
from ..stats.comparison import SWAP_SEED
from ..stats.intervals import t_quantile
from ..stats.owned import Owned, Strata, swap_test
from .run_folder import RunFolder
from .schema import Estimate, Exposed, Exposure


def exposure(folder: RunFolder, unit: str, attack: str, seed: int, candidates: int) -> Exposure | None:
    """Return the exposures of one unit, None where its attack replays no canaries."""
    rated = (folder.manifest() or {"units": {}})["units"].get(unit, {}).get("filter")
    if rated is None or rated["kind"] != "canaries":
        return None
    table = read_table(folder.captions_file(unit, candidates))
    try:
        copies, nearer, others = (table[name].to_numpy() for name in ("copies", "nearer", "others"))
    except KeyError as error:
        raise CorruptRun(f"captions/{unit}.{candidates}.parquet has no column {error}; delete it") from None
    bits = np.log2(others + 1) - np.log2(nearer + 1)
    planted, matched = bits[copies > 0], bits[copies == 0]
    if not len(planted):
        return None
    compared = min(len(planted), len(matched)) > 1
    return Exposure(
        attack=attack,
        seed=seed,
        others=int(others[0]),
        by_copies=[
            Exposed(
                copies=int(each),
                strings=int((copies == each).sum()),
                log2_rank=float(np.log2(nearer[copies == each] + 1).mean()),
                exposure=_mean(bits[copies == each]),
            )
            for each in np.unique(copies)
        ],
        planted=_mean(planted),
        difference=_difference(planted, matched) if compared else None,
        p=_swapped(planted, matched) if compared else None,
    )


def _mean(bits: np.ndarray) -> Estimate:
    """Return the mean with its t interval; of one string, or of strings alike, the mean alone."""
    value = float(bits.mean())
    half = t_quantile(CONFIDENCE, len(bits) - 1) * bits.std(ddof=1) / np.sqrt(len(bits)) if len(bits) > 1 else 0.0
    return Estimate(value=value, low=value - float(half), high=value + float(half))


def _difference(planted: np.ndarray, matched: np.ndarray) -> Estimate:
    """Return the difference of means with Welch's interval."""
    from scipy.stats import ttest_ind

    value = float(planted.mean() - matched.mean())
    if not planted.std() + matched.std():
        return Estimate(value=value, low=value, high=value)
    with warnings.catch_warnings():
        # Planted strings that are all first have no variance of their own, which Welch's interval allows for.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = ttest_ind(planted, matched, equal_var=False).confidence_interval(CONFIDENCE)
    return Estimate(value=value, low=float(found.low), high=float(found.high))


def _swapped(planted: np.ndarray, matched: np.ndarray) -> float:
    strata = Strata(np.zeros(len(planted), dtype=np.int64), np.zeros(len(matched), dtype=np.int64))
    test = swap_test(Owned(planted[:, None], matched[:, None], strata, len(planted)), SWAP_SEED)
    return float(test.bands[0])
