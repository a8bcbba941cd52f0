"""One preparation on its way: what sets the threshold is never tested, and each look has its share of alpha."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sidebench.benchmark.contracts import Neighbours, Side
from sidebench.benchmark.gate.attack_stages import AttackProgress, Stages
from sidebench.benchmark.gate.claims import Sides
from sidebench.benchmark.gate.looks import LookedAt, excess_look, margin_look
from sidebench.benchmark.gate.policy import Policy
from sidebench.benchmark.gate.source import NOTHING
from sidebench.benchmark.measures.shard_scores import Pairs, ShardScores
from sidebench.benchmark.registry import make_measure
from sidebench.benchmark.stats.comparison import AttackHits

SHARD, CALIBRATED, BUDGET = 256, 512, 1024
RMS = make_measure("rms")
SIDES = Sides.of((np.arange(20), 20 + np.arange(10)), (np.zeros(20, dtype=bool), np.zeros(10, dtype=bool)))


def scores(unit: str, shard: int) -> ShardScores:
    """Two shards that held-out images own, at growing distances; then 40 candidates by shard copy training images."""
    numbers = shard * SHARD + np.arange(SHARD)
    tested = numbers >= CALIBRATED
    distances: dict[Side, np.ndarray] = {
        "training": np.where(tested & (np.arange(SHARD) < 40), 0.001, 0.9),
        "held_out": np.where(tested, 0.8, numbers * 1e-3),
    }
    neighbours = {
        side: Neighbours(
            (numbers % count)[:, None].astype(np.int32), *[distances[side][:, None].astype(np.float32)] * 2
        )
        for side, count in zip(distances, SIDES.groups, strict=True)
    }
    none = np.zeros(SHARD, dtype=bool)
    no_pairs = Pairs(*[np.empty(0, dtype=np.int32)] * 2, np.empty(0, dtype=np.float32))
    return ShardScores(numbers, none, none, neighbours, dict.fromkeys(distances, no_pairs))


def policy(**limits: float) -> Policy:
    return Policy(
        schema="sidebench-policy/1",
        attacks={"side": {}},
        measure="rms",
        threshold={"calibrate": {"rate": 0.05, "candidates": CALIBRATED}},
        limits=limits,
        budget={"candidates": BUDGET},
        beta=0.1,
    )


def stages(rules: Policy, hypotheses: int) -> Stages:
    source: Any = SimpleNamespace(
        measure=RMS,
        shard_size=SHARD,
        available=4096,
        spent=NOTHING,
        scores=scores,
        progress=lambda *_: None,
        ahead=lambda _: None,
    )
    references: Any = SimpleNamespace(held_out=range(10))
    return Stages(source, rules, references, rules.limits, SIDES, hypotheses)


def begun(rules: Policy, hypotheses: int, yardstick: Any = None) -> AttackProgress:
    unit: Any = SimpleNamespace(name="side.s0")
    line, own = AttackProgress(unit, "side", yardstick), stages(rules, hypotheses)
    own.freeze(line)
    own.advance(line)
    assert not line.stopped
    return line


def test_what_sets_the_threshold_is_not_tested() -> None:
    line = begun(policy(excess=0.02), 1)
    # Twice as many groups of X: held-out images own half of 5 % of 512 candidates, 12.8.
    assert line.tau == pytest.approx(0.011) and line.calibrated_on == CALIBRATED
    assert line.found is not None and line.found.numbers.tolist() == list(range(CALIBRATED, CALIBRATED + SHARD))
    assert (line.tested, line.found.training.sum(), line.found.held_out.sum()) == (SHARD, 40, 0)


def test_a_look_has_its_share_of_alpha_over_looks_and_claims() -> None:
    """Looks at 256, 512 and 1,024 candidates, four claims in all."""
    line = begun(policy(excess=0.02), 4)
    (claim,) = line.claims
    assert isinstance(claim, LookedAt) and line.found is not None
    own = line.found.of(slice(None))
    assert claim.most == 3 and claim.looks == (excess_look(own, 0.02, 0.05 / 4 / 3),)
    assert claim.p_fail() == pytest.approx(3 * claim.looks[0].p_fail) and claim.values.mean() == 40 / SHARD


def test_a_margin_is_held_against_the_candidates_that_both_have() -> None:
    """The last release has 200 tested candidates, which hit nothing."""
    asked = []

    def hits(tau: float, sides: Sides, numbers: np.ndarray) -> AttackHits:
        asked.append(numbers)
        nothing = np.zeros(len(numbers))
        return AttackHits(nothing, nothing, np.zeros(20), np.zeros(10), strata=SIDES.strata)

    last = SimpleNamespace(name="last", aligned=True, candidates=lambda tau: CALIBRATED + 200, hits=hits)
    line = begun(policy(baseline_margin=0.02), 2, last)
    (claim,) = line.claims
    assert isinstance(claim, LookedAt) and line.found is not None
    ours = line.found.of(np.arange(SHARD) < 200)
    assert asked[0].tolist() == list(range(CALIBRATED, CALIBRATED + 200))
    assert claim.most == 3 and claim.values.tolist() == ours.values.tolist()
    # Looks come at their numbers: 200 candidates are too few for the first.
    assert claim.looks == ()
    last.candidates = lambda tau: 4096
    (whole,) = begun(policy(baseline_margin=0.02), 2, last).claims
    assert isinstance(whole, LookedAt)
    every = line.found.of(slice(None))
    levels = 0.05 / 2 / 3, 0.1 / 3
    theirs = hits(0.0, SIDES, np.arange(SHARD))
    assert whole.looks == (margin_look(every, theirs, 0.02, levels, aligned=True),)
