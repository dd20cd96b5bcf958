"""Decide from the readings of a run which signals of collapse are suspect: a pure function of what metrics.jsonl holds.

A run that goes on reads its metrics.jsonl again, and decides what it would have decided without the stop.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from gan_dist.config.control import Limits

_LIVE = "collapse/diversity_live"
_LARGE_GAP = 0.6  # of the largest healthy gap: suspect while the generator is not good
HALF_LIVES = 4
"""Of the moving average, before it is judged: until then it is one picture in a healthy run too."""

Trouble = Literal[
    "few pictures",
    "classes",
    "other pictures",
    "labels",
    "sure",
    "unsure",
    "remembers",
    "runs away",
    "generator fades",
    "discriminator fades",
]


@dataclasses.dataclass(frozen=True)
class Rule:
    """When a signal is suspect: on which side of which limit, and from where in the run on."""

    signal: str
    """Its name in metrics.jsonl."""
    trouble: Trouble
    """What it means."""
    side: Literal["above", "below"]
    limit: float
    begin: int
    """Images before which it is not judged."""
    of_best: float = 0.0
    """Below this part of its own best it is suspect too."""
    lasting: int = 0
    """Images that it must have been suspect for."""
    strict: float | None = None
    """The limit in place of `limit` while the generator is known not to be good."""
    good: tuple[float, float] = (0.0, math.inf)
    """From where to where collapse/diversity_live is of a good generator."""


@dataclasses.dataclass(frozen=True)
class Change:
    """A signal became suspect at a reading, or is well again."""

    kind: Literal["suspect", "clear"]
    rule: Rule
    images: int
    value: float
    threshold: float
    since: int
    """Position of the first reading in a row beyond the threshold."""
    good: int | None
    """Position of the last reading before these that was well; None: there is none."""


def rules(limits: Limits, half_life: int, batch: int, sure: float, level: float = math.inf) -> list[Rule]:
    """Return the rules of a run.

    `half_life` is the average's in images, `sure` the largest healthy gap of the loss, `level` its largest healthy logit.
    """
    live = max(limits.warm_up_live, limits.warm_up_steps * batch)
    average = max(limits.warm_up, HALF_LIVES * half_life, 4 * limits.warm_up_steps * batch)
    good = limits.good, limits.diversity_high
    gap = sure if limits.gap is None else limits.gap
    best = limits.diversity_of_best
    return [
        Rule("collapse/diversity", "few pictures", "below", limits.diversity, average, best),
        Rule("collapse/diversity_in_class", "classes", "below", limits.diversity_in_class, average),
        # a slow healthy run (WGAN-GP) draws few pictures for longer than its logits are odd
        Rule(_LIVE, "few pictures", "below", limits.diversity_live, 2 * live, best),
        Rule("collapse/diversity", "other pictures", "above", limits.diversity_high, average),
        Rule(_LIVE, "other pictures", "above", limits.diversity_high, 2 * live),
        Rule("collapse/duplicates", "few pictures", "above", limits.duplicates, average),
        Rule("collapse/duplicates_live", "few pictures", "above", limits.duplicates_live, 2 * live),
        Rule("collapse/cells", "few pictures", "above", limits.cells, average),
        Rule("score/gap", "sure", "above", gap, live, strict=_LARGE_GAP * gap, good=good),
        Rule("score/level", "runs away", "above", level if limits.level is None else limits.level, live),
        # where generated images are as good as real ones, nobody can tell them apart
        Rule("score/accuracy", "unsure", "below", -math.inf, live, strict=limits.accuracy, good=good),
        Rule("data/labels", "labels", "below", limits.labels, live),
        # a discriminator that knows small data by heart may teach a good generator all the same
        Rule(
            *("score/sign_real", "remembers", "above", math.inf, live),
            lasting=limits.sign_real_images,
            strict=limits.sign_real,
            good=good,
        ),
        Rule("grad_norm/ratio", "generator fades", "above", limits.ratio, live),
        Rule("grad_norm/ratio", "discriminator fades", "below", -limits.ratio, live),
    ]


@dataclasses.dataclass
class _Series:
    """What is known of the readings of a rule."""

    beyond: int = 0
    """Readings in a row beyond the limit."""
    within: int = 0
    since: int = 0
    last_good: int | None = None
    good: int | None = None
    """`last_good` when the readings in a row began."""
    best: float = -math.inf
    standing: bool = False


class Judge:
    """Takes in the readings of a run one after the other, and says what changes."""

    def __init__(self, rules: Sequence[Rule], readings: int) -> None:
        """Begin without readings. `readings` in a row beyond a limit make an alarm."""
        self._readings = readings
        self._series = [(rule, _Series()) for rule in rules]
        self._variety: float | None = None
        """The latest diversity of the generator as it trains."""
        self._first: int | None = None
        """The last good position before the first alarm of the run."""

    def feed(self, images: int, values: Mapping[str, float | None]) -> list[Change]:
        """Take in the figures of a position, as metrics.jsonl has them; what is missing or not finite is not judged."""
        changes = []
        known = {name: float(f"{value:.7g}") for name, value in values.items() if value is not None}  # as it is written
        if math.isfinite(known.get(_LIVE, math.nan)):
            self._variety = known[_LIVE]
        for rule, series in self._series:
            if rule.signal not in known or not math.isfinite(known[rule.signal]) or images < rule.begin:
                continue
            if change := self._judge(rule, series, images, known[rule.signal]):
                changes.append(change)
        return changes

    def _judge(self, rule: Rule, series: _Series, images: int, value: float) -> Change | None:
        above = rule.side == "above"
        bad = self._variety is not None and not rule.good[0] <= self._variety <= rule.good[1]
        limit = rule.strict if bad and rule.strict is not None else rule.limit
        threshold = limit if above else max(limit, rule.of_best * series.best)
        series.best = max(series.best, value) if rule.of_best else series.best
        kind: Literal["suspect", "clear"] | None = None
        if value > threshold if above else value < threshold:
            if not series.beyond and not series.standing:
                series.since, series.good = images, series.last_good
            series.beyond, series.within = series.beyond + 1, 0
            lasted = images - series.since >= rule.lasting
            if series.beyond >= self._readings and lasted and not series.standing:
                series.standing, kind = True, "suspect"
                self._first = series.good if self._first is None else self._first
        else:
            series.beyond, series.within = 0, series.within + 1
            if not series.standing:
                series.last_good = images
            elif series.within >= self._readings:
                series.standing, series.last_good, kind = False, images, "clear"
        if kind is None:
            return None
        return Change(kind, rule, images, value, threshold, series.since, series.good)

    @property
    def standing(self) -> list[str]:
        """Names of the signals that are suspect now."""
        return list(dict.fromkeys(rule.signal for rule, series in self._series if series.standing))

    def good_positions(self) -> tuple[int, ...]:
        """Return the positions whose newest earlier checkpoints must not be deleted, in order.

        That is where each signal was last known to be well, and where it was before the first alarm of the run.
        """
        good = [series.good if series.standing or series.beyond else series.last_good for _, series in self._series]
        return tuple(sorted({position for position in (*good, self._first) if position is not None}))


def replay(judge: Judge, lines: Iterable[Mapping[str, float | None]], until: int) -> None:
    """Take in the lines of metrics.jsonl up to a position."""
    for line in lines:
        images = line.get("images")
        if images is not None and images <= until:
            judge.feed(int(images), line)
