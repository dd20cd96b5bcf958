"""Say in words how a run stands, each with its figure; "not measured" where there is none."""

import dataclasses
from collections import Counter

import numpy as np

from gan_dist import run_status, units
from gan_dist.report import charts, events, facts
from gan_dist.report.events import number
from gan_dist.report.reading import RunFiles
from gan_dist.report.series import Series

_WINDOW = 100_000  # images that "of late" means
_RECENT = 10  # reports that the rate is taken from
_BETTER, _WORSE = 0.03, 0.10  # shares of the score by which it must change to be called so
_BEHIND = 0.3  # share of the best score by which the newest one must be worse to be called so


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One sentence about one question."""

    question: str
    tone: str
    """fine, plain, look, bad, or none: not measured."""
    word: str
    text: str


def of(run: RunFiles) -> list[Verdict]:
    """Return the verdicts on a run, in the order in which a person asks."""
    return [learning(run), collapse(run), balance(run), speed(run), steadiness(run), memory(run)]


def _unmeasured(question: str, hint: str) -> Verdict:
    return Verdict(question, "none", "not measured", hint)


def learning(run: RunFiles) -> Verdict:
    """Judge the first score by its change of late."""
    question = "Is it learning?"
    names = facts.scores(run.series)
    if not names:
        return _without_score(run, question)
    name = names[0]
    positions, values = run.series[name]
    lower = facts.lower_is_better(name, run.better)
    at_best = int(np.argmin(values) if lower else np.argmax(values))
    best = f"best {number(float(values[at_best]))} at {positions[at_best]:,.0f} images"
    way = "lower is better" if lower else "higher is better"
    short = name.removeprefix(facts.GROUP)
    if len(values) < 2:
        text = f"{short} {number(float(values[0]))} at {positions[0]:,.0f} images ({way}); one measurement is no trend"
        return Verdict(question, "plain", "no trend yet", text)
    begin = int(np.searchsorted(positions, positions[-1] - _WINDOW))
    begin = min(begin, len(values) - 2)
    first, last = float(values[begin]), float(values[-1])
    gain = (first - last if lower else last - first) / (abs(first) or abs(last) or 1.0)
    error = sum(run.errors.get((name, int(positions[place])), 0.0) for place in (begin, -1))
    significant = abs(last - first) > error
    behind = abs(float(values[at_best]) - last)
    word, tone = "little change", "plain"
    if gain > _BETTER and significant:
        word, tone = "learning", "fine"
    elif gain < -_WORSE and significant:
        word, tone = "getting worse", "look"
    if behind > max(_BEHIND * abs(float(values[at_best])), error) and tone != "look":
        word, tone = "worse than before", "look"
    span = f"over the last {positions[-1] - positions[begin]:,.0f} images"
    return Verdict(question, tone, word, f"{short} {number(first)} -> {number(last)} {span} ({way}); {best}")


def _without_score(run: RunFiles, question: str) -> Verdict:
    """Say what was seen instead of a score, and how to get one."""
    watched = [name for name in run.series if name.startswith("collapse/")] if _is_watched(run) else []
    if run.status["alarms"]:
        seen, tone = f"alarms stand ({run_status.alarms_in_words(run.status)}): look at the grids below", "look"
    elif watched:
        seen, tone = "no alarm stands, which is no proof: compare the first grids below with the last", "plain"
    else:
        seen, tone = "compare the first grids below with the last: the losses do not tell", "none"
    scores = "--scores plane_modes" if run.keys.get("game.kind") == "plane" else "--features random"
    command = f"gan-dist evaluate {run.directory} {scores}"
    how = f"for a score: `{command}` now, or evaluate.scores and evaluate.every while it trains"
    return Verdict(question, tone, "no score", f"{seen}; {how}")


def _is_watched(run: RunFiles) -> bool:
    return run.keys.get("control.collapse", "warn") not in ("off", False)


def collapse(run: RunFiles) -> Verdict:
    """Judge by the alarms that stand, then by diversity and duplicates."""
    question = "Is it collapsing?"
    if standing := run.status["alarms"]:
        return Verdict(question, "bad", "suspect", "; ".join(events.details(alarm) for alarm in standing))
    words, outside = [], False
    for name, what in (
        ("collapse/diversity", "diversity"),
        ("collapse/diversity_in_class", "diversity within a class"),
        ("collapse/duplicates", "duplicates"),
        ("collapse/cells", "empty cells"),
    ):
        found = [(run.last(name), "averaged"), (run.last(f"{name}_live"), "live")]
        if parts := [f"{number(value)} {whose}" for value, whose in found if value is not None]:
            words.append(f"{what} {', '.join(parts)}" + (" (1: as real images)" if what == "diversity" else ""))
        if (averaged := found[0][0]) is not None:  # the live one moves more
            outside = outside or not _inside(run, name, averaged)
    if not words:
        return _unmeasured(question, "no figures of diversity; compare places of the grids below")
    text = "; ".join(words)
    return Verdict(question, "look" if outside else "fine", "beyond a limit" if outside else "no sign of it", text)


def balance(run: RunFiles) -> Verdict:
    """Judge by the gap of the logits and the ratio of the gradients."""
    question = "Are the players in balance?"
    words, outside = [], False
    gap = run.last("score/gap")
    real, fake = run.last("score/real"), run.last("score/fake")
    if gap is None and real is not None and fake is not None:
        gap = real - fake
    if gap is not None:
        _, high = charts.gap_band(run.keys)
        limit = "" if high is None else f" (no alarm up to {number(high)})"
        words.append(f"D's logits of real and generated images are {number(gap)} apart{limit}")
        outside = not _inside(run, "score/gap", gap)
    ratio, norms = run.last("grad_norm/ratio"), (run.last("grad_norm/D"), run.last("grad_norm/G"))
    if ratio is None and norms[0] and norms[1]:
        ratio = float(np.log10(norms[0] / norms[1]))
    if ratio is not None:
        words.append(f"D's gradient is {number(10 ** min(max(ratio, -99.0), 99.0))} times G's")
        outside = outside or not _inside(run, "grad_norm/ratio", ratio)
    if not words:
        return _unmeasured(question, "this game reports no logits and no gradient norms of players D and G")
    return Verdict(question, "look" if outside else "fine", "one wins" if outside else "in balance", ", ".join(words))


def _inside(run: RunFiles, name: str, value: float) -> bool:
    """Say whether a figure is where the band of its chart raises no alarm."""
    ((chart, _),) = charts.plan({name: abs(value)})
    low, high = chart.without_alarm(run.keys)
    return (low is None or value >= low) and (high is None or value <= high)


def speed(run: RunFiles) -> Verdict:
    """Judge the rate by the run's own usual one; name what a report says about waiting."""
    question = "How fast is it?"
    rate = run.series.get("speed/images_per_second")
    if rate is None:
        return _unmeasured(question, "no line of metrics.jsonl has a rate")
    recent, usual = float(np.median(rate[1][-_RECENT:])), float(np.median(rate[1]))
    words = [f"{recent:,.0f} images/s of late, {usual:,.0f} over the run"]
    seconds = run.series.get("speed/evaluation_seconds")
    if seconds is not None:
        words.append(f"scores took {float(seconds[1].sum()):,.0f} s in all")
    waits = [name for name in run.series if name.startswith("speed/") and ("load" in name or "wait" in name)]
    words += [f"{name.removeprefix('speed/')} {number(run.last(name))}" for name in waits]
    words += [] if waits else ["the loader's share: not measured"]
    slow = recent < usual / 2
    return Verdict(question, "look" if slow else "fine", "slower than usual" if slow else "steady", "; ".join(words))


