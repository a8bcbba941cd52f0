"""Loading, grouping and splitting the reference images."""

import hashlib
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_repositories import picture
from hypothesis import given, settings
from hypothesis import strategies as st

from sidebench.benchmark.contracts import Side
from sidebench.benchmark.data import fits, image_cache, references
from sidebench.benchmark.data.duplicates import duplicate_groups, joined, split_by_group, turned_copies
from sidebench.benchmark.data.pair import DataSource, Pair, SplitRule, load_pair, write_pair
from sidebench.benchmark.data.references import ImageSet, load_references, shared_groups
from sidebench.benchmark.errors import BadInput, TooFew

RULE = SplitRule(seed=1, duplicate_rms=0.01, training=10, held_out=8, pool=5)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8)
LABELS = np.arange(40)


def pair(data: DataSource) -> Pair:
    return load_pair("digits").model_copy(update={"data": data})


def npz(path: Path, **more: object) -> DataSource:
    given = {"source": "npz", "path": str(path), "images": "images", "split": RULE, **more}
    return DataSource(**given)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", images=IMAGES, labels=LABELS)
    return tmp_path / "data.npz"


# ---- split ----


def assert_split(groups: np.ndarray, rule: SplitRule) -> list[np.ndarray]:
    parts = split_by_group(groups, rule)
    assert [len(part) for part in parts[:3]] == [rule.training, rule.held_out, rule.pool]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(groups)))
    owners = [set(groups[part].tolist()) for part in parts]
    assert sum(len(owner) for owner in owners) == len(set(groups.tolist())), "a group lies on two sides"
    assert all((np.diff(part) > 0).all() for part in parts)
    return parts


@settings(max_examples=60, deadline=None)
@given(groups=st.lists(st.integers(0, 25), min_size=30, max_size=80), seed=st.integers(0, 100))
def test_split_keeps_sizes_and_groups(groups: list[int], seed: int) -> None:
    array = np.array(groups)
    rule = RULE.model_copy(update={"seed": seed})
    try:
        split_by_group(array, rule)
    except TooFew as error:
        assert "too large" in str(error)  # never for lack of images: there are always enough
        assert np.bincount(array).max() > 1
        return
    assert_split(array, rule)


def test_split_is_deterministic_and_follows_the_seed() -> None:
    groups = np.repeat(np.arange(60), RNG.integers(1, 4, 60))
    first, again = assert_split(groups, RULE), assert_split(groups, RULE)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other = assert_split(groups, RULE.model_copy(update={"seed": 2}))
    assert not np.array_equal(first[0], other[0])


def test_split_is_a_uniform_draw() -> None:
    counts = np.zeros(46)
    for seed in range(600):
        counts[split_by_group(np.arange(46), RULE.model_copy(update={"seed": seed}))[0]] += 1
    chance = 10 / 46
    assert np.abs(counts - 600 * chance).max() < 5 * (600 * chance * (1 - chance)) ** 0.5


def test_a_group_that_does_not_fit_goes_to_tuning() -> None:
    groups = np.r_[np.zeros(11, dtype=int), np.arange(1, 24)]
    parts = assert_split(groups, RULE)
    assert parts[3].tolist() == list(range(11))


def test_everything_may_be_used() -> None:
    parts = assert_split(np.arange(23), RULE)
    assert parts[3].shape == (0,) and parts[3].dtype == np.int64


def test_no_pool_is_fine() -> None:
    parts = assert_split(np.arange(30), RULE.model_copy(update={"pool": 0}))
    assert len(parts[3]) == 12


def test_more_than_there_is_is_refused() -> None:
    with pytest.raises(TooFew, match="23 images, the data set has 22"):
        split_by_group(np.arange(22), RULE)


def test_groups_too_large_for_the_sizes_are_refused() -> None:
    with pytest.raises(TooFew, match="too large"):
        split_by_group(np.repeat(np.arange(3), 20), RULE)


