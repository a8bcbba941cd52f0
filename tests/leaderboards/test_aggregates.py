"""Records of images that are not public say nothing of any one image, and stand on boards all the same."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_records import changed, entry

from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, BadRecord
from sidebench.benchmark.measures.hits import nested_bands
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.results.keyed_names import keyed_hash, run_key, training_group
from sidebench.benchmark.results.run_folder import RunFolder, unit_name
from sidebench.benchmark.results.secret_seeds import NONCE_FILE, keep_nonce, nonce_in, secret_seeds, seed_of
from sidebench.benchmark.results.unit_scores import stored_groups
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.plan import plan_run
from sidebench.benchmark.stats.comparison import AttackHits
from sidebench.leaderboards import sum_tests
from sidebench.leaderboards.aggregates import histogram, paired_counts, shares_of
from sidebench.leaderboards.challenge import challenge
from sidebench.leaderboards.check import check_record
from sidebench.leaderboards.make_records import make_records, unit_hits, write_record
from sidebench.leaderboards.rank_tests import Sample, all_pairs, welch
from sidebench.leaderboards.ranking import rank
from sidebench.leaderboards.read_records import read_record
from sidebench.leaderboards.record import Record


@pytest.fixture(scope="module")
def pair_file(make_pair_file: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file: Path = make_pair_file(tmp_path_factory.mktemp("pair"), name="theirs", public=False)
    return file


@pytest.fixture(scope="module")
def folder(pair_file: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a run under two secret seeds of a pair whose images are not public."""
    pair = load_pair(str(pair_file))
    secret = secret_seeds(pair.identity(), 2, tmp_path_factory.mktemp("keys") / "seeds.key")
    plan = plan_run(pair, attacks=["carlini-uncond", "plain-tuned"], candidates=30, seeds=secret.seeds, device="cpu",
                    model="control:mixture:0.4", out=tmp_path_factory.mktemp("runs"),
                    settings={"plain-tuned": {"steps": 10}})  # fmt: skip
    found = runner.execute(plan).folder
    keep_nonce(found, secret.nonce)
    return found


@pytest.fixture(scope="module")
def both(folder: RunFolder) -> list[Record]:
    return make_records(folder, "somebody")


@pytest.fixture(scope="module")
def record(both: list[Record]) -> Record:
    return both[0]


def test_counts_of_the_same_run_are_those_of_its_scores(both: list[Record], folder: RunFolder) -> None:
    first, second = both
    other = {(found.seed, found.band): found for found in second.paired}
    assert len(first.paired) == len(other) == len(first.shares) == 2 * len(nested_bands(make_measure(first.measure)))
    for found in first.paired:
        assert found.attack == "plain-tuned" and found.scores == second.hashes.scores[str(found.seed)]
        turned = other[found.seed, found.band].counts
        assert np.array_equal(np.transpose(found.counts), turned) and np.sum(turned) == 30
    measure, groups = make_measure(first.measure), stored_groups(folder)
    seed = seed_of(nonce_in(folder), 1)
    hits = [
        unit_hits(folder, unit_name(record.claim.attack, seed), measure, groups, measure.bands[:1])[0]
        for record in both
    ]
    (table,) = [found for found in first.paired if (found.seed, found.band) == (1, first.band)]
    wanted = [[(one * two).sum() for two in hits[1][:2]] for one in hits[0][:2]]
    assert np.array_equal(np.array(table.counts)[:2, :2], wanted) and np.sum(wanted) > 0, "the test hits nothing"


def test_cheat_counts_that_do_not_add_up(record: Record) -> None:
    (one, two, three), first = record.paired[0].counts, record.paired[0]
    moved = first.model_copy(update={"counts": ((one[0] + 1, *one[1:]), two, three)})
    for paired in ([moved, *record.paired[1:]], [first, *record.paired], [first.model_copy(update={"seed": 5})]):
        fields = [field for field, _ in check_record(record.model_copy(update={"paired": paired}))]
        assert any(field.startswith("paired") for field in fields)


def test_two_attacks_of_one_run_are_tested_by_their_counts() -> None:
    """The p of sums is that of the records with bits, or larger: covariance between groups is not known."""
    rng = np.random.default_rng(2)
    for rates in ((0.2, 0.2), (0.1, 0.5)):
        hits, p = simulated(rng, rates)
        by_bits = all_pairs([Sample("k", hits[0]), Sample("k", hits[1])])[0][0, 1]
        assert by_bits * (1 - 1e-9) <= p <= 1
        assert (p < 0.01) == (rates[0] < rates[1])


