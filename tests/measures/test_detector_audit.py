"""The audit against planted truths: what must be found is found, what must not be is counted."""

import json
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from sidebench.benchmark import registry
from sidebench.benchmark.contracts import Band, Measure, Neighbours, Side
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.data.references import ImageSet, References, load_references
from sidebench.benchmark.measures import detector_audit
from sidebench.benchmark.measures.rms import Rms
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.reports import figures, plot_style
from sidebench.benchmark.stats.intervals import wilson

IDS = ["nl2c:n5:a0.5", "rms"]
PLANTED = 7


class Nearness(Rms):
    """1 - rms, a similarity with bands."""

    name: ClassVar[str] = "nearness"
    distance: ClassVar[bool] = False
    bands = (Band("high", 0.95, 1.0), Band("low", 0.9, 0.95))
    floor = 0.8
    bin_width = 0.05

    def scores(self, distances: np.ndarray, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        near: np.ndarray = 1 - distances
        return near

    def radius(self, training: Neighbours, held_out: Neighbours, side: Side) -> np.ndarray:
        return np.full(len(training.ids), 0.2, dtype=np.float32)


def image_set(images: np.ndarray, start: int, groups: np.ndarray | None = None) -> ImageSet:
    rows = np.arange(len(images)) + start
    return ImageSet(images, rows, rows if groups is None else groups)


def make_references(channels: int = 1, size: int = 12) -> References:
    """Images of pure noise, so that no two are near; `PLANTED` of the 50 in the pool are training images."""
    rng = np.random.default_rng(3)
    parts = [rng.integers(40, 216, (n, channels, size, size), dtype=np.uint8) for n in (40, 40, 50)]
    parts[2][:PLANTED] = parts[0][10 : 10 + PLANTED]
    sets = [image_set(images, 100 * i) for i, images in enumerate(parts)]
    return References(sets[0], sets[1], sets[2], image_set(parts[0][:0], 300), "")


def run(
    references: References, measures: list[Measure] | None = None, seed: int = 0, images: int = 40, k: int = 10
) -> Any:
    measures = measures or [registry.make_measure(name) for name in IDS]
    scorer = Scorer(references, measures, k, torch.device("cpu"))
    return detector_audit.audit(references, measures, scorer, seed, images)


@pytest.fixture(scope="module")
def planted() -> Any:
    return run(make_references())


def at_edge(found: Any, measure: str, kind: str, strength: float | None, edge: float) -> Any:
    rows = found["measures"][measure]["table"]
    [row] = [r for r in rows if (r["threshold"], r["kind"], r["strength"]) == (edge, kind, strength)]
    return row


# ---- judging ----


@pytest.mark.parametrize("edge", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("kind", ["identical", "jpeg"])
def test_near_copies_are_found_at_every_band(planted: Any, edge: float, kind: str) -> None:
    row = at_edge(planted, IDS[0], kind, 90 if kind == "jpeg" else 0.0, edge)
    assert row["right"]["count"] == row["any"]["count"] == row["n"] == 40


@pytest.mark.parametrize("edge", [0.5, 0.75, 1.0])
def test_the_false_positive_rate_is_the_planted_one(planted: Any, edge: float) -> None:
    row = at_edge(planted, IDS[0], "non-copies", None, edge)
    assert (row["any"]["count"], row["n"]) == (PLANTED, 50)
    interval = wilson(PLANTED, 50)
    assert (row["any"]["low"], row["any"]["high"]) == pytest.approx(interval)


def test_a_flipped_image_of_noise_is_not_found(planted: Any) -> None:
    assert at_edge(planted, IDS[0], "flip", 0.0, 1.0)["any"]["count"] == 0


@pytest.mark.parametrize("measure", IDS)
def test_recall_grows_with_the_threshold_and_falls_with_the_strength(planted: Any, measure: str) -> None:
    copies = planted["measures"][measure]["copies"]
    for change in copies:
        for counted in (change["right"], change["any"]):
            assert np.all(np.diff(counted["count"]) >= 0)
    for kind in ("noise", "jpeg", "brightness"):
        counts = np.array([c["any"]["count"] for c in copies if c["kind"] == kind])
        assert np.all(np.diff(counts, axis=0) <= 0) and (counts[0] > counts[-1]).any()


def test_counts_follow_the_definition() -> None:
    references = make_references()
    found = run(references)["measures"]["rms"]
    images = references.training.images.astype(float)
    means = images.mean((1, 2, 3), keepdims=True)
    faded = np.rint(means + 0.75 * (images - means))
    gaps = np.sqrt((((faded[:, None] - images[None]) / 255) ** 2).mean((2, 3, 4)))
    [change] = [c for c in found["copies"] if (c["kind"], c["strength"]) == ("contrast", 0.75)]
    assert np.abs(gaps.min(1)[:, None] - np.array(found["thresholds"])).min() > 1e-6, "a score lies on a threshold"
    assert change["any"]["count"] == [int((gaps.min(1) <= t).sum()) for t in found["thresholds"]]
    assert gaps.argmin(1).tolist() == list(range(40)) and change["right"] == change["any"]


def test_another_image_within_the_threshold_is_no_right_match() -> None:
    clean = make_references()
    images = clean.training.images.copy()
    images[21] = images[20]
    for groups, right in ((np.arange(40), 39), (np.where(np.arange(40) == 21, 20, np.arange(40)), 40)):
        training = image_set(images, 0, groups)
        row = at_edge(
            run(References(training, clean.held_out, clean.pool, clean.tuning, "")), "rms", "identical", 0, 0.04
        )
        assert (row["right"]["count"], row["any"]["count"]) == (right, 40)


def test_an_image_of_one_value_is_never_found() -> None:
    clean = make_references()
    images = clean.training.images.copy()
    images[5] = 90
    found = run(References(image_set(images, 0), clean.held_out, clean.pool, clean.tuning, ""))
    assert at_edge(found, "rms", "identical", 0.0, 0.15)["any"]["count"] == 39


def test_similarities_count_from_above() -> None:
    found = run(make_references(), [Nearness()])
    mine = found["measures"]["nearness"]
    assert mine["edges"] == [0.95, 0.9] and mine["thresholds"] == [1.0, 0.95, 0.9, 0.85, 0.8]
    assert at_edge(found, "nearness", "brightness", 0.05, 0.95)["right"]["count"] == 0
    assert at_edge(found, "nearness", "brightness", 0.05, 0.9)["right"]["count"] == 40
    assert at_edge(found, "nearness", "non-copies", None, 0.9)["any"]["count"] == PLANTED
    assert "score >= 0.95" in detector_audit.table_rows(found, "nearness")[0]


def test_an_empty_pool_is_said_and_nothing_fails() -> None:
    full = make_references()
    found = run(References(full.training, full.held_out, image_set(full.pool.images[:0], 200), full.tuning, ""))
    assert found["non_copies"] == 0 and "no pool" in found["non_copies_missing"]
    assert found["measures"]["rms"]["non_copies"] is None
    assert not any(row["images"].startswith("non") for row in detector_audit.table_rows(found, "rms"))
    assert picture(found, "rms").startswith("<svg")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_images_of_any_number_of_channels_are_audited(channels: int) -> None:
    found = run(make_references(channels, size=8), images=8)
    assert at_edge(found, IDS[0], "identical", 0.0, 0.5)["right"]["count"] == 8
    assert {c["n"] for c in found["measures"][IDS[0]]["copies"]} == {8}


def test_the_same_seed_gives_the_same_audit_and_another_does_not() -> None:
    references = make_references()
    first = run(references, images=12)
    assert first == run(references, images=12)
    assert first["measures"] != run(references, images=12, seed=1)["measures"]


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    references = make_references()
    first = run(references)
    monkeypatch.setattr(detector_audit, "_BATCH", 7)
    assert run(references) == first


def test_the_result_is_plain_json(planted: Any) -> None:
    assert json.loads(json.dumps(planted, allow_nan=False)) == planted


def test_the_detector_of_digits_finds_near_copies_and_few_others() -> None:
    pair = load_pair("digits")
    found = run(load_references(pair), [registry.make_measure(name) for name in pair.measures], images=128, k=50)
    headline = pair.measures[0]
    assert at_edge(found, headline, "identical", 0.0, 0.5)["right"]["count"] == 128
    assert at_edge(found, headline, "noise", 0.05, 0.5)["right"]["count"] == 128
    false = at_edge(found, headline, "non-copies", None, 0.5)
    assert false["n"] == 512 and false["any"]["high"] < 0.02


# ---- changes ----


def changed(kind: str, strength: float, image: torch.Tensor, seed: int = 0) -> torch.Tensor:
    [change] = [c for c in detector_audit.changes() if (c.kind, c.strength) == (kind, strength)]
    return change.apply(image, torch.Generator().manual_seed(seed))


IMAGE = torch.from_numpy(np.random.default_rng(1).uniform(0.2, 0.8, (3, 9, 9))).float()


@pytest.mark.parametrize("seed", range(6))
def test_a_shift_moves_whole_pixels_and_repeats_the_edge(seed: int) -> None:
    moved = changed("shift", 2.0, IMAGE, seed)
    padded = torch.nn.functional.pad(IMAGE[None], (2, 2, 2, 2), mode="replicate")[0]
    starts = [(2, 0), (2, 4), (0, 2), (4, 2)]
    windows = [padded[:, y : y + 9, x : x + 9] for y, x in starts]
    assert sum(torch.equal(moved, window) for window in windows) == 1


def test_shifts_go_in_all_four_directions() -> None:
    assert len({changed("shift", 1.0, IMAGE, seed).numpy().tobytes() for seed in range(30)}) == 4


def test_half_a_pixel_lies_between_none_and_one() -> None:
    for seed in range(6):
        half, whole = changed("shift", 0.5, IMAGE, seed), changed("shift", 1.0, IMAGE, seed)
        assert torch.allclose(half, (IMAGE + whole) / 2)


@pytest.mark.parametrize("sd", [0.02, 0.2])
def test_noise_has_the_stated_deviation(sd: float) -> None:
    large = torch.full((1, 100, 100), 0.5)
    assert float((changed("noise", sd, large) - large).std()) == pytest.approx(sd, rel=0.05)


def test_flip_brightness_and_contrast_do_what_they_say() -> None:
    assert torch.equal(changed("flip", 0.0, IMAGE), torch.from_numpy(IMAGE.numpy()[..., ::-1].copy()))
    assert torch.allclose(changed("brightness", 0.1, IMAGE), IMAGE + 0.1)
    faded = changed("contrast", 0.5, IMAGE)
    assert torch.allclose(faded.mean(), IMAGE.mean()) and float(faded.std() / IMAGE.std()) == pytest.approx(0.5)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_worse_at_lower_quality_and_keeps_the_colours_in_order(channels: int) -> None:
    ramp = torch.linspace(0.1, 0.9, 16)
    image = torch.stack([ramp.repeat(16, 1), 1 - ramp.repeat(16, 1), ramp.repeat(16, 1).T])[:channels]
    noisy = (image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    errors = [float((changed("jpeg", q, noisy) - noisy).square().mean().sqrt()) for q in (90, 70, 50, 30)]
    assert errors == sorted(errors) and 0 < errors[0] < errors[3] < 0.15


# ---- showing ----


def picture(found: dict[str, Any], measure: str) -> str:
    with plot_style.styled():
        return plot_style.to_svg(figures.audit(found, registry.make_measure(measure)), "detector")


def test_the_table_shows_every_change_and_the_non_copies(planted: Any) -> None:
    rows = detector_audit.table_rows(planted, IDS[0])
    assert len(rows) == len(detector_audit.changes()) + 1
    assert rows[0]["score <= 0.5"].startswith("100.0 [")
    assert rows[-1]["score <= 1"].startswith(f"{100 * PLANTED / 50:.1f} [")


@pytest.mark.parametrize("measure", IDS)
def test_the_picture_is_the_same_each_time_and_self_contained(planted: Any, measure: str) -> None:
    shown = picture(planted, measure)
    assert shown == picture(planted, measure)
    assert shown.startswith("<svg") and "<image" not in shown and 'href="http' not in shown
