"""The measures against cases worked by hand, and what their options and limits refuse."""

import numpy as np
import pytest
import torch

from sidebench.benchmark import registry
from sidebench.benchmark.contracts import Neighbours, Side
from sidebench.benchmark.data.references import ImageSet, References
from sidebench.benchmark.errors import BadInput, BadSetting, UnknownName
from sidebench.benchmark.measures.nl2 import NormalizedL2, NormalizedL2Combined
from sidebench.benchmark.measures.rms import Rms
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.measures.zncc import Zncc


def neighbours(distances: list[list[float]], representatives: list[list[float]] | None = None) -> Neighbours:
    near = np.array(distances, dtype=np.float32)
    first = near if representatives is None else np.array(representatives, dtype=np.float32)
    return Neighbours(np.zeros(near.shape, dtype=np.int32), near, first)


def image_set(images: np.ndarray, groups: list[int] | None = None) -> ImageSet:
    return ImageSet(images, np.arange(len(images)), np.array(range(len(images)) if groups is None else groups))


TRAINING = neighbours([[0.1, 0.2, 0.3], [0.4, 0.4, 0.8]])
HELD_OUT = neighbours([[0.2, 0.4, 0.6], [0.1, 0.3, 0.5]])


# ---- rms ----


def test_rms_by_hand() -> None:
    a = torch.tensor([0.0, 0.5, 1.0, 0.25]).view(1, 1, 2, 2)
    b = torch.tensor([0.5, 0.5, 0.0, 0.0]).view(1, 1, 2, 2)
    gap = (Rms().descriptors(a) - Rms().descriptors(b)).norm()
    assert float(gap) == pytest.approx(((0.25 + 0 + 1 + 0.0625) / 4) ** 0.5, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (3, 5, 7)])
def test_rms_of_black_and_white_is_one(shape: tuple[int, int, int]) -> None:
    ends = Rms().descriptors(torch.stack([torch.zeros(shape), torch.ones(shape)]))
    assert ends.shape == (2, np.prod(shape)) and ends.dtype == torch.float32
    assert float((ends[0] - ends[1]).norm()) == pytest.approx(1, rel=1e-6)


def test_rms_scores_are_the_distances() -> None:
    assert np.array_equal(Rms().scores(TRAINING.distances, TRAINING, HELD_OUT, "training"), TRAINING.distances)
    assert np.array_equal(Rms().radius(TRAINING, HELD_OUT, "held_out"), np.full(2, 0.15, dtype=np.float32))


# ---- tile_l2 ----


def test_the_tile_that_differs_most_decides() -> None:
    a = torch.rand(3, 8, 12, generator=torch.Generator().manual_seed(0)) / 2
    b, c = a.clone(), a.clone()
    b[:, 2:4, 3:6] += 0.4  # the whole of one of 4 x 4 tiles, in the second row and column
    c += 0.2  # every tile
    measure = registry.make_measure("tile_l2")
    assert measure.id == "tile_l2:4x4:max" and measure.parts == 16
    described = measure.descriptors(torch.stack([a, b, c]))
    gaps = (described[1:] - described[0]).unflatten(1, (16, -1)).norm(dim=2)
    assert gaps[0].tolist() == pytest.approx([0.4 if tile == 5 else 0.0 for tile in range(16)], abs=1e-6)
    assert gaps[1].tolist() == pytest.approx([0.2] * 16, abs=1e-6)
    ordinary = (Rms().descriptors(b[None]) - Rms().descriptors(a[None])).norm()
    assert float(ordinary) == pytest.approx(0.1, rel=1e-5)  # by rms b is nearer than c, by tiles c is


@pytest.mark.parametrize("grid", ["1x1", "2x4"])
def test_tile_l2_is_searched_by_the_scorer(grid: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 4, 8), dtype=np.uint8)
    sets = [image_set(part) for part in np.split(images, 4)]
    measure = registry.make_measure(f"tile_l2:{grid}:max")
    scorer = Scorer(References(*sets, fingerprint=""), [measure], 3, torch.device("cpu"))
    queries = sets[2].images
    found = scorer.score(torch.from_numpy(queries), np.arange(10), np.zeros(10, dtype=bool), measure.space)
    rows, columns = (int(number) for number in grid.split("x"))
    gaps = ((queries[:, None].astype(float) - sets[0].images[None]) / 255) ** 2
    tiles = gaps.reshape(10, 10, rows, 4 // rows, columns, 8 // columns).mean((3, 5)).max((2, 3)) ** 0.5
    assert np.allclose(found.neighbours["training"].distances, np.sort(tiles, axis=1)[:, :3], rtol=1e-6)


@pytest.mark.parametrize("text", ["tile_l2:4x4", "tile_l2:0x4:max", "tile_l2:128:max", "tile_l2:4x4:mean"])
def test_tile_l2_of_another_spelling_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="write it like tile_l2:4x4:max"):
        registry.make_measure(text)


def test_images_that_cannot_be_cut_are_refused() -> None:
    with pytest.raises(BadInput, match="tile_l2:4x4:max: images of 8x10 cannot be cut into 4x4 tiles"):
        registry.make_measure("tile_l2").descriptors(torch.zeros(1, 1, 8, 10))