def test_tables_that_do_not_fit_each_other_are_not_used() -> None:
    """One record cannot make a test of its own liking, nor stop the board: then preparations alone are tested."""
    _, wanted = simulated(np.random.default_rng(3), (0.1, 0.5))
    rows = records_of(np.random.default_rng(3), (0.1, 0.5))[1]
    by_preparation = welch([sum_tests.excess_by_preparation(row) for row in rows], unvarying=1.0)[0, 1]
    assert wanted != by_preparation

    def p(*records: Any) -> float:
        return float(sum_tests.p_of_sums(records, [np.ones(3), np.ones(3)])[0, 1])

    first, second = rows
    forged = copy.copy(first)
    forged.paired = [SimpleNamespace(**{**vars(each), "counts": np.diag(np.sum(each.counts, axis=1))})
                     for each in first.paired]  # fmt: skip
    classes = copy.copy(first)
    classes.victim = SimpleNamespace(**{**vars(first.victim), "classes": [(30, 30), (30, 30)]})
    single = copy.copy(first)
    single.victim = SimpleNamespace(classes=[], compared_groups=lambda: {"training": 1, "control": 60})
    for other in (forged, classes, single):
        assert p(other, second) == pytest.approx(by_preparation)
    assert p(first, second) == pytest.approx(wanted)


def simulated(rng: np.random.Generator, rates: tuple[float, float]) -> tuple[list[dict[int, AttackHits]], float]:
    """Return what two attacks hit under three seeds, even over 60 groups a side, and the p that their sums give."""
    hits, records = records_of(rng, rates)
    return hits, float(sum_tests.p_of_sums(records, [np.ones(3), np.ones(3)])[0, 1])


def records_of(rng: np.random.Generator, rates: tuple[float, float]) -> tuple[list[dict[int, AttackHits]], list[Any]]:
    """Return what two attacks hit under three seeds, even over 60 groups a side, and their records of sums."""
    groups, hits = 60, []
    for rate in rates:
        by_seed = {}
        for seed in range(3):
            side = rng.random(400)
            owned = [(side < rate).astype(float), ((side >= rate) & (side < rate + 0.05)).astype(float)]
            credits = [np.bincount(rng.integers(0, groups, int(own.sum())), minlength=groups) for own in owned]
            by_seed[seed] = AttackHits(*owned, *credits)
        hits.append(by_seed)
    records = []
    for name, own, other in (("carlini-uncond", *hits), ("plain-tuned", *hits[::-1])):
        excess = {seed: SimpleNamespace(value=found.values.mean()) for seed, found in own.items()}
        records.append(
            SimpleNamespace(
                claim=SimpleNamespace(attack=name),
                seeds=[0, 1, 2],
                band="high",
                candidates=400,
                victim=SimpleNamespace(classes=[], compared_groups=lambda: {"training": groups, "control": groups}),
                hashes=SimpleNamespace(scores={str(seed): f"{name} {seed}" for seed in own}),
                shares=[shares_of(seed, "high", found) for seed, found in own.items()],
                headline=lambda seed, excess=excess: SimpleNamespace(bands=[SimpleNamespace(excess=excess[seed])]),
                paired=[
                    SimpleNamespace(
                        seed=seed,
                        band="high",
                        scores=f"{'plain-tuned' if name == 'carlini-uncond' else 'carlini-uncond'} {seed}",
                        counts=paired_counts(own[seed], other[seed]),
                    )
                    for seed in own
                ],
            )
        )
    return hits, records


def test_a_record_holds_sums_and_no_seed(record: Record, folder: RunFolder) -> None:
    text = record.text()
    assert record.seeds == [0, 1] and record.hits == [] and not record.victim.public
    assert "--secret-seeds 2" in record.command and "--seed " not in record.command
    for unit in json.loads(folder.manifest_file.read_text())["units"].values():
        assert str(unit["seed"]) not in text
    key = run_key(folder)
    for group in np.unique(stored_groups(folder)["training"]):
        assert keyed_hash(key, training_group(int(group))) not in text
    for share in record.shares:
        band = next(band for band in record.headline(share.seed).bands if band.band == share.band)
        assert share.training == band.owned_training and share.control == band.owned_held_out
        assert all(cell.groups >= 5 for cell in [*share.training_groups, *share.control_groups])
    assert any(share.training for share in record.shares), "the test hits nothing, and shows nothing"


def test_it_stands_up_to_the_check_and_to_a_changed_digit(record: Record) -> None:
    assert [found for found in check_record(record) if not found[0].startswith("victim")] == []
    share = record.shares[0]
    for field, other in (
        ("shares.0.training", {"shares": [share.model_copy(update={"training": 7.5}), *record.shares[1:]]}),
        ("shares", {"shares": record.shares[1:]}),
        ("nonce", {"nonce": None}),
        ("seeds", {"seeds": [0, 2]}),
        ("excess.value", {"excess": record.excess.model_copy(update={"value": record.excess.value + 0.01})}),
        ("command", {"command": record.command.replace("--secret-seeds 2", "--seed 0 --seed 1")}),
    ):
        assert field in [found for found, _ in check_record(record.model_copy(update=other))]


def test_cheat_bits_in_a_record_of_images_that_are_not_public(record: Record, real_records: list[Record]) -> None:
    found = [field for field, _ in check_record(record.model_copy(update={"hits": real_records[0].hits}))]
    assert "hits" in found
    bare = real_records[0].model_copy(update={"shares": record.shares})
    assert "shares" in [field for field, _ in check_record(bare)]


