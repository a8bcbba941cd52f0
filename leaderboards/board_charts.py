"""What the pages draw: curves of a record, and points and curves over the rows of a board."""

import json
import math
from collections.abc import Sequence

from . import tables
from .ranking import BoardRow, method_of
from .record import Record, Tuning
from .svg import COLOURS, ChartLine, ChartPoint, line_chart, point_chart

GUIDANCE = "guidance_scale"
"""The setting of guided attacks that the paper calls lambda."""

MOST_ALIKE = 1.1
"""Costs within this factor are alike: a chart over them would say nothing."""


def curve(record: Record, seed: int) -> list[ChartPoint]:
    """Return unique groups by number of candidates under one seed; empty where the measure has no bands."""
    richness = record.headline(seed).richness
    points = richness.groups if richness else []
    return [ChartPoint(p.candidates, p.value, p.low, p.high, p.kind == "extrapolated") for p in points]


def groups_chart(lines: Sequence[ChartLine]) -> str:
    """Return a chart of such curves, which says its ends to a screen reader; nothing without any."""
    if not lines:
        return ""
    ends = "; ".join(
        f"{line.label}: {[p for p in line.points if not p.estimate][-1].y:.0f}" for line in lines if line.points
    )
    description = tables.clean(f"Unique groups found over the number of candidates, at the end: {ends}")
    return line_chart(lines, "candidates", "unique groups found", description)


def cost_chart(rows: Sequence[BoardRow], labels: Sequence[str]) -> str:
    """Return a chart of excess over cost, a point per row; nothing where all cost the same."""
    spent = [tables.figures(row.record).equivalents for row in rows]
    if len(rows) < 2 or max(spent) < MOST_ALIKE * min(spent):
        return ""
    points = [ChartPoint(cost, *_excess_percent(row.record)) for row, cost in zip(rows, spent, strict=True)]
    ends_said = "; ".join(
        f"{label}: {point.y:z.2f} % for {point.x:,.0f}" for label, point in zip(labels, points, strict=True)
    )
    text = tables.clean(f"Excess in percent over denoiser-equivalents (NFE): {ends_said}")
    names = [tables.clean(method_of(row.record)) for row in rows]
    return point_chart(points, "cost, denoiser-equivalents (NFE)", "excess, %", text, names)


def guidance_lines(rows: Sequence[BoardRow]) -> list[ChartLine]:
    """Return excess in percent by guidance scale (lambda), of three or more rows that differ in nothing else."""
    alike: dict[tuple[str, str, str], dict[float, BoardRow]] = {}
    for row in rows:
        claim = row.record.claim
        guidance = claim.settings.get(GUIDANCE)
        if isinstance(guidance, bool) or not isinstance(guidance, int | float) or not 0 <= guidance < math.inf:
            continue
        others = {key: value for key, value in claim.settings.items() if key != GUIDANCE}
        kept = json.dumps([others, claim.defences], sort_keys=True)
        alike.setdefault((method_of(row.record), row.record.submitter, kept), {}).setdefault(guidance, row)
    lines = []
    for (method, submitter, _), found in alike.items():
        if len(found) > 2:
            points = [ChartPoint(at, *_excess_percent(row.record)) for at, row in sorted(found.items())]
            lines.append(ChartLine(f"{method}, {submitter}", points))
    return lines[:COLOURS]


def guidance_chart(rows: Sequence[BoardRow]) -> tuple[str, list[str]]:
    """Return a chart of these curves and their labels; nothing without any."""
    lines = guidance_lines(rows)
    if not lines:
        return "", []
    text = f"Excess in percent by {GUIDANCE}, 0 being plain sampling; the table has the figures"
    return line_chart(lines, GUIDANCE, "excess, %", text, marks=True), [line.label for line in lines]


def tuning_chart(tuning: Tuning) -> tuple[str, list[str]]:
    """Return a chart of a tuning and its lines' labels: guidance (else the last setting) across, a line per choice."""
    keys = sorted(tuning.points[0].values, key=lambda key: key == GUIDANCE)
    chosen = [{key: json.dumps(value) for key, value in point.values.items()} for point in tuning.points]
    names = list(dict.fromkeys(values[keys[-1]] for values in chosen))
    lines: dict[str, list[ChartPoint]] = {}
    for values, point in zip(chosen, tuning.points, strict=True):
        others = ", ".join(f"{key} {values[key]}" for key in keys[:-1])
        value, low, high = (100 * end for end in (point.excess.value, point.excess.low, point.excess.high))
        lines.setdefault(others, []).append(ChartPoint(names.index(values[keys[-1]]), value, low, high))
    made = [ChartLine(label, sorted(points)) for label, points in list(lines.items())[:COLOURS]]
    text = f"Excess in percent on a shadow victim by {keys[-1]}; the table below has the figures"
    return line_chart(made, tables.clean(keys[-1]), "excess, %", text, names), [line.label for line in made]


def _excess_percent(record: Record) -> tuple[float, float, float]:
    found = record.excess
    return 100 * found.value, 100 * found.low, 100 * found.high
