"""A preparation of an attack on its way through the gate: its threshold is set and frozen, then candidates are tested.

Work comes in shards. Costs count as stored with each shard, so that a gate which was killed and started again ends
where it would have ended, whatever it had to compute again.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from ..contracts import Model
from ..data.references import References
from ..errors import AttackFailed, TooFew
from ..measures.hits import owned_by_control
from ..runs.plan import Unit
from ..stats.thresholds import calibrate
from . import checks as gate_checks
from .baseline import BaselineAttack
from .checks import GateCheck
from .claims import AnyClaim, Matched, Sides, Tested, group_claim, joined, matched, raw_claim, settled, tested
from .looks import Look, LookedAt, due, excess_look, look_numbers, margin_look
from .policy import Limits, Policy
from .source import ScoreSource

MOST_IMAGES = 2048
"""Candidates per preparation that the checks look at, the first ones."""


class AttackProgress:
    """One preparation of an attack: its threshold and its shards so far."""

    def __init__(self, unit: Unit, name: str, yardstick: BaselineAttack | None = None) -> None:
        self.unit = unit
        self.name = name
        """What the answer calls it: the attack's name, or the unit's where several preparations are judged."""
        self.yardstick = yardstick
        self.shards: list[Matched] = []
        self.tau = 0.0
        self.frozen = False
        self.calibrated_on = 0
        """Candidates of the calibration, whole shards."""
        self.claims: list[AnyClaim] = []
        self.looks: list[Look] = []
        """At the excess; their numbers are fixed before the first candidate."""
        self.margins: list[Look] = []
        """At the margin over the baseline, likewise."""
        self.found: Tested | None = None
        self.stopped = ""
        """Why no more candidates are taken, before the answer is certain."""
        self.under_way: tuple[str, int] | None = None
        """The phase that was reported last and is not at its end, and how far it is."""

    @property
    def made(self) -> int:
        """Candidates so far."""
        return sum(len(shard.numbers) for shard in self.shards)

    @property
    def tested(self) -> int:
        """Tested candidates so far."""
        return self.made - self.calibrated_on if self.frozen else 0


class Stopped(Exception):
    """No more candidates: the message says why."""


@dataclass(frozen=True)
class Stages:
    """Takes attacks through calibration and test."""

    source: ScoreSource
    policy: Policy
    references: References
    limits: Limits
    """Those that can be claimed."""
    sides: Sides
    hypotheses: int
    """Claims of all preparations together: what alpha is divided by."""

    def freeze(self, line: AttackProgress) -> None:
        """Set the attack's threshold, from its first candidates or from the policy.

        Whether the calibration goes on depends on its own candidates alone, which are never tested.

        Raises:
            TooFew: the calibration is refused, after as many candidates as it may have.
            Stopped: the budget ended before.
            AttackFailed: the attack failed.
        """
        rule = self.policy.threshold
        if rule.fixed is not None:
            line.tau, line.frozen = rule.fixed, True
            return
        assert rule.calibrate is not None
        if not len(self.references.held_out):
            raise TooFew("the pair has no held-out images to calibrate on; give the policy threshold.fixed")
        first = rule.calibrate.candidates
        while not line.frozen:
            extended = line.made >= first
            size = self.source.shard_size
            if needed := [(line.unit.name, shard) for shard in range(len(line.shards), -(-first // size))]:
                self.source.ahead(needed)
            self._take(line, *(("calibration, extended", rule.most) if extended else ("calibration", first)))
            if line.made < first:
                continue
            try:
                line.tau = self._calibrated(line.shards, rule.calibrate.rate)
                line.calibrated_on, line.frozen = line.made, True
            except TooFew:
                if line.made >= rule.most:
                    raise
        self.end(line)

    def ahead(self, lines: Sequence[AttackProgress]) -> None:
        """Let the next shards of several preparations, all of which are tested next, be made side by side."""
        needed = []
        for line in lines:
            with suppress(Stopped):
                self._check_test(line)
                self._check_more(line)
                needed.append((line.unit.name, len(line.shards)))
        if needed:
            self.source.ahead(needed)

    def advance(self, line: AttackProgress) -> None:
        """Test the attack's next shard; where there is none, `line.stopped` says why."""
        try:
            self._check_test(line)
            self._take(line, *self._look_ahead(line))
        except (AttackFailed, Stopped) as error:
            line.stopped = named(line, error)
        if line.tested:
            self._weigh(line)
        if line.stopped or settled(line.claims, self.policy.beta):
            self.end(line)

    def end(self, line: AttackProgress) -> None:
        """Report that what is under way is over, as a test is that has its answer before the next look."""
        if line.under_way is not None:
            phase, done = line.under_way
            self.source.progress(phase, done, done)
            line.under_way = None

    def _look_ahead(self, line: AttackProgress) -> tuple[str, int]:
        """Return which look the next shard leads to, and after how many tested candidates it is."""
        numbers = look_numbers(self.source.shard_size, self.policy.budget.candidates)
        place = next((place for place, number in enumerate(numbers) if number > line.tested), len(numbers) - 1)
        return f"test, look {place + 1} of at most {len(numbers)}", numbers[place]

    def checks(self, line: AttackProgress, model: Model | None) -> list[GateCheck]:
        """Look at the first candidates, and at what the judge makes of known images at the threshold.

        `model` is the one under audit, if it is at hand.
        """
        shards = range(min(len(line.shards), -(-MOST_IMAGES // self.source.shard_size)))
        if not shards:
            return []
        images = torch.cat([self.source.images(line.unit.name, shard) for shard in shards])
        broken = np.concatenate([line.shards[shard].broken for shard in shards])
        found = gate_checks.check_images(images, broken, self.references)
        if line.frozen:
            known = (self.references, self.source.measure, self.source.scorer, line.tau)
            found.append(gate_checks.check_detector(*known))
            usable = images[torch.from_numpy(~broken)]
            if len(usable):
                limit, level = self.policy.limits.of_all_images, self.policy.alpha
                found.append(gate_checks.check_hidden(usable, *known, self.sides, limit, level))
            if model is not None:
                found.append(gate_checks.check_model_path(model, *known))
        return [check._replace(name=f"{line.name}: {check.name}") for check in found]

    def _take(self, line: AttackProgress, stage: str, expected: int) -> None:
        """Add the attack's next shard, of a stage that ends with so many candidates.

        Raises:
            Stopped: the budget or the source has no more.
            AttackFailed: the attack failed.
        """
        self._check_more(line)
        scores = self.source.scores(line.unit.name, len(line.shards))
        line.shards.append(matched(scores, self.source.measure, self.sides))
        done = line.made - line.calibrated_on
        phase = f"{line.name}: {stage}"
        line.under_way = None if done >= expected else (phase, done)
        self.source.progress(phase, done, max(expected, done))

    def _check_more(self, line: AttackProgress) -> None:
        """Stop where the source has no more candidates, or the seconds are used up."""
        budget, spent = self.policy.budget, self.source.spent
        if line.made >= self.source.available:
            name, wanted = line.name, self.policy.candidates
            more = self.source.how_to_have(line.unit.name, wanted) if wanted > line.made else ""
            said = f"{name}: there are {self.source.available:,} candidates, all are used"
            raise Stopped(f"{said}; {more}" if more else said)
        for unit, limit, used in (
            ("seconds", budget.seconds, spent.seconds),
            ("GPU-seconds", budget.gpu_seconds, spent.gpu_seconds),
        ):
            if limit is not None and used >= limit:
                raise Stopped(f"the budget of {limit:g} {unit} is used up")

    def _check_test(self, line: AttackProgress) -> None:
        """Stop where no more candidates may be tested, or a baseline has none for the margin that alone is open."""
        budget = self.policy.budget
        if line.tested >= budget.candidates:
            raise Stopped(f"{line.name}: the budget of {budget.candidates:,} tested candidates is used up")
        open_ = [claim for claim in line.claims if not settled([claim], self.policy.beta)]
        if line.yardstick is None or not open_ or any(claim.limit_name != "baseline_margin" for claim in open_):
            return
        if line.made >= line.yardstick.candidates(line.tau):
            raise Stopped(f"{line.name}: {line.yardstick.name} has no candidates after these; make its run longer")

    def _calibrated(self, shards: Sequence[Matched], rate: float) -> float:
        found, distance = joined(shards), self.source.measure.distance
        own = owned_by_control(found.training, found.held_out, self.source.measure)
        ratio = self.sides.groups[0] / self.sides.groups[1]
        return calibrate(own, found.held_out_groups, rate, distance=distance, ratio=ratio).tau

    def _weigh(self, line: AttackProgress) -> None:
        """Bring the attack's claims up to its last shard."""
        found = joined([shard for shard in line.shards if shard.numbers[0] >= line.calibrated_on])
        line.found = own = tested(found, line.tau, self.sides, self.source.measure)
        rule, name = self.policy.threshold.calibrate, line.name
        background = None if rule is None else rule.rate
        numbers = look_numbers(self.source.shard_size, self.policy.budget.candidates)
        last = bool(line.stopped) or line.made >= self.source.available
        limits = self.limits
        claims: list[AnyClaim] = []
        if limits.excess is not None:
            level, found_hits = self.policy.alpha / self.hypotheses / len(numbers), own.of(slice(None))
            if due(line.looks, numbers, len(own.numbers), last):
                line.looks.append(excess_look(found_hits, limits.excess, level))
            raw = raw_claim(name, "excess", limits.excess, own, background)
            looks = tuple(line.looks)
            claims.append(LookedAt(name, "excess", limits.excess, looks, len(numbers), found_hits.values, raw))
        if limits.raw_rate is not None:
            claims.append(raw_claim(name, "raw_rate", limits.raw_rate, own, background))
        if limits.group_rate is not None:
            claims.append(group_claim(name, limits.group_rate, own))
        if limits.baseline_margin is not None and line.yardstick is not None:
            claims.append(self._margin(line, line.yardstick, own, numbers, last))
        line.claims = claims

    def _margin(
        self, line: AttackProgress, yardstick: BaselineAttack, own: Tested, numbers: Sequence[int], last: bool
    ) -> LookedAt:
        """Return the claim of the margin over the baseline, of the candidates that the baseline has too."""
        assert self.limits.baseline_margin is not None
        limit, aligned = self.limits.baseline_margin, yardstick.aligned
        shared = own.numbers < yardstick.candidates(line.tau) if aligned else np.ones(len(own.numbers), dtype=bool)
        ours, theirs = own.of(shared), yardstick.hits(line.tau, self.sides, own.numbers[shared])
        if due(line.margins, numbers, int(shared.sum()), last):
            levels = self.policy.alpha / self.hypotheses / len(numbers), self.policy.beta / len(numbers)
            line.margins.append(margin_look(ours, theirs, limit, levels, aligned))
        values = ours.values - (theirs.values if aligned else theirs.values.mean())
        looks = tuple(line.margins)
        return LookedAt(line.name, "baseline_margin", limit, looks, len(numbers), values, None, -2.0)


def named(line: AttackProgress, error: Exception) -> str:
    """Return what kept a preparation from an answer, with its name."""
    said = str(error)
    return said if line.name in said or isinstance(error, Stopped) else f"{line.name}: {said}"
