"""Tell from a run's figures and events which figures are scores, which is newest, what alarms stand, what is best."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from gan_dist import files
from gan_dist.config.control import LOGITS

GROUP = "score/"
_LARGEST = 1e150
_FAR = 1e18  # images
OF_RECORD = ("samples", "classifier_accuracy")
"""Last parts of names that say how a score was made."""
_FIRST = ("kid", "fid", "fd", "cmmd", "kl", "covered", "recall", "precision", "is")
"""Which of several scores a line of text shows."""
_HIGHER = ("is", "precision", "recall", "density", "coverage", "authenticity", "covered", "psnr", "ssim", "diversity")
"""Words in the names of scores of which more is better, where the run's config does not say."""


def scores(names: Iterable[str]) -> list[str]:
    """Return the names that are scores of images, the one to show first in front."""
    found = [
        name
        for name in names
        if name.startswith(GROUP)
        and name.removeprefix(GROUP) not in LOGITS
        and name.rpartition("/")[2] not in OF_RECORD
    ]
    return sorted(found, key=lambda name: (_rank(name), name))


def _words(name: str) -> set[str]:
    return set(name.removeprefix(GROUP).lower().replace("/", "_").replace("-", "_").split("_"))


def _rank(name: str) -> int:
    words = _words(name)
    return next((place for place, word in enumerate(_FIRST) if word in words), len(_FIRST))


def lower_is_better(name: str, declared: Mapping[str, str] | None = None) -> bool:
    """Say whether less is better; `declared` has "lower" or "higher" by the score's name without `score/`."""
    short = name.removeprefix(GROUP)
    if declared and short in declared:
        return declared[short] == "lower"
    return not _words(name) & set(_HIGHER)


def newest_score(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return name, value and images of the newest score in lines of metrics.jsonl; None where there is none."""
    for line in reversed(figures):
        if names := scores(name for name, value in line.items() if is_figure(value)):
            return {"name": names[0], "value": line[names[0]], "images": line.get("images")}
    return None


def alarms(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the events `suspect` that stand: not cleared; what was beyond a position to which the run went back is undone.

    A signal may be suspect on both sides: an alarm is told from another one by signal and trouble. Events of older versions
    have no trouble, and are ended by any `clear` of their signal.
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


def best(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return score, value, images and checkpoint of the last event `best`; None where there is none."""
    found = [event for event in events if event.get("event") == "best"]
    return {name: found[-1].get(name) for name in ("score", "value", "images", "checkpoint")} if found else None


def of(figures: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return `score`, `alarms` and `best` of a run: what a line about it says beside state and speed."""
    return {"score": newest_score(figures), "alarms": alarms(events), "best": best(events)}


def errors(records: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int], float]:
    """Return the error of scores by (name in metrics.jsonl, images) from the lines of scores.jsonl."""
    found = {}
    for record in records:
        if is_figure(error := record.get("error")):
            name = f"{GROUP}{str(record.get('metric')).removeprefix(GROUP)}"
            found[name, whole(record.get("images"))] = float(error)
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
