"""How the gate decides: freeze each attack's threshold, then test shard by shard until the answer is certain.

The first candidates of the policy's calibration set the threshold, the others are tested in the order of their
numbers. Nothing about the decision is stored but the scores themselves, and costs count as stored with each shard,
so a gate that was killed and started again gives the same answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from ..calibration import calibrate
from ..contracts import Attack
from ..errors import AttackFailed, TooFew
from ..pairs import Pair
from ..protocol import CONFIDENCE
from ..references import References
from ..statistics import Interval
from ..store import read_json
from . import checks as gate_checks
from .baseline import Baseline, check_comparable, stored_facts
from .checks import Check
from .limits import Claim, Finding, Matched, Tested, claims_of, decide, findings, joined, matched, settled, tested
from .policy import Limits, Policy
from .source import NOTHING, Source, Spent

Verdict = Literal["pass", "fail", "cannot tell"]
EXIT_CODES: Mapping[Verdict, int] = {"pass": 0, "fail": 1, "cannot tell": 4}
UNCONTROLLED = ("group_rate", "raw_rate")
"""Limits that need no fair control."""

MOST_IMAGES = 2048
"""Candidates per attack that the checks look at, the first ones."""


class AttackNumbers(NamedTuple):
    """What was seen of one attack."""

    attack: str
    threshold: float
    calibrated_on: int
    """Candidates of the calibration; 0 for a fixed threshold."""
    candidates: int
    """Tested candidates."""
    training_hits: int
    held_out_hits: int
    groups: int
    """Duplicate groups of training images that were hit."""
    over_images: Interval
    """95 % interval of the excess if the images, too, were drawn anew; no part of the decision."""


@dataclass(frozen=True)
class Decision:
    """What the gate says, and everything that it rests on."""

    verdict: Verdict
    subject: str
    policy: Policy
    checks: list[Check]
    reasons: list[str] = field(default_factory=list)
    """What kept the gate from an answer: a budget, a refused calibration, an attack that failed."""
    attacks: list[AttackNumbers] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    spent: Spent = NOTHING
    folder: Path | None = None
    """The gate's own folder, where a model was attacked."""

    @property
    def exit_code(self) -> int:
        """0 pass, 1 fail, 4 cannot tell (or 1, where the policy says so)."""
        if self.verdict == "cannot tell" and self.policy.cannot_tell == "fail":
            return EXIT_CODES["fail"]
        return EXIT_CODES[self.verdict]


class _Line:
    """One attack: its threshold and its shards so far."""

    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.shards: list[Matched] = []
        self.tau = 0.0
        self.frozen = False
        self.calibrated_on = 0
        """Candidates of the calibration, whole shards."""
        self.claims: list[Claim] = []
        self.baseline: np.ndarray | None = None
        self.found: Tested | None = None

    @property
    def made(self) -> int:
        """Candidates so far."""
        return sum(len(shard.numbers) for shard in self.shards)


class _Stopped(Exception):
    """The budget ends here; the message says which part of it."""