# ---- nl2 and nl2c ----


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        # units: 0.5 * mean(0.1, 0.2) = 0.075 and 0.5 * mean(0.4, 0.4) = 0.2
        ("training", [[0.1 / 0.075, 0.2 / 0.075, 0.3 / 0.075], [2.0, 2.0, 4.0]]),
        # units: 0.5 * mean(0.2, 0.4) = 0.15 and 0.5 * mean(0.1, 0.3) = 0.1
        ("held_out", [[0.2 / 0.15, 0.4 / 0.15, 4.0], [1.0, 3.0, 5.0]]),
    ],
)
def test_nl2_divides_by_its_own_side(side: Side, expected: list[list[float]]) -> None:
    own = TRAINING if side == "training" else HELD_OUT
    scores = NormalizedL2(["n2", "a0.5"]).scores(own.distances, TRAINING, HELD_OUT, side)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_nl2c_divides_both_sides_by_one_number() -> None:
    measure = NormalizedL2Combined(["n3", "a0.5"])
    # the three nearest of both sides: 0.1, 0.2, 0.2 and 0.1, 0.3, 0.4
    units = np.array([0.5 * 0.5 / 3, 0.5 * 0.8 / 3])[:, None]
    for side, own in (("training", TRAINING), ("held_out", HELD_OUT)):
        scores = measure.scores(own.distances, TRAINING, HELD_OUT, side)  # type: ignore[arg-type]
        np.testing.assert_allclose(scores, own.distances / units, rtol=1e-6)


def test_alpha_scales_the_unit() -> None:
    one = NormalizedL2(["n2", "a1"]).scores(TRAINING.distances, TRAINING, HELD_OUT, "training")
    half = NormalizedL2(["n2", "a0.5"]).scores(TRAINING.distances, TRAINING, HELD_OUT, "training")
    np.testing.assert_allclose(half, 2 * one, rtol=1e-6)


def test_an_exact_copy_scores_zero() -> None:
    copy = neighbours([[0.0, 0.5, 0.7]])
    assert NormalizedL2(["n3"]).scores(copy.distances, copy, HELD_OUT, "training")[0, 0] == 0


@pytest.mark.parametrize("cls", [NormalizedL2, NormalizedL2Combined])
def test_duplicates_do_not_hide_themselves(cls: type[NormalizedL2]) -> None:
    # Four copies of one image among the nearest; the normaliser sees one of them.
    copied = neighbours([[0.01, 0.01, 0.01, 0.01]], [[0.01, 0.5, 0.6, 0.7]])
    far = neighbours([[0.8, 0.9, 0.9, 0.9]])
    score = cls(["n4", "a0.5"]).scores(copied.distances, copied, far, "training")[0, 0]
    assert score == pytest.approx(0.01 / (0.5 * 1.81 / 4), rel=1e-5)


def test_a_group_of_n_copies_is_still_found() -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
    images[:12] = images[0]
    groups = [0] * 12 + list(range(1, 29))
    others = image_set(rng.integers(0, 256, (40, 1, 4, 4), dtype=np.uint8))
    near_copy = images[:1].copy()
    near_copy[0, 0, 0, 0] ^= 8
    scores = {}
    for name, grouped in (("grouped", image_set(images, groups)), ("ungrouped", image_set(images))):
        measure = NormalizedL2(["n10"])
        scorer = Scorer(References(grouped, others, others, others, ""), [measure], 12, torch.device("cpu"))
        shard = scorer.score(torch.from_numpy(near_copy), np.array([0]), np.array([False]), measure.space)
        scores[name] = shard.best_scores(measure, "training")[0]
    assert scores["grouped"] < 0.1
    assert scores["ungrouped"] == pytest.approx(2, rel=1e-3)  # the mean of ten equal distances: 1 / alpha


@pytest.mark.parametrize("measure_id", ["rms", "nl2:n2:a0.5", "nl2:n3:a0.3", "nl2c:n2:a0.5", "nl2c:n3:a1"])
@pytest.mark.parametrize("side", ["training", "held_out"])
def test_radius_is_where_the_score_is_the_floor(measure_id: str, side: Side) -> None:
    measure = registry.make_measure(measure_id)
    radius = measure.radius(TRAINING, HELD_OUT, side)
    assert radius.shape == (2,) and radius.dtype == np.float32
    around = np.stack([0.999 * radius, radius, 1.001 * radius], axis=1)
    scores = measure.scores(around, TRAINING, HELD_OUT, side)
    np.testing.assert_allclose(scores[:, 1], measure.floor, rtol=1e-6)
    assert (scores[:, 0] < measure.floor).all() and (scores[:, 2] > measure.floor).all()


def test_bands_are_those_of_the_definition() -> None:
    bands = [(band.name, band.low, band.high) for band in NormalizedL2().bands]
    assert bands == [("high", 0.0, 0.5), ("mid", 0.5, 0.75), ("low", 0.75, 1.0)]
    assert NormalizedL2Combined().bands == NormalizedL2().bands
    assert Rms().bands == ()
    assert all(measure.floor >= band.high for measure in (NormalizedL2(),) for band in measure.bands)


