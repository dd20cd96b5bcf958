"""Draw a chart as inline SVG, and give the page's script the same numbers.

The plot is an SVG of 1000 x 1000 units that is stretched to its place; texts stand beside it in HTML, so that they
keep their size on a narrow screen.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gan_dist.report.charts import Band
from gan_dist.report.events import number
from gan_dist.report.series import Series
from gan_dist.report.tags import Element, tag

UNITS = 1000
MOST_POINTS = 1000
_FEW = 60  # points of a line that are also shown as dots


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart."""

    label: str
    colour: int
    """One of the page's colours."""
    dashes: int
    """One of the page's dash patterns."""
    series: Series
    errors: np.ndarray | None = None
    """Of each value; NaN where there is none."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """A vertical axis, linear or logarithmic."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, values: np.ndarray) -> np.ndarray:
        """Return values as shares of the axis, 0 at its low end; NaN for what a logarithm does not know."""
        if not self.log:
            return (values - self.low) / (self.high - self.low)
        shares = np.log(np.where(values > 0, values, np.nan) / self.low) / math.log(self.high / self.low)
        return np.asarray(shares)

    def for_script(self) -> dict[str, Any]:
        """Return the axis as the page's script reads it."""
        return {"low": self.low, "high": self.high, "ticks": [[tick, short(tick)] for tick in self.ticks]}


def thinned(series: Series, most: int = MOST_POINTS) -> np.ndarray:
    """Return which points of a series to draw: at most `most`, the lowest and the highest of each column of pixels."""
    positions, values = series
    if len(positions) <= most:
        return np.arange(len(positions))
    columns = most // 2
    span = max(float(positions[-1] - positions[0]), 1e-9)
    column = np.minimum(((positions - positions[0]) / span * columns).astype(int), columns - 1)
    order = np.lexsort((values, column))  # by column, within it by value
    first = np.flatnonzero(np.diff(column[order], prepend=-1))
    last = np.append(first[1:], len(order)) - 1
    return np.unique(order[np.concatenate([first, last])])


def of_columns(series: Series, most: int = MOST_POINTS) -> Series:
    """Return the means of the same columns where a series is thinned: what smoothing begins from."""
    positions, values = series
    if len(positions) <= most:
        return series
    edges = np.linspace(positions[0], positions[-1], most // 2 + 1)[1:-1]
    parts = np.unique(np.concatenate([[0], np.searchsorted(positions, edges)]))
    parts = parts[parts < len(positions)]
    counts = np.diff(parts, append=len(positions))
    return np.add.reduceat(positions, parts) / counts, np.add.reduceat(values, parts) / counts


def smoothed(values: np.ndarray, keep: float) -> np.ndarray:
    """Return a mean that follows the values, and keeps the share `keep` of itself over 0.2 % of them.

    So it lags by the same part of the run, however many values there are.
    """
    keep **= MOST_POINTS // 2 / len(values)
    found, mean = np.empty_like(values), float(values[0])
    for place, value in enumerate(values):
        mean = keep * mean + (1 - keep) * float(value)
        found[place] = mean
    return found


def linear_axis(low: float, high: float, count: int = 4) -> Axis:
    """Return an axis that holds both ends, with about `count` ticks at round numbers."""
    if not high > low:
        pad = abs(low) / 2 or 0.5
        low, high = low - pad, high + pad
    step = _round_step((high - low) / count)
    pad = (high - low) * 0.04
    low = low - pad if low else low  # 0 stays the floor
    high = high + pad if high else high
    ticks = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    return Axis(low, high, tuple(float(f"{tick:.10g}") for tick in ticks))


def log_axis(low: float, high: float) -> Axis:
    """Return a logarithmic axis that holds both ends, which are above 0."""
    low, high = low / 1.15, high * 1.15
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, len(decades) // 6)
    factors = (1,) if len(decades) > 4 else (1, 3) if len(decades) > 2 else (1, 2, 5)
    ticks = [factor * 10.0**decade for decade in decades[::every] for factor in factors]
    inside = tuple(float(f"{tick:.10g}") for tick in ticks if low <= tick <= high)
    if len(inside) < 3:
        inside = tuple(tick for tick in linear_axis(low, high).ticks if low <= tick <= high)
    return Axis(low, high, inside, log=True)


def _round_step(rough: float) -> float:
    unit: float = 10.0 ** math.floor(math.log10(rough))
    return next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * 0.8)


