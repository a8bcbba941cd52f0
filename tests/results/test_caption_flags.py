"""Flags: right values for an attack that tells memorised captions from others, and for one that cannot."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from sidebench.benchmark.contracts import Band, Neighbours, Side
from sidebench.benchmark.data.captions import CaptionNumbers
from sidebench.benchmark.files import write_table
from sidebench.benchmark.measures.shard_scores import Pairs, ShardScores
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.reports.tables import caption_flag_table
from sidebench.benchmark.results.caption_flags import caption_flags
from sidebench.benchmark.results.rates import measure_result
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.schema import CaptionFlags, Metrics
from sidebench.benchmark.results.unit_scores import UnitScores
from sidebench.benchmark.stats.flags import halves

UNIT = "mine.s0"
RMS = make_measure("rms")
RMS.bands = (Band("near", 0.0, 0.1),)


def flags(folder: Path, ratings: np.ndarray, kind: str = "cliques", near: np.ndarray | None = None) -> CaptionFlags:
    """Return the flags of a run in which half of the captions are of X, one candidate each.

    `near` says for which candidates the caption's own image is nearest and close; for the others it is some training
    image, far off.
    """
    each = len(ratings) // 2
    captions = np.arange(2 * each)
    near = captions < each if near is None else near
    ids = {"training": np.where(near, captions % each, (captions + 1) % each), "held_out": captions % each}
    distances = {"training": np.where(near, 0.01, 0.25), "held_out": np.full(2 * each, 0.3)}
    neighbours: dict[Side, Neighbours] = {
        side: Neighbours(ids[side][:, None].astype(np.int32), *[distances[side][:, None].astype(np.float32)] * 2)
        for side in ("training", "held_out")
    }
    none, no_pairs = np.zeros(2 * each, dtype=bool), Pairs(*[np.empty(0, np.int32)] * 2, np.empty(0, np.float32))
    shard = ShardScores(captions, none, none, neighbours, dict.fromkeys(neighbours, no_pairs), captions)
    scores = UnitScores([shard], [RMS])
    groups: dict[Side, np.ndarray] = {"training": np.arange(each), "held_out": each + np.arange(each)}
    run = RunFolder(folder)
    run.write_manifest({"units": {UNIT: {"filter": {"kind": kind}}}})
    table = {"caption": captions, "score": ratings.astype(np.float64), "candidate": captions}
    write_table(run.captions_file(UNIT, 2 * each), pa.table(table))
    result = measure_result("mine", 0, RMS, scores, groups)
    found = caption_flags(run, UNIT, result, RMS, scores, groups, CaptionNumbers(groups, groups))
    assert found is not None
    return found


def test_memorised_captions_are_flagged_and_their_images_are_true(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ratings = np.concatenate([rng.uniform(0, 0.1, 60), rng.uniform(0.5, 1, 60), rng.uniform(0.5, 1, 120)])
    found = flags(tmp_path, ratings)
    assert found.training is not None and found.control is not None and found.difference is not None
    assert found.calibrated_on == 60 and found.control.value <= 0.1 and abs(found.training.value - 0.5) < 0.05
    assert found.p is not None and found.p < 0.001 and found.difference.low > 0.3
    assert found.flags == round(found.training.value * 120 + found.control.value * 60)
    assert found.true == found.own == round(found.training.value * 120)


def test_captions_that_set_the_threshold_are_not_counted_and_those_at_it_not_flagged(tmp_path: Path) -> None:
    each = 120
    sets = halves(each + np.arange(each))
    # Of 60 that set it, one may lie below: the threshold is their second score, 2. The others lie far above.
    held_out = np.full(each, 900.0)
    held_out[sets] = 1 + np.arange(60)
    training = np.repeat([0.5, 2.0, 900.0], [10, 1, each - 11])
    found = flags(tmp_path, np.concatenate([training, held_out]))
    assert (found.threshold, found.calibrated_on) == (2, 60)
    assert found.training is not None and found.training.value == 10 / 120
    assert found.control is not None and found.control.value == 0 and found.flags == 10


def test_ratings_that_know_nothing_flag_both_sides_alike(tmp_path: Path) -> None:
    """The negative control: what is asked of the model has no part in it."""
    found = flags(tmp_path, np.random.default_rng(1).random(400))
    assert found.difference is not None and found.difference.low < 0 < found.difference.high
    assert found.training is not None and found.training.value < 0.06


def test_a_flag_that_returns_another_training_image_is_true_but_not_own(tmp_path: Path) -> None:
    ratings = np.concatenate([np.zeros(10), np.ones(230)])
    other = np.zeros(240, dtype=bool)
    assert flags(tmp_path, ratings, near=other).true == 0, "far off, it is none"
    found = flags(tmp_path, ratings)
    assert (found.flags, found.true, found.own) == (10, 10, 10)
    assert found.precision is not None and found.precision.value == 1


def test_scores_of_an_attacks_own_run_the_other_way(tmp_path: Path) -> None:
    assert flags(tmp_path, np.arange(240.0), kind="state").threshold == -flags(tmp_path, np.arange(240.0)).threshold  # type: ignore[operator]


def test_too_few_captions_are_refused_in_words(tmp_path: Path) -> None:
    found = flags(tmp_path, np.random.default_rng(0).random(60))
    assert found.threshold is None and "1 in 50 cannot be calibrated on 15 held-out captions" in found.refused
    text = caption_flag_table(Metrics.model_construct(caption_flags=[found], control="iid", control_check=None))
    assert "refused: mine, seed 0: 1 in 50" in text
