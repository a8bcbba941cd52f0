"""An image shows its caption if it is more like that caption's images than like any other's."""

import dataclasses

import numpy as np
import pytest
import torch

from sidebench.benchmark.data.captions import captions_of
from sidebench.benchmark.data.references import ImageSet, References
from sidebench.benchmark.measures.caption_accuracy import caption_accuracy

EACH = 6


def part(images: np.ndarray, captions: list[str]) -> ImageSet:
    return ImageSet(images, np.arange(len(images)), np.arange(len(images)), captions=captions)


@pytest.fixture(scope="module")
def references() -> References:
    images = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (2 * EACH + 1, 1, 8, 8), dtype=np.uint8)
    # Two images with one caption, and one caption that both sides have.
    training = part(images[: EACH + 1], ["cat", "cat", "dog", "cow", "hen", "both", "ant"])
    held_out = part(images[EACH + 1 :], ["bee", "elk", "fox", "gnu", "both", "jay"])
    return References(training, held_out, part(images[:0], []), part(images[:0], []), "none")


def accuracy(references: References, images: torch.Tensor, texts: list[str]) -> dict[str, float]:
    known = captions_of(references)
    assert known is not None
    sent = np.array([known.texts.index(text) if text in known.texts else -1 for text in texts])
    return caption_accuracy({"unit": (images.split(4), sent)}, references)["unit"]


def test_images_of_the_captions_themselves(references: References) -> None:
    training, held_out = references.training, references.held_out
    images = torch.from_numpy(np.concatenate([training.images, held_out.images]))
    found = accuracy(references, images, [*(training.captions or []), *(held_out.captions or [])])
    assert found == {"caption_accuracy": 1.0, "held_out_caption_accuracy": 1.0}


def test_another_image_of_the_caption_will_do_and_one_moved_by_a_pixel(references: References) -> None:
    cats = torch.from_numpy(references.training.images[:2])
    moved = torch.cat([cats[:, :, :, 1:], cats[:, :, :, -1:]], 3)
    assert accuracy(references, torch.cat([cats.flip(0), moved]), ["cat"] * 4) == {"caption_accuracy": 1.0}
    far = torch.cat([cats[:, :, :, 4:], cats[:, :, :, :4]], 3)
    assert accuracy(references, far, ["cat"] * 2)["caption_accuracy"] < 1.0


def test_each_side_is_counted_for_itself(references: References) -> None:
    # A dog that was drawn for a dog, another one for a cow, a fox for a bee, and one without a caption.
    dog, fox = torch.from_numpy(references.training.images[2:3]), torch.from_numpy(references.held_out.images[2:3])
    found = accuracy(references, torch.cat([dog, dog, fox, dog]), ["dog", "cow", "bee", ""])
    assert found == {"caption_accuracy": 0.5, "held_out_caption_accuracy": 0.0}


def test_units_that_send_no_captions_have_none(references: References) -> None:
    images = torch.from_numpy(references.training.images)
    assert caption_accuracy({"plain": ([images], None)}, references) == {}
    assert accuracy(references, images[:2], ["", "both"]) == {}, "a caption of both sides asks for neither's image"


def test_an_image_that_two_captions_share_shows_either(references: References) -> None:
    training = references.training
    shared = training.images.copy()
    shared[3] = shared[2]  # what a dog is shown as, a cow is shown as too
    doubled = dataclasses.replace(references, training=dataclasses.replace(training, images=shared))
    images = torch.from_numpy(shared[[2, 3, 2, 4]])
    assert accuracy(doubled, images, ["dog", "cow", "cow", "cow"]) == {"caption_accuracy": 0.75}


def test_nothing_is_said_of_large_images_nor_where_both_sides_share_every_caption(references: References) -> None:
    large = ImageSet(np.zeros((3, 3, 64, 64), np.uint8), np.arange(3), np.arange(3), captions=["cat", "dog", "cow"])
    sent = np.zeros(3, dtype=np.int64)
    images = [torch.zeros(3, 3, 64, 64, dtype=torch.uint8)]
    assert caption_accuracy({"unit": (images, sent)}, dataclasses.replace(references, training=large)) == {}
    same = dataclasses.replace(references, held_out=references.training)
    assert caption_accuracy({"unit": ([images[0][:, :1, :8, :8]], sent)}, same) == {}
