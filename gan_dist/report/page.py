"""Make the page: one HTML file of one or several runs that loads nothing from anywhere."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gan_dist import __version__, run_status, units
from gan_dist.report import assets, charts, drawing, events, facts, pictures, tables, verdict
from gan_dist.report.drawing import UNITS, Line
from gan_dist.report.reading import RunFiles
from gan_dist.report.tags import Element, tag, to_html

_PICTURES = 3_000_000  # bytes of all grids of the page
_SMOOTHED = 300  # reports of a run from which on its lines are smoothed
COLOURS, DASHES = 8, 4


def html(runs: Sequence[RunFiles]) -> str:
    """Return the page of some runs, in this order."""
    end = max((float(series[0][-1]) for run in runs for series in run.series.values()), default=0.0)
    figures, scripts = _charts(runs, end)
    names = ", ".join(run.name for run in runs)
    data = {"end": max(end, 1.0), "charts": scripts, "marks": _said_marks(runs)}
    body = [
        _head(runs, names),
        _each(runs, [tag("ul", [_verdict(each) for each in verdict.of(run)], class_="verdicts") for run in runs]),
        tag("h2", "How far it is" if len(runs) == 1 else "How far they are"),
        _each(runs, [_facts(run) for run in runs]),
        *_grids(runs),
        _tools(smoothing(runs)),
        _marks(runs, end),
        figures,
        tag("h2", "What happened"),
        _each(runs, [tables.of_events(run) for run in runs]),
        tag("h2", "What it is"),
        _each(runs, [tables.of_config(run) for run in runs]),
        tag("h2", "Where it ran"),
        _each(runs, [tables.of_starts(run) for run in runs]),
    ]
    return to_html(
        tag(
            "html",
            tag(
                "head",
                tag("meta", charset="utf-8"),
                tag("meta", http_equiv="Content-Security-Policy", content=assets.policy()),
                tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
                tag("meta", name="generator", content=f"gan_dist {__version__}"),
                tag("link", rel="icon", href="data:,"),
                tag("title", f"{names} - gan_dist"),
                tag("style", assets.style()),
            ),
            tag("body", tag("main", body), _data(data), tag("script", assets.script())),
            lang="en",
        )
    )


def _data(data: dict[str, Any]) -> Element:
    """Return the numbers for the script; as no text in it can close the element, nothing of a run becomes HTML."""
    text = json.dumps(data, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return tag("script", text, id="data", type="application/json")


def _each(runs: Sequence[RunFiles], contents: Sequence[Element]) -> Element:
    """Return a card for each run, side by side; with the runs' names where there are several."""
    if len(runs) == 1:
        return tag("div", contents[0], class_="card")
    cards = [
        tag("section", tag("h3", _dot(number), run.name), content, class_="card")
        for number, (run, content) in enumerate(zip(runs, contents, strict=True))
    ]
    return tag("div", cards, class_="runs")


def _dot(number: int) -> Element:
    return tag("i", class_=f"dot c{number % COLOURS}")


def _head(runs: Sequence[RunFiles], names: str) -> Element:
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    made = f"made {now} by gan_dist {__version__} from the files of {', '.join(str(run.directory) for run in runs)}"
    alarms = [
        tag("p", tag("b", f"Alarm{f' of {run.name}' if len(runs) > 1 else ''}: ", class_="bad"), events.details(alarm))
        for run in runs
        for alarm in run.status["alarms"]
    ]
    return tag(
        "header",
        tag("h1", names, [_state(run) for run in runs] if len(runs) == 1 else None),
        tag("p", made, class_="soft"),
        tag("div", alarms, class_="card alarm") if alarms else None,
    )


def _state(run: RunFiles) -> Element:
    state = "lost" if run.status["lost"] else run.status["state"]
    tone = {"failed": "bad", "lost": "bad", "finished": "fine", "running": "fine"}.get(state, "plain")
    return tag("span", state, class_=f"word {tone}")


