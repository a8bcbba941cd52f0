"""Quality figures tell images of the right kind from noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.data.references import References, load_references
from sidebench.benchmark.measures import image_quality
from sidebench.benchmark.measures.image_quality import (
    assess,
    diversity,
    frechet_distance,
    label_accuracy,
    precision_and_recall,
)


@pytest.fixture(scope="module")
def references() -> References:
    return load_references(load_pair("digits"))


def test_frechet_distance_is_that_of_two_gaussians() -> None:
    draw = torch.Generator().manual_seed(0)
    first = 0.5 + 0.05 * torch.randn(4000, 1, 2, 2, generator=draw)
    second = 0.4 + 0.10 * torch.randn(4000, 1, 2, 2, generator=draw)
    # Independent pixels: the sum over pixels of (difference of means)^2 + (difference of deviations)^2.
    assert frechet_distance([first], second) == pytest.approx(4 * (0.1**2 + 0.05**2), rel=0.05)


def test_batches_do_not_change_the_distance(references: References) -> None:
    images, other = references.training.floats(), references.held_out.floats()
    assert frechet_distance(images.split(50), other) == pytest.approx(frechet_distance([images], other), abs=1e-9)


def test_noise_is_far_and_teaches_nothing(references: References) -> None:
    noise = torch.rand(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    real, held_out = references.training.floats(), references.held_out.floats()
    assert frechet_distance([noise], held_out) > 10 * frechet_distance([real], held_out)
    accuracy = label_accuracy(real, references.training.labels, references)
    assert accuracy is not None and accuracy > 0.9
    assert (label_accuracy(noise, None, references) or 0.0) < 0.5


def test_constant_images_have_accuracy_zero(references: References) -> None:
    assert label_accuracy(torch.zeros(20, 1, 8, 8), None, references) == 0.0


def test_data_without_labels_have_no_accuracy(references: References) -> None:
    import dataclasses

    held_out = dataclasses.replace(references.held_out, labels=None)
    assert (
        label_accuracy(references.training.floats(), None, dataclasses.replace(references, held_out=held_out)) is None
    )


def test_a_run_stores_quality_of_every_unit(finished: Any, references: References) -> None:
    units = ["carlini-uncond.s0", "side.s0"]
    found = assess({unit: finished.folder.candidate_images(unit, 40) for unit in units}, references)
    assert set(found) == {"training images", *units}
    for figures in found.values():
        assert figures["frechet_distance"] > 0 and 0 <= figures["label_accuracy"] <= 1
    assert Path(finished.folder.path / "quality.json").is_file()


class Doubling:
    """An output path whose latents are the pixels times two."""

    autoencoder = True
    content = {"model": "doubling"}

    def latents(self, images: torch.Tensor) -> torch.Tensor:
        return 2 * images


def test_the_distance_in_latents_is_that_of_what_the_encoder_makes(references: References) -> None:
    candidates = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(0)).mul(255).byte()
    for few in (40, 300):  # fewer images than values, and more
        found = assess({"noise": candidates[:few].split(64)}, references, path=Doubling())  # type: ignore[arg-type]
        for figures in found.values():
            assert figures["frechet_distance_latents"] == pytest.approx(4 * figures["frechet_distance"], rel=1e-6)
    plain = assess({"noise": candidates.split(64)}, references)
    assert "frechet_distance_latents" not in plain["noise"]


def test_large_images_are_left_out(references: References) -> None:
    import dataclasses

    large = dataclasses.replace(references.training, images=np.zeros((2, 3, 64, 64), dtype=np.uint8))
    assert "skipped" in assess({}, dataclasses.replace(references, training=large))


def test_precision_and_recall_tell_noise_and_few_modes_apart(references: References) -> None:
    real, held_out = references.training.floats(), references.held_out.floats()
    same = precision_and_recall(held_out, held_out)
    kind = precision_and_recall(real, held_out)
    noise = precision_and_recall(torch.rand(256, 1, 8, 8, generator=torch.Generator().manual_seed(0)), held_out)
    few = precision_and_recall(real[:4].repeat(64, 1, 1, 1), held_out)
    assert same == (1.0, 1.0) and min(kind) > 0.7
    assert noise[0] == 0.0
    assert few[1] < 0.1, "four images cover little of the held-out ones"


def test_diversity_is_the_mean_pairwise_rms_distance() -> None:
    images = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert diversity(images) == pytest.approx((0.5 + 0.5 + 1.0) / 3)


def test_labels_are_those_of_scikit_learns_classifier(references: References) -> None:
    from sklearn.svm import SVC

    training, real = references.training, references.held_out
    assert training.labels is not None and real.labels is not None
    flat = training.images.reshape(len(training), -1) / 255
    wanted = SVC().fit(flat, training.labels).score(real.images.reshape(len(real), -1) / 255, real.labels)
    assert label_accuracy(training.floats(), training.labels, references) == pytest.approx(wanted, abs=1e-9)


def test_more_labelled_images_than_are_compared(references: References, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = assess({}, references)["training images"]
    monkeypatch.setattr(image_quality, "MOST_COMPARED", 200)
    found = assess({}, references)["training images"]
    assert 0.7 < found["label_accuracy"] <= 1 and found["frechet_distance"] == whole["frechet_distance"]
