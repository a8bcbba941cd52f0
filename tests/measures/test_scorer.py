"""Scoring small image sets against brute force, and reading the stored scores back."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from sidebench.benchmark import registry
from sidebench.benchmark.contracts import Measure, Neighbours, Side
from sidebench.benchmark.data.references import ImageSet, References
from sidebench.benchmark.errors import CorruptRun
from sidebench.benchmark.files import read_table, write_table
from sidebench.benchmark.measures.scorer import Scorer
from sidebench.benchmark.measures.shard_scores import SIDES, Pairs, ShardScores
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.score_files import read_all_scores, read_scores, write_scores
from sidebench.benchmark.results.shards import shard_of
from sidebench.benchmark.results.unit_scores import UnitScores

SHAPE = (1, 4, 4)
IDS = ["nl2c:n5:a0.5", "nl2:n5:a0.5", "nl2:n3:a0.9", "rms"]
MEASURES = [registry.make_measure(name) for name in IDS]
NAN, CONSTANT = 3, 5
UNIT, SPACE = "side.s0", "pixels"


def noisy(rng: np.random.Generator, images: np.ndarray, reach: int) -> np.ndarray:
    shift = rng.integers(-reach, reach + 1, images.shape)
    return np.clip(images.astype(int) + shift, 0, 255).astype(np.uint8)


def make_references(seed: int) -> References:
    """Three loose families of images, and on each side two groups of duplicates."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(60, 196, (3, *SHAPE), dtype=np.uint8)
    sets = []
    for start in (0, 60):
        images = noisy(rng, centres[rng.integers(0, 3, 60)], 40)
        groups = np.arange(60)
        images[10:20], groups[10:20] = images[10], 10
        images[30:33], groups[30:33] = images[30], 30
        sets.append(ImageSet(images, np.arange(60) + start, groups + start))
    return References(sets[0], sets[1], sets[1], sets[1], "")


REFERENCES = make_references(1)
EXACT = {side: getattr(REFERENCES, side).images.reshape(60, -1).astype(np.float64) / 255 for side in SIDES}


