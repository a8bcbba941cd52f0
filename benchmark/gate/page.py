"""The gate's answer as one self-contained HTML page: verdict, claims, how each came about, checks, policy.

It holds numbers only, never an image, so it may be an artefact of a public job.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from ..files import write_text
from ..reports.page import scrubbed
from ..reports.plot_style import ALARM, INK, SOFT, TRAINING, canvas, inline, styled, to_svg
from ..reports.templates import environment
from .claims import MEANINGS, AnyClaim, Course
from .text import explanations, headline, rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .decision import Decision

TONES = {"pass": "clear", "fail": "leak", "cannot tell": "open"}
"""The report's classes of a verdict."""


class Panel(NamedTuple):
    """One claim's picture: a title, what it shows in words, and the drawing."""

    title: str
    said: str
    svg: str


def write_page(decision: "Decision", target: Path) -> None:
    """Write the page, one file without any outside reference."""
    page = environment(Path(__file__).parent).get_template("gate.html.j2").render(_page(decision))
    write_text(target, page)


def _page(decision: "Decision") -> dict[str, Any]:
    """Return the template's variables."""
    failed = [check for check in decision.checks if not check.ok]
    policy = decision.policy.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {
        "headline": headline(decision),
        "verdict": decision.verdict,
        "tone": TONES[decision.verdict],
        "measure": decision.policy.measure,
        "against": [scrubbed(f"{check.name}: {check.said}") for check in failed] + scrubbed(decision.reasons),
        # The answer stands where a phone shows it without scrolling.
        "claims": scrubbed([{key: row[key] for key in ("attack", "limit", "answer")} | row for row in rows(decision)]),
        "says": scrubbed([line for line in explanations(decision) if not line.startswith(("cannot pass", "checked"))]),
        "panels": panels(decision),
        "checks": scrubbed([check._asdict() for check in decision.checks]),
        "policy": yaml.safe_dump(scrubbed(policy), sort_keys=False),
    }


def panels(decision: "Decision") -> list[Panel]:
    """Return one picture for each claim that has candidates."""
    alpha, beta, hypotheses = decision.policy.alpha, decision.policy.beta, decision.hypotheses
    found = []
    for number, claim in enumerate(claim for claim in decision.claims if claim.total):
        with styled():
            own = claim.course(alpha, beta, hypotheses)
            svg = to_svg(_drawn(claim, own), f"gate-{number}")
        said = (
            f"{claim.attack}, {MEANINGS[claim.limit_name]}: {own.rate[-1]:.2%} of {own.candidates[-1]:,} candidates, "
            f"at least {own.low[-1]:.2%}, at most {own.high[-1]:.2%}; the limit is {claim.limit:.2%}"
        )
        found.append(Panel(f"{claim.attack}: {claim.limit_name}", scrubbed(said), inline(svg)))
    return found


def _drawn(claim: AnyClaim, own: Course) -> "Figure":
    """Draw the rate and its bounds over the tested candidates, and the limit that they must leave."""
    figure, axes = canvas(height=2.5)
    low, high, limit = 100 * own.low, 100 * own.high, 100 * claim.limit
    axes.fill_between(own.candidates, low, high, color=TRAINING, alpha=0.18, linewidth=0)
    axes.plot(own.candidates, 100 * own.rate, color=TRAINING)
    axes.axhline(limit, color=ALARM, linewidth=1.2, linestyle=(0, (5, 3)))
    bottom = max(100 * claim.least, min(0.0, 1.15 * low[-1]))
    axes.set_ylim(bottom, max(3 * limit, 1.15 * high[-1]))
    axes.set_xlim(0, own.candidates[-1])
    axes.text(0.99, limit, "limit", transform=axes.get_yaxis_transform(), color=ALARM, ha="right", va="bottom")
    if bottom < 0:
        axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.set_xlabel("tested candidates", color=INK)
    axes.set_ylabel("rate, %", color=INK)
    axes.set_title(f"{claim.attack}: {claim.limit_name}")
    return figure
