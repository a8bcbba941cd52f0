"""AuthPct and C_T against cases worked out by hand or by plain loops, and what they cannot see."""

import math

import numpy as np
import pytest
import torch

from sidebench.benchmark.errors import BadInput, TooFew
from sidebench.benchmark.measures import set_level_copying
from sidebench.benchmark.measures.set_level_copying import auth_pct, data_copying, rank_sum_z, sensitivity


def cloud(n: int, seed: int, dimensions: int = 3) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=(n, dimensions)).astype(np.float32)


def three_blobs(n: int, seed: int) -> np.ndarray:
    centres = np.array([[0, 0], [50, 0], [0, 80]], dtype=np.float32)
    rng = np.random.Generator(np.random.PCG64(seed))
    return (centres[np.arange(n) % 3] + rng.normal(size=(n, 2))).astype(np.float32)


# ---- AuthPct ----


def test_auth_pct_by_hand() -> None:
    training = np.array([[0.0], [1.0], [4.0]])  # gaps to the nearest other: 1, 1, 3
    generated = np.array([[0.2], [-1.5], [2.0], [3.0], [8.0]])
    # Nearest: 0 (0.2 <= 1), 0 (1.5 > 1), 1 (1 <= 1: not authentic), 4 (1 <= 3), 4 (4 > 3): two of five.
    found = auth_pct(generated, training)
    assert found.value == pytest.approx(40.0)
    assert (found.generated, found.training, found.blind, found.deduplicated) == (5, 3, 0, False)
    assert found.interval.low < 40 < found.interval.high


def test_auth_pct_agrees_with_plain_loops() -> None:
    training, generated = cloud(60, 1), cloud(80, 2)
    authentic = 0
    for g in generated.tolist():
        star = min(range(60), key=lambda i: math.dist(g, training[i].tolist()))
        own = min(math.dist(training[star].tolist(), training[j].tolist()) for j in range(60) if j != star)
        authentic += math.dist(g, training[star].tolist()) > own
    assert 0 < authentic < 80
    assert auth_pct(torch.from_numpy(generated), torch.from_numpy(training)).value == pytest.approx(
        100 * authentic / 80
    )


def test_auth_pct_of_copies_is_zero() -> None:
    training = cloud(50, 3)
    assert auth_pct(training, training).value == 0
    assert auth_pct(training + 100, training).value == 100


@pytest.mark.parametrize("copies", [2, 3, 5])
def test_duplicated_images_hide_their_copies_until_they_are_grouped(copies: int) -> None:
    single = cloud(20, 4)
    training = np.concatenate([single] * copies)
    generated = single + np.float32(1e-3)
    raw = auth_pct(generated, training)
    assert (raw.value, raw.blind) == (100.0, 20)
    grouped = auth_pct(generated, training, np.tile(np.arange(20), copies))
    assert (grouped.value, grouped.blind, grouped.training, grouped.deduplicated) == (0.0, 0, 20, True)
    assert auth_pct(single, training).value == 0  # 0 > 0 is false: bit-exact copies are still seen


def test_auth_pct_refuses() -> None:
    with pytest.raises(TooFew):
        auth_pct(cloud(3, 1), cloud(1, 2))
    with pytest.raises(TooFew):
        auth_pct(cloud(0, 1), cloud(5, 2))
    with pytest.raises(TooFew):
        auth_pct(cloud(3, 1), cloud(5, 2), np.zeros(5, dtype=int))
    with pytest.raises(BadInput, match="groups"):
        auth_pct(cloud(3, 1), cloud(5, 2), [0, 1])
    with pytest.raises(BadInput, match="NaN"):
        auth_pct(np.full((2, 3), np.nan), cloud(5, 2))
    with pytest.raises(BadInput, match="length"):
        auth_pct(cloud(2, 1, 4), cloud(5, 2, 3))
    with pytest.raises(BadInput, match="N x D"):
        auth_pct(np.zeros(4), cloud(5, 2))


# ---- C_T ----


def z_by_loops(made: list[float], fresh: list[float]) -> float:
    m, n = len(made), len(fresh)
    count = sum((a > b) + (a == b) / 2 for a in made for b in fresh)
    return (count - (n * m / 2 - 0.5)) / math.sqrt(n * m * (n + m + 1) / 12)


def test_z_by_hand() -> None:
    # Of the six pairs the generated distance is larger in (2 > 1), (4 > 1), (4 > 3): U = 3.
    assert rank_sum_z(np.array([2.0, 4.0, 0.0]), np.array([1.0, 3.0])) == pytest.approx(0.5 / math.sqrt(3.0))
    # A tie counts one half: U = 0.5, one pair, (0.5 - 0) / sqrt(3 / 12).
    assert rank_sum_z(np.array([1.0]), np.array([1.0])) == pytest.approx(1.0)


def test_z_agrees_with_scipy() -> None:
    from scipy.stats import mannwhitneyu

    rng = np.random.Generator(np.random.PCG64(5))
    for _ in range(20):
        made, fresh = rng.integers(0, 12, 40) / 4, rng.integers(1, 14, 25) / 4
        count = mannwhitneyu(made, fresh).statistic
        wanted = (count - (25 * 40 / 2 - 0.5)) / math.sqrt(25 * 40 * 66 / 12)
        assert rank_sum_z(made, fresh) == pytest.approx(wanted)
        assert rank_sum_z(made, fresh) == pytest.approx(z_by_loops(made.tolist(), fresh.tolist()))
    # Without ties scipy's asymptotic p-value is the same Z, up to the sign of its continuity correction.
    made, fresh = rng.normal(size=40), rng.normal(size=25)
    found = mannwhitneyu(made, fresh, alternative="less", method="asymptotic", use_continuity=True)
    assert 0.5 * math.erfc(-rank_sum_z(made, fresh) / math.sqrt(2)) == pytest.approx(found.pvalue)


