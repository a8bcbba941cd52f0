"""Own-image rates: right values for a perfect replayer and for a model that does not listen."""

import numpy as np
import pytest

from sidebench.benchmark.contracts import Band, Neighbours, Side
from sidebench.benchmark.data.captions import CaptionNumbers
from sidebench.benchmark.data.references import shared_groups
from sidebench.benchmark.measures.shard_scores import Pairs, ShardScores
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.reports.tables import own_image_table
from sidebench.benchmark.results import own_images as own_images_module
from sidebench.benchmark.results.own_images import own_images
from sidebench.benchmark.results.rates import measure_result
from sidebench.benchmark.results.schema import Metrics, OwnImages
from sidebench.benchmark.results.unit_scores import UnitScores

EACH = 40
"""Captions of each side; caption c < EACH is of training image c, the others of held-out images."""
SEEDS = 2
RMS = make_measure("rms")
RMS.bands = (Band("near", 0.0, 0.1),)
GROUPS: dict[Side, np.ndarray] = {"training": np.arange(EACH), "held_out": EACH + np.arange(EACH)}


def numbers(per_family: int = 1) -> CaptionNumbers:
    captions: dict[Side, np.ndarray] = {"training": np.arange(EACH), "held_out": EACH + np.arange(EACH)}
    return CaptionNumbers(captions, {side: own // per_family for side, own in captions.items()})


def found(
    ids: dict[Side, np.ndarray],
    distances: dict[Side, np.ndarray],
    groups: dict[Side, np.ndarray] = GROUPS,
    captions: CaptionNumbers | None = None,
    sent: np.ndarray | None = None,
) -> OwnImages | None:
    """Return the own-image rates of candidates whose nearest images are these; each caption is sent SEEDS times."""
    count = len(ids["training"])
    neighbours = {
        side: Neighbours(ids[side][:, None].astype(np.int32), *[distances[side][:, None].astype(np.float32)] * 2)
        for side in ids
    }
    none = np.zeros(count, dtype=bool)
    no_pairs = Pairs(*[np.empty(0, dtype=np.int32)] * 2, np.empty(0, dtype=np.float32))
    asked = np.repeat(np.arange(2 * EACH), SEEDS) if sent is None else sent
    shard = ShardScores(np.arange(count), none, none, neighbours, dict.fromkeys(ids, no_pairs), asked)
    scores = UnitScores([shard], [RMS], shared_groups(groups))
    result = measure_result("replayer", 0, RMS, scores, groups)
    return own_images(result, RMS, scores, groups, numbers() if captions is None else captions)


def replayer(count: int = 2 * EACH * SEEDS) -> tuple[dict[Side, np.ndarray], dict[Side, np.ndarray]]:
    """Training captions return their image; others return some training image, as far as any."""
    asked = np.repeat(np.arange(2 * EACH), SEEDS)[:count]
    ids: dict[Side, np.ndarray] = {"training": asked % EACH, "held_out": (asked + 7) % EACH}
    far = np.full(count, 0.3)
    return ids, {"training": np.where(asked < EACH, 0.01, 0.25), "held_out": far}


def test_a_perfect_replayer_links_every_training_caption_and_no_other() -> None:
    rates = found(*replayer())
    assert rates is not None and rates.control is not None and rates.difference is not None and rates.p is not None
    assert (rates.training.value, rates.control.value, rates.difference.value) == (1, 0, 1)
    assert rates.difference.low > 0.85 and rates.p < 0.001
    assert (rates.training_captions, rates.control_captions) == (EACH, EACH)
    assert rates.extracted.value == 1 and rates.extracted_control is not None and rates.extracted_control.value == 0


def test_a_model_that_does_not_listen_makes_no_difference() -> None:
    """Every candidate is nearest to a random image of either side, whatever the caption: chance is one in 80."""
    rng = np.random.default_rng(0)
    count = 2 * EACH * SEEDS
    ids: dict[Side, np.ndarray] = {side: rng.integers(EACH, size=count) for side in ("training", "held_out")}
    rates = found(ids, {side: rng.uniform(0.1, 0.2, count) for side in ids})
    assert rates is not None and rates.difference is not None and rates.p is not None
    assert rates.difference.low < 0 < rates.difference.high and rates.p > 0.05
    assert rates.training.value < 0.1


def test_far_off_is_a_link_and_no_extraction() -> None:
    ids, distances = replayer()
    rates = found(ids, {side: values + 0.2 for side, values in distances.items()})
    assert rates is not None and rates.training.value == 1 and rates.extracted.value == 0
    assert rates.q is None and rates.threshold == 0.1


def test_an_image_of_the_other_side_that_is_nearer_or_as_near_counts() -> None:
    ids, distances = replayer()
    nearer = found(ids, distances | {"held_out": np.full(len(ids["training"]), 0.005)})
    as_near = found(ids, distances | {"held_out": distances["training"]})
    assert nearer is not None and nearer.training.value == 0
    assert as_near is not None and as_near.training.value == 0.5


def test_a_near_duplicate_of_the_own_image_is_the_own_image() -> None:
    """Each candidate returns the neighbour of its own image, which is of the same group."""
    ids, distances = replayer()
    groups: dict[Side, np.ndarray] = {"training": np.arange(EACH) // 2, "held_out": EACH + np.arange(EACH)}
    swapped = ids | {"training": ids["training"] ^ 1}
    plain, grouped = found(swapped, distances), found(swapped, distances, groups)
    assert plain is not None and plain.training.value == 0
    assert grouped is not None and grouped.training.value == 1


def test_families_are_the_units() -> None:
    one, four = found(*replayer()), found(*replayer(), captions=numbers(4))
    assert one is not None and four is not None and four.training_families == EACH / 4
    assert four.training.value == one.training.value and four.training.low < one.training.low


def test_captions_that_were_not_replayed_or_are_of_both_sides_do_not_count() -> None:
    ids, distances = replayer()
    asked = np.repeat(np.arange(2 * EACH), SEEDS)
    asked[asked == 0] = -1
    rates = found(ids, distances, sent=asked)
    assert rates is not None and rates.training_captions == EACH - 1
    assert found(ids, distances, sent=np.full(len(asked), -1)) is None


def test_a_control_that_a_calibrated_threshold_never_sees_has_no_extraction_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Candidates with even numbers set the threshold, and held-out captions have no others.
    calibrated = own_images_module.Threshold(RMS.bands[0], 0.01)
    monkeypatch.setattr(own_images_module, "threshold_of", lambda result, measure: calibrated)
    ids, distances = replayer()
    asked = np.repeat(np.arange(2 * EACH), SEEDS)
    asked[(asked >= EACH) & (np.arange(len(asked)) % 2 == 1)] = -1
    rates = found(ids, distances, sent=asked)
    assert rates is not None and rates.extracted.value == 1
    assert rates.control is not None and rates.extracted_control is None


def test_the_table_says_that_it_is_a_link() -> None:
    rates = found(*replayer())
    assert rates is not None
    metrics = Metrics.model_construct(own_images=[rates], control="iid", control_check=None)
    text = own_image_table(metrics)
    assert "a link and no extraction yet" in text and "no q is supported" in text and "100.00 [" in text
    assert rates.training.low == pytest.approx(0.912, abs=1e-3)