def make_candidates(seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    training, held_out = REFERENCES.training.images, REFERENCES.held_out.images
    near = noisy(rng, training[rng.integers(0, 60, 10)], 6)
    near[0] = training[12]
    other = noisy(rng, held_out[rng.integers(0, 60, 6)], 6)
    other[0] = noisy(rng, held_out[12], 2)
    images = np.concatenate([near, other, noisy(rng, held_out[rng.integers(0, 60, 8)], 40)])
    images[NAN] = REFERENCES.training.images[7]  # as close as can be, but flagged
    images[CONSTANT] = 128
    return torch.from_numpy(images)


IMAGES = make_candidates(2)
NUMBERS = np.arange(24)
SHARD, NEXT = shard_of(range(24)), shard_of(range(24, 48))
NANS = np.arange(24) == NAN


def score(k: int, measures: list[Measure] = MEASURES) -> ShardScores:
    return Scorer(REFERENCES, measures, k, torch.device("cpu")).score(IMAGES, NUMBERS, NANS, SPACE)


def brute_distances(side: Side) -> np.ndarray:
    queries = IMAGES.flatten(1).numpy().astype(np.float64) / 255
    gaps = queries[:, None] - EXACT[side][None]
    distances: np.ndarray = np.sqrt((gaps**2).mean(-1))
    return distances


def brute_scores(measure_id: str, side: Side) -> np.ndarray:
    """Return all scores of a side, written from the definition."""
    name, *options = measure_id.split(":")
    distances = brute_distances(side)
    if name == "rms":
        return distances
    n, alpha = int(options[0][1:]), float(options[1][1:])
    first = {
        one: brute_distances(one)[:, [i for i, g in enumerate(groups) if g not in groups[:i]]]
        for one in SIDES
        for groups in [getattr(REFERENCES, one).groups.tolist()]
    }
    pool = first[side] if name == "nl2" else np.concatenate([first["training"], first["held_out"]], 1)
    unit: np.ndarray = alpha * np.sort(pool, 1)[:, :n].mean(1, keepdims=True)
    return distances / unit


def brute_pairs(measure_id: str, side: Side) -> dict[tuple[int, int], float]:
    floor = 0.15 if measure_id == "rms" else 1.0
    scores = brute_scores(measure_id, side)
    usable = [i for i in range(24) if i not in (NAN, CONSTANT)]
    assert np.abs(scores[usable] - floor).min() > 1e-5, "a pair lies on the floor: choose another seed"
    return {(i, j): scores[i, j] for i in usable for j in range(60) if scores[i, j] <= floor}


@pytest.mark.parametrize("k", [5, 6, 20, 59, 60, 100])
@pytest.mark.parametrize("side", SIDES)
def test_pairs_are_complete(k: int, side: Side) -> None:
    shard = score(k)
    stored = shard.pairs[side]
    reach = max(np.bincount([i for i, _ in brute_pairs(name, side)]).max() for name in IDS)
    assert 6 < reach < 59, "small k must cut through the pairs, large k must not"
    for measure in MEASURES:
        wanted = brute_pairs(measure.id, side)
        assert wanted, "no pairs: choose other images"
        _, ids, values = shard.pair_scores(measure, side)
        rows = [row for row, i in zip(stored.rows, stored.ids, strict=True)]
        everything = dict(zip(zip(rows, stored.ids.tolist(), strict=True), stored.distances, strict=True))
        assert set(wanted) <= set(everything)
        assert sorted(ids.tolist()) == sorted(j for _, j in wanted)
        for j in range(60):
            found = sorted(values[ids == j].tolist())
            assert found == pytest.approx(sorted(score for (_, i), score in wanted.items() if i == j), rel=1e-5)


@pytest.mark.parametrize("k", [5, 20, 60])
@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("side", SIDES)
def test_pairs_of_one_measure_are_exactly_its_own(k: int, name: str, side: Side) -> None:
    pairs = score(k, [registry.make_measure(name)]).pairs[side]
    found = list(zip(pairs.rows.tolist(), pairs.ids.tolist(), strict=True))
    assert found == sorted(brute_pairs(name, side))
    distances = brute_distances(side)[pairs.rows, pairs.ids]
    np.testing.assert_allclose(pairs.distances, distances, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("side", SIDES)
def test_pairs_do_not_depend_on_k(side: Side) -> None:
    few, many = score(5).pairs[side], score(60).pairs[side]
    assert np.array_equal(few.rows, many.rows) and np.array_equal(few.ids, many.ids)
    assert np.array_equal(few.distances, many.distances)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("measure", MEASURES, ids=IDS)
def test_best_scores_follow_the_definition(measure: Measure, side: Side) -> None:
    shard = score(20)
    wanted = brute_scores(measure.id, side).min(1)
    wanted[[NAN, CONSTANT]] = np.nan
    np.testing.assert_allclose(shard.best_scores(measure, side), wanted, rtol=1e-5, atol=1e-7)
    assert np.array_equal(shard.best_ids(side), brute_distances(side).argmin(1))


def test_nan_and_constant_images_never_match() -> None:
    shard = score(20)
    assert shard.nan.tolist() == [i == NAN for i in range(24)]
    assert shard.constant.tolist() == [i == CONSTANT for i in range(24)]
    assert shard.valid.tolist() == [i not in (NAN, CONSTANT) for i in range(24)]
    for side in SIDES:
        assert not {NAN, CONSTANT} & set(shard.pairs[side].rows.tolist())
        for measure in MEASURES:
            assert np.isnan(shard.best_scores(measure, side)).tolist() == (~shard.valid).tolist()


@pytest.mark.parametrize("k", [5, 60])
def test_an_unflagged_copy_matches_and_a_constant_reference_does_not_help(k: int) -> None:
    images = REFERENCES.training.images.copy()
    images[7] = 128
    training = ImageSet(images, REFERENCES.training.rows, REFERENCES.training.groups)
    references = References(training, REFERENCES.held_out, REFERENCES.pool, REFERENCES.tuning, "")
    shown = torch.from_numpy(images[[7, 8]])
    shard = Scorer(references, MEASURES, k, torch.device("cpu")).score(shown, np.arange(2), np.zeros(2, bool), SPACE)
    assert shard.constant.tolist() == [True, False]
    assert set(shard.pairs["training"].rows.tolist()) == {1}
    assert np.isnan(shard.best_scores(MEASURES[3], "training")[0])
    assert shard.best_scores(MEASURES[3], "training")[1] == 0


def test_an_image_flagged_nan_is_not_called_constant() -> None:
    shown = torch.full((1, *SHAPE), 9, dtype=torch.uint8)
    scorer = Scorer(REFERENCES, MEASURES, 5, torch.device("cpu"))
    shard = scorer.score(shown, np.arange(1), np.ones(1, bool), SPACE)
    assert shard.nan.tolist() == [True] and shard.constant.tolist() == [False]


def test_representatives_are_the_first_of_each_group() -> None:
    shard = score(50)
    found = shard.neighbours["training"].representatives[0]
    groups = REFERENCES.training.groups.tolist()
    first = [i for i, group in enumerate(groups) if group not in groups[:i]]
    assert len(first) == 49
    np.testing.assert_allclose(found, np.sort(brute_distances("training")[0, first])[:50], rtol=1e-6, atol=1e-8)
    assert (shard.neighbours["training"].distances[0, :10] == 0).all()
    assert found[1] > 0


# ---- stored ----


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    write_scores(folder, UNIT, SPACE, SHARD, score(20), MEASURES, {"cluster": np.arange(24)})
    return folder


@pytest.fixture
def copied(stored: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(stored.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def assert_same(found: ShardScores, wanted: ShardScores) -> None:
    for name in ("candidates", "nan", "constant"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    for side in SIDES:
        for one, other in ((found.neighbours[side], wanted.neighbours[side]), (found.pairs[side], wanted.pairs[side])):
            for name in other._fields:
                a, b = getattr(one, name), getattr(other, name)
                assert a.dtype == b.dtype and np.array_equal(a, b), (side, name)


def test_scores_come_back_as_written(stored: RunFolder) -> None:
    assert_same(read_scores(stored, UNIT, SPACE, SHARD), score(20))


@pytest.mark.parametrize("at_once", [1, 2])
def test_shards_come_back_in_order(copied: RunFolder, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Scorer(REFERENCES, MEASURES, 20, torch.device("cpu")).score(
        IMAGES.flip(0), NUMBERS + 24, NANS[::-1].copy(), SPACE
    )
    write_scores(copied, UNIT, SPACE, NEXT, other, MEASURES, {})
    monkeypatch.setattr("sidebench.benchmark.results.score_files.SHARDS_AT_ONCE", at_once)
    shards = list(read_all_scores(copied, UNIT, SPACE, 48))
    assert len(shards) == 2 // at_once
    for measure in MEASURES:
        for side in SIDES:
            ours = [part.best_scores(measure, side) for part in shards]
            wanted = [part.best_scores(measure, side) for part in (score(20), other)]
            assert np.array_equal(np.concatenate(ours), np.concatenate(wanted), equal_nan=True)
    found, alone = UnitScores(shards, MEASURES), UnitScores([score(20), other], MEASURES)
    assert np.array_equal(found.numbers, alone.numbers) and found.nan == alone.nan
    for key in alone.pair_ids:
        for name in ("pair_rows", "pair_ids", "pair_scores"):
            assert np.array_equal(getattr(found, name)[key], getattr(alone, name)[key]), (name, key)


@pytest.mark.parametrize("count", [1, 23, 24, 25, 47])
def test_fewer_candidates_are_the_first_ones(copied: RunFolder, count: int) -> None:
    more = Scorer(REFERENCES, MEASURES, 20, torch.device("cpu")).score(IMAGES.flip(0), NUMBERS + 24, NANS, SPACE)
    write_scores(copied, UNIT, SPACE, NEXT, more, MEASURES, {})
    whole, first = (UnitScores(read_all_scores(copied, UNIT, SPACE, n), MEASURES) for n in (48, count))
    assert np.array_equal(first.numbers, np.arange(count))
    for key, rows in whole.pair_rows.items():
        assert np.array_equal(first.best_scores[key], whole.best_scores[key][:count], equal_nan=True)
        assert np.array_equal(first.pair_rows[key], rows[rows < count])
        assert np.array_equal(first.pair_scores[key], whole.pair_scores[key][rows < count])


def test_candidates_without_scores_are_named(copied: RunFolder) -> None:
    with pytest.raises(CorruptRun, match=r"has no scores of .* for candidates 24 to 47"):
        list(read_all_scores(copied, UNIT, SPACE, 48))


def test_a_file_under_another_name_is_refused(copied: RunFolder) -> None:
    for part in PARTS:
        copied.scores_file(UNIT, SPACE, SHARD, part).rename(copied.scores_file(UNIT, SPACE, NEXT, part))
    with pytest.raises(CorruptRun, match="other candidates than its name says"):
        read_scores(copied, UNIT, SPACE, NEXT)


def test_shards_of_different_k_do_not_join(copied: RunFolder) -> None:
    write_scores(copied, UNIT, SPACE, NEXT, replace(score(15), candidates=NUMBERS + 24), MEASURES, {})
    with pytest.raises(CorruptRun, match="different numbers of neighbours"):
        list(read_all_scores(copied, UNIT, SPACE, 48))


def test_scores_without_pairs_come_back(tmp_path: Path) -> None:
    scorer = Scorer(REFERENCES, MEASURES, 20, torch.device("cpu"))
    none = scorer.score(IMAGES[[NAN, CONSTANT]], np.arange(2), np.array([True, False]), SPACE)
    two = shard_of(range(2))
    write_scores(RunFolder(tmp_path), UNIT, SPACE, two, none, MEASURES, {})
    assert_same(read_scores(RunFolder(tmp_path), UNIT, SPACE, two), none)


def test_the_attacks_columns_are_kept(stored: RunFolder) -> None:
    table = pq.read_table(stored.scores_file(UNIT, SPACE, SHARD))
    assert table["attack_cluster"].to_pylist() == list(range(24))


def test_stored_pairs_name_the_candidate(stored: RunFolder) -> None:
    pairs = pq.read_table(stored.scores_file(UNIT, SPACE, SHARD, "pairs"))
    assert np.array_equal(pairs["candidate"].to_numpy(), NUMBERS[pairs["row"].to_numpy()])


def test_bins_count_every_pair_once(stored: RunFolder) -> None:
    bins = pq.read_table(stored.scores_file(UNIT, SPACE, SHARD, "bins")).to_pandas()
    assert set(bins["measure"]) == {measure.id for measure in MEASURES}
    for measure in MEASURES:
        for side in SIDES:
            mine = bins[(bins["measure"] == measure.id) & (bins["held_out"] == (side == "held_out"))]
            pairs = brute_pairs(measure.id, side)
            assert mine["count"].sum() == len(pairs)
            assert (mine["count"] > 0).all() and not mine.duplicated(["reference", "bin"]).any()
            wanted: dict[tuple[int, int], int] = {}
            for (_, reference), value in pairs.items():
                key = (reference, int(np.ceil(value / measure.bin_width - 1e-4)))
                wanted[key] = wanted.get(key, 0) + 1
            found = dict(zip(zip(mine["reference"], mine["bin"], strict=True), mine["count"], strict=True))
            assert found == wanted


PARTS = ["", "pairs"]


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_file_is_named(copied: RunFolder, part: str) -> None:
    file = copied.scores_file(UNIT, SPACE, SHARD, part)
    file.unlink()
    with pytest.raises(CorruptRun) as raised:
        read_scores(copied, UNIT, SPACE, SHARD)
    assert file.name in str(raised.value)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("size", [0, 3, 100, -1])
def test_a_truncated_file_is_named(copied: RunFolder, part: str, size: int) -> None:
    file = copied.scores_file(UNIT, SPACE, SHARD, part)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CorruptRun) as raised:
        read_scores(copied, UNIT, SPACE, SHARD)
    assert file.name in str(raised.value)


@pytest.mark.parametrize("part", PARTS)
def test_a_table_of_something_else_is_named(copied: RunFolder, part: str) -> None:
    file = copied.scores_file(UNIT, SPACE, SHARD, part)
    pq.write_table(pa.table({"colour": [1, 2, 3]}), file)
    with pytest.raises(CorruptRun) as raised:
        read_scores(copied, UNIT, SPACE, SHARD)
    assert file.name in str(raised.value)


@pytest.mark.parametrize("column", ["training_ids", "held_out_distances", "training_representatives"])
def test_numbers_in_place_of_neighbours_are_refused(copied: RunFolder, column: str) -> None:
    file = copied.scores_file(UNIT, SPACE, SHARD)
    table = pq.read_table(file)
    place = table.column_names.index(column)
    write_table(file, table.set_column(place, column, pa.array(["x"] * len(table))))
    with pytest.raises(CorruptRun) as raised:
        read_scores(copied, UNIT, SPACE, SHARD)
    assert file.name in str(raised.value)


def rewrite(file: Path, change: Any) -> None:
    """Write a table again with its columns, as NumPy arrays by name, changed in place; lists stay lists."""
    table = pq.read_table(file)
    columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    columns = change(columns) or columns
    pq.write_table(
        pa.table(
            {
                name: pa.FixedSizeListArray.from_arrays(
                    pa.array(values.ravel(), table.schema.field(name).type.value_type), 20
                )
                if values.ndim > 1
                else pa.array(values, table.schema.field(name).type)
                for name, values in columns.items()
            }
        ),
        file,
    )


def put(column: str, value: float) -> Any:
    def change(columns: dict[str, np.ndarray]) -> None:
        columns[column].reshape(-1)[3] = value

    return change


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("", put("training_distances", np.nan), "training distances are NaN"),
        ("", put("held_out_representatives", np.nan), "held-out distances are NaN"),
        ("pairs", put("distance", np.nan), "distances are NaN"),
        ("", put("training_ids", -1), "training images by numbers below 0"),
        ("pairs", put("row", 24), "pairs of candidates that are not there"),
        ("pairs", put("row", -1), "pairs of candidates that are not there"),
        ("", put("candidate", 7), "numbers do not follow one another"),
        (
            "",
            lambda columns: {name: values[:0] for name, values in columns.items()},
            "no candidate|does not hold scores",
        ),
        (
            "",
            lambda columns: {name: values[:5] for name, values in columns.items()},
            "pairs of candidates that are not",
        ),
    ],
)
def test_impossible_scores_are_named(copied: RunFolder, part: str, change: Any, words: str) -> None:
    rewrite(copied.scores_file(UNIT, SPACE, SHARD, part), change)
    with pytest.raises(CorruptRun, match=rf"{UNIT}\.{SPACE}\.00000000-00000024\.parquet.*({words}).*delete it"):
        read_scores(copied, UNIT, SPACE, SHARD)


def test_the_nearest_reference_that_is_not_left_out() -> None:
    """Three candidates keep their two nearest; where both are left out, pairs above the floor are all that is known."""
    ids = np.array([[0, 1], [0, 4], [0, 4]], dtype=np.int32)
    distances = np.array([[0.05, 0.1], [0.05, 0.06], [0.05, 0.06]], dtype=np.float32)
    own = Neighbours(ids, distances, distances)
    rows, found = np.array([1, 1, 1, 2]), np.array([0, 2, 3, 4])
    pairs = Pairs(rows, found, np.array([0.05, 0.12, 0.11, 0.06], dtype=np.float32))
    none = np.zeros(3, dtype=bool)
    shard = ShardScores(np.arange(3), none, none, dict.fromkeys(SIDES, own), dict.fromkeys(SIDES, pairs))
    rms, left_out = registry.make_measure("rms"), np.array([True, False, False, False, True])
    assert shard.best_ids("training").tolist() == [0, 0, 0]
    assert shard.best_ids("training", left_out)[:2].tolist() == [1, 3]
    assert shard.best_scores(rms, "training", left_out) == pytest.approx([0.1, 0.11, np.inf])


def test_a_unit_keeps_no_list_of_neighbours() -> None:
    shard = score(5)
    kept = UnitScores([shard], MEASURES)
    for ids in kept.best_ids.values():
        assert not np.shares_memory(ids, shard.neighbours["training"].ids)
    assert shard.best_ids("training").base is None  # a view would keep all of it until the last shard is read


def test_a_relative_folder_with_a_colon_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("density:0.01")
    folder.mkdir()
    write_table(folder / "t.parquet", pa.table({"x": [1, 2]}))
    assert read_table(folder / "t.parquet").num_rows == 2
