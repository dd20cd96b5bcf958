"""Say in words what an event of events.jsonl means, and how serious it is."""

import contextlib
import datetime
from collections.abc import Callable, Mapping
from typing import Any

from gan_dist.redaction import redact
from gan_dist.report.facts import whole
from gan_dist.report.tags import clean

Event = Mapping[str, Any]
_LONGEST = 300  # characters of an event's words
_TAKEN = {"time", "rank", "images", "event"}
"""Keys of an event that its line says by itself."""


def _started(event: Event) -> str:
    processes = whole(event.get("processes"))
    ranks = f"on {processes:,} process{'es' if processes != 1 else ''}" if processes else ""
    commit = f"commit {str(event['commit'])[:10]}" if event.get("commit") else ""
    return ", ".join(filter(None, (ranks, commit)))


def _saved(event: Event) -> str:
    stalled = f", training waited {event['stalled']} s" if event.get("stalled") else ""
    return f"{event.get('checkpoint', 'a checkpoint')} in {event.get('seconds', '?')} s{stalled}"


def _suspect(event: Event) -> str:
    since = f" since {whole(event['since']):,} images" if event.get("since") is not None else ""
    good = event.get("checkpoint")
    return (
        f"{event.get('signal')} is {number(event.get('value'))}, the threshold is {number(event.get('threshold'))}{since}; "
        + (f"last good checkpoint {good}" if good else "no good checkpoint was saved before")
        + (f". {event['remedy']}" if event.get("remedy") else "")
    )


WORDS: dict[str, tuple[str, Callable[[Event], str]]] = {
    "started": ("fine", _started),
    "resumed": ("plain", _started),
    "saved": ("minor", _saved),
    "save failed": ("bad", lambda event: f"{event.get('reason')}; {event.get('in_a_row', 1)} in a row"),
    "disk": ("look", lambda event: str(event.get("warning"))),
    "began": ("plain", lambda event: f"with {event.get('tensors')} of {event.get('checkpoint')}"),
    "fell back": ("look", lambda event: f"passed over a damaged checkpoint: {event.get('problem')}"),
    "other machine": ("look", lambda event: str(event.get("warning"))),
    "skipped a step": (
        "look",
        lambda event: (
            f"an update of {event.get('player')} was not finite and was not made; {event.get('total')} so far"
        ),
    ),
    "went back": ("look", lambda event: f"to {event.get('to')}: {event.get('reason')}"),
    "quarantined": (
        "look",
        lambda event: f"sample {event.get('key')} of {event.get('shard')} was replaced: {event.get('reason')}",
    ),
    "cache": ("look", lambda event: str(event.get("reason"))),
    "slow shard": ("look", lambda event: f"{event.get('shard')}: {event.get('reason')}"),
    "desync": ("bad", lambda event: f"the ranks hold different weights: {event.get('problem')}"),
    "panel failed": ("look", lambda event: f"{event.get('panel')} is not drawn again: {event.get('reason')}"),
    "picture failed": ("look", lambda event: f"{event.get('picture')} is not drawn again: {event.get('reason')}"),
    "signals failed": ("look", lambda event: f"none of pictures before the next start: {event.get('reason')}"),
    "data unreachable": ("look", lambda event: str(event.get("reason"))),
    "data back": ("fine", lambda event: str(event.get("reason"))),
    "slow": ("look", lambda event: str(event.get("reason"))),
    "tracker failed": ("look", lambda event: str(event.get("reason"))),
    "score failed": ("look", lambda event: str(event.get("reason"))),
    "suspect": ("bad", _suspect),
    "clear": ("fine", lambda event: f"{event.get('signal')} is well again"),
    "best": (
        "fine",
        lambda event: (
            f"{event.get('score')} {number(event.get('value'))} is the best so far; {event.get('checkpoint')} is kept"
        ),
    ),
    "stopped": ("plain", lambda event: f"because of {event.get('reason')}; saved"),
    "finished": ("fine", lambda event: "training.images is reached"),
    "failed": ("bad", lambda event: str(event.get("reason"))),
}
"""For each kind of event: how serious it is (minor, plain, fine, look, bad), and its details in words."""


def tone(event: Event) -> str:
    """Return how serious an event is: minor, plain, fine, look or bad."""
    return WORDS.get(str(event.get("event")), ("plain",))[0]


def details(event: Event) -> str:
    """Return the details of an event as one line of words, without its kind, time and place."""
    try:
        text = WORDS[str(event.get("event"))][1](event)
    except (KeyError, ValueError, TypeError):  # of another version, or a user's
        text = ", ".join(f"{name} {value}" for name, value in event.items() if name not in _TAKEN)
    text = clean(" ".join(redact(text).split()))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def local_time(event: Event) -> str:
    """Return the time of an event on this machine's clock, to the second, with its time zone; "-" where it has none."""
    with contextlib.suppress(KeyError, ValueError, OverflowError):
        return datetime.datetime.fromisoformat(str(event["time"])).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    return "-"


def line(event: Event, more: bool = True) -> str:
    """Return an event as one line: local time, what, where, and `more`: its details."""
    text = f"{local_time(event)}  {event.get('event', '?')} at {whole(event.get('images')):,} images"
    return f"{text}: {words}" if more and (words := details(event)) else text


def said(event: Event) -> str:
    """Return what happened, in words, without time and place."""
    return ": ".join(filter(None, (str(event.get("event", "?")), details(event))))


def number(value: object) -> str:
    """Return a figure as a person reads it: 3 significant digits, thousands with commas."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "not a number" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def clean_line(text: object) -> str:
    """Return the first line of a reason, without the secrets that it may hold."""
    return clean(redact(next(iter(str(text).splitlines()), "")))
