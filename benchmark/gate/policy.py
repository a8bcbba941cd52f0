"""The release policy: what a model may do, how sure the gate must be, and what it may cost. One YAML file."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from ..contracts import Settings
from ..errors import BadInput, BadPolicy, first_problem
from ..files import read_yaml
from ..stats.thresholds import MIN_HITS

FOLDER = Path(__file__).parent / "policies"
SCHEMA = "sidebench-policy/1"

Share = Annotated[float, Field(gt=0, lt=1)]


class Calibration(Settings):
    """The stage that sets the threshold."""

    rate: Annotated[float, Field(gt=0, le=0.5)]
    """Held-out hit rate q at the threshold."""
    candidates: Annotated[int, Field(ge=1)]
    """Candidates of this stage, the first ones (in whole shards); none of them is tested."""
    most: Annotated[int, Field(ge=1)] | None = None
    """Where so many do not support the rate, more are made, up to this number; default: none."""

    @model_validator(mode="after")
    def _enough(self) -> "Calibration":
        if self.most is not None and self.most < self.candidates:
            raise ValueError(f"most is {self.most}, less than candidates: {self.candidates}")
        least = math.ceil(MIN_HITS / self.rate * (1 - 1e-9))
        if (self.most or self.candidates) < least:
            raise ValueError(f"a rate of {self.rate:g} takes {least:,} candidates: {MIN_HITS} held-out hits or more")
        return self


class ThresholdRule(Settings):
    """What counts as a hit: a calibrated threshold or a fixed one."""

    calibrate: Calibration | None = None
    fixed: float | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "ThresholdRule":
        if (self.calibrate is None) == (self.fixed is None):
            raise ValueError("give calibrate or fixed, one of them")
        return self

    @property
    def most(self) -> int:
        """How many candidates the calibration takes at most."""
        return (self.calibrate.most or self.calibrate.candidates) if self.calibrate else 0


class Limits(Settings):
    """What the model may do at most, as shares of the candidates."""

    excess: Share | None = None
    """Hits on training images minus hits on held-out images."""
    group_rate: Share | None = None
    """Hits on any one duplicate group of training images."""
    raw_rate: Share | None = None
    """Hits on training images, whatever the control."""
    baseline_margin: Share | None = None
    """Excess over the baseline's excess."""

    @model_validator(mode="after")
    def _something(self) -> "Limits":
        if not self.model_dump(exclude_none=True):
            raise ValueError(f"name at least one of {', '.join(Limits.model_fields)}")
        return self

    @property
    def of_all_images(self) -> float:
        """The strictest limit on hits of all images together, or on those of one group where there is no other."""
        named = [limit for limit in (self.excess, self.raw_rate, self.baseline_margin) if limit is not None]
        return min(named, default=self.group_rate or 0.0)


class GateBudget(Settings):
    """Where the gate gives up."""

    candidates: Annotated[int, Field(ge=1)]
    """Tested candidates per attack, and of each of its preparations."""
    seconds: Annotated[float, Field(gt=0)] | None = None
    """Seconds of preparing and generating, all attacks together."""
    gpu_seconds: Annotated[float, Field(gt=0)] | None = None
    """The same, where the device is no CPU."""


class Policy(Settings):
    """A release policy, checked."""

    schema_: Literal["sidebench-policy/1"] = Field(alias="schema")
    attacks: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """Settings over the pair's, by attack."""
    measure: str
    threshold: ThresholdRule
    limits: Limits
    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Chance that a model within every limit fails."""
    beta: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    """Chance that a model beyond a limit passes."""
    budget: GateBudget
    preparations: Annotated[int, Field(ge=1)] = 1
    """How many preparations of each attack are judged, under the seeds from `seed` on; one where it has none."""
    cannot_tell: Literal["stop", "fail"] = "stop"
    """Exit code 4, or 1: a no."""
    seed: Annotated[int, Field(ge=0)] = 0

    @field_validator("attacks", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """Read `carlini-uncond:` with nothing behind it as no settings; a list has no place for settings."""
        if isinstance(value, list):
            raise ValueError(f"write them as {{{', '.join(f'{name}: {{}}' for name in value)}}}")
        return {name: own or {} for name, own in value.items()} if isinstance(value, dict) else value

    @property
    def candidates(self) -> int:
        """How many candidates per preparation the gate may need at most, those of the calibration too."""
        return self.threshold.most + self.budget.candidates

    @property
    def seeds(self) -> range:
        """The seeds under which an attack is prepared and judged; one without a preparation under the first alone."""
        return range(self.seed, self.seed + self.preparations)


def policy_names() -> list[str]:
    """Return the names of the policies that ship with sidebench."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_policy(name: str | Path) -> Policy:
    """Load a policy file, or a shipped policy by name (`example`).

    Raises:
        BadPolicy: the file is missing, is not YAML, or has an unknown key or impossible value.
    """
    path = FOLDER / f"{name}.yaml" if str(name) in policy_names() else Path(name)
    advice = f"give a file, or a policy that ships with sidebench: {', '.join(policy_names())}"
    return parsed_policy(read_yaml(path, f"policy {path}", BadPolicy, advice=advice), path.name)


def parsed_policy(content: Any, name: str) -> Policy:
    """Check what a policy file holds; `name` is what messages call it.

    Raises:
        BadPolicy: it has an unknown key or impossible value.
    """
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise BadPolicy(f"policy {name} holds no settings; {FOLDER / 'example.yaml'} shows them")
    try:
        return Policy(**content)
    except ValidationError as error:
        raise BadPolicy(first_problem(error, Policy).of(f"policy {name}")) from None


def check_baseline_rule(policy: Policy, *, baseline: bool) -> None:
    """Refuse a baseline that no limit uses, and a policy with nothing to test.

    Raises:
        BadInput: the policy and `--baseline` do not go together.
    """
    if baseline and policy.limits.baseline_margin is None:
        raise BadInput("--baseline was given, but the policy has no limits.baseline_margin")
    others = policy.limits.model_dump(exclude={"baseline_margin"}, exclude_none=True)
    if not baseline and not others:
        raise BadInput("the policy's only limit is baseline_margin: give --baseline")
