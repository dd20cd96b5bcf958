"""The tables of the page: events in words, the config against its defaults, and what each start ran on."""

import itertools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gan_dist.report import events, facts
from gan_dist.report.reading import RunFiles
from gan_dist.report.tags import Content, Element, tag

_MOST_ROWS = 400
"""Rows of a table of events; beyond it, events of a kind that follow each other are one row."""


def table(head: Sequence[str], rows: Iterable[Sequence[Content]], classes: Sequence[str] = ()) -> Element:
    """Return a table; `classes` are those of its columns."""
    kinds = [*classes, *[""] * len(head)]
    body = [
        tag("tr", [tag("td", cell, class_=kind or None) for cell, kind in zip(row, kinds, strict=False)])
        for row in rows
    ]
    names = [tag("th", name, class_=kind or None) for name, kind in zip(head, kinds, strict=False)]
    return tag("div", tag("table", tag("thead", tag("tr", names)), tag("tbody", body)), class_="scroll")


def of_events(run: RunFiles) -> Element:
    """Return all events, the newest last."""
    if not run.events:
        return tag("p", "No events were recorded (events.jsonl).", class_="soft")
    rows = event_rows(run.events)
    shown = table(
        ("time", "images", "event", "in words"),
        [(when, images, tag("span", kind, class_=tone), words) for when, images, kind, words, tone in rows],
        ("tight", "right", "tight", ""),
    )
    for row, (*_, tone) in zip(shown.iter("tr"), (("",), *rows), strict=True):
        if tone == "minor":
            row.set("class", "minor")
    return shown


def event_rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """Return time, images, kind, words and tone of events: a row each, or, of very many, a row for each series of a kind."""
    if len(found) <= _MOST_ROWS:
        groups = [[event] for event in found]
    else:
        groups = [list(group) for _, group in itertools.groupby(found, lambda event: event.get("event"))]
    cut = len(groups) - 2 * _MOST_ROWS
    rows = [_row(group) for group in groups]
    if cut > 0:
        note = ("", "", "...", f"{cut:,} rows are left out; events.jsonl has them all", "plain")
        rows = [*rows[:_MOST_ROWS], note, *rows[-_MOST_ROWS:]]
    return rows


def _row(group: Sequence[Mapping[str, Any]]) -> tuple[str, str, str, str, str]:
    first, last = group[0], group[-1]
    kind, words = str(first.get("event", "?")), events.details(last)
    if len(group) > 1:
        kind = f"{kind}, {len(group):,} times"
        words = f"up to {facts.whole(last.get('images')):,} images; the last: {words}"
    return events.local_time(first), f"{facts.whole(first.get('images')):,}", kind, words, events.tone(first)


def shown(value: Any) -> str:
    """Return a value of the config as YAML would have it on one line."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False, default=str)


def changed_keys(run: RunFiles) -> list[tuple[str, str, str, str]]:
    """Return key, value, default and who set it, of all keys that are not at their default."""
    typed = command_keys(run)
    found = []
    for key, value in run.keys.items():
        usual = run.defaults.get(key, "")
        if key in run.defaults and usual == value:
            continue
        who = "command line" if key in typed or any(key.startswith(f"{name}.") for name in typed) else "config file"
        found.append((key, shown(value), shown(usual) if key in run.defaults else "-", who))
    return found


def command_keys(run: RunFiles) -> set[str]:
    """Return the keys that any start gave on its command line."""
    words = [str(word) for start in run.starts for word in _listing(start, "command")]
    return {word[2:].partition("=")[0] for word in words if word.startswith("--")}


def of_config(run: RunFiles) -> Element:
    """Return what differs from the defaults, and all keys folded away."""
    if not run.keys:
        return tag("p", "config.yaml cannot be read.", class_="soft")
    known = bool(run.defaults)
    facts_of = [
        f"gan_dist {run.recorded.get('version', '?')}",
        f"fingerprint {run.recorded.get('fingerprint', '?')}",
        f"created {run.recorded.get('created', '?')}",
        f"data {str(run.recorded.get('data', '?'))[:16]}",
    ]
    rows: list[Sequence[Content]] = [
        [tag("code", key), tag("code", value), tag("code", usual), who] for key, value, usual, who in changed_keys(run)
    ]
    everything: list[Sequence[Content]] = [
        [tag("code", key), tag("code", shown(value))] for key, value in run.keys.items()
    ]
    return tag(
        "div",
        tag("p", ", ".join(facts_of), class_="soft"),
        tag("p", "" if known else "This version does not know the defaults of this run.", class_="soft"),
        table(("differs from the default", "value", "default", "set by"), rows, ("", "", "", "tight"))
        if known
        else None,
        tag("details", tag("summary", f"all {len(run.keys)} keys"), table(("key", "value"), everything)),
    )


def of_starts(run: RunFiles) -> Element:
    """Return command line and environment of each start."""
    if not run.starts:
        return tag("p", "No start was recorded (environment.jsonl).", class_="soft")
    content: list[Content] = []
    for number, start in enumerate(run.starts):
        place = f"{'Start' if number == 0 else 'Went on'} at {facts.whole(start.get('images')):,} images"
        content += [
            tag("p", tag("b", place), tag("span", f"  {events.local_time(start)}", class_="soft")),
            tag("pre", command(start)),
            tag("p", environment(start), class_="soft"),
        ]
        if number and (changes := package_changes(run.starts[number - 1], start)):
            content.append(tag("p", f"packages since the start before: {changes}", class_="look"))
    last = run.starts[-1]
    packages = [[name, str(version)] for name, version in _mapping(last, "packages").items()]
    variables = [[tag("code", name), tag("code", str(value))] for name, value in _mapping(last, "variables").items()]
    content.append(tag("details", tag("summary", f"{len(packages)} packages"), table(("package", "version"), packages)))
    content.append(
        tag("details", tag("summary", f"{len(variables)} variables"), table(("variable", "value"), variables))
    )
    return tag("div", content)


def command(start: Mapping[str, Any]) -> str:
    """Return the command line of a start."""
    words = _listing(start, "command")
    return " ".join(shlex.join(str(word) for word in words).split()) if words else "not recorded"


def environment(start: Mapping[str, Any]) -> str:
    """Return the environment of a start in a line."""
    ranks = [str(rank) for rank in _listing(start, "ranks")]
    kinds = [f"{len(list(group))} x {name}" for name, group in itertools.groupby(sorted(ranks))]
    torch = _mapping(start, "packages").get("torch")
    build = ", ".join(f"{name} {value}" for name, value in _mapping(start, "torch").items())
    words = [
        ", ".join(kinds),
        f"commit {start.get('commit', 'unknown')}" + (f" with {start['changes']}" if start.get("changes") else ""),
        f"Python {start.get('python', 'unknown')}",
        f"torch {torch} ({build})" if torch else build,
        str(start.get("system", "")),
    ]
    return "; ".join(word for word in words if word)


def package_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return the packages whose versions differ between two starts."""
    old, new = _mapping(before, "packages"), _mapping(after, "packages")
    names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return ", ".join(f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}" for name in names)


def _mapping(start: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = start.get(name)
    return value if isinstance(value, dict) else {}


def _listing(start: Mapping[str, Any], name: str) -> list[Any]:
    value = start.get(name)
    return value if isinstance(value, list) else []
