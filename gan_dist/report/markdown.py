"""The report as Markdown, for issue trackers: the same words, without pictures."""

import re
from collections.abc import Iterable, Sequence

from gan_dist import run_status
from gan_dist.report import events, tables, verdict
from gan_dist.report.reading import RunFiles
from gan_dist.report.sparks import sparkline
from gan_dist.report.tags import clean

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def text(runs: Sequence[RunFiles]) -> str:
    """Return the report of some runs, one after the other."""
    return clean("\n".join("\n".join(_run(run)) for run in runs))


def _run(run: RunFiles) -> list[str]:
    status = run.status
    state = run_status.state_in_words(status)
    total = f" of {status['of']:,}" if status["of"] else ""
    rows = [
        ("state", state),
        ("images", f"{status['images']:,}{total}"),
        ("images/s at the last report", f"{status['images_per_second']:,.0f}"),
        ("newest score", run_status.score_in_words(status) or "not measured"),
        ("best checkpoint", run_status.best_in_words(status) or "not known"),
    ]
    end = max((float(positions[-1]) for positions, _ in run.series.values()), default=0.0)
    figures = [
        (name, sparkline(positions, values, end, 30), events.number(float(values[0])), events.number(float(values[-1])))
        for name, (positions, values) in run.series.items()
    ]
    last = run.starts[-1] if run.starts else {}
    return [
        f"# {escape(run.name)}\n",
        *_table(("", ""), rows),
        "\n## How it stands\n",
        *_table(("question", "answer", "figures"), [(v.question, v.word, v.text) for v in verdict.of(run)]),
        "\n## Figures\n",
        *_table(("figure", "over the run", "first", "last"), figures),
        "\n## What happened\n",
        *_table(("time", "images", "event", "in words"), [row[:4] for row in tables.event_rows(run.events)]),
        "\n## What differs from the defaults\n",
        *_table(("key", "value", "default", "set by"), tables.changed_keys(run)),
        "\n## Where it ran\n",
        f"    {tables.command(last)}\n" if last else "not recorded\n",
        escape(tables.environment(last)) + "\n" if last else "",
    ]


def escape(words: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(words.split()))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(escape(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines] if lines else ["none"]
