"""Show a run in the terminal, from its files: state, figures as block characters, alarms, last events."""

import fnmatch
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gan_dist import files, run_status, units
from gan_dist.errors import InputError
from gan_dist.report import charts, events, facts
from gan_dist.report.series import columns
from gan_dist.report.sparks import sparkline
from gan_dist.run_directory import locate

_STYLES = {"fine": "green", "look": "yellow", "bad": "bold red", "minor": "dim", "plain": ""}
_READ = ("status.json", "metrics.jsonl", "events.jsonl", "scores.jsonl")
_ROWS = 20  # figures that are shown at most
_LOOKS = 5  # without a run, and it is gone
_SCORES = 3  # of them before the losses
_BESIDE = 60  # columns that a line takes beside its block characters


def watch(run: Path, once: bool, as_json: bool, every: float = 1.0) -> None:
    """Show a run until it ends, or once. Raises InputError where RUN is no run directory, or is one no more."""
    directory = locate(run)
    seen: tuple[Any, ...] = ()
    console = Console(soft_wrap=False, highlight=False, markup=False, emoji=False)
    once = once or (not as_json and not console.is_terminal)
    report = _read(directory, None)
    total, missing = report["of"], 0
    try:
        if as_json:
            while True:
                if (state := _state_of(directory)) != seen:
                    seen = state
                    report = _read(directory, total)
                    print(json.dumps(files.plain(report)), flush=True)
                if once or _ended(report):
                    return
                time.sleep(every)
                missing = _gone(directory, missing)
                report |= {"lost": _lost(directory, total, report)}
        if once or _ended(report):
            console.print(_shown(directory, report, console))
            return
        with Live(_shown(directory, report, console), console=console, auto_refresh=False, transient=True) as live:
            while not _ended(report):
                time.sleep(every)
                missing = _gone(directory, missing)
                report = _read(directory, total)
                live.update(_shown(directory, report, console), refresh=True)
        console.print(_shown(directory, report, console))
    except KeyboardInterrupt:
        return


def _gone(directory: Path, missing: int) -> int:
    """Return for how many looks in a row there has been no run. Raises InputError after some: it was moved or deleted.

    A run that starts afresh (run.fresh) has no config for a moment.
    """
    if (directory / "config.yaml").exists():
        return 0
    if missing + 1 == _LOOKS:
        raise InputError(f"{directory} is gone: it was moved or deleted; give its new place")
    return missing + 1


def _read(directory: Path, total: int | None) -> dict[str, Any]:
    return run_status.of(directory, total=total)


def _lost(directory: Path, total: int | None, report: dict[str, Any]) -> bool:
    return bool(_read(directory, total)["lost"]) if report["state"] == "running" else False


def _state_of(directory: Path) -> tuple[Any, ...]:
    """Return what changes whenever one of the run's files does."""
    found = []
    for name in _READ:
        try:
            facts_of = os.stat(directory / name)
            found.append((facts_of.st_mtime_ns, facts_of.st_size, facts_of.st_ino))
        except OSError:
            found.append((0, 0, 0))
    return tuple(found)


def _ended(report: dict[str, Any]) -> bool:
    return report["lost"] or report["state"] in ("finished", "stopped", "failed")


def _shown(directory: Path, report: dict[str, Any], console: Console) -> RenderableType:
    records = files.read_json_lines(directory / "scores.jsonl")
    lines = facts.with_evaluations(facts.read(directory / "metrics.jsonl"), records)
    return shown(report, lines, console.width, console.height)


def shown(report: dict[str, Any], lines: Sequence[dict[str, Any]], width: int, height: int = 50) -> RenderableType:
    """Return the picture of a run: `report` of run_status, `lines` of metrics.jsonl."""
    found = report["events"]
    parts: list[RenderableType] = [_head(report), _bar(report)]
    for alarm in report["alarms"]:
        parts.append(Text(f"ALARM  {events.details(alarm)}", style="bold red"))
    room = height - len(parts) - 4 - len(found) - 3
    if lines:
        table, left = _figures(lines, width, max(4, min(_ROWS, room)))
        parts.append(table)
        if left:
            parts.append(Text(f"{units.count(left, 'figure')} more: gan-dist report {report['run']}", style="dim"))
    else:
        parts.append(Text("no figures yet; they come every track.every images"))
    for event in found:
        parts.append(Text(events.line(event), style=_STYLES[events.tone(event)], no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _bar(report: dict[str, Any]) -> Table:
    bar = Table.grid(expand=True)
    bar.add_row(ProgressBar(report["of"] or 1, min(report["images"], report["of"] or 1)))
    return bar


def _head(report: dict[str, Any]) -> Text:
    eta = report["eta_seconds"]
    total = f" of {report['of']:,}" if report["of"] else ""
    left = f"   {units.duration(eta)} left" if eta is not None and report["state"] == "running" else ""
    state = run_status.state_in_words(report)
    bad = report["lost"] or report["state"] == "failed"
    text = Text(f"{report['run']}  ", style="bold")
    text.append(state, style="bold red" if bad else "bold green")
    text.append(
        f"\n{report['images']:,}{total} images   {report['images_per_second']:,.0f} images/s{left}", style="not bold"
    )
    score, best = run_status.score_in_words(report), run_status.best_in_words(report)
    text.append(f"\nscore {score or 'none yet'}" + (f"   best {best}" if best else ""), style="not bold")
    return text


def _figures(lines: Sequence[dict[str, Any]], width: int, most: int) -> tuple[Table, int]:
    """Return a row for each figure, those that a person looks at first in front, and how many had no room."""
    series = columns(lines)
    end = float(lines[-1]["images"])
    typical = {name: float(abs(values).mean()) for name, (_, values) in series.items()}
    constant = [name for name, (_, values) in series.items() if (values == values[0]).all()]
    table = Table(box=None, pad_edge=False, show_header=True, header_style="dim")
    for name, justify in (
        ("figure", "left"),
        ("over the run", "left"),
        ("now", "right"),
        ("least", "right"),
        ("most", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    names = [name for _, together in charts.plan(typical, constant) for name in together]
    for name in sorted(names, key=lambda name: _turn(name, facts.scores(series)))[:most]:
        positions, values = series[name]
        spark = sparkline(positions, values, end, max(8, width - _BESIDE))
        table.add_row(
            Text(name),
            Text(spark, style="cyan"),
            *(events.number(float(v)) for v in (values[-1], values.min(), values.max())),
        )
    return table, max(0, len(names) - most)


def _turn(name: str, scores: Sequence[str]) -> int:
    """Return which figures to show first where there is no room for all; others come in the order of the charts."""
    if name in scores[:_SCORES]:
        return 0
    patterns = ("loss/*", "score/gap", "speed/images_per_second", "collapse/*", "grad_norm/[!r]*", "score/*")
    return next(
        (turn for turn, pattern in enumerate(patterns, 1) if fnmatch.fnmatchcase(name, pattern)), len(patterns) + 1
    )
