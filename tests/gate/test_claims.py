"""Claims of a gate: one rejection fails, all of them pass, and what each of them counts."""

from typing import NamedTuple

import numpy as np
import pytest

from sidebench.benchmark.gate import claims
from sidebench.benchmark.gate.claims import Finding, Matched, Sides, decide, findings, group_claim, raw_claim, settled
from sidebench.benchmark.gate.sequential import count, p_above
from sidebench.benchmark.registry import make_measure

RMS = make_measure("rms")


class Said(NamedTuple):
    """A claim whose p-values are known."""

    fail: float
    passes: float = 1.0
    attack: str = "side"
    limit_name: str = "excess"
    limit: float = 0.02
    least: float = 0.0
    total: int = 100

    def p_fail(self) -> float:
        return self.fail

    def p_pass(self) -> float:
        return self.passes

    def finding(self, p_fail: float, alpha: float, beta: float) -> Finding:
        return Finding("side", "excess", 0.02, 100, 0.0, alpha, beta, p_fail, self.passes, None, None)


# ---- all claims together ----


def test_the_smallest_p_is_held_to_alpha_over_all_hypotheses() -> None:
    said = [Said(0.0125), Said(0.9)]
    assert decide(said, 0.05, 0.05, 4).fails
    # The two that were not tested count as well, and one more would be one too many.
    assert not decide(said, 0.05, 0.05, 5).fails
    assert decide([], 0.05, 0.05, 3) == (False, False)


def test_a_pass_needs_every_claim_at_beta_itself() -> None:
    shown, open_ = Said(1.0, passes=0.05), Said(1.0, passes=0.051)
    assert settled([shown, shown], 0.05) and decide([shown, shown], 0.05, 0.05, 8).passes
    assert not settled([shown, open_], 0.05)


def test_findings_are_holms_over_untested_claims_too() -> None:
    found = findings([Said(0.01), Said(0.03)], 0.05, 0.1, 4)
    assert [one.p_fail for one in found] == pytest.approx([4 * 0.01, 3 * 0.03])
    # Bounds come at the level of Holm's first step, and at beta.
    assert [(one.low, one.high) for one in found] == [(0.05 / 4, 0.1)] * 2


# ---- what a claim counts ----


def matches(training: list[float], held_out: list[float], groups: list[int]) -> Matched:
    n = len(training)
    nothing = np.zeros(n, dtype=int)
    return Matched(
        np.arange(n), nothing.astype(bool), np.array(training), np.array(groups), np.array(held_out), nothing
    )


SIDES = Sides.of((np.arange(4), 4 + np.arange(2)), (np.zeros(4, dtype=bool), np.zeros(2, dtype=bool)))


def test_a_tie_is_half_of_either_side_and_a_raw_hit_is_whole() -> None:
    found = claims.tested(matches([0.1, 0.1, 0.2, 0.3], [0.2, 0.1, 0.1, 0.3], [0, 1, 2, 3]), 0.2, SIDES, RMS)
    assert found.owned.tolist() == [1, 0.5, 0, 0] and found.owned_held_out.tolist() == [0, 0.5, 1, 0]
    assert found.training.tolist() == [True, True, True, False]
    # Whoever owns them: three raw hits of four.
    assert raw_claim("side", "raw_rate", 0.1, found, None).counts.mean == 3 / 4
    # An excess counts owned shares, twice each of H, of which there are half as many groups.
    hits = found.of(slice(None))
    assert hits.values.sum() == pytest.approx(1.5 - 2 * 1.5)


def test_the_most_hit_group_is_tested_and_each_group_has_its_chance() -> None:
    groups = [0, 1, 0, *[1] * 9, 2, 0, 3]
    found = claims.tested(matches([0.1] * 14 + [0.9], [0.5] * 15, groups), 0.2, SIDES, RMS)
    claim = group_claim("side", 0.01, found)
    # After each candidate, hits and misses of whichever group has been hit most.
    most = [1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10]
    assert claim.counts.seen[1].tolist() == most
    assert claim.counts.seen[0].tolist() == [n + 1 - hit for n, hit in enumerate(most)]
    # Each of four groups of X might have been the one.
    alone = p_above(claim.counts, 0.01)[-1]
    assert claim.p_fail() == pytest.approx(4 * alone) and 4 * alone < 0.1


def test_a_background_that_is_known_makes_a_pass_cheaper_and_a_fail_no_easier() -> None:
    nothing = claims.tested(matches([0.9] * 200, [0.9] * 200, [0] * 200), 0.2, SIDES, RMS)
    told, plain = (raw_claim("side", "raw_rate", 0.02, nothing, rate) for rate in (0.001, None))
    assert told.p_pass() < plain.p_pass() and told.p_fail() == plain.p_fail() == 1
    assert np.array_equal(told.counts.seen, count(np.zeros(200)).seen)