def test_a_measure_with_a_scale_on_each_side_decides_nothing() -> None:
    assert not NormalizedL2.decides and NormalizedL2Combined.decides and Rms.decides


# ---- options and limits ----


def test_ids_spell_the_options() -> None:
    assert registry.make_measure("nl2").id == "nl2:n50:a0.5"
    assert registry.make_measure("nl2:n10").id == "nl2:n10:a0.5"
    assert registry.make_measure("nl2c:a0.25:n7").id == "nl2c:n7:a0.25"
    assert registry.make_measure("rms").id == "rms"


@pytest.mark.parametrize("measure_id", ["nl2:n50:n10", "nl2c:a0.5:a0.25"])
def test_repeated_options_are_refused(measure_id: str) -> None:
    with pytest.raises(BadSetting):
        registry.make_measure(measure_id)


def test_the_id_makes_the_same_measure_again() -> None:
    measure = registry.make_measure("nl2:n5:a0.12345678")
    assert isinstance(measure, NormalizedL2)
    again = registry.make_measure(measure.id)
    assert isinstance(again, NormalizedL2)
    assert (again.n, again.alpha) == (measure.n, measure.alpha)


@pytest.mark.parametrize(
    "measure_id",
    ["nl2:x3", "nl2:", "nl2:n", "nl2:n0", "nl2:n-1", "nl2:n2.5", "nl2:nfive", "nl2:a0", "nl2:a1.5", "nl2:a-0.5",
     "nl2:anan", "nl2:ainf", "nl2c:n50:a0.5:k3", "rms:n5"],
)  # fmt: skip
def test_bad_options_are_refused_by_name(measure_id: str) -> None:
    with pytest.raises(BadSetting, match="measure") as raised:
        registry.make_measure(measure_id)
    assert repr(measure_id) in str(raised.value)


def test_unknown_measures_are_refused_with_close_names() -> None:
    with pytest.raises(UnknownName, match="nl2") as raised:
        registry.make_measure("nl3:n50")
    assert "nl2" in raised.value.close


@pytest.mark.parametrize("name", ["nl2", "nl2c"])
@pytest.mark.parametrize(
    ("n", "training", "held_out", "dense", "fine"),
    [
        (50, 500, 500, False, True),
        (50, 499, 1000, False, False),
        (50, 1000, 499, False, False),
        (50, 50, 50, True, True),
        (50, 49, 1000, True, False),
        (1, 10, 10, False, True),
        (1, 9, 9, False, False),
    ],
)
def test_n_is_limited_by_the_smaller_set(
    name: str, n: int, training: int, held_out: int, dense: bool, fine: bool
) -> None:
    measure = registry.make_measure(f"{name}:n{n}")
    if fine:
        measure.check(training, held_out, dense)
    else:
        with pytest.raises(BadInput, match=f"n = {n}"):
            measure.check(training, held_out, dense)


def test_rms_works_with_any_size() -> None:
    Rms().check(1, 1, False)


# So does nl2:n60 under the protocol, whose top_k is 50, and n = 50 of a set with fewer than 50 groups.
@pytest.mark.parametrize("name", ["nl2", "nl2c"])
def test_more_neighbours_than_are_kept_are_refused(name: str) -> None:
    rng = np.random.default_rng(2)
    one = image_set(rng.integers(0, 256, (120, 1, 4, 4), dtype=np.uint8))
    measure = registry.make_measure(f"{name}:n10")
    with pytest.raises((BadInput, ValueError)):
        scorer = Scorer(References(one, one, one, one, ""), [measure], 5, torch.device("cpu"))
        shard = scorer.score(torch.from_numpy(one.images[:3]), np.arange(3), np.zeros(3, dtype=bool), measure.space)
        shard.best_scores(measure, "training")


# ---- zncc ----


def test_zncc_forgives_brightness_and_contrast_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 4, 4, generator=draw)
    images = torch.cat([image, 0.2 + 0.5 * image, 1 - image, torch.rand(1, 3, 4, 4, generator=draw)])
    descriptors = Zncc().descriptors(images)
    assert descriptors.shape == (4, 48) and descriptors.dtype == torch.float32
    distances = (descriptors - descriptors[:1]).norm(dim=1).numpy()[None]
    scores = Zncc().scores(distances, TRAINING, HELD_OUT, "training")[0]
    np.testing.assert_allclose(scores[:3], [1, 1, -1], atol=1e-5)
    assert scores[3] == pytest.approx(np.corrcoef(images[0].flatten(), images[3].flatten())[0, 1], abs=1e-5)
    assert not Zncc().descriptors(torch.full((1, 1, 2, 2), 0.3)).any()


def test_zncc_stores_pairs_down_to_its_floor() -> None:
    radius = Zncc().radius(TRAINING, HELD_OUT, "training")
    np.testing.assert_allclose(Zncc().scores(radius[:, None], TRAINING, HELD_OUT, "training"), Zncc.floor, rtol=1e-6)