def _facts(run: RunFiles) -> Element:
    """Return state, images, rate, time, last event and best score."""
    status = run.status
    total = f" of {status['of']:,}" if status["of"] else ""
    left = "-" if status["eta_seconds"] is None or status["alive"] is False else units.duration(status["eta_seconds"])
    rows: list[tuple[str, Any, str, str]] = [
        ("state", _state(run), _reason(run), ""),
        ("images", f"{status['images']:,}", total, ""),
        ("images/s, last report", f"{status['images_per_second']:,.0f}", "", ""),
        ("time left", left, "", ""),
        ("newest score", run_status.score_in_words(status) or "not measured", "", ""),
        ("best checkpoint", run_status.best_in_words(status) or _best_value(run), "", ""),
        ("last event", events.line(status["events"][-1]) if status["events"] else "none recorded", "", "wide"),
    ]
    cells = [
        tag("div", tag("dt", name), tag("dd", value, tag("small", more) if more else None), class_=where or None)
        for name, value, more, where in rows
    ]
    done = tag("progress", value=status["images"], max=max(status["of"], status["images"], 1), aria_label="images")
    return tag("div", tag("dl", cells, class_="facts"), done if status["of"] else None)


def _reason(run: RunFiles) -> str:
    status = run.status
    if status["lost"]:
        return " its process is gone; start the same command again"
    return f" {events.clean_line(status['reason'])}" if status["reason"] and status["state"] != "finished" else ""


def _best_value(run: RunFiles) -> str:
    """Return the best value of the first score where no event names a checkpoint."""
    names = facts.scores(run.series)
    if not names:
        return "not measured"
    positions, values = run.series[names[0]]
    place = int(np.argmin(values) if facts.lower_is_better(names[0], run.better) else np.argmax(values))
    short = names[0].removeprefix(facts.GROUP)
    return f"none chosen; {short} was {events.number(float(values[place]))} at {positions[place]:,.0f} images"


def _verdict(each: verdict.Verdict) -> Element:
    word = tag("span", each.word, class_=f"word {each.tone}")
    return tag("li", tag("span", each.question, class_="soft"), word, tag("span", each.text))


def _grids(runs: Sequence[RunFiles]) -> list[Element]:
    """Return a slider over the grids of each run, with real images beside it."""
    films = []
    budget = _PICTURES / max(1, sum(bool(run.grids) for run in runs))
    for run in runs:
        grids = pictures.encoded(pictures.chosen(run.grids), budget * 0.9)
        stills = [*([("real images", run.reals)] if run.reals else []), *run.beside]
        films.append(_film(grids, _stills(stills, budget * 0.1), len(run.grids)))
    if not any(run.grids for run in runs):
        return [tag("h2", "Samples"), tag("p", "No grid was drawn yet (sample.every).", class_="soft")]
    return [tag("h2", "Samples of the same latents"), _each(runs, films)]


def _stills(stills: Sequence[tuple[str, Path]], budget: float) -> list[Element]:
    """Return pictures that stand beside a film, each with its caption; those that cannot be read are left out."""
    return [
        tag("figure", tag("figcaption", caption), tag("img", src=uri, alt=caption))
        for caption, path in stills
        for _, uri in pictures.encoded([(0, path)], budget / len(stills))
    ]


def _film(grids: Sequence[tuple[int, str]], beside: Sequence[Element], count: int) -> Element:
    if not grids:
        return tag("p", "no grid was drawn yet", class_="soft")
    last = len(grids) - 1
    shown = [
        tag("img", src=uri, alt=f"{images:,} images", data_images=images, hidden=number != last, decoding="async")
        for number, (images, uri) in enumerate(grids)
    ]
    slide = tag("input", type="range", min=0, max=last, value=last, aria_label="which grid")
    film = tag(
        "figure",
        tag("figcaption", f"{grids[-1][0]:,} images"),
        shown,
        tag("div", tag("button", "play", type="button"), slide, class_="slide") if last else None,
        tag("p", f"{len(grids)} of {count} grids", class_="soft") if len(grids) < count else None,
        class_="film" if last else None,
    )
    return tag("div", film, beside, class_="pictures")


