"""What a measure can see: exact copies all of them, those behind a lossy autoencoder few; both sides alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from output_path import Blurring, noise_references, path_of

from sidebench.benchmark.contracts import Measure
from sidebench.benchmark.data import fits
from sidebench.benchmark.data.fits import Fits
from sidebench.benchmark.data.references import ImageSet, References
from sidebench.benchmark.measures import reach
from sidebench.benchmark.measures.nl2 import NormalizedL2Combined
from sidebench.benchmark.measures.output_path import OutputPath
from sidebench.benchmark.measures.reach import Reached, reached
from sidebench.benchmark.measures.roundtrip import RoundTrip
from sidebench.benchmark.measures.scorer import Scorer

NL2C, THROUGH = NormalizedL2Combined(["n5", "a0.5"]), RoundTrip(["nl2c", "n5", "a0.5"])
REFERENCES = noise_references()


def reached_by(model: Any, references: References = REFERENCES, path: OutputPath | None = None) -> Reached:
    measures: list[Measure] = [NL2C, THROUGH]
    path = path or path_of(model)
    scorer = Scorer(references, measures, 10, torch.device("cpu"), path)
    return reached(references, measures, scorer, path, Fits(references.content()))


def test_a_lossy_autoencoder_hides_copies_from_pixels_and_not_from_round_trips() -> None:
    found = reached_by(Blurring(0.5))
    assert found.images == {"training": 60, "held_out": 60}
    by_pixels, by_round_trip = (found.counts[measure.id] for measure in (NL2C, THROUGH))
    for side in ("training", "held_out"):
        assert by_pixels["high"][side] < 6, "band high is too narrow for such copies"
        assert by_pixels["high+mid+low"][side] >= 30
        assert by_round_trip["high"][side] == 60 and by_round_trip["mid"][side] == 0


def test_nothing_is_lost_where_nothing_is_blurred() -> None:
    found = reached_by(Blurring(0.0))
    for counts in found.counts.values():
        assert counts["high"] == {"training": 60, "held_out": 60} and counts["mid"] == {"training": 0, "held_out": 0}


def test_the_bands_add_up_and_more_loss_never_shows_more() -> None:
    before = 60
    for lost in (0.0, 0.3, 0.4, 0.6, 1.0):
        own = reached_by(Blurring(lost)).counts[NL2C.id]
        single = [own[name]["training"] for name in ("high", "mid", "low")]
        assert [sum(single[:2]), sum(single)] == [own[name]["training"] for name in ("high+mid", "high+mid+low")]
        assert single[0] <= before
        before = single[0]
    assert before == 0


def test_both_sides_are_treated_alike() -> None:
    other = References(
        REFERENCES.held_out, REFERENCES.training, REFERENCES.pool, REFERENCES.tuning, fingerprint="turned"
    )
    ours, theirs = (reached_by(Blurring(0.4), references).counts for references in (REFERENCES, other))
    for name in ours:
        for band, counts in ours[name].items():
            assert theirs[name][band] == {"training": counts["held_out"], "held_out": counts["training"]}, band


class Confused(Blurring):
    """Returns another image than the one that it was given: that of its neighbour in the set."""

    def decode(self, x_0: torch.Tensor) -> torch.Tensor:
        return x_0.roll(1, 0)


def test_another_image_in_the_band_is_not_the_own_one() -> None:
    assert reached_by(Confused(0.0)).counts[NL2C.id]["high"]["training"] == 0
    twins = np.repeat(np.arange(30), 2)
    images = REFERENCES.training.images[::2][twins]
    training = ImageSet(images, REFERENCES.training.rows, twins)
    references = References(training, REFERENCES.held_out, REFERENCES.pool, REFERENCES.tuning, fingerprint="twins")
    # Each image comes back as the one before it; for one of every two twins that is the other of its own group.
    assert reached_by(Confused(0.0), references).counts[NL2C.id]["high"]["training"] == 30


class Broken(Blurring):
    """Overflows on every other image."""

    def decode(self, x_0: torch.Tensor) -> torch.Tensor:
        x_0[::2] = float("nan")
        return x_0


def test_images_that_break_are_not_reached() -> None:
    assert reached_by(Broken(0.0)).counts[NL2C.id]["high"] == {"training": 30, "held_out": 30}


def test_few_images_of_a_large_side_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "MOST", 7)
    assert reach.looked_at(61).tolist() == [0, 10, 20, 30, 40, 50, 60] and reach.looked_at(3).tolist() == [0, 1, 2]
    found = reached_by(Blurring(0.0))
    assert found.images == {"training": 7, "held_out": 7} and found.counts[NL2C.id]["high"]["training"] == 7


def test_it_is_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDEBENCH_STATES", "on")
    monkeypatch.setattr(fits, "cache", lambda: tmp_path)
    first = Blurring(0.4)
    found = reached_by(first)
    assert first.calls > 0
    again, other = Blurring(0.4), Blurring(0.3)
    assert reached_by(again) == found and again.calls == 0
    assert reached_by(other) != found and other.calls > 0
