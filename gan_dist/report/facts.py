"""Tell from a run's figures and events which figures are scores, which is newest, what alarms stand, what is best."""

import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from gan_dist import files
from gan_dist.figures import LOGITS

GROUP = "score/"
_NONE: Mapping[str, str] = types.MappingProxyType({})
_LARGEST = 1e150
_FAR = 1e18  # images
OF_RECORD = ("samples", "classifier_accuracy", "segmenter_accuracy")
"""Last parts of names that say how a score was made."""
EVALUATED = "/evaluated"
"""Ends the name of a score of `gan-dist evaluate` where the training has one of that name: of another protocol, maybe."""
_FIRST = ("kid", "fid", "fd", "cmmd", "kl", "covered", "recall", "precision", "is", "inception")
"""Which of several scores a line of text shows."""
_HIGHER = {
    *(
        "is",
        "precision",
        "recall",
        "density",
        "coverage",
        "authenticity",
        "covered",
        "psnr",
        "ssim",
        "segmentation",
        "miou",
        "diversity",
    ),
    *("neighbours", "modes", "good"),
}
"""Words in the last part of a score's name of which more is better, where the run's files do not say."""
_HIGHER_NAME = "inception_score"


def scores(names: Iterable[str]) -> list[str]:
    """Return the names that are scores of images, the one to show first in front."""
    found = [
        name
        for name in names
        if name.startswith(GROUP)
        and name.removeprefix(GROUP) not in LOGITS
        and short(name).rpartition("/")[2] not in OF_RECORD
    ]
    return sorted(found, key=lambda name: (_rank(name), name))


def short(name: str) -> str:
    """Return the name of a score as the config has it: prdc/recall."""
    return name.removeprefix(GROUP).removesuffix(EVALUATED)


def _words(name: str) -> set[str]:
    return set(short(name).lower().replace("/", "_").replace("-", "_").split("_"))


def _rank(name: str) -> int:
    words = _words(name)
    return next((place for place, word in enumerate(_FIRST) if word in words), len(_FIRST))


def lower_is_better(name: str, declared: Mapping[str, str] | None = None) -> bool:
    """Say whether less is better; `declared` has "lower" or "higher" by the score's name without `score/`."""
    if declared and short(name) in declared:
        return declared[short(name)] != "higher"
    return not (
        _words(name.removesuffix(EVALUATED).rpartition("/")[2]) & _HIGHER or _HIGHER_NAME in short(name).lower()
    )


def declared(
    records: Iterable[Mapping[str, Any]], kinds: Mapping[str, str] = _NONE, names: Iterable[str] = ()
) -> dict[str, str]:
    """Return "lower" or "higher" by the names of scores: as lines of scores.jsonl say it, else by the kind of the score.

    `kinds` are those of the config's scores, for `names` that no line has.
    """
    found = {short(name): kind for name in names if (kind := kinds.get(short(name).partition("/")[0]))}
    known = {name: _of_kind(name, kind) for name, kind in found.items()}
    for record in records:
        name, better = str(record.get("metric")), record.get("better")
        if better in ("lower", "higher"):
            known[name] = str(better)
        else:
            known.setdefault(name, _of_kind(name, str(record.get("kind") or "")))
    return known


def _of_kind(name: str, kind: str) -> str:
    """Return the direction of a score of a built-in kind, whatever it is called; of a user's kind by its name."""
    rest = name.partition("/")[2]
    return "lower" if lower_is_better(f"{kind}/{rest}".rstrip("/") if kind.isidentifier() else name) else "higher"