def smoothing(runs: Sequence[RunFiles]) -> float:
    """Return how much the lines are smoothed when the page opens: of many points a person sees only noise."""
    longest = max((len(series[0]) for run in runs for series in run.series.values()), default=0)
    return 0.0 if longest <= _SMOOTHED else 0.9


def _tools(keep: float) -> Element:
    smooth = tag("input", type="range", min=0, max=0.98, step=0.01, value=keep, id="smooth")
    hint = "Point at a chart: all show that position, and the events near it. Dashed marks are events."
    return tag("div", tag("output", hint, id="said"), tag("label", "smooth", smooth), class_="tools")


def _charts(runs: Sequence[RunFiles], end: float) -> tuple[Element, list[dict[str, Any]]]:
    together: dict[str, np.ndarray] = {}
    for run in runs:
        for name, (_, values) in run.series.items():
            together[name] = np.concatenate([together.get(name, values[:0]), values])
    typical = {name: float(np.median(np.abs(values))) for name, values in together.items()}
    constant = [name for name, values in together.items() if (values == values[0]).all()]
    sections: dict[str, list[Element]] = {}
    scripts = []
    keep = smoothing(runs)
    for chart, names in charts.plan(typical, constant):
        lines = [
            _line(run, number, name, place, len(runs), len(names))
            for place, name in enumerate(names)
            for number, run in enumerate(runs)
            if name in run.series
        ]
        says = chart.says or _way(runs, names[0])
        band = chart.without_alarm(runs[0].keys)
        figure, script = drawing.chart(chart.title, says, lines, end, keep, chart.log, chart.zero, band)
        sections.setdefault(chart.section, []).append(figure)
        scripts.append(script)
    content = [[tag("h2", section), tag("div", figures, class_="charts")] for section, figures in sections.items()]
    if not content:
        return tag("p", "No line of metrics.jsonl has a number to draw.", class_="soft"), scripts
    return tag("div", content), scripts


def _way(runs: Sequence[RunFiles], name: str) -> str:
    if not facts.scores([name]):
        return ""
    return "lower is better" if facts.lower_is_better(name, runs[0].better) else "higher is better"


def _line(run: RunFiles, number: int, name: str, place: int, runs: int, names: int) -> Line:
    """Return a figure of a run as a line: with several runs a colour is a run and dashes are a figure."""
    label = name if runs == 1 else run.name if names == 1 else f"{name} of {run.name}"
    errors = [run.errors.get((name, int(images)), float("nan")) for images in run.series[name][0]]
    return Line(
        label,
        (number if runs > 1 else place) % COLOURS,
        (place if runs > 1 else place // COLOURS) % DASHES,
        run.series[name],
        np.array(errors) if any(error == error for error in errors) else None,
    )


def _marked(runs: Sequence[RunFiles]) -> list[tuple[int, dict[str, Any]]]:
    """Return the events to mark, each with its run: all but what is there by the hundred and says that all is well."""
    found = [(number, event) for number, run in enumerate(runs) for event in run.events]
    return [(number, event) for number, event in found if events.tone(event) != "minor" and _where(event) > 0]


def _where(event: dict[str, Any]) -> int:
    return facts.whole(event.get("images"))


def _marks(runs: Sequence[RunFiles], end: float) -> Element:
    """Return the vertical lines of events, drawn once; every chart shows them by reference."""
    places: dict[tuple[int, str], Element] = {}
    for _, event in _marked(runs):
        x, tone = min(UNITS, round(_where(event) / max(end, 1) * UNITS)), events.tone(event)
        places[x, tone] = tag("path", class_=f"mark {tone}", d=f"M{x} 0V{UNITS}")
    return tag("svg", tag("g", places.values(), id="marks"), class_="store", aria_hidden="true")


_MOST_SAID = 400


def _said_marks(runs: Sequence[RunFiles]) -> list[list[Any]]:
    """Return position and words of the marked events, for the line above the charts."""
    said = []
    for number, event in _marked(runs):
        whose = f"{runs[number].name}: " if len(runs) > 1 else ""
        said.append([_where(event), whose + events.said(event)])
    if len(said) > _MOST_SAID:
        said = said[:: len(said) // _MOST_SAID + 1]
    return said