def test_a_split_of_many_groups_is_that_of_a_search_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    groups = rng.permutation(np.repeat(np.arange(0, 6000, 3), rng.integers(1, 4, 2000)))
    rule = RULE.model_copy(update={"training": 900, "held_out": 600, "pool": 300})
    wanted: list[list[int]] = [[], [], [], []]
    room, part = [900, 600, 300, len(groups)], 0
    for group in np.random.Generator(np.random.PCG64(rule.seed)).permutation(np.unique(groups)):
        rows = np.flatnonzero(groups == group).tolist()
        while part < 3 and room[part] == 0:
            part += 1
        target = part if len(rows) <= room[part] else 3
        wanted[target] += rows
        room[target] -= len(rows)
    assert [part.tolist() for part in split_by_group(groups, rule)] == [sorted(rows) for rows in wanted]
    # No look at all images for each group: a comparison of whole arrays is what took the square of their number.
    monkeypatch.setattr(np, "flatnonzero", lambda _: pytest.fail("searched group by group"))
    whole = rule.model_copy(update={"training": 10_000, "held_out": 6_000})
    assert len(assert_split(np.arange(20_000), whole)[3]) == 3_700


def test_images_are_grouped_once_in_a_process(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any) -> np.ndarray:
        calls.append(arguments[1])
        return duplicate_groups(*arguments)

    monkeypatch.setattr(references, "_KNOWN_GROUPS", {})
    monkeypatch.setattr(references, "duplicate_groups", counted)
    first, again = load_references(pair(npz(file))), load_references(pair(npz(file)))
    assert len(calls) == 1 and np.array_equal(first.training.groups, again.training.groups)
    first.training.groups[:] = -1  # nobody's changes reach others
    assert load_references(pair(npz(file))).training.groups.min() >= 0
    load_references(pair(npz(file, split=RULE.model_copy(update={"duplicate_rms": 0.02}))))
    assert calls == [0.01, 0.02]


def test_large_sets_are_grouped_once_for_all_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDEBENCH_STATES", "on")
    monkeypatch.setattr(fits, "cache", lambda: tmp_path)
    monkeypatch.setattr(references, "_LEAST_KEPT", 40)
    found = []
    for _ in range(2):
        monkeypatch.setattr(references, "_KNOWN_GROUPS", {})
        found.append(load_references(pair(npz(file))).tuning.groups.tolist())
        monkeypatch.setattr(references, "duplicate_groups", lambda *_: pytest.fail("grouped again"))
    assert found[0] == found[1] and len(list((tmp_path / "fits").iterdir())) == 1


# ---- duplicates ----


def chain(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3), dtype=np.uint8)


def test_duplicates_are_transitive() -> None:
    groups = duplicate_groups(chain(100, 20, 105, 110, 21, 200, 115), 5.5 / 255)
    assert groups[0] == groups[2] == groups[3] == groups[6]
    assert groups[1] == groups[4]
    assert len({groups[0], groups[1], groups[5]}) == 3


def test_only_exact_copies_are_duplicates_at_zero() -> None:
    groups = duplicate_groups(chain(100, 101, 100, 102, 101), 0.0)
    assert groups[0] == groups[2] and groups[1] == groups[4] and len(set(groups.tolist())) == 3


def test_groups_equal_brute_force() -> None:
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (8, 1, 3, 3))[rng.integers(0, 8, 60)] + rng.integers(-12, 13, (60, 1, 3, 3))
    images = np.clip(images, 0, 255).astype(np.uint8)
    flat = images.reshape(60, -1) / 255
    near = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(-1)) <= 0.03
    wanted = np.arange(60)
    for _ in range(60):  # spread the smallest number over each component
        wanted = np.array([wanted[row].min() for row in near])
    groups = duplicate_groups(images, 0.03)
    assert 8 < len(set(wanted.tolist())) < 60
    same = groups[:, None] == groups[None]
    assert np.array_equal(same, wanted[:, None] == wanted[None])


