"""Line charts and scales for the pages, as small SVG without a plotting library: thousands are drawn in seconds.

Colours, fonts and dashes come from the pages' style sheet (classes `s1` to `s6`), so that charts follow dark mode.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 12, 52

COLOURS = 6
"""Classes of lines in the style sheet."""


class ChartPoint(NamedTuple):
    """A point of a line with its interval; `estimate` marks what was not observed but extrapolated."""

    x: float
    y: float
    low: float
    high: float
    estimate: bool = False


class ChartLine(NamedTuple):
    """One line of a chart, its points in the order of x."""

    label: str
    points: Sequence[ChartPoint]


class Scale(NamedTuple):
    """An axis from `low` to `high`, and its round ticks."""

    low: float
    high: float
    ticks: list[float]

    def share(self, value: float) -> float:
        """Return where a value lies on the axis, 0 to 1."""
        return (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)


def scale(low: float, high: float, wanted: int = 5) -> Scale:
    """Return an axis with about as many ticks as wanted, at 1, 2 or 5 times a power of ten, that holds both ends."""
    spread = high - low
    if not spread > 0:
        low, high, spread = low - 0.5, low + 0.5, 1.0
    power = 10.0 ** math.floor(math.log10(spread / wanted))
    step = next(power * factor for factor in (1, 2, 5, 10) if spread / (power * factor) <= wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Scale(first * step, last * step, [number * step for number in range(first, last + 1)])


def number(value: float) -> str:
    """Return a tick's label: no digits that say nothing."""
    return f"{value:,.10g}" if abs(value) >= 1e-9 else "0"


def line_chart(
    lines: Sequence[ChartLine],
    x_label: str,
    y_label: str,
    description: str,
    names: Sequence[str] = (),
    *,
    marks: bool = False,
) -> Markup:
    """Return an SVG of lines with their intervals; the part that is an estimate is dotted.

    Labels are escaped. `description` is what a screen reader says. With `names` the x axis is one of choices: point x
    stands at `names[x]`, and each point has a mark, as it has with `marks`.
    """
    points = [point for line in lines for point in line.points]
    furthest = max(point.x for point in points)
    across = Scale(0, furthest, [tick for tick in scale(0, furthest).ticks if tick <= furthest])
    if names:
        across = Scale(-0.25, len(names) - 0.75, list(range(len(names))))
    lowest = min(0.0, *(point.low for point in points))
    rounded = scale(lowest, max(point.high for point in points), 4)
    up = Scale(lowest, rounded.high, [tick for tick in rounded.ticks if tick >= lowest])
    parts = [_axes(across, up, x_label, y_label, [*names] or [number(tick) for tick in across.ticks])]
    for position, line in enumerate(lines):
        colour = position % COLOURS + 1
        parts.append(_line(line.points, across, up, colour))
        for point in line.points if names or marks else ():
            parts.append(
                Markup('<circle class="band dot s{}" cx="{}" cy="{}" r="4"/>').format(
                    colour, _x(across, point.x), _y(up, point.y)
                )
            )
    return _svg(description, parts)


def point_chart(
    points: Sequence[ChartPoint], x_label: str, y_label: str, description: str, names: Sequence[str]
) -> Markup:
    """Return an SVG of points with their intervals, each by its name in the colour of its place; see `line_chart`."""
    across = scale(0.0, max(point.x for point in points))
    ends = [end for point in points for end in (point.low, point.high)]
    up = scale(min(0.0, *ends), max(0.0, *ends), 4)
    parts = [_axes(across, up, x_label, y_label, [number(tick) for tick in across.ticks])]
    places = _beside([(float(_x(across, p.x)), float(_y(up, p.high))) for p in points], names)
    for position, (point, name, place) in enumerate(zip(points, names, places, strict=True)):
        x, colour = _x(across, point.x), position % COLOURS + 1
        low, high, left, right = _y(up, point.low), _y(up, point.high), float(x) - 6, float(x) + 6
        # The whisker and its caps lie over the dot, which is small: a short interval is seen too.
        parts.append(
            Markup(
                '<circle class="band dot s{0}" cx="{1}" cy="{2}" r="3.5"/>'
                '<path class="line whisker s{0}" d="M{1} {3}V{4}M{5:.1f} {3}H{6:.1f}M{5:.1f} {4}H{6:.1f}"/>'
                '<text class="name" x="{7:.1f}" y="{8:.1f}" text-anchor="{9}">{10}</text>'
            ).format(colour, x, _y(up, point.y), low, high, left, right, *place, name)
        )
    return _svg(description, parts)


