"""The checks that no candidate changes: the same from the cache as made anew, and anew for other images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from sidebench.benchmark.data import fits
from sidebench.benchmark.data.fits import Fits
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.data.references import ImageSet, References, load_references
from sidebench.benchmark.measures import detector_audit, pair_checks
from sidebench.benchmark.measures.image_quality import assess
from sidebench.benchmark.measures.pair_checks import audit_of_pair, control_of_pair, turned_of_pair
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.measures.set_level_copying import assess as assess_copying
from sidebench.benchmark.registry import make_measure


@pytest.fixture(scope="module")
def references() -> References:
    return load_references(load_pair("digits"))


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIDEBENCH_STATES", "on")
    monkeypatch.setattr(fits, "cache", lambda: tmp_path)
    return tmp_path / "fits"


def scorer_of(references: References) -> Scorer:
    return Scorer(references, [make_measure("rms")], 5, torch.device("cpu"))


def test_the_audit_is_made_once(references: References, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_audit, "changes", lambda: detector_audit_changes[:2])
    scorer = scorer_of(references)
    made = audit_of_pair(references, scorer.measures, scorer, Fits(references.content()))
    assert made["measures"]["rms"]["copies"][0]["n"] == 128
    monkeypatch.setattr(pair_checks, "audit", lambda *_: pytest.fail("made again"))
    assert audit_of_pair(references, scorer.measures, scorer, Fits(references.content())) == made
    other = Scorer(references, scorer.measures, 6, scorer.device)
    with pytest.raises(pytest.fail.Exception):
        audit_of_pair(references, other.measures, other, Fits(references.content()))


detector_audit_changes = detector_audit.changes()


def test_the_control_is_checked_once(references: References, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = control_of_pair(references, Fits(references.content()))
    monkeypatch.setattr(pair_checks, "two_sample", lambda *_: pytest.fail("made again"))
    assert control_of_pair(references, Fits(references.content())) == made
    swapped = dataclasses.replace(references, training=references.held_out, held_out=references.training)
    with pytest.raises(pytest.fail.Exception):
        control_of_pair(swapped, Fits(swapped.content()))
    alone = dataclasses.replace(references, held_out=references.held_out.take(np.arange(0)))
    assert control_of_pair(alone, Fits(alone.content())) is None


def test_turned_training_images_are_counted_among_the_held_out_ones(references: References) -> None:
    def count(held_out: ImageSet) -> int:
        return turned_of_pair(dataclasses.replace(references, held_out=held_out), Fits(references.content()))

    assert count(references.held_out) == 0, "of digits the flag says nothing"
    images = np.array(references.held_out.images)
    images[:6] = references.training.images[:6, ..., ::-1]
    images[6:9] = np.rot90(references.training.images[6:9], axes=(2, 3))
    images[9] = np.clip(references.training.images[9, :, ::-1].astype(int) + 4, 0, 255)  # saved again: rms 0.016
    images[10] = references.training.images[10]
    mirrored = dataclasses.replace(references.held_out, images=images)
    assert count(mirrored) == 10
    groups = np.array(mirrored.groups)
    groups[0] = references.training.groups[0]
    assert count(dataclasses.replace(mirrored, groups=groups)) == 9, "a group of both sides is left out already"
    assert count(mirrored.take(np.arange(0))) == 0


def test_content_says_which_images_lie_where(references: References) -> None:
    training = references.training
    assert training.labels is not None
    changed = [
        dataclasses.replace(training, groups=training.groups[::-1]),
        dataclasses.replace(training, labels=training.labels[::-1]),
        training.take(np.arange(len(training) - 1)),
    ]
    others = [dataclasses.replace(references, training=part) for part in changed]
    contents = [part.content() for part in (references, *others)]
    assert references.content() == contents[0] and len({content["parts"] for content in contents}) == 4


def test_figures_of_candidates_are_the_same_from_kept_fits(references: References, kept: Path) -> None:
    images = torch.from_numpy(references.pool.images[:60])
    for figures in (assess, assess_copying):
        first, second = Fits(references.content()), Fits(references.content())
        made = figures({"a": images.split(25)}, references, first)
        assert figures({"a": images.split(25)}, references, second) == made
        assert not any(fit.kept for fit in first.spent.values()) and all(fit.kept for fit in second.spent.values())