@pytest.mark.parametrize("shape", [(1, 3, 3), (3, 16, 16), (1, 4, 2), (1, 7, 7)], ids=str)
def test_turned_copies_equal_brute_force(shape: tuple[int, int, int]) -> None:
    rng, radius = np.random.default_rng(4), 0.03
    others = rng.integers(0, 256, (30, *shape)).astype(np.uint8)
    square = shape[1] == shape[2]
    images = others[rng.integers(0, 30, 60)].astype(int)
    for number, image in enumerate(images):
        form = image[:, :: rng.choice([1, -1]), :: rng.choice([1, -1])]
        images[number] = form.swapaxes(1, 2) if square and rng.random() < 0.5 else form
    noise = np.repeat(rng.normal(0, [[1.0], [7.0], [9.0]], (3, 20)), 1, axis=0).reshape(60, 1, 1, 1)
    near = np.clip(images + noise * rng.choice([1, -1], (60, *shape)), 0, 255).astype(np.uint8)

    def distance(left: np.ndarray, right: np.ndarray) -> float:
        return float(np.sqrt(((left / 255 - right / 255) ** 2).mean()))

    def forms(image: np.ndarray) -> list[np.ndarray]:
        turns = range(4) if square else (0, 2)
        return [np.rot90(side, turn, (1, 2)) for side in (image, image[..., ::-1]) for turn in turns]

    least = [[min(distance(form, other) for other in others) for form in forms(image)] for image in near]
    wanted = [min(row) <= radius < row[0] for row in least]
    assert 5 < sum(wanted) < 55
    assert turned_copies(near, others, radius).tolist() == wanted


def test_what_is_a_copy_as_it_stands_is_not_turned() -> None:
    symmetric = np.array([[[[1, 200, 1], [90, 30, 90], [1, 200, 1]]]], dtype=np.uint8)
    assert not turned_copies(symmetric, symmetric, 0.0).any()
    other = RNG.integers(0, 256, (3, 1, 4, 4), dtype=np.uint8)
    assert turned_copies(other[..., ::-1], other, 0.0).all() and not turned_copies(other, other, 0.0).any()
    assert not turned_copies(other[:0], other, 0.0).size and not turned_copies(other, other[:0], 0.0).any()


def test_representatives_are_the_first_of_each_group() -> None:
    images = ImageSet(chain(1, 2, 3, 4, 5), np.arange(5), np.array([7, 3, 7, 3, 1]))
    assert images.representatives().tolist() == [0, 1, 4]


# ---- sources ----


def test_an_npz_file_is_loaded(file: Path) -> None:
    found = load_references(pair(npz(file, labels="labels")))
    parts = [found.training, found.held_out, found.pool, found.tuning]
    assert [len(part) for part in parts] == [10, 8, 5, 17]
    for part in parts:
        assert part.images.dtype == np.uint8 and part.images.shape[1:] == (3, 6, 5)
        assert np.array_equal(part.images, IMAGES.transpose(0, 3, 1, 2)[part.rows])
        assert part.labels is not None and np.array_equal(part.labels, part.rows)
        assert float(part.floats().max()) <= 1 and part.floats().shape == part.images.shape


