"""Captions of both sides: numbered without regard to side, families whole."""

import dataclasses

import numpy as np

from sidebench.benchmark.data.captions import captions_of
from sidebench.benchmark.data.references import ImageSet, References


def part(captions: list[str], groups: list[int], families: list[str] | None = None) -> ImageSet:
    count = len(captions)
    images = np.zeros((count, 1, 4, 4), dtype=np.uint8)
    return ImageSet(images, np.arange(count), np.array(groups), captions=captions, families=families)


def references(training: ImageSet, held_out: ImageSet) -> References:
    nothing = part([], [])
    return References(training, held_out, nothing, nothing, "0" * 64)


def test_captions_are_numbered_in_one_sorted_list_of_both_sides() -> None:
    found = captions_of(references(part(["b", "d", "b"], [0, 1, 0]), part(["c", "a"], [2, 3])))
    assert found is not None and found.texts == ["a", "b", "c", "d"]
    assert found.numbers.own["training"].tolist() == [1, 3, 1] and found.numbers.own["held_out"].tolist() == [2, 0]


def test_a_caption_of_both_sides_is_of_neither() -> None:
    found = captions_of(references(part(["a", "both"], [0, 1]), part(["both", "c"], [2, 3])))
    assert found is not None and found.texts == ["a", "c"]
    assert found.numbers.own["training"].tolist() == [0, -1] and found.numbers.own["held_out"].tolist() == [-1, 1]


def test_images_of_one_caption_group_or_family_are_one_family() -> None:
    training = part(["a", "a", "b", "c", "d"], [0, 1, 1, 2, 3], ["s", "t", "u", "v", "v"])
    found = captions_of(references(training, part(["e"], [4], ["w"])))
    assert found is not None
    first = found.numbers.families["training"].tolist()
    assert first[0] == first[1] == first[2] and first[3] == first[4] != first[0]
    assert found.numbers.families["held_out"].tolist() not in ([first[0]], [first[3]])


def test_a_pair_without_captions_has_none() -> None:
    bare = dataclasses.replace(part(["a"], [0]), captions=None)
    assert captions_of(references(bare, part([], []))) is None
    assert captions_of(references(part(["a"], [0]), part([], []))) is not None
