"""Captions called memorised: a threshold set on half of the held-out captions, and flags counted on the others."""

import numpy as np

from ..errors import TooFew
from .comparison import SWAP_SEED

FALSE_FLAGS = 50
"""One caption in so many of the calibrating half may be flagged."""


def halves(families: np.ndarray) -> np.ndarray:
    """Return which held-out captions set the threshold, (N,) bool: half of the families, drawn from a fixed seed.

    Args:
        families: (N,) each caption's family.

    Examples:
        >>> halves(np.array([3, 3, 8, 9, 12])).tolist()
        [True, True, True, False, False]
    """
    known, place = np.unique(families, return_inverse=True)
    order = np.random.Generator(np.random.PCG64(SWAP_SEED)).permutation(len(known))
    found: np.ndarray = order[place] % 2 == 0
    return found


def flag_threshold(scores: np.ndarray) -> float:
    """Return the largest threshold below which at most one caption in 50 lies; scores below it are flagged.

    Args:
        scores: (N,) of the calibrating captions, smaller is more suspicious.

    Raises:
        TooFew: fewer than 50, of which one is more than one in 50.

    Examples:
        >>> flag_threshold(np.arange(100))
        2.0
    """
    if len(scores) < FALSE_FLAGS:
        raise TooFew(
            f"1 in {FALSE_FLAGS} cannot be calibrated on {len(scores)} held-out captions: half of them must be "
            f"{FALSE_FLAGS} or more"
        )
    return float(np.sort(scores)[len(scores) // FALSE_FLAGS])