def test_grey_images_get_a_channel(tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", images=IMAGES[..., 0])
    found = load_references(pair(npz(tmp_path / "grey.npz")))
    assert found.training.images.shape == (10, 1, 6, 5) and found.training.labels is None


def test_the_fingerprint_is_of_shape_and_bytes(file: Path) -> None:
    stored = IMAGES.transpose(0, 3, 1, 2)
    wanted = hashlib.sha256(b"(40, 3, 6, 5)" + stored.tobytes()).hexdigest()
    assert load_references(pair(npz(file))).fingerprint == wanted
    assert load_references(pair(npz(file, sha256=wanted))).fingerprint == wanted


def test_other_data_are_refused(file: Path) -> None:
    pinned = load_references(pair(npz(file))).fingerprint
    changed = IMAGES.copy()
    changed[0, 0, 0, 0] ^= 1
    np.savez(file, images=changed)
    with pytest.raises(BadInput, match="not the pinned"):
        load_references(pair(npz(file, sha256=pinned)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.npz"):
        load_references(pair(npz(tmp_path / "gone.npz")))


def test_a_missing_array_is_named(file: Path) -> None:
    with pytest.raises(BadInput, match=r"'pictures'.*images, labels"):
        load_references(pair(npz(file, images="pictures")))


def test_missing_labels_are_named(file: Path) -> None:
    with pytest.raises(BadInput, match="'classes'"):
        load_references(pair(npz(file, labels="classes")))


@pytest.mark.parametrize(
    "images",
    [IMAGES.astype(np.float32), IMAGES.astype(np.int64), IMAGES[0, 0], IMAGES[None]],
    ids=["float", "int", "2d", "5d"],
)
def test_other_kinds_of_array_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    np.savez(tmp_path / "odd.npz", images=images)
    with pytest.raises(BadInput, match="want uint8"):
        load_references(pair(npz(tmp_path / "odd.npz")))


@pytest.mark.parametrize("kind", ["text", "cut", "npy", "objects", "labels too short"])
def test_files_of_another_kind_are_refused(file: Path, kind: str) -> None:
    labels = None
    if kind == "text":
        file.write_text("these are not arrays", encoding="utf-8")
    elif kind == "cut":
        file.write_bytes(file.read_bytes()[:500])
    elif kind == "npy":
        with file.open("wb") as stream:
            np.save(stream, IMAGES)
    elif kind == "objects":
        np.savez(file, images=np.array([{}, {}], dtype=object))
    else:
        np.savez(file, images=IMAGES, labels=LABELS[:3])
        labels = "labels"
    with pytest.raises(BadInput):
        load_references(pair(npz(file, labels=labels)))


TWO = """{name: two, title: t, description: d, revision: 1, control: surrogate, licence: none,
    model: {location: zoo:digits}, data: {source: npz, %s}}"""


def two_arrays(folder: Path, data: str) -> Pair:
    (folder / "pair.yaml").write_text(TWO % data, encoding="utf-8")
    return load_pair(str(folder / "pair.yaml"))


def test_each_side_may_be_an_array_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", x=IMAGES[:25], kinds=LABELS[:25])
    (tmp_path / "more").mkdir()
    np.savez(tmp_path / "more" / "b.npz", y=IMAGES[25:], kinds=LABELS[25:])
    written = two_arrays(tmp_path, "training: a.npz:x, held_out: more/b.npz:y, labels: kinds")
    found = load_references(written)
    assert np.array_equal(found.training.images, IMAGES[:25].transpose(0, 3, 1, 2))
    assert np.array_equal(found.held_out.images, IMAGES[25:].transpose(0, 3, 1, 2))
    assert found.held_out.labels is not None and np.array_equal(found.held_out.labels, LABELS[25:])
    assert references.counts(written) == (25, 15)
    write_pair(written, tmp_path / "again.yaml")
    again = load_pair(str(tmp_path / "again.yaml"))
    assert again.data.members == written.data.members and again.identity() == written.identity()
    (tmp_path / "elsewhere").mkdir()
    assert two_arrays(tmp_path / "elsewhere", "training: a.npz:x, held_out: b.npz:y, labels: kinds").identity() == (
        written.identity()
    ), "the arrays' names are part of a pair, folders and files are not"
    other = two_arrays(tmp_path, "training: a.npz:other, held_out: more/b.npz:y, labels: kinds")
    assert other.identity() != written.identity()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("held_out: a.npz:x", "needs training, FILE.npz:ARRAY, beside held_out"),
        ("training: a.npz, held_out: a.npz:x", "'a.npz' is no array of an npz file: write it as FILE.npz:ARRAY"),
        ("training: a.npz:x, held_out: a.npz:x, path: a.npz", "give path and images, or training and held_out"),
        ("training: a.npz:x, held_out: a.npz:none", "no array 'none': it has x, small"),
        ("training: a.npz:x, held_out: a.npz:x", "the same rows are named as members and as held out"),
        (
            "training: a.npz:x, held_out: a.npz:small",
            "images of both sides must be of one size, they are 3x6x5 and 1x4x4",
        ),
    ],
)
def test_two_arrays_that_do_not_fit_are_refused(tmp_path: Path, data: str, message: str) -> None:
    np.savez(tmp_path / "a.npz", x=IMAGES, small=IMAGES[:, :4, :4, 0])
    with pytest.raises(BadInput, match=message):
        load_references(two_arrays(tmp_path, data))


def test_an_array_that_does_not_fit_in_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "zeros.npz", images=np.zeros((1000, 32, 32, 3), dtype=np.uint8))
    read: list[str] = []
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda self, name: read.append(name))
    free = type("Memory", (), {"available": 6_000_000})
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    with pytest.raises(BadInput, match=r"zeros.npz: 0.0 GB of memory are needed for images, 0.0 GB are free; save the"):
        load_references(pair(npz(tmp_path / "zeros.npz")))
    assert not read


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", images=IMAGES[:20])
    with pytest.raises(TooFew, match="20"):
        load_references(pair(npz(tmp_path / "few.npz")))


