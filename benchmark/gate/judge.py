"""The release gate: does a model leak more than a policy allows? One decision for a model and for a finished run.

Attacks never see a reference image, though here references are loaded before the last image is made.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from ..contracts import Attack, Progress
from ..data.pair import Pair, load_pair, named_model, pair_names
from ..data.references import load_references
from ..errors import BadInput, WrongImages
from ..progress import duration, silent
from ..results.run_folder import RunFolder, believing, read_run, stored_pair
from ..runs.engine import Engine
from ..runs.plan import Unit, plan_run
from ..runs.plugins import make_attacks
from ..runs.score import check_references
from .baseline import Baseline
from .checks import GateCheck
from .decision import Decision, decide_on
from .policy import Policy, check_baseline_rule
from .source import GATE_MANIFEST, FinishedRun, MadeOnDemand

Announce = Callable[[str], object]
"""Takes a line that is said before work begins."""


def judge(
    subject: str,
    policy: Policy,
    *,
    model: str | None = None,
    pair: str | None = None,
    baseline: Baseline | None = None,
    device: str = "auto",
    out: str | Path = "runs",
    fresh: bool = False,
    allow_pickle: bool = False,
    progress: Progress = silent,
    announce: Announce | None = None,
    engine: Engine | None = None,
) -> Decision:
    """Take a pair's name or file, or a run folder, to `gate_pair` or `gate_run`.

    Raises:
        BadInput: what goes with a pair was given with a run, or `pair` with a pair, or what those two raise.
    """
    if (Path(subject) / GATE_MANIFEST).is_file():
        raise BadInput(f"{subject} is a gate's own folder: give the pair, and the gate goes on there")
    if not is_run(subject):
        if pair is not None:
            raise BadInput(f"--pair says where a run comes from, and {subject} is no run folder")
        found = _pair(subject)
        return gate_pair(
            found,
            policy,
            model=model,
            baseline=baseline,
            device=device,
            out=out,
            fresh=fresh,
            allow_pickle=allow_pickle,
            progress=progress,
            announce=announce,
            engine=engine,
        )
    if model is not None or fresh or allow_pickle:
        raise BadInput(f"{subject} is a finished run: --model, --fresh and --allow-pickle go with a pair")
    folder = read_run(subject)
    return gate_run(folder, load_pair(pair or stored_pair(folder)), policy, baseline=baseline)


def is_run(subject: str) -> bool:
    """Return whether a subject is a run folder, of which nothing has to be made."""
    return (Path(subject) / "manifest.json").is_file()


def gate_pair(
    pair: Pair,
    policy: Policy,
    *,
    model: str | None = None,
    baseline: Baseline | None = None,
    device: str = "auto",
    out: str | Path = "runs",
    fresh: bool = False,
    allow_pickle: bool = False,
    progress: Progress = silent,
    announce: Announce | None = None,
    engine: Engine | None = None,
) -> Decision:
    """Attack a pair's model (or `model` in its place) until the policy is answered or the budget ends.

    `announce` is told before the first image how long that may take, which costs a few calls of the model; not with an
    engine, which prepares and generates, to the same decision.

    Raises:
        BadInput: what was asked for cannot be done (exit code 2); a broken model or reference set does not raise.
    """
    check_baseline_rule(policy, baseline=baseline is not None)
    if (pair.model.family if model is None else named_model(model).family) == "images":
        raise BadInput("images that exist already are scored first: sidebench score-images, then sidebench gate RUN")
    try:
        plan = plan_run(
            pair,
            attacks=list(policy.attacks),
            settings=policy.attacks,
            model=model,
            candidates=policy.candidates,
            seeds=policy.seeds,
            measures=(policy.measure,),
            device=device,
            out=out,
            fresh=fresh,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    except WrongImages as error:
        return Decision("cannot tell", pair.name, policy, [GateCheck("references", False, str(error))])
    plan = replace(plan, units=tuple(_judged([unit.attack for unit in plan.units], policy)))
    try:
        references = load_references(pair, progress)
        check_references(plan, references)
        source = MadeOnDemand(plan, references, progress, engine)
    except BadInput as error:
        return Decision("cannot tell", pair.name, policy, [GateCheck("references", False, str(error))])
    with source.folder.locked():
        with source:
            if announce is not None and engine is None:
                announce(_outlook(policy, source))
            decision = decide_on(source, pair, policy, plan.units, references, baseline)
        return replace(decision, folder=source.folder.path)


def _outlook(policy: Policy, source: MadeOnDemand) -> str:
    """Say how long a gate may take, by the model that it attacks."""
    said = source.sampling_time(policy.candidates * len(policy.attacks) * len(policy.seeds))
    limit = "" if policy.budget.seconds is None else f"; the policy ends it after {duration(policy.budget.seconds)}"
    return f"up to {policy.candidates:,} candidates of each of {', '.join(policy.attacks)}: {said}{limit}"


@believing
def gate_run(folder: RunFolder, pair: Pair, policy: Policy, *, baseline: Baseline | None = None) -> Decision:
    """Take the same decision on a finished run's stored scores; nothing is made.

    Raises:
        BadInput: the run has not what the policy asks for; the message names it.
    """
    check_baseline_rule(policy, baseline=baseline is not None)
    units = _judged(make_attacks(pair, list(policy.attacks), policy.attacks), policy)
    try:
        references = load_references(pair)
    except BadInput as error:
        return Decision("cannot tell", folder.path.name, policy, [GateCheck("references", False, str(error))])
    source = FinishedRun(folder, pair, references, units, policy.measure)
    return decide_on(source, pair, policy, units, references, baseline)


def _judged(attacks: Iterable[Attack], policy: Policy) -> list[Unit]:
    """Return the units to judge: all attacks under the first seed, then those that prepare under the others."""
    every = {attack.name: attack for attack in attacks}.values()
    return [Unit(attack, seed) for seed in policy.seeds for attack in every if seed == policy.seed or attack.prepares()]


def _pair(subject: str) -> Pair:
    """Load a pair, or say what a folder is that is none.

    Raises:
        BadInput: there is no such pair.
    """
    if Path(subject).is_dir() and subject not in pair_names():
        if (Path(subject) / "model_index.json").is_file():
            raise BadInput(f"{subject} is a model: name the pair that holds its images, and give --model {subject}")
        raise BadInput(f"{subject} is neither a pair nor a finished run: it has no manifest.json")
    return load_pair(subject)
