"""AMS, UMS and their kin as counts over score arrays. NumPy only, so that a report needs no torch.

Definitions: arXiv 2410.02467, equations 8 and 9. Bands of distances are (low, high] and of
similarities [low, high); the closest band has no near edge. NaN lies in no band.
"""

import numpy as np

from ..contracts import Band
from .hits import Directed, in_band


def ams_count(best_scores: np.ndarray, band: Band, measure: Directed) -> int:
    """Count the candidates whose best match lies in the band: AMS times N_G."""
    return int(in_band(best_scores, band, measure).sum())


def ums_frequencies(
    pair_ids: np.ndarray, pair_scores: np.ndarray, band: Band, references: int, measure: Directed
) -> np.ndarray:
    """Count for each reference the candidates that have it in the band; every in-band pair counts.

    The number of non-zero entries is UMS times N_G; it may exceed AMS times N_G.
    """
    inside = in_band(pair_scores, band, measure)
    return np.bincount(pair_ids[inside], minlength=references)


def found_at_once(pair_rows: np.ndarray) -> float:
    """Return how many references a candidate has in the band at once, averaged over finds; 1 without any.

    `pair_rows` (pairs in band,) is the candidate of each pair. sum c^2 / sum c over the candidates' numbers c of
    references, so a candidate counts as often as it finds.
    """
    counts = np.bincount(pair_rows).astype(np.float64)
    finds = counts.sum()
    return float((counts**2).sum() / finds) if finds else 1.0


def found_alone(pair_rows: np.ndarray, pair_ids: np.ndarray) -> np.ndarray:
    """Return how many references each candidate alone has in the band, (candidates up to the last one with a pair,).

    `pair_rows` and `pair_ids` (pairs in band,) are candidate and reference of each pair.
    """
    often = np.bincount(pair_ids)
    return np.bincount(pair_rows[often[pair_ids] == 1])


def best_frequencies(
    best_ids: np.ndarray, best_scores: np.ndarray, band: Band, references: int, measure: Directed
) -> np.ndarray:
    """Count for each reference the candidates whose best match it is, within the band.

    The number of non-zero entries is `ums_best` times N_G; the sum is AMS times N_G.
    """
    inside = in_band(best_scores, band, measure)
    return np.bincount(best_ids[inside], minlength=references)


def by_group(frequencies: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Add up per-reference counts by duplicate group (one entry per group that has a reference); halves stay halves."""
    _, position = np.unique(groups, return_inverse=True)
    total = np.bincount(position, weights=frequencies, minlength=position.max(initial=-1) + 1)
    return total.astype(np.asarray(frequencies).dtype)


def percentile_of_best(best_scores: np.ndarray, measure: Directed, q: float = 95.0) -> float | None:
    """Return the best-match score that q percent of the valid candidates stay short of.

    For a distance that is the (100 - q)th percentile: smaller means closer. None without valid candidates.
    """
    valid = best_scores[~np.isnan(best_scores)]
    if not len(valid):
        return None
    found = float(np.percentile(valid, 100 - q if measure.distance else q))
    return found if np.isfinite(found) else None
