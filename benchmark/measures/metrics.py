"""AMS, UMS and ums_best as torchmetrics metrics, thin classes around `tally`.

They accumulate over batches and processes; `compute` returns a rate (count / N_G).

    ams = AverageMemorizationScore(Band("high", 0.0, 0.5), distance=True)
    ams.update(best_scores)
    ams.compute()
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..contracts import Band
from .ams_ums import ams_count, best_frequencies, ums_frequencies


class AverageMemorizationScore(Metric):
    """AMS: the share of candidates whose best match lies in the band (arXiv 2410.02467, eq. 8)."""

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
        """Add candidates by their best-match scores, (N,); NaN counts as no match."""
        self.hits += ams_count(best_scores.cpu().numpy(), self.band, distance=self.distance)
        self.candidates += len(best_scores)

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


class UniqueMemorizationScore(_UniqueScore):
    """UMS: distinct references that some candidate has in the band, over N_G (arXiv 2410.02467, eq. 9)."""

    def update(self, pair_ids: Tensor, pair_scores: Tensor, candidates: int) -> None:
        """Add all stored pairs of `candidates` candidates: reference numbers and scores, (P,) each."""
        counts = ums_frequencies(
            pair_ids.cpu().numpy(),
            pair_scores.cpu().numpy(),
            self.band,
            self.references,
            distance=self.distance,
        )
        self._add(counts, candidates)


class UniqueBestMatchScore(_UniqueScore):
    """ums_best: distinct best matches in the band, over N_G; never above AMS."""

    def update(self, best_ids: Tensor, best_scores: Tensor) -> None:
        """Add candidates by the number and score of their best match, (N,) each."""
        counts = best_frequencies(
            best_ids.cpu().numpy(),
            best_scores.cpu().numpy(),
            self.band,
            self.references,
            distance=self.distance,
        )
        self._add(counts, len(best_ids))
