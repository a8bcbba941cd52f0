"""`sidebench worker`: make what is missing in a run folder, beside any number of others; the run itself scores."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import environment
from ..contracts import Model, Progress
from ..data.pair import IN_TRAINING, load_pair
from ..errors import BadInput, CorruptRun, PlanChanged, SidebenchError, UnknownName
from ..files import difference, read_json
from ..progress import say
from ..protocol import Batching
from ..registry import find, make_attack, registered
from ..results.leases import SILENT_FOR, WORK, Desk, asked
from ..results.run_folder import RunFolder, is_unit_name, stored_pair, unit_name
from .generate import Generation, asked_of, is_generated
from .plan import RunPlan, Unit, plan_run


def work(
    folder: RunFolder, plan: RunPlan, silent_for: float = SILENT_FOR, progress: Progress = lambda *_: None
) -> dict[str, SidebenchError]:
    """Make what is missing of a plan, and then of its reference model, and return the units that failed here.

    Returns when nothing is missing, though somebody else made it. `silent_for` are the seconds without a sign of this
    process after which others make what it has begun.

    Raises:
        PlanChanged: the run asks for something else meanwhile, or has ended without what is missing.
    """
    failures: dict[str, SidebenchError] = {}
    _work_in(folder, plan, silent_for, progress, failures)
    if (reference := plan.reference()) is not None:
        # A failure there has its own line, as in a run.
        missed: dict[str, SidebenchError] = {}
        _work_in(folder.reference(), reference, silent_for, progress, missed)
        failures |= {f"reference {name}": error for name, error in missed.items()}
    return failures


def _work_in(
    folder: RunFolder, plan: RunPlan, silent_for: float, progress: Progress, failures: dict[str, SidebenchError]
) -> None:
    try:
        with Desk(folder.path, "worker", silent_for) as desk:
            Generation(plan, folder, desk, progress, failures).run()
    except PlanChanged:
        # The run closes its folder when everything is there.
        if not all(is_generated(plan, folder, unit) for unit in plan.units if unit.name not in failures):
            raise


def planned_for_workers(
    folder: RunFolder,
    *,
    pair: str | None = None,
    attacks: Sequence[str] = (),
    defences: Sequence[str] = (),
    model: str | Model | None = None,
    device: str = "auto",
    allow_pickle: bool = False,
) -> RunPlan:
    """Return the plan that an open run folder asks for.

    What the folder itself names is resolved only if it is registered: a pair file, local files among its `attacks` and
    `defences`, and a model in place of the pair's are named again by whoever runs the command.

    Raises:
        PlanChanged: the folder asks for nothing.
        BadInput: the run cannot be made here as it was planned; the field that differs is named.
    """
    wanted = asked(folder.path)
    if wanted is None:
        raise PlanChanged(f"{folder.path} asks for nothing: open it by `sidebench run` with --plan-only")
    manifest = read_json(folder.manifest_file)
    asks, identity = wanted["plan"], manifest["identity"]
    _check_asked(folder, asks, manifest["units"])
    again = _named_again("attack", attacks, {unit["attack"] for unit in asks["units"].values()})
    around = _named_again("defence", defences, set(identity["defences"]))
    wanted_attacks = dict.fromkeys(unit["attack"] for unit in asks["units"].values())
    names = {name: again.get(name) or registered("attack", name) for name in wanted_attacks}
    stored = {k: v for k, v in identity["defences"].items() if not k.startswith(IN_TRAINING)}
    kept = {around.get(name) or registered("defence", name): values for name, values in stored.items()}
    first = {unit["attack"]: unit["settings"] for unit in reversed(asks["units"].values())}
    plan = plan_run(
        load_pair(pair or stored_pair(folder)),
        attacks=tuple(names.values()),
        model=model,
        allow_pickle=allow_pickle,
        defences=tuple(kept),
        candidates=asks["candidates"],
        measures=identity["measures"],
        settings={**first, **kept},
        device=device,
        dtype=identity["protocol"]["dtype"],
        out=folder.path.parent,
        fresh_attacks=[names[name] for name in wanted["afresh"] if name in names],
    )
    units = [
        Unit(make_attack(names[unit["attack"]], unit["settings"]), unit["seed"]) for unit in asks["units"].values()
    ]
    plan = replace(plan, units=tuple(units), batching=Batching.model_validate(asks["batching"]))
    changed = difference(identity, plan.identity()) or difference(asks, asked_of(plan))
    if changed:
        raise BadInput(f"the run cannot be made here as it was planned: {changed}")
    _say_what_differs(folder)
    return plan


def _check_asked(folder: RunFolder, asks: Mapping[str, Any], units: Mapping[str, Any]) -> None:
    """Refuse what no run has written: names of units become paths.

    Raises:
        CorruptRun: a unit is not one of the manifest's, or its name is not that of its attack and seed.
    """
    for name, unit in asks["units"].items():
        seed = unit.get("seed")
        whole = isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**63
        if not whole or not is_unit_name(name) or name != unit_name(str(unit.get("attack")), seed) or name not in units:
            place = f"{folder.path.name}/{WORK}"
            raise CorruptRun(f"{place}/plan.json: {name!r} is no unit of this run; delete {WORK}/")


def _named_again(kind: Any, given: Sequence[str], there: set[str]) -> dict[str, str]:
    """Return by name what was named again, all of which must be of the run."""
    again = {find(kind, each).name: each for each in given}
    for name in again.keys() - there:
        raise UnknownName(f"{kind} of this run", name, there)
    return again


def _say_what_differs(folder: RunFolder) -> None:
    """Say what images may rest on and is not as it was where the run was opened: they are equal up to rounding then."""
    stored: Mapping[str, Any] = read_json(folder.manifest_file)["environment"]
    if changed := difference(stored, environment.describe()):
        say(f"{folder.path.name} was opened elsewhere ({changed}): images made here may differ in rounding")