def with_evaluations(figures: Sequence[dict[str, Any]], records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return lines of metrics.jsonl with those of scores.jsonl that `gan-dist evaluate` added, in order of position."""
    measured = {name for line in figures for name in line}
    lines: dict[int, dict[str, Any]] = {}
    for record in records:
        place = record.get("images")
        if _by_command(record) and is_figure(place) and 0 <= place < _FAR and is_figure(record.get("value")):
            lines.setdefault(int(place), {"images": int(place)})[_name(record, measured)] = record["value"]
    return sorted([*figures, *lines.values()], key=lambda line: float(line["images"]))


def _by_command(record: Mapping[str, Any]) -> bool:
    return record.get("by") not in (None, "training")


def _name(record: Mapping[str, Any], measured: Collection[str]) -> str:
    """Return the name that a line of scores.jsonl has among the figures; `measured` are those of metrics.jsonl."""
    name = f"{GROUP}{str(record.get('metric')).removeprefix(GROUP)}"
    return f"{name}{EVALUATED}" if _by_command(record) and name in measured else name


def newest_score(figures: Sequence[Mapping[str, Any]], better: Mapping[str, str]) -> dict[str, Any] | None:
    """Return name, value, images and direction of the newest score in lines of figures; None where there is none."""
    for line in reversed(figures):
        if names := scores(name for name, value in line.items() if is_figure(value)):
            return {"name": names[0], "value": line[names[0]], "images": line.get("images"), **_way(names[0], better)}
    return None


def _way(name: object, better: Mapping[str, str]) -> dict[str, str]:
    return {"better": "lower" if lower_is_better(str(name), better) else "higher"}


def alarms(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the events `suspect` that stand: not cleared. What was beyond a position that the run went back to is undone.

    A signal may be suspect on both sides: an alarm is told from another one by signal and trouble. Events of older
    versions have no trouble, and are ended by any `clear` of their signal.
    """
    told: list[Mapping[str, Any]] = []
    for event in events:
        kind = event.get("event")
        if kind in ("suspect", "clear"):
            told.append(event)
        elif kind in ("started", "resumed", "went back"):
            start = position(event.get("to")) if kind == "went back" else whole(event.get("images"))
            told = [earlier for earlier in told if whole(earlier.get("images")) <= start]
    standing: dict[tuple[str, str], dict[str, Any]] = {}
    for event in told:
        signal, trouble = str(event.get("signal")), str(event.get("trouble") or "")
        if event.get("event") == "suspect":
            standing[signal, trouble] = {**event}
        else:
            ended = [key for key in standing if key[0] == signal and ("" in (trouble, key[1]) or key[1] == trouble)]
            for key in ended:
                del standing[key]
    return list(standing.values())


def best(events: Sequence[Mapping[str, Any]], better: Mapping[str, str]) -> dict[str, Any] | None:
    """Return score, value, images, checkpoint and direction of the last event `best`; None where there is none."""
    found = [event for event in events if event.get("event") == "best"]
    if not found:
        return None
    return {
        **{name: found[-1].get(name) for name in ("score", "value", "images", "checkpoint")},
        **_way(found[-1].get("score"), better),
    }


def of(
    figures: Sequence[dict[str, Any]],
    events: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]] = (),
    kinds: Mapping[str, str] = _NONE,
) -> dict[str, Any]:
    """Return `score`, `alarms` and `best` of a run: what a line about it says beside state and speed.

    `records` are the lines of scores.jsonl, `kinds` those of the config's scores by name.
    """
    named = {*(name for line in figures for name in line), *(str(event.get("score")) for event in events)}
    better = declared(records, kinds, named)
    newest = newest_score(with_evaluations(figures, records), better)
    return {"score": newest, "alarms": alarms(events), "best": best(events, better)}


def errors(records: Sequence[Mapping[str, Any]], measured: Collection[str]) -> dict[tuple[str, int], float]:
    """Return the errors of scores by (name, images) from lines of scores.jsonl; `measured` are names in metrics.jsonl."""
    found = {}
    for record in records:
        if is_figure(error := record.get("error")):
            found[_name(record, measured), whole(record.get("images"))] = float(error)
    return found


def position(checkpoint: object) -> int:
    """Return the images in a checkpoint's name; 0 where it has none."""
    digits = str(checkpoint or "").removeprefix("images-")
    return int(digits) if digits.isdecimal() else 0


def whole(value: object) -> int:
    """Return a count that a line should hold; 0 for anything else, as a torn or edited file may."""
    return int(value) if is_figure(value) and abs(value) < _FAR else 0


def is_figure(value: object) -> TypeGuard[float]:
    """Say whether a value is a number that can be drawn: of larger ones neither differences nor squares are finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of figures that say where they belong, in this order."""
    lines = files.read_json_lines(path)
    placed = [line for line in lines if is_figure(line.get("images")) and 0 <= line["images"] < _FAR]
    return sorted(placed, key=lambda line: float(line["images"]))
