"""The release gate as a pytest fixture. Loaded at pytest's start, so nothing heavy is imported before a test needs it.

    def test_the_release_does_not_leak(sidebench_gate):
        sidebench_gate("pair.yaml", policy="policy.yaml")

Tests that use the fixture carry the marker `sidebench_gate`: `-m "not sidebench_gate"` leaves them out.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .baseline import Baseline
    from .decision import Decision

MARKER = "sidebench_gate"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", f"{MARKER}: attacks a diffusion model; set on every test that uses the fixture")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the fixture."""
    for item in items:
        if MARKER in getattr(item, "fixturenames", ()):
            item.add_marker(MARKER)


@pytest.fixture
def sidebench_gate(request: pytest.FixtureRequest) -> Callable[..., "Decision"]:
    """Return a function (subject, policy, baseline=None, **options) that fails the test unless the gate passes.

    `subject` is a pair's name or file, or a run folder; `baseline` a run or gate folder, or what
    `sidebench.leaderboards.gate_baseline.read_baseline` makes of a record; options are those of
    `sidebench.benchmark.gate.judge` (model, device, out). What it returns is the decision; its verdict goes into
    the test report's properties.
    """

    def gate(
        subject: str, policy: str | Path, baseline: "str | Path | Baseline | None" = None, **options: Any
    ) -> "Decision":
        from .baseline import RunBaseline
        from .judge import judge
        from .policy import load_policy
        from .text import as_text

        last = RunBaseline(Path(baseline)) if isinstance(baseline, str | Path) else baseline
        decision = judge(str(subject), load_policy(policy), baseline=last, **options)
        request.node.user_properties.append((MARKER, decision.verdict))
        if decision.verdict != "pass":
            pytest.fail(as_text(decision), pytrace=False)
        return decision

    return gate