LETTER, LINE = 7.0, 14.0
"""Width of a letter and height of a line of a chart's text, about."""


def _beside(tops: Sequence[tuple[float, float]], names: Sequence[str]) -> list[tuple[float, float, str]]:
    """Return where names stand above their points: x, y and the anchor, each moved up until it hides no other.

    One that finds no place up to the top edge is moved down instead, and stays at the bottom where there is none.
    """
    taken: list[tuple[float, float, float]] = []
    found = []
    for (x, top), name in zip(tops, names, strict=True):
        half = LETTER * len(name) / 2
        centre = min(max(x, LEFT + half), WIDTH - RIGHT - half)
        near = [other for at, other, room in taken if abs(centre - at) < half + room]
        start = max(top - 6, TOP + LINE)
        places = [start - LINE * step for step in range(int(start / LINE))]
        places += [start + LINE * step for step in range(1, 1 + int((HEIGHT - BOTTOM - start) / LINE))]
        y = next((place for place in places if all(abs(place - other) >= LINE for other in near)), places[-1])
        taken.append((centre, y, half))
        found.append((centre, y, "middle"))
    return found


def _svg(description: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        WIDTH, HEIGHT, description, description, Markup("").join(parts)
    )


def _x(axis: Scale, value: float) -> str:
    return f"{LEFT + axis.share(value) * (WIDTH - LEFT - RIGHT):.1f}"


def _y(axis: Scale, value: float) -> str:
    return f"{HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM):.1f}"


def _axes(across: Scale, up: Scale, x_label: str, y_label: str, names: Sequence[str]) -> Markup:
    grid = [
        Markup(
            '<path class="grid" d="M{} {}H{}"/><text class="tick" x="{}" y="{}" dy="4" text-anchor="end">{}</text>'
        ).format(LEFT, _y(up, tick), WIDTH - RIGHT, LEFT - 8, _y(up, tick), number(tick))
        for tick in up.ticks
    ]
    grid += [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(
            _x(across, tick), HEIGHT - BOTTOM + 20, "end" if tick == across.high else "middle", name
        )
        for tick, name in zip(across.ticks, names, strict=True)
    ]
    base = Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, _y(up, max(up.low, 0.0)), WIDTH - RIGHT)
    names = Markup(
        '<text class="name" x="{}" y="{}" text-anchor="middle">{}</text>'
        '<text class="name" transform="translate(16 {}) rotate(-90)" text-anchor="middle">{}</text>'
    ).format((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, (TOP + HEIGHT - BOTTOM) / 2, y_label)
    return Markup("").join(grid) + base + names


def _line(points: Sequence[ChartPoint], across: Scale, up: Scale, colour: int) -> Markup:
    edge = [f"{_x(across, point.x)} {_y(up, point.high)}" for point in points]
    edge += [f"{_x(across, point.x)} {_y(up, point.low)}" for point in reversed(points)]
    seen = [point for point in points if not point.estimate]
    beyond = [*seen[-1:], *(point for point in points if point.estimate)]
    found = Markup('<path class="band s{}" d="M{}Z"/>').format(colour, "L".join(edge))
    for part, kind in ((seen, "line"), (beyond, "line estimate")):
        if len(part) > 1:
            path = "L".join(f"{_x(across, point.x)} {_y(up, point.y)}" for point in part)
            found += Markup('<path class="{} s{}" d="M{}"/>').format(kind, colour, path)
    return found