def test_seeds_that_can_be_guessed_make_no_record(pair_file: Path, tmp_path: Path) -> None:
    plan = plan_run(load_pair(str(pair_file)), attacks=["carlini-uncond"], candidates=8, seeds=(3,), device="cpu",
                    model="control:mixture:0.4", out=tmp_path)  # fmt: skip
    folder = runner.execute(plan).folder
    with pytest.raises(BadInput, match="whoever knows a seed can make its candidates: run it with --secret-seeds 3"):
        make_records(folder, "somebody")


def test_seeds_that_were_chosen_stay_out_of_the_record(pair_file: Path, tmp_path: Path) -> None:
    pair = load_pair(str(pair_file))
    secret = secret_seeds(pair.identity(), 1, tmp_path / "seeds.key")
    plan = plan_run(pair, attacks=["carlini-uncond"], candidates=8, seeds=(3, *secret.seeds), device="cpu",
                    model="control:mixture:0.4", out=tmp_path)  # fmt: skip
    folder = runner.execute(plan).folder
    keep_nonce(folder, secret.nonce)
    (record,) = make_records(folder, "somebody")
    assert record.seeds == [0] and {found.seed for found in record.results} == {0}
    assert [cost.seed for cost in record.costs] == [0] and record.hashes.scores.keys() == {"0"}


def test_a_challenge_is_shown_the_nonce(record: Record, folder: RunFolder, tmp_path: Path) -> None:
    file = write_record(record, tmp_path)
    assert read_record(file) == record
    nonce = (folder.path / NONCE_FILE).read_bytes()
    (folder.path / NONCE_FILE).write_bytes(bytes(32))
    try:
        with pytest.raises(BadRecord, match="nonce: is not what the record commits to"):
            challenge(file, folder, 5, device="cpu")
    finally:
        (folder.path / NONCE_FILE).write_bytes(nonce)


def test_secret_seeds_are_found_again_and_differ_by_pair(tmp_path: Path) -> None:
    file = tmp_path / "keys" / "seeds.key"
    first = secret_seeds("a" * 64, 3, file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret_seeds("a" * 64, 2, file).seeds == first.seeds[:2]
    assert not set(first.seeds) & set(secret_seeds("b" * 64, 3, file).seeds)
    assert all(2**62 <= seed < 2**63 for seed in first.seeds)
    assert first.seeds == tuple(seed_of(first.nonce, number) for number in range(3))


@pytest.mark.parametrize(
    ("credits", "cells"),
    [
        ([1] * 4, []),
        ([1] * 5, [(1, 1, 5, 5.0)]),
        ([1] * 3 + [2] * 3, [(1, 2, 6, 9.0)]),
        ([0.5] * 5 + [3] * 9 + [40], [(1, 1, 5, 2.5), (3, 40, 10, 67.0)]),
    ],
)
def test_small_cells_are_put_together(credits: list[float], cells: list[tuple[int, int, int, float]]) -> None:
    found = histogram(np.array([0.0, *credits]))
    assert [(cell.least, cell.most, cell.groups, cell.candidates) for cell in found] == cells


def test_boards_of_sums_test_preparations(record: Record) -> None:
    def row(name: str, values: list[float], spent: float = 10.0) -> Record:
        results = []
        for number, value in enumerate(values):
            closest, *others = record.headline(0).bands
            excess = record.excess.model_copy(update={"value": value})
            bands = [closest.model_copy(update={"excess": excess}), *others]
            results.append(record.headline(0).model_copy(update={"seed": number, "bands": bands}))
        numbers = list(range(len(values)))
        costs = [
            record.costs[0].model_copy(update={"seed": number, "denoiser_equivalents": spent}) for number in numbers
        ]
        mean = record.excess.model_copy(update={"value": float(np.mean(values))})
        return changed(record, attack=name, seeds=numbers, results=results, costs=costs, excess=mean, name="x")

    rows = [row("side-modes", [0.30, 0.31, 0.29]), row("polish", [0.10, 0.11, 0.10]), row("side-walk", [0.2, 0.5, 0.1])]
    check = record.victim.control_check
    assert check is not None
    fair = [changed(each, control_check=check.model_copy(update={"told_apart": False})) for each in rows]
    (board,) = rank([entry(each) for each in fair]).boards
    # At ten times the cost the first finds less for it.
    dear = row("side", [0.30, 0.31, 0.29], spent=100.0)
    dear = changed(dear, control_check=check.model_copy(update={"told_apart": False}))
    (other,) = rank([entry(each) for each in (dear, *fair[1:])]).boards
    by_cost = {each.record.claim.attack: (each.best, each.best_by_cost) for each in other.ranked}
    assert (by_cost["side"], by_cost["polish"]) == ((1, 2), (2, 1))
    found = {each.record.claim.attack: (each.best, each.worst, each.best_by_cost) for each in board.ranked}
    assert found == {"side-modes": (1, 2, 1), "side-walk": (1, 3, 1), "polish": (2, 3, 2)}


def test_preparations_that_are_alike_are_called_different_rarely() -> None:
    rng = np.random.default_rng(6)
    draws = [welch(list(rng.normal(0.2, 0.03, (2, 3))), unvarying=1.0)[0, 1] for _ in range(400)]
    assert sum(p <= 0.05 for p in draws) <= 0.05 * 400 + 9