@dataclass
class _Gate:
    source: Source
    policy: Policy
    references: References
    limits: Limits
    """Those that can be claimed."""
    positions: tuple[np.ndarray, np.ndarray]
    """Each training and each held-out image's duplicate group, 0 up."""

    def take(self, line: _Line) -> None:
        """Add the attack's next shard.

        Raises:
            _Stopped: the budget or the source has no more.
            AttackFailed: the attack failed.
        """
        budget, spent = self.policy.budget, self.source.spent
        if line.frozen and line.made - line.calibrated_on >= budget.candidates:
            raise _Stopped(f"{line.attack.name}: the budget of {budget.candidates:,} tested candidates is used up")
        if line.made >= self.source.available:
            raise _Stopped(f"{line.attack.name}: there are {self.source.available:,} candidates, all are used")
        for unit, most, used in (
            ("seconds", budget.seconds, spent.seconds),
            ("GPU-seconds", budget.gpu_seconds, spent.gpu_seconds),
        ):
            if most is not None and used >= most:
                raise _Stopped(f"the budget of {most:g} {unit} is used up")
        scores = self.source.scores(line.attack.name, len(line.shards))
        line.shards.append(matched(scores, self.source.measure, self.positions))

    def freeze(self, line: _Line) -> None:
        """Set the attack's threshold, from its first candidates or from the policy.

        Whether the calibration goes on depends on its own candidates alone, which are never tested.

        Raises:
            TooFew: the calibration is refused, after as many candidates as it may have.
        """
        rule = self.policy.threshold
        if rule.fixed is not None:
            line.tau, line.frozen = rule.fixed, True
            self.take(line)
            return
        assert rule.calibrate is not None
        if not len(self.references.held_out):
            raise TooFew("the pair has no held-out images to calibrate on; give the policy threshold.fixed")
        while not line.frozen:
            self.take(line)
            if line.made < rule.calibrate.candidates:
                continue
            try:
                line.tau = self._calibrated(line.shards, rule.calibrate.rate)
                line.calibrated_on, line.frozen = line.made, True
            except TooFew:
                if line.made >= rule.most:
                    raise

    def _calibrated(self, shards: Sequence[Matched], rate: float) -> float:
        found = joined(shards)
        return calibrate(found.held_out, found.held_out_groups, rate, distance=self.source.measure.distance).tau

    def weigh(self, line: _Line) -> None:
        """Bring the attack's claims up to its last shard."""
        found = joined([shard for shard in line.shards if shard.numbers[0] >= line.calibrated_on])
        sizes = (len(np.unique(self.positions[0])), len(np.unique(self.positions[1])))
        line.found = tested(found, line.tau, sizes, distance=self.source.measure.distance)
        line.claims = claims_of(line.attack.name, line.found, self.limits, line.baseline)

    def checks(self, line: _Line) -> list[Check]:
        """Look at the first candidates, and at what the judge makes of known images at the threshold."""
        shards = range(min(len(line.shards), -(-MOST_IMAGES // self.source.shard_size)))
        images = torch.cat([self.source.images(line.attack.name, shard) for shard in shards])
        broken = np.concatenate([line.shards[shard].broken for shard in shards])
        known = (self.references, self.source.measure, self.source.scorer, line.tau)
        found = [*gate_checks.check_images(images, broken, self.references), gate_checks.check_detector(*known)]
        model = self.source.victim()
        if model is not None:
            found.append(gate_checks.check_model_path(model, *known))
        return [check._replace(name=f"{line.attack.name}: {check.name}") for check in found]


def decide_on(
    source: Source,
    pair: Pair,
    policy: Policy,
    attacks: Mapping[str, Attack],
    references: References,
    baseline: Baseline | None,
) -> Decision:
    """Judge the candidates of a source by a policy.

    Raises:
        BadInput: the baseline cannot be compared; the message names the field.
    """
    limits, checks = _claimable(policy.limits, references, pair.control)
    manifest = read_json(source.folder.manifest_file)
    checks += gate_checks.check_judge(source.measure, manifest.get("optimised_spaces", {}))
    if baseline is not None:
        check_comparable(baseline, stored_facts(source.folder, manifest))
    sides = (references.training, references.held_out)
    positions = tuple(np.unique(side.groups, return_inverse=True)[1] for side in sides)
    gate = _Gate(source, policy, references, limits, (positions[0], positions[1]))
    lines, reasons = [], []
    for attack in attacks.values():
        line = _Line(attack)
        try:
            gate.freeze(line)
        except (TooFew, AttackFailed, _Stopped) as error:
            reasons.append(str(error) if attack.name in str(error) else f"{attack.name}: {error}")
            continue
        if baseline is not None and limits.baseline_margin is not None:
            line.baseline = baseline.signs(attack, policy.seed, source.measure, line.tau)
        checks += gate.checks(line)
        gate.weigh(line)
        lines.append(line)
    reasons += _test(gate, lines)
    return _decision(gate, pair, checks, reasons, lines)


def _claimable(limits: Limits, references: References, control: str) -> tuple[Limits, list[Check]]:
    """Return the limits that can be claimed on this control, and the check of it where a limit needs one."""
    named = limits.model_dump(exclude_none=True)
    if not named.keys() - set(UNCONTROLLED):
        return limits, []
    check = gate_checks.check_control(references, control)
    if check.ok:
        return limits, [check]
    return limits.model_copy(update=dict.fromkeys(named.keys() - set(UNCONTROLLED))), [check]


def _test(gate: _Gate, lines: Sequence[_Line]) -> list[str]:
    """Take shards in turn until the claims are answered; return what kept them from an answer."""
    policy = gate.policy
    stopped: dict[str, str] = {}
    while claims := [claim for line in lines for claim in line.claims]:
        answer = decide(claims, policy.alpha, policy.beta)
        open_ = [line for line in lines if not settled(line.claims, policy.beta) and line.attack.name not in stopped]
        if answer.fails or not open_:
            break
        for line in open_:
            try:
                gate.take(line)
            except (AttackFailed, _Stopped) as error:
                stopped[line.attack.name] = str(error)
                continue
            gate.weigh(line)
    return list(dict.fromkeys(stopped.values()))


def _decision(gate: _Gate, pair: Pair, checks: list[Check], reasons: list[str], lines: Sequence[_Line]) -> Decision:
    policy = gate.policy
    claims = [claim for line in lines for claim in line.claims]
    verdict: Verdict = "cannot tell"
    found: list[Finding] = []
    if claims:
        answer = decide(claims, policy.alpha, policy.beta)
        found = findings(claims, policy.alpha, policy.beta)
        if answer.fails:
            verdict = "fail"
        elif answer.passes and not reasons and all(check.ok for check in checks):
            verdict = "pass"
    return Decision(
        verdict=verdict,
        subject=pair.name,
        policy=policy,
        checks=checks,
        reasons=reasons,
        attacks=[_numbers(gate, line) for line in lines],
        findings=found,
        spent=gate.source.spent,
    )


def _numbers(gate: _Gate, line: _Line) -> AttackNumbers:
    found = line.found
    assert found is not None
    return AttackNumbers(
        attack=line.attack.name,
        threshold=line.tau,
        calibrated_on=line.calibrated_on,
        candidates=len(found.numbers),
        training_hits=int(found.training.sum()),
        held_out_hits=int(found.held_out.sum()),
        groups=len(np.unique(found.groups[found.training])),
        over_images=found.over_images(CONFIDENCE),
    )
