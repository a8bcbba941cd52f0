"""How the gate decides: freeze each attack's threshold, then test shard by shard until the answer is certain.

The first candidates of the policy's calibration set the threshold, the others are tested in the order of their
numbers. Each attack's first shard is looked at before the next attack is prepared, so a clear leak costs one attack
only. Several preparations of an attack are judged as so many attacks would be: each has a threshold and claims of its
own, any of them fails the model, and all of them must pass. Nothing about the decision is stored but the scores
themselves, so a gate that was killed and started again gives the same answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from ..data.pair import Pair
from ..data.references import References, shared_groups
from ..errors import AttackFailed, TooFew
from ..files import read_json
from ..protocol import CONFIDENCE
from ..runs.plan import Unit
from ..stats.comparison import excess_of
from ..stats.intervals import Interval
from . import checks as gate_checks
from .attack_stages import AttackProgress, Stages, Stopped, named
from .baseline import Baseline, BaselineAttack, check_comparable, stored_facts
from .checks import GateCheck
from .claims import Answer, AnyClaim, Finding, Sides, Tested, decide, findings, settled
from .policy import Limits, Policy
from .source import NOTHING, ScoreSource, Spent

Verdict = Literal["pass", "fail", "cannot tell"]
EXIT_CODES: Mapping[Verdict, int] = {"pass": 0, "fail": 1, "cannot tell": 4}
UNCONTROLLED = ("group_rate", "raw_rate")
"""Limits that need no fair control."""


class AttackNumbers(NamedTuple):
    """What was seen of one attack, or of one of its preparations."""

    attack: str
    """Its name, with the seed behind it where several preparations are judged."""
    threshold: float
    calibrated_on: int
    """Candidates of the calibration; 0 for a fixed threshold."""
    candidates: int
    """Tested candidates."""
    training_hits: int
    held_out_hits: int
    groups: int
    """Duplicate groups of training images that were hit."""
    excess: Interval | None
    """95 % interval of the excess at the last candidate alone; no part of the decision. None without a control."""
    baseline: str | None
    """What the candidates were compared with."""
    paired: bool
    """Both releases' candidates started from the same noise."""


@dataclass(frozen=True, repr=False)
class Decision:
    """What the gate says, and everything that it rests on."""

    verdict: Verdict
    subject: str
    policy: Policy
    checks: list[GateCheck]
    reasons: list[str] = field(default_factory=list)
    """What kept the gate from an answer: a budget, a refused calibration, an attack that failed."""
    attacks: list[AttackNumbers] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    hypotheses: int = 0
    """How many claims a fail is corrected for, those of attacks that were not needed too."""
    preparations: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Seeds of the tested preparations, by attack; attacks that prepare nothing are not among them."""
    not_needed: list[str] = field(default_factory=list)
    """Attacks that were not begun, because a leak was certain before."""
    unchecked: list[str] = field(default_factory=list)
    """What could not be looked at, and why; it does not take a pass away."""
    claims: list[AnyClaim] = field(default_factory=list)
    """What the findings were taken from, candidate by candidate."""
    spent: Spent = NOTHING
    folder: Path | None = None
    """The gate's own folder, where a model was attacked."""

    def __repr__(self) -> str:
        return f"Decision(verdict={self.verdict!r}, subject={self.subject!r}, {len(self.findings)} findings)"

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 4 cannot tell (or 1, where the policy says so)."""
        if self.verdict == "cannot tell" and self.policy.cannot_tell == "fail":
            return EXIT_CODES["fail"]
        return EXIT_CODES[self.verdict]


def decide_on(
    source: ScoreSource,
    pair: Pair,
    policy: Policy,
    units: Sequence[Unit],
    references: References,
    baseline: Baseline | None,
) -> Decision:
    """Judge the candidates of a source by a policy; `units` are the attacks, each under the seeds to judge.

    Raises:
        BadInput: the baseline cannot be compared; the message names the field.
    """
    limits, checks = _claimable(policy.limits, references, pair.control)
    manifest = read_json(source.folder.manifest_file)
    checks += gate_checks.check_judge(source.measure, manifest.get("optimised_spaces", {}))
    lines = [AttackProgress(unit, _name(unit, policy)) for unit in units]
    if baseline is None:
        limits = limits.model_copy(update={"baseline_margin": None})
    elif limits.baseline_margin is not None:
        check_comparable(baseline, stored_facts(source.folder, manifest))
        fixed = policy.threshold.fixed
        for line in lines:
            line.yardstick = BaselineAttack(baseline, line.unit.attack, line.unit.seed, source.measure, fixed)
    shared = shared_groups(references.groups())
    nothing = np.zeros(0, dtype=bool)
    sides = Sides.of(
        (references.training.groups, references.held_out.groups),
        (shared["training"], shared.get("held_out", nothing)),
    )
    hypotheses = len(lines) * len(limits.model_dump(exclude_none=True))
    stages = Stages(source, policy, references, limits, sides, hypotheses)
    judged = _Judged(lines, policy, hypotheses)
    if judged.hypotheses:  # else nothing can be claimed, whatever the candidates are
        _begin(stages, judged)
        _go_on(stages, judged)
    begun = any(line.frozen for line in lines)
    model = source.victim() if begun else None
    for done, line in enumerate(lines, start=1):
        stages.end(line)
        checks += stages.checks(line, model)
        source.progress("checks", done, len(lines))
    unchecked = ["model path: the attacked model is not at hand"] if begun and model is None else []
    return _decision(judged, pair, checks, [*source.not_judged(), *unchecked], source.spent)


@dataclass(frozen=True)
class _Judged:
    """The preparations of a decision, those included that were not begun or did not get as far as a test."""

    lines: Sequence[AttackProgress]
    policy: Policy
    hypotheses: int
    """Claims of all of them together: what a fail is corrected for, whichever were tested in the end."""

    def claims(self) -> list[AnyClaim]:
        """Return the claims of every attack so far."""
        return [claim for line in self.lines for claim in line.claims]

    def answer(self) -> Answer:
        """Hold every claim so far against its limit."""
        return decide(self.claims(), self.policy.alpha, self.policy.beta, self.hypotheses)


def _begin(stages: Stages, judged: _Judged) -> None:
    """Set each attack's threshold and test its first shard, unless a leak is certain already."""
    for line in judged.lines:
        if judged.answer().fails:
            return
        try:
            stages.freeze(line)
        except (TooFew, AttackFailed, Stopped) as error:
            line.stopped = named(line, error)
        else:
            stages.advance(line)


