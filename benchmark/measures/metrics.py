"""AMS, UMS and ums_best as torchmetrics metrics, thin classes around `ams_ums`.

They are `torchmetrics.Metric`: they accumulate over batches, add up over processes, and `compute` returns a rate
(a count over N_G, the number of candidates). They take scores, from whatever measure; a run computes the same counts
and adds the control, the intervals and duplicate groups, which these classes know nothing of.

    >>> from torch import tensor
    >>> from sidebench import AverageMemorizationScore, Band
    >>> ams = AverageMemorizationScore(Band("high", 0.0, 0.5), distance=True)
    >>> ams.update(tensor([0.125, 0.75]))
    >>> ams.update(tensor([0.25, 0.625]))
    >>> ams.compute()
    tensor(0.5000)
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from ..contracts import Band
from ..errors import BadInput
from .ams_ums import ams_count, best_frequencies, ums_frequencies


class AverageMemorizationScore(Metric):
    """AMS: the share of candidates whose best match lies in the band (arXiv 2410.02467, eq. 8), in [0, 1].

    Args:
        band: Which scores are hits: (low, high] for distances, [low, high) for similarities. A band that begins at
            the closest score there can be (0 for distances, 1 for similarities) has no near edge.
        distance: Whether a smaller score is a closer match (a distance) or a larger one (a similarity).
        **kwargs: Those of `torchmetrics.Metric`, for distributed use.

    `update(best_scores)` takes (N,) best-match scores, one per candidate, of any range. NaN, a candidate without a
    match, is no hit and stays in N_G. `compute()` returns a scalar, NaN before the first candidate.

    Examples:
        >>> from torch import nan, tensor
        >>> from sidebench import AverageMemorizationScore, Band
        >>> ams = AverageMemorizationScore(Band("high", 0.0, 0.5), distance=True)
        >>> ams(tensor([0.125, 0.5, 0.75, nan]))
        tensor(0.5000)

        The same of similarities:

        >>> ams = AverageMemorizationScore(Band("high", 0.75, 1.0), distance=False)
        >>> ams(tensor([1.0, 0.75, 0.5, nan]))
        tensor(0.5000)
    """

    full_state_update = False
    higher_is_better = True
    hits: Tensor
    candidates: Tensor

    def __init__(self, band: Band, *, distance: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.band, self.distance = band, distance
        self.add_state("hits", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("candidates", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, best_scores: Tensor) -> None:
        """Add candidates by their best-match scores, (N,); NaN counts as no match.

        Raises:
            BadInput: the scores are not a row of numbers.
        """
        scores = _row(best_scores, "scores")
        self.hits += ams_count(scores, self.band, self)
        self.candidates += len(scores)

    def compute(self) -> Tensor:
        """Return hits / N_G."""
        return self.hits / self.candidates


class _UniqueScore(Metric):
    """Base of the unique counts: frequencies per reference and the number of candidates."""

    full_state_update = False
    higher_is_better = True
    frequencies: Tensor
    candidates: Tensor

    def __init__(self, band: Band, references: int, *, distance: bool, **kwargs: Any) -> None:
        if references < 1:
            raise BadInput(f"a unique score counts training images, and there are {references}")
        super().__init__(**kwargs)
        self.band, self.references, self.distance = band, references, distance
        self.add_state("frequencies", torch.zeros(references, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("candidates", torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """Return distinct references / N_G."""
        return (self.frequencies > 0).sum() / self.candidates

    def _add(self, frequencies: Any, candidates: int) -> None:
        self.frequencies += torch.as_tensor(frequencies, device=self.frequencies.device)
        self.candidates += candidates

    def _matches(self, ids: Tensor, scores: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Return image numbers and scores as arrays; a number may be anything where the score is not finite."""
        numbers, values = _row(ids, "image numbers"), _row(scores, "scores")
        if not np.issubdtype(numbers.dtype, np.integer) or len(numbers) != len(values):
            raise BadInput(
                f"a match is an image's whole number and a score, got {len(numbers)} numbers ({numbers.dtype}) "
                f"and {len(values)} scores"
            )
        found = numbers[np.isfinite(values)]
        if len(found) and not 0 <= found.min() <= found.max() < self.references:
            raise BadInput(f"image numbers lie in 0 .. {self.references - 1}, were {found.min()} .. {found.max()}")
        return numbers, values


class UniqueMemorizationScore(_UniqueScore):
    """UMS: distinct references that some candidate has in the band, over N_G (arXiv 2410.02467, eq. 9).

    Every pair of a candidate and a training image in the band counts, not only a candidate's best match, so UMS may
    exceed AMS, and 1. It lies in [0, references / N_G].

    Args:
        band: Which scores are hits, as in `AverageMemorizationScore`.
        references: How many training images there are; their numbers are 0 .. references - 1.
        distance: Whether a smaller score is a closer match (a distance) or a larger one (a similarity).
        **kwargs: Those of `torchmetrics.Metric`, for distributed use.

    `update(pair_ids, pair_scores, candidates)` takes (P,) integers and (P,) scores of all pairs near the band, and
    how many candidates they belong to, those without a pair included. `compute()` returns a scalar.

    Examples:
        Two candidates; the first has the images 0 and 2 in the band, the second the image 2.

        >>> from torch import tensor
        >>> from sidebench import Band, UniqueMemorizationScore
        >>> ums = UniqueMemorizationScore(Band("high", 0.0, 0.5), references=3, distance=True)
        >>> ums(tensor([0, 2, 1, 2]), tensor([0.25, 0.5, 0.75, 0.125]), candidates=2)
        tensor(1.)
    """

    def update(self, pair_ids: Tensor, pair_scores: Tensor, candidates: int) -> None:
        """Add all stored pairs of `candidates` candidates: reference numbers and scores, (P,) each.

        Raises:
            BadInput: numbers and scores do not fit each other, or there is no image of this number.
        """
        ids, scores = self._matches(pair_ids, pair_scores)
        self._add(ums_frequencies(ids, scores, self.band, self.references, self), candidates)


class UniqueBestMatchScore(_UniqueScore):
    """ums_best: distinct best matches in the band, over N_G; in [0, 1] and never above AMS.

    Args:
        band: Which scores are hits, as in `AverageMemorizationScore`.
        references: How many training images there are; their numbers are 0 .. references - 1.
        distance: Whether a smaller score is a closer match (a distance) or a larger one (a similarity).
        **kwargs: Those of `torchmetrics.Metric`, for distributed use.

    `update(best_ids, best_scores)` takes (N,) integers and (N,) scores, one best match per candidate. `compute()`
    returns a scalar.

    Examples:
        Four candidates, of which three hit, two of them the same image.

        >>> from torch import tensor
        >>> from sidebench import Band, UniqueBestMatchScore
        >>> unique = UniqueBestMatchScore(Band("high", 0.0, 0.5), references=3, distance=True)
        >>> unique(tensor([0, 0, 2, 1]), tensor([0.25, 0.5, 0.125, 0.75]))
        tensor(0.5000)
    """

    def update(self, best_ids: Tensor, best_scores: Tensor) -> None:
        """Add candidates by the number and score of their best match, (N,) each.

        Raises:
            BadInput: numbers and scores do not fit each other, or there is no image of this number.
        """
        ids, scores = self._matches(best_ids, best_scores)
        self._add(best_frequencies(ids, scores, self.band, self.references, self), len(ids))


def _row(values: Tensor, what: str) -> np.ndarray:
    if values.ndim != 1:
        raise BadInput(f"{what} are a row of numbers, were of shape {tuple(values.shape)}")
    row: np.ndarray = values.detach().cpu().numpy()
    return row