def test_c_t_agrees_with_plain_loops() -> None:
    training, generated, held_out = three_blobs(90, 6), three_blobs(75, 7), three_blobs(63, 8)
    generated = generated[np.r_[0:75, 0:75:3]]  # more of the first blob

    def blob(point: list[float]) -> int:
        return min(range(3), key=lambda i: math.dist(point, [(0, 0), (50, 0), (0, 80)][i]))

    def far(point: list[float]) -> float:
        return min(math.dist(point, other) for other in training.tolist())

    total, weight = 0.0, 0
    for cell in range(3):
        made = [far(p) for p in generated.tolist() if blob(p) == cell]
        fresh = [far(p) for p in held_out.tolist() if blob(p) == cell]
        total, weight = total + len(fresh) * z_by_loops(made, fresh), weight + len(fresh)
    found = data_copying(generated, training, held_out)
    # Components turn the plane without changing distances, up to float32.
    assert found.value == pytest.approx(total / weight, abs=0.02)
    assert (found.generated, found.held_out, found.training) == (100, 63, 90)
    assert (found.dropped, found.components) == (0, 2)
    assert sorted(cell.generated for cell in found.cells) == [25, 25, 50]


def test_cells_with_fewer_than_twenty_are_dropped_and_weights_are_renormalised() -> None:
    training, held_out = three_blobs(90, 9), three_blobs(60, 10)[:50]
    made = three_blobs(300, 11)
    generated = np.concatenate([made[0::3][:40], made[1::3][:20], made[2::3][:19]])
    found = data_copying(generated, training, held_out)
    assert found.dropped == 1
    assert [cell.generated for cell in found.cells if cell.z is None] == [19]
    kept = [cell for cell in found.cells if cell.z is not None]
    assert sorted(cell.generated for cell in kept) == [20, 40]
    wanted = np.average([cell.z for cell in kept if cell.z is not None], weights=[cell.held_out for cell in kept])
    assert found.value == pytest.approx(float(wanted))


def test_c_t_signs() -> None:
    training, held_out, fresh = three_blobs(300, 12), three_blobs(300, 13), three_blobs(300, 14)
    assert data_copying(training, training, held_out).value < -10
    assert data_copying(fresh * 1.2 + 3, training, held_out).value > 5
    values = [data_copying(three_blobs(300, seed), training, held_out).value for seed in range(100, 120)]
    assert abs(np.mean(values)) < 1.5


def test_c_t_uses_64_components_at_most_and_one_result_per_seed() -> None:
    training, generated, held_out = cloud(200, 15, 100), cloud(150, 16, 100), cloud(120, 17, 100)
    first = data_copying(generated, training, held_out, seed=3)
    assert first.components == 64
    assert first == data_copying(generated, training, held_out, seed=3)
    others = {data_copying(generated, training, held_out, seed=seed).value for seed in range(4)}
    assert len(others) > 1  # a single cloud has no natural cells: the start matters


def test_c_t_refuses() -> None:
    with pytest.raises(TooFew, match="no cell"):
        data_copying(three_blobs(57, 1), three_blobs(90, 2), three_blobs(60, 3))
    with pytest.raises(TooFew, match="no cell"):
        data_copying(three_blobs(90, 1), three_blobs(90, 2), three_blobs(0, 3))
    with pytest.raises(TooFew, match="unique training images"):
        data_copying(three_blobs(90, 1), np.zeros((40, 2)), three_blobs(60, 3))


# ---- sensitivity ----


def test_a_few_copies_go_unseen() -> None:
    training, clean, held_out = three_blobs(600, 18), three_blobs(2000, 19), three_blobs(600, 20)
    rows = sensitivity(clean, training, held_out, seed=1)
    assert [row.copies for row in rows] == [0, 2, 20, 200]
    assert rows[0].auth_pct == auth_pct(clean, training)
    assert rows[0].data_copying == data_copying(clean, training, held_out, seed=1)
    auth, copied = [row.auth_pct.value for row in rows], [row.data_copying.value for row in rows]
    assert auth == sorted(auth, reverse=True) and copied == sorted(copied, reverse=True)
    assert 0 <= auth[0] - auth[1] <= 0.1 and abs(copied[0] - copied[1]) < 0.1  # 0.1 %: nothing to be seen
    assert auth[0] - auth[3] > 2 and copied[0] - copied[3] > 1
    assert rows[1].auth_pct.interval.low < auth[0] < rows[1].auth_pct.interval.high


def test_sensitivity_leaves_the_given_images_alone() -> None:
    clean = torch.from_numpy(three_blobs(120, 21))
    before = clean.clone()
    rows = sensitivity(clean, three_blobs(90, 22), three_blobs(90, 23), shares=(1.0,))
    assert torch.equal(clean, before)
    assert rows[0].auth_pct.value == 0 and rows[0].copies == 120
    with pytest.raises(BadInput, match="shares"):
        sensitivity(clean, three_blobs(90, 22), three_blobs(90, 23), shares=(1.5,))


def test_the_table_shows_sizes_and_shares() -> None:
    rows = sensitivity(three_blobs(200, 24), three_blobs(90, 25), three_blobs(80, 26))
    lines = set_level_copying.as_text(rows).splitlines()
    assert len(lines) == 5
    assert [line.split("%")[0].strip() for line in lines[1:]] == ["0", "0.1", "1", "10"]
    assert all(" 200 " in line and " 80 " in line for line in lines[1:])