def _go_on(stages: Stages, judged: _Judged) -> None:
    """Take shards in turn until every claim is answered or nothing more can be had."""
    while not judged.answer().fails:
        open_ = [line for line in judged.lines if not line.stopped and not settled(line.claims, judged.policy.beta)]
        if not open_:
            return
        stages.ahead(open_)
        for line in open_:
            stages.advance(line)


def _claimable(limits: Limits, references: References, control: str) -> tuple[Limits, list[GateCheck]]:
    """Return the limits that can be claimed on this control, and the check of it where a limit needs one."""
    named = limits.model_dump(exclude_none=True)
    if not named.keys() - set(UNCONTROLLED):
        return limits, []
    check = gate_checks.check_control(references, control)
    if check.ok:
        return limits, [check]
    return limits.model_copy(update=dict.fromkeys(named.keys() - set(UNCONTROLLED))), [check]


def _decision(judged: _Judged, pair: Pair, checks: list[GateCheck], unchecked: list[str], spent: Spent) -> Decision:
    policy, claims, answer = judged.policy, judged.claims(), judged.answer()
    reasons = list(dict.fromkeys(line.stopped for line in judged.lines if line.stopped))
    verdict: Verdict = "cannot tell"
    if answer.fails:
        verdict = "fail"
    elif answer.passes and not reasons and all(check.ok for check in checks):
        verdict = "pass"
    return Decision(
        verdict=verdict,
        subject=pair.name,
        policy=policy,
        checks=checks,
        unchecked=unchecked,
        reasons=reasons,
        attacks=[_numbers(line, line.found) for line in judged.lines if line.found is not None],
        findings=findings(claims, policy.alpha, policy.beta, judged.hypotheses),
        hypotheses=judged.hypotheses,
        preparations=_preparations(judged.lines),
        not_needed=[line.name for line in judged.lines if line.found is None and not line.stopped],
        claims=claims,
        spent=spent,
    )


def _name(unit: Unit, policy: Policy) -> str:
    """Return what the answer calls a unit: by its attack alone, unless several preparations of it are judged."""
    return unit.name if policy.preparations > 1 and unit.attack.prepares() else unit.attack.name


def _preparations(lines: Sequence[AttackProgress]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for line in lines:
        if line.unit.attack.prepares() and line.found is not None:
            found.setdefault(line.unit.attack.name, []).append(line.unit.seed)
    return found


def _numbers(line: AttackProgress, found: Tested) -> AttackNumbers:
    yardstick, hits = line.yardstick, found.of(slice(None))
    return AttackNumbers(
        attack=line.name,
        threshold=line.tau,
        calibrated_on=line.calibrated_on,
        candidates=len(found.numbers),
        training_hits=int(found.training.sum()),
        held_out_hits=int(found.held_out.sum()),
        groups=len(np.unique(found.groups[found.training])),
        excess=excess_of(hits, CONFIDENCE).interval if hits.controlled else None,
        baseline=None if yardstick is None else yardstick.name,
        paired=yardstick is not None and yardstick.paired,
    )