_TROUBLES = {
    "failed": "failed",
    "went back": "went back",
    "fell back": "fell back to an older checkpoint",
    "desync": "ranks differed",
    "save failed": "saves failed",
    "quarantined": "samples quarantined",
    "score failed": "scores failed",
    "panel failed": "panels failed",
    "picture failed": "pictures failed",
    "signals failed": "signals failed",
    "data unreachable": "data unreachable",
    "tracker failed": "reports failed",
}


def steadiness(run: RunFiles) -> Verdict:
    """Count stops, failures and skipped updates."""
    question = "What happened to it?"
    counts = Counter(str(event.get("event")) for event in run.events)
    skipped = sum(run.last(name) or 0 for name in run.series if name.startswith("skipped/"))
    counted = any(name.startswith("skipped/") for name in run.series)
    if not run.events and not counted:
        return _unmeasured(question, "there is no events.jsonl")
    words = [_times("stopped", counts["stopped"])] if run.events else ["events: not recorded"]
    words += [_times(text, counts[kind]) for kind, text in _TROUBLES.items() if counts[kind]]
    words.append(f"{units.count(int(skipped), 'update')} skipped" if counted else "skipped updates: not measured")
    troubled = any(counts[kind] for kind in _TROUBLES) or skipped > 0
    bad = run.status["state"] == "failed" or run.status["lost"]
    word = "failed" if run.status["state"] == "failed" else "lost" if run.status["lost"] else ""
    word = word or ("look at the events" if troubled else "nothing out of order")
    return Verdict(question, "bad" if bad else "look" if troubled else "fine", word, ", ".join(words))


def memory(run: RunFiles) -> Verdict:
    """Judge by the growth over the second half of the run."""
    question = "Does memory grow?"
    words, grows = [], False
    for name in sorted(run.series):
        if name.startswith("memory/"):
            growth = _growth(run.series[name])
            grows = grows or growth > 0.1
            label = name.removeprefix("memory/").removesuffix("_gib").replace("gpu", "GPU")
            half = f" ({growth:+.0%} over the second half)" if growth == growth else ""
            words.append(f"{label} {number(run.last(name))} GiB{half}")
    if not words:
        return _unmeasured(question, "no line of metrics.jsonl has memory")
    return Verdict(question, "look" if grows else "fine", "it grows" if grows else "no", ", ".join(words))


def _growth(series: Series) -> float:
    """Return by which share a figure grew over the second half of the run; NaN where the run is too short to say."""
    positions, values = series
    if len(values) < 6:
        return float("nan")
    middle = float(values[np.searchsorted(positions, (positions[0] + positions[-1]) / 2)])
    return float(values[-1]) / middle - 1 if middle > 0 else float("nan")


def _times(what: str, count: int) -> str:
    return (
        f"never {what}"
        if not count
        else f"{what} {'once' if count == 1 else 'twice' if count == 2 else f'{count:,} times'}"
    )
