"""The charts of the page, in order. A new chart is one entry; figures that no entry names get a chart by their group."""

import dataclasses
import fnmatch
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from gan_dist.figures import LOGITS
from gan_dist.report import facts

Band = tuple[float | None, float | None]
"""From where to where a figure raises no alarm; None: without end."""
_FACTOR = 20.0  # figures further apart than this share no linear axis
_MOST = 6  # figures of a chart that was made by group


@dataclasses.dataclass(frozen=True)
class Chart:
    """One chart, of the figures whose names match."""

    title: str
    names: tuple[str, ...]
    """Patterns, as `grad_norm/*`. One with ! in front takes names away."""
    section: str
    says: str = ""
    """What a person should look for."""
    log: bool = False
    """Whether the vertical axis begins as a logarithmic one."""
    zero: bool = False
    """Whether the vertical axis shows 0."""
    band: Band | Callable[[Mapping[str, Any]], Band] = (None, None)
    """Where it raises no alarm, or a function of the run's keys that returns it."""
    apart: bool = False
    """Whether each figure has a chart of its own."""
    unless: Literal["", "zero", "constant"] = ""
    """Leave it out where all of its figures are 0, or the same, all the time."""

    def without_alarm(self, keys: Mapping[str, Any]) -> Band:
        """Return where the chart's figures raise no alarm in a run with these keys."""
        return self.band(keys) if callable(self.band) else self.band


def limit(name: str, keys: Mapping[str, Any]) -> float:
    """Return a limit of the alarms, control.limits.NAME; that of this version where the run's config has none."""
    from gan_dist.config.control import Limits  # `watch` plans charts, and must not wait for the config's library

    own = keys.get(f"control.limits.{name}")
    return float(own) if own and facts.is_figure(own) else float(getattr(Limits(), name))


_SURE = {
    **dict.fromkeys(("nonsaturating", "minimax", "relativistic", "relativistic_average"), 12.0),
    "hinge": 4.0,
}
"""`sure` of the built-in losses (losses.py) that have one: `watch` must not wait for torch."""


def gap_band(keys: Mapping[str, Any]) -> Band:
    """Return where the gap of the logits raises no alarm; without end for a loss that does not say, or a user's."""
    own = keys.get("control.limits.gap")
    return None, float(own) if own and facts.is_figure(own) else _SURE.get(str(keys.get("loss.kind")))


SECTIONS = ("Scores", "Collapse", "Players", "Speed and memory", "More figures")
CHARTS = (
    Chart("How the scores were made", tuple(f"score/*/{name}" for name in facts.OF_RECORD), "Scores", apart=True, unless="constant"),
    Chart("", ("score/*", *(f"!score/{name}" for name in LOGITS)), "Scores", apart=True),
    Chart("Diversity", ("collapse/diversity*", "!collapse/diversity_in_class"), "Collapse", "distance between samples over that of real images, 1: as diverse", zero=True, band=lambda keys: (limit("diversity", keys), limit("diversity_high", keys))),
    Chart("Diversity within a class", ("collapse/diversity_in_class",), "Collapse", "distance between samples of one class over that of real ones", zero=True, band=lambda keys: (limit("diversity_in_class", keys), None)),
    Chart("Duplicates", ("collapse/duplicates*",), "Collapse", "share of pairs that are nearly the same picture", zero=True, band=lambda keys: (None, limit("duplicates", keys))),
    Chart("Empty cells", ("collapse/cells",), "Collapse", "share of the data's regions that no sample falls into", zero=True, band=lambda keys: (None, limit("cells", keys))),
    Chart("Gap of the logits", ("score/gap",), "Collapse", "mean logit of real images less that of generated ones", band=gap_band),
    Chart("D's accuracy", ("score/accuracy",), "Collapse", "share of images that D judges rightly; an alarm only while samples are alike"),
    Chart("Sign of D on real images", ("score/sign_real",), "Collapse", "near 1 for long, and samples alike: D remembers the data"),
    Chart("Losses", ("loss/*",), "Players", "they move against each other, and do not say how good the images are"),
    Chart("Logits", ("score/real", "score/fake"), "Players", "positive: D takes it for real"),
    Chart("Gradient norms", ("grad_norm/*", "!grad_norm/ratio"), "Players", "one that stays far below the other learns nothing", log=True),
    Chart("Ratio of the gradients", ("grad_norm/ratio",), "Players", "log10 of D's over G's", band=lambda keys: (-limit("ratio", keys), limit("ratio", keys))),
    Chart("Penalties", ("penalty/*",), "Players", "before their weight; a sudden jump comes before bad numbers", log=True),
    Chart("Skipped updates", ("skipped/*",), "Players", "in total; they were not finite", zero=True, unless="zero"),
    Chart("Images per second", ("speed/images_per_second",), "Speed and memory", zero=True),
    Chart("", ("speed/*", "!speed/images_per_second"), "Speed and memory", zero=True, apart=True),
    Chart("Memory in GiB", ("memory/*",), "Speed and memory", "growth without end is a leak", zero=True),
)  # fmt: skip
"""In the order of the page, section by section."""


def plan(typical: Mapping[str, float], constant: Iterable[str] = ()) -> list[tuple[Chart, list[str]]]:
    """Return the charts to draw with the names of their figures; every name is in one that is drawn or left out.

    `typical` has the usual size of every figure, `constant` those that never change.
    """
    left, same = dict.fromkeys(typical), set(constant)
    nothing = {name for name in same if typical[name] == 0}
    found: list[tuple[Chart, list[str]]] = []
    for chart in CHARTS:
        names = [name for name in left if _takes(chart, name)]
        for name in names:
            del left[name]
        if not names or (chart.unless and (nothing if chart.unless == "zero" else same).issuperset(names)):
            continue
        for shown in [[name] for name in _sorted(names)] if chart.apart else [_sorted(names)]:
            title = chart.title or shown[0].removeprefix(facts.GROUP).removeprefix("speed/").replace("_", " ")
            found.append((dataclasses.replace(chart, title=title), shown))
    for group, members in itertools.groupby(sorted(left, key=lambda name: (_group(name), name)), _group):
        for number, together in enumerate(_of_one_size(list(members), typical), 1):
            title = together[0] if len(together) == 1 else f"{group} {number}" if number > 1 else group
            found.append((Chart(title, (), SECTIONS[-1]), together))
    return sorted(found, key=lambda entry: SECTIONS.index(entry[0].section))


def _takes(chart: Chart, name: str) -> bool:
    wanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in chart.names)
    return wanted and not any(fnmatch.fnmatchcase(name, pattern[1:]) for pattern in chart.names if pattern[0] == "!")


def _sorted(names: list[str]) -> list[str]:
    """Return scores with the one to look at first in front, other names as they came."""
    first = facts.scores(names)
    return [*first, *(name for name in names if name not in first)]


def _group(name: str) -> str:
    return name.partition("/")[0] if "/" in name else "others"


def _of_one_size(names: list[str], typical: Mapping[str, float]) -> list[list[str]]:
    """Return the names in groups that a person can read on one linear axis."""
    groups: list[list[str]] = []
    for name in sorted(names, key=lambda name: (-typical[name], name)):
        if groups and len(groups[-1]) < _MOST and typical[groups[-1][0]] <= _FACTOR * typical[name]:
            groups[-1].append(name)
        else:
            groups.append([name])
    return [sorted(group) for group in groups]
