"""Print what was measured: prediction, measurement, ratio and floor of every line, and last what is left to gain."""

from collections.abc import Mapping, Sequence
from typing import Any

Line = dict[str, Any]
WIDTHS = (56, 15, 11, 7, 7)


def text(lines: Sequence[Line], titles: Mapping[str, str], dry: bool) -> str:
    """The table of all lines; of a name that was measured more than once, the last."""
    latest = {(line["part"], line["name"]): line for line in lines}
    rows = ["", _row("", "measured", "predicted", "ratio", "floor", "")]
    for part, title in titles.items():
        of_part = [line for (of, _), line in latest.items() if of == part]
        if of_part:
            rows += [f"{part} {title}", *(_line(line, title) for line in of_part)]
    if dry:
        rows += [
            "",
            "A dry run at toy size on a CPU: the figures mean nothing, and are not to be compared with predictions.",
        ]
    return "\n".join([*rows, "", *last(list(latest.values()))]) + "\n"


def _line(line: Line, title: str) -> str:
    measured, predicted = line["measured"], line["predicted"]
    if isinstance(measured, str):
        name = "" if line["name"] == title else f"{line['name']}: "
        return f"  {name}{measured}" + (f"   ({line['note']})" if line["note"] else "")
    wanted = (
        "" if predicted is None else "..".join(map(number, predicted if isinstance(predicted, list) else [predicted]))
    )
    ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f}"
    floor = "" if line["floor"] is None else number(line["floor"])
    return _row(f"  {line['name']}", f"{number(measured)} {line['unit']}", wanted, ratio, floor, line["note"])


def _row(*cells: str) -> str:
    *columns, note = cells
    padded = [f"{cell:<{width}}" for cell, width in zip(columns, WIDTHS, strict=True)]
    return " ".join([*padded, note]).rstrip()


def number(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3g}"


def last(lines: Sequence[Line]) -> list[str]:
    """What decides about the next change: the ways of one step from its floor up."""
    found = {line["name"]: line for line in lines if not isinstance(line["measured"], str)}
    rows = []
    for precision, micro in (("bf16", 128), ("tf32", 128), ("bf16", 32), ("tf32", 32)):
        name = f"DCGAN-64 {precision} micro {micro}"
        eager = found.get(f"{name}, eager")
        if eager is None:
            continue
        steps = {"eager": eager["measured"]}
        for way in ("captured", "compiled", "compiled+captured", "engine captured", "engine compiled+captured"):
            if f"{name}, {way}" in found:
                steps[way] = found[f"{name}, {way}"]["measured"]
        if trainer := found.get(f"{name}, trainer"):
            steps["trainer"] = 128e3 / trainer["measured"]
        floor = eager["floor"] or 0.0
        best = min(steps.values())
        cells = "   ".join(f"{way} {number(ms)}" for way, ms in steps.items())
        share = f", {100 * floor / best:.0f} % of the unfused floor" if floor else ""
        rows.append(
            f"{name}, b128   floor {number(floor)} ms   {cells}   = {128e3 / best:,.0f} images/s at best{share}"
        )
        rows.append(f"    left: {_left(found, name, steps, floor)}")
    return ["What is left", *rows] if rows else []


def _left(found: Mapping[str, Line], name: str, steps: Mapping[str, float], floor: float) -> str:
    """Milliseconds that remain, by their cause."""
    parts = []
    busy = found.get(f"{name}, device busy")
    if busy is not None:
        parts.append(f"gaps between launches {number(max(0.0, steps['eager'] - busy['measured']))} ms (eager)")
        parts.append(f"kernels above the floor {number(max(0.0, busy['measured'] - floor))} ms")
        if busy["note"]:
            parts.append(f"floor by {busy['note']}")
    return "; ".join(parts) or "not known without part 2"
