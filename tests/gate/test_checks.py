"""What a pass needs beside its statistics, at the edge of what it needs."""

import numpy as np
import pytest
import torch

from sidebench.benchmark.data.references import ImageSet, References
from sidebench.benchmark.gate.checks import check_hidden, check_images
from sidebench.benchmark.gate.claims import Sides
from sidebench.benchmark.gate.sequential import count, p_above
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.registry import make_measure

RMS = make_measure("rms")


def images(seed: int, number: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, 1, 6, 6), dtype=np.uint8)


def part(pictures: np.ndarray, first: int = 0) -> ImageSet:
    numbers = first + np.arange(len(pictures))
    return ImageSet(pictures, numbers, numbers)


NONE = part(images(0, 0))


@pytest.mark.parametrize(("broken", "ok"), [(0, True), (1, True), (2, False)])
def test_one_image_in_a_hundred_may_be_broken(broken: int, ok: bool) -> None:
    references = References(part(images(1, 20)), part(images(2, 20), 20), NONE, NONE, "")
    found = check_images(torch.from_numpy(images(3, 100)), np.arange(100) < broken, references)[0]
    assert (found.name, found.ok) == ("broken images", ok)


def test_a_hidden_leak_is_held_to_the_level_over_all_changed_forms() -> None:
    """Some candidates are training images upside down, and nothing else hits; of gray images five forms are tried."""
    training, hits, limit = images(4, 40), 8, 0.02
    references = References(part(training), NONE, NONE, NONE, "")
    candidates = images(5, 80)
    candidates[::10] = training[:hits, :, ::-1]
    sides = Sides.of((np.arange(40), np.empty(0, dtype=int)), (np.zeros(40, dtype=bool), np.empty(0, dtype=bool)))
    scorer = Scorer(references, [RMS], 1, torch.device("cpu"))
    p = float(p_above(count(np.arange(80) % 10 == 0), limit)[-1])
    assert 0 < p < 0.2

    def found(level: float) -> bool:
        pictures = torch.from_numpy(candidates)
        return check_hidden(pictures, references, RMS, scorer, 0.01, sides, limit, level).ok

    assert found(0.99 * 5 * p) and not found(1.01 * 5 * p)