def short(value: float) -> str:
    """Return a number for a tick: 240k, 1.5M, 0.02, 2e-05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def axes(lines: Sequence[Line], zero: bool, band: Band) -> tuple[Axis, Axis | None]:
    """Return the linear axis of a chart, and the logarithmic one where its values have a logarithm."""
    values = np.concatenate([line.series[1] for line in lines])
    low, high = float(values.min()), float(values.max())
    span = high - low or abs(high) or 1.0
    for edge in band:  # shown where it is near, or a line in the middle of the band would be squeezed flat
        if edge is not None and low - span <= edge <= high + span:
            low, high = min(low, edge), max(high, edge)
    linear = linear_axis(min(low, 0.0) if zero else low, max(high, 0.0) if zero else high)
    positive = values[values > 0]
    if len(positive) < 0.9 * len(values) or positive.max() < 2 * positive.min():
        return linear, None
    return linear, log_axis(float(positive.min()), float(positive.max()))


def path(across: np.ndarray, up: np.ndarray) -> str:
    """Return the path of a line through shares of the plot; places that are NaN break it."""
    x, y = np.rint(across * UNITS), np.rint((1 - up) * UNITS)
    whole = np.isfinite(y)
    begins = whole & ~np.concatenate([[False], whole[:-1]])
    return "".join(
        f"{'M' if begin else 'L'}{int(a)} {int(b)}"
        for a, b, begin, keep in zip(x, y, begins, whole, strict=True)
        if keep
    )


def dots(across: np.ndarray, up: np.ndarray) -> str:
    """Return a path of a dot at each place."""
    x, y = np.rint(across * UNITS), np.rint((1 - up) * UNITS)
    return "".join(f"M{int(a)} {int(b)}h0" for a, b in zip(x, y, strict=True) if math.isfinite(b))


def area(across: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """Return the closed path between two lines."""
    whole = np.isfinite(low) & np.isfinite(high)
    if whole.sum() < 2:
        return ""
    over, under = path(across[whole], high[whole]), path(across[whole][::-1], low[whole][::-1])
    return f"{over}L{under[1:]}Z"


def chart(
    title: str, says: str, lines: Sequence[Line], end: float, keep: float, log: bool, zero: bool, band: Band
) -> tuple[Element, dict[str, Any]]:
    """Return the figure of a chart from 0 to `end` images, and what the page's script needs to draw it again.

    `keep` is how much its lines are smoothed.
    """
    linear, logarithmic = axes(lines, zero, band)
    log = log and logarithmic is not None
    axis = logarithmic if log and logarithmic else linear
    shapes, data = [], []
    if any(edge is not None for edge in band):
        shapes.append(_band(axis, band))
    shapes.append(tag("use", href="#marks"))
    for line in lines:
        chosen = thinned(line.series)
        positions, values = (each[chosen] for each in line.series)
        errors = line.errors[chosen] if line.errors is not None else None
        across, up = positions / max(end, 1), axis.place(values)
        if errors is not None:
            edge = area(across, axis.place(values - errors), axis.place(values + errors))
            shapes.append(tag("path", class_=f"error c{line.colour}", d=edge))
        places, means = of_columns(line.series)
        style = f"c{line.colour} d{line.dashes}"
        if keep and len(chosen) > _FEW:
            shapes.append(tag("path", class_=f"raw {style}", d=path(across, up)))
            across, up = places / max(end, 1), axis.place(smoothed(means, keep))
        shapes.append(tag("path", class_=f"line {style}", d=path(across, up)))
        if len(chosen) <= _FEW:
            across, up = positions / max(end, 1), axis.place(values)
            shapes.append(tag("path", class_=f"dots c{line.colour}", d=dots(across, up)))
        data.append(
            {
                **dict(zip("xy", _pairs(positions, values), strict=True)),
                "e": None if errors is None else [None if math.isnan(e) else float(f"{e:.3g}") for e in errors],
                "m": None if len(chosen) == len(line.series[0]) else _pairs(places, means),
                "dots": len(chosen) <= _FEW,
            }
        )
    size = f"0 0 {UNITS} {UNITS}"
    figure = tag(
        "figure",
        tag("figcaption", tag("b", title), _switch(logarithmic is not None, log), tag("span", says, class_="says")),
        tag(
            "div",
            tag("div", _ticks(axis, "bottom"), class_="up"),
            tag("svg", shapes, viewBox=size, preserveAspectRatio="none", role="img", aria_label=_words(title, lines)),
            tag("i", class_="cross", hidden=True),
            tag("div", _ticks(across_axis(end), "left"), class_="across"),
            class_="plot",
        ),
        tag("div", [_legend(line) for line in lines], _band_words(band), class_="legend"),
        class_="chart",
    )
    script = {
        "linear": linear.for_script(),
        "log": logarithmic.for_script() if logarithmic else None,
        "band": list(band),
        "lines": data,
    }
    return figure, script


def _pairs(positions: np.ndarray, values: np.ndarray) -> list[list[float]]:
    return [[int(position) for position in positions], [float(f"{value:.5g}") for value in values]]


def across_axis(end: float) -> Axis:
    """Return the horizontal axis, in images."""
    step = _round_step(max(end, 1) / 5)
    return Axis(0, max(end, 1), tuple(float(tick) for tick in np.arange(0, end + 1, step)))


def _ticks(axis: Axis, side: str) -> list[Element]:
    shares: Callable[[float], float] = lambda tick: float(axis.place(np.array([tick]))[0])  # noqa: E731
    return [tag("span", short(tick), style=f"{side}:{100 * shares(tick):.2f}%") for tick in axis.ticks]


def _band(axis: Axis, band: Band) -> Element:
    edges = [default if edge is None else edge for edge, default in zip(band, (axis.low, axis.high), strict=True)]
    places = np.nan_to_num(axis.place(np.array(edges, dtype=float)), nan=0.0)
    bottom, top = (float(place) for place in np.clip(places, 0, 1))
    return tag(
        "rect", class_="band", x=0, width=UNITS, y=round((1 - top) * UNITS), height=round((top - bottom) * UNITS)
    )


def _band_words(band: Band) -> Element | None:
    low, high = band
    if low is None and high is None:
        return None
    text = f"{number(low)} to {number(high)}" if low is not None and high is not None else ""
    text = text or (f"{number(low)} and more" if high is None else f"{number(high)} and less")
    return tag("span", tag("i", class_="shade"), f"no alarm: {text}")


def _switch(there: bool, on: bool) -> Element | None:
    return tag("label", tag("input", type="checkbox", checked=on), "log", class_="log") if there else None


def _legend(line: Line) -> Element:
    swatch = tag(
        "svg",
        tag("path", d="M0 5H22", class_=f"line c{line.colour} d{line.dashes}"),
        viewBox="0 0 22 10",
        width=22,
        height=10,
    )
    return tag("span", swatch, f"{line.label} ", tag("b", number(float(line.series[1][-1]))))


def _words(title: str, lines: Sequence[Line]) -> str:
    """Return the chart in words, for who cannot see it."""
    ends = (
        f"{line.label} from {number(float(line.series[1][0]))} to {number(float(line.series[1][-1]))}" for line in lines
    )
    return f"{title}: {'; '.join(ends)}"