@pytest.mark.parametrize("name", ["digits", "digits-clean"])
def test_shipped_pairs_split_without_overlap(name: str) -> None:
    chosen = load_pair(name)
    found = load_references(chosen)
    parts = [found.training, found.held_out, found.pool, found.tuning]
    rule = chosen.data.split
    assert [len(part) for part in parts[:3]] == [rule.training, rule.held_out, rule.pool]
    assert sum(len(part) for part in parts) == 1797
    owners = [set(part.groups.tolist()) for part in parts]
    assert all(not a & b for i, a in enumerate(owners) for b in owners[:i])
    gaps = found.training.images.reshape(rule.training, -1).astype(int)[:, None] - found.held_out.images.reshape(
        rule.held_out, -1
    )
    assert np.sqrt((gaps**2).mean(-1)).min() / 255 > rule.duplicate_rms


# ---- groups of both sides ----


def test_shared_groups_are_those_of_both_sides() -> None:
    groups: dict[Side, np.ndarray] = {"training": np.array([4, 1, 2, 1, 9]), "held_out": np.array([7, 2, 8, 1, 2])}
    found = shared_groups(groups)
    assert {side: np.flatnonzero(marks).tolist() for side, marks in found.items()} == {
        "training": [1, 2, 3],
        "held_out": [1, 3, 4],
    }
    assert all(np.unique(groups[side][marks]).tolist() == [1, 2] for side, marks in found.items())


def test_a_split_by_group_shares_no_group() -> None:
    found = shared_groups(load_references(load_pair("digits")).groups())
    assert {side: int(marks.sum()) for side, marks in found.items()} == {"training": 0, "held_out": 0}


def test_without_held_out_images_no_group_is_shared() -> None:
    assert shared_groups({"training": np.array([1, 1, 2])})["training"].tolist() == [False] * 3


# ---- caption families ----


def test_near_duplicates_and_families_are_kept_together() -> None:
    units = joined(np.array([0, 1, 1, 2, 3, 4]), ["alpha", "alpha", "beta", "gamma", "delta", "gamma"])
    together = units[:, None] == units
    wanted = [{0, 1, 2}, {3, 5}, {4}]
    assert all(
        together[row, column] == any({row, column} <= unit for unit in wanted)
        for row in range(6)
        for column in range(6)
    )


def captioned(folder: Path, families: Sequence[object]) -> DataSource:
    (folder / "images").mkdir(exist_ok=True)
    rows = [{"image": {"bytes": picture(seed), "path": None}, "family": name} for seed, name in enumerate(families)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "images" / "train.parquet")
    split = {"seed": 4, "duplicate_rms": 0.0, "training": 12, "held_out": 12, "pool": 6}
    given = {"source": "folder", "path": str(folder / "images"), "images": "image", "families": "family"}
    return DataSource(**given, members={"split": "train"}, size=8, split=split)


def test_a_split_lays_no_family_on_two_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "cache", lambda: tmp_path / "cache")
    families = [f"family {number // 3}" for number in range(36)]
    found = load_references(pair(captioned(tmp_path, families)))
    sides = [part.families for part in (found.training, found.held_out, found.pool, found.tuning)]
    assert [len(side or []) for side in sides] == [12, 12, 6, 6]
    assert all(set(one or []).isdisjoint(other or []) for one, other in combinations(sides, 2))
    assert found.training.families == [families[row] for row in found.training.rows]
    assert found.training.take(np.array([2, 0])).families == [families[row] for row in found.training.rows[[2, 0]]]
    assert len(set(found.training.groups)) == 12, "near-duplicate groups are what they were"
    whole = captioned(tmp_path, families).model_copy(update={"families": None})
    alone = load_references(pair(whole))
    assert alone.training.families is None and set(alone.training.rows) != set(found.training.rows)


def test_families_are_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "cache", lambda: tmp_path / "cache")
    with pytest.raises(BadInput, match="row 0: column 'family' holds int, not families"):
        load_references(pair(captioned(tmp_path, list(range(36)))))
