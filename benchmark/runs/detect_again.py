"""A detection reproduced for some of its prompts: labels by the same replays, scores by the same detectors.

What a prompt draws is its own whatever other prompts there are, so that a few of them take as little as they are.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..contracts import Detector, Progress
from ..data.pair import Pair
from ..data.references import load_references
from ..models.find_model import find_model
from ..progress import silent
from ..results.checkpoints import MemoryCheckpoints
from ..results.detection import PROVENANCE_FILE, Provenance, Replay, read_provenance
from .detect import BLOCK, Bench, Prompts, guidance_of, prompts_of_pair, read_negatives


class Cost(NamedTuple):
    """Work that was counted: denoiser calls and operations outside the denoiser."""

    nfe: float
    flops: float


class DetectionAgain:
    """The prompts and the model of a detection, with which some prompts are labelled and scored once more.

    Args:
        pair: Whose captions were labelled.
        negatives: The file of prompts that were never seen, where there was one.
        seed: Of all noises.
        device: Where the model runs.
        progress: Called along the way.

    Raises:
        BadInput: the model takes no prompts, or an image of the pair has no caption.
    """

    def __init__(
        self, pair: Pair, negatives: Path | None, seed: int, device: str = "auto", progress: Progress = silent
    ) -> None:
        self.pair, self.seed, self.device, self.progress = pair, seed, device, progress
        more = [] if negatives is None else read_negatives(negatives)
        self.spec, self._sources = find_model(pair, None, Path())
        self.known = load_references(pair, progress)
        self.prompts = prompts_of_pair(pair, self.known, more)
        """All of them, before any was labelled."""
        self.negatives = len(more) - self.prompts.dropped
        """Those of the file that are no caption of the pair."""
        self.guidance = guidance_of(pair)
        self._bench: Bench | None = None

    @property
    def captions(self) -> np.ndarray:
        """Whether a prompt is a caption of training images, which is labelled by replaying it; (N,) bool."""
        found: np.ndarray = self.prompts.labels == ""
        return found

    def bench(self) -> Bench:
        """Return the loaded model, with nothing kept of earlier calls."""
        if self._bench is None:
            count = len(self.prompts.texts)
            self._bench = Bench(self.pair, self.spec, self.device, Path(), self.seed, count, self.progress)
        self._bench.kept = MemoryCheckpoints()
        return self._bench

    def provenance(self) -> Provenance:
        """Return what a detection that is begun here would say of its model and images."""
        with tempfile.TemporaryDirectory() as place:
            bench = self.bench()
            bench.folder = Path(place)
            bench.note(self.known, self.spec, self._sources, self.negatives)
            return read_provenance(bench.folder / PROVENANCE_FILE)

    def labelled(self, rows: np.ndarray, images: int, steps: int) -> tuple[np.ndarray, Replay]:
        """Return the labels of these prompts, captions of training images, and what it took; (N,) labels."""
        labelled, replay = self.bench().labelled(self._some(rows), self.known, images, steps, self.guidance)
        return labelled.labels, replay

    def scores(self, detector: Detector, rows: np.ndarray) -> np.ndarray:
        """Return a detector's number for each of these prompts, (N,) float64."""
        return self.bench().scores(detector, self._some(rows).texts)[0]

    def cost_of_labels(self, images: int, steps: int) -> Cost:
        """Return what it takes to label every caption of training images."""
        rows = np.flatnonzero(self.captions)

        def counted(count: int) -> Cost:
            return Cost(self.labelled(rows[:count], images, steps)[1].nfe, 0.0)

        return _of_all(counted, len(rows))

    def cost_of_scores(self, detector: Detector, prompts: int) -> Cost:
        """Return what it takes a detector to score so many prompts."""

        def counted(count: int) -> Cost:
            used = self.bench().scores(detector, self.prompts.texts[:count])[1]
            return Cost(used.nfe, used.flops)

        return _of_all(counted, prompts)

    def _some(self, rows: np.ndarray) -> Prompts:
        return Prompts(
            [self.prompts.texts[row] for row in rows], self.prompts.families[rows], self.prompts.labels[rows]
        )


def _of_all(counted: Callable[[int], Cost], prompts: int) -> Cost:
    """Return what all prompts cost, given what one and two do: a part each, and a part for every block of them."""
    if prompts < 2:
        return counted(prompts) if prompts else Cost(0, 0)
    one, two = counted(1), counted(2)
    blocks = -(-prompts // BLOCK)
    each = [of_two - of_one for of_one, of_two in zip(one, two, strict=True)]
    return Cost(*(prompts * own + blocks * (of_one - own) for own, of_one in zip(each, one, strict=True)))
