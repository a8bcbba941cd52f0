"""A plan from its first candidate to its report: what the command and a notebook both do."""

from typing import TYPE_CHECKING

from ..contracts import Progress
from ..progress import say, silent
from ..reports.page import write_report
from ..results.run_folder import unit_name
from .plan import RunPlan
from .runner import RunResult, execute

if TYPE_CHECKING:
    from ..results.schema import Metrics
    from .engine import Engine

NAMED = 4
"""Units that a line names one by one."""


def carry_out(plan: RunPlan, progress: Progress = silent, engine: "Engine | None" = None) -> RunResult:
    """Execute a plan, and write the report of whatever has results; arguments and errors are those of `execute`."""
    result = execute(plan, progress, engine)
    if result.metrics is not None and (others := _others(plan, result.metrics)):
        say(
            f"{result.folder.path} holds {_listed(others)} of earlier calls too, and the answer is over all of it; "
            "give another folder (out) for an answer of its own"
        )
    if result.metrics is not None:
        with result.folder.locked():
            write_report(result.folder, renew=False)
    return result


def _others(plan: RunPlan, metrics: "Metrics") -> list[str]:
    """Return the units with results that this call did not ask for."""
    asked = {unit.name for unit in plan.units}
    found = dict.fromkeys(unit_name(result.attack, result.seed) for result in metrics.results)
    return [name for name in found if name not in asked]


def _listed(names: list[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
