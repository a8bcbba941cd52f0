"""A plan from its first candidate to its report: what the command and a notebook both do."""

from typing import TYPE_CHECKING

from ..contracts import Progress
from ..progress import silent
from ..reports.page import write_report
from .plan import RunPlan
from .runner import RunResult, execute

if TYPE_CHECKING:
    from .engine import Engine


def carry_out(plan: RunPlan, progress: Progress = silent, engine: "Engine | None" = None) -> RunResult:
    """Execute a plan, and write the report of whatever has results; arguments and errors are those of `execute`."""
    result = execute(plan, progress, engine)
    if result.metrics is not None:
        with result.folder.locked():
            write_report(result.folder, renew=False)
    return result
