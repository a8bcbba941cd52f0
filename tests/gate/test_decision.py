"""What makes a verdict of claims, checks and reasons: stored scores in place of models."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sidebench.benchmark.contracts import Neighbours, Side
from sidebench.benchmark.errors import AttackFailed
from sidebench.benchmark.files import write_json
from sidebench.benchmark.gate.checks import GateCheck
from sidebench.benchmark.gate.decision import Decision, Stages, decide_on
from sidebench.benchmark.gate.policy import Policy
from sidebench.benchmark.gate.sequential import count, p_above
from sidebench.benchmark.gate.source import NOTHING
from sidebench.benchmark.measures.shard_scores import Pairs, ShardScores
from sidebench.benchmark.registry import make_measure

SHARD, LIMIT = 256, 0.02
RMS = make_measure("rms")


def spread(hits: int) -> np.ndarray:
    """Return which candidates of a shard hit, (SHARD,) bool, at equal distances."""
    return np.isin(np.arange(SHARD), (np.arange(hits) * SHARD / max(hits, 1)).astype(int) + 8)


def scores(number: int, hits: int) -> ShardScores:
    """Return a shard some of whose candidates copy training images; it cannot be made where `hits` is below 0."""
    if hits < 0:
        raise AttackFailed("it broke")
    numbers = number * SHARD + np.arange(SHARD)
    near = np.where(spread(hits), 0.01, 0.9).astype(np.float32)[:, None]
    far = np.full((SHARD, 1), 0.8, dtype=np.float32)
    ids = (numbers % 10)[:, None].astype(np.int32)
    sides: dict[Side, Neighbours] = {"training": Neighbours(ids, near, near), "held_out": Neighbours(ids, far, far)}
    none, nothing = np.zeros(SHARD, dtype=bool), np.empty(0, dtype=np.int32)
    pairs = Pairs(nothing, nothing, np.empty(0, dtype=np.float32))
    return ShardScores(numbers, none, none, sides, dict.fromkeys(sides, pairs))


@pytest.fixture
def decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a decision on preparations with so many hits a shard each, and whether their images pass the checks."""
    file = tmp_path / "manifest.json"
    write_json(file, {})
    own = np.arange(10)
    sides: Any = SimpleNamespace(training=SimpleNamespace(groups=own), held_out=SimpleNamespace(groups=10 + own))
    sides.groups = lambda: {"training": own, "held_out": 10 + own}

    def decide(*hits: int, good: bool = True, budget: int = SHARD, available: int = 4096, **changes: Any) -> Decision:
        monkeypatch.setattr(Stages, "checks", lambda *_: [GateCheck("images", good, "said")])
        source: Any = SimpleNamespace(
            measure=RMS,
            folder=SimpleNamespace(manifest_file=file),
            shard_size=SHARD,
            available=available,
            spent=NOTHING,
            scores=lambda unit, shard: scores(shard, hits[int(unit[-1])]),
            progress=lambda *_: None,
            ahead=lambda _: None,
            how_to_have=lambda *_: "",
            not_judged=list,
            victim=lambda: None,
        )
        attack = SimpleNamespace(name="side", prepares=lambda: True)
        units: Any = [SimpleNamespace(attack=attack, seed=seed, name=f"side.s{seed}") for seed in range(len(hits))]
        rules = {"threshold": {"fixed": 0.1}, "limits": {"raw_rate": LIMIT}, "budget": {"candidates": budget}}
        rules |= {"schema": "sidebench-policy/1", "attacks": {"side": {}}, "measure": "rms", "preparations": len(hits)}
        pair: Any = SimpleNamespace(name="mine", control="none")
        return decide_on(source, pair, Policy(**(rules | changes)), units, sides, None)

    return decide


def chance(hits: int) -> float:
    """Return the p-value of a shard of which so many hit, at the limit."""
    return float(p_above(count(spread(hits)), LIMIT)[-1])


def test_all_pass_and_a_check_that_fails_takes_it_away(decided: Any) -> None:
    assert (decided(0, 0).verdict, decided(0, 0, good=False).verdict) == ("pass", "cannot tell")
    assert [decided(0, good=good).exit_code for good in (True, False)] == [0, 4]


def test_a_check_that_fails_does_not_take_a_leak_away(decided: Any) -> None:
    for good in (True, False):
        found = decided(60, 0, good=good)
        assert (found.verdict, found.exit_code, found.not_needed) == ("fail", 1, ["side.s1"])
        assert found.preparations == {"side": [0]}


def test_alpha_is_shared_by_every_preparation(decided: Any) -> None:
    few = next(hits for hits in range(1, SHARD) if chance(hits) <= 0.05)
    assert chance(few) > 0.05 / 2
    assert decided(few).verdict == "fail"
    found = decided(few, 0)
    assert (found.verdict, found.hypotheses) == ("cannot tell", 2)
    assert found.findings[0].p_fail == pytest.approx(2 * chance(few))
    # A second limit is another claim of each preparation.
    both = decided(0, 0, limits={"raw_rate": LIMIT, "group_rate": 0.1})
    assert both.hypotheses == 4


def test_one_preparation_that_is_not_shown_takes_the_pass(decided: Any) -> None:
    """Four of 256 are 1.6 %: below the limit, and not shown to be."""
    found = decided(0, 4)
    assert found.verdict == "cannot tell"
    assert found.reasons == ["side.s1: the budget of 256 tested candidates is used up"]
    assert [finding.p_pass <= 0.05 for finding in found.findings] == [True, False]


def test_a_preparation_that_broke_takes_the_pass_of_the_others(decided: Any) -> None:
    found = decided(0, -1)
    assert found.verdict == "cannot tell" and found.reasons == ["side.s1: it broke"]
    assert [finding.p_pass <= 0.05 for finding in found.findings] == [True]
    assert "there are 0 candidates, all are used" in decided(0, available=0).reasons[0]
