"""Read what a model card tells of a run: data, training, scores. What cannot be read is left out."""

import contextlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gan_dist import config as config_module, files, redaction
from gan_dist.checkpoint import format, store
from gan_dist.config import Config
from gan_dist.data import labels
from gan_dist.data.loader import open_index
from gan_dist.errors import InputError

_PRIVATE = ("where", "command", "files")
"""Parts of a score's record that name places of one machine."""
_PLACE = re.compile(r"[/~.]|[A-Za-z]:[/\\]|\w+://|[^:]+/[^:]*\.\w+(?::\w+)?$")
"""What names a file, a folder or an address: /a/b, ~/a, ./a, C:/a, s3://a/b, a/b.pth, a/b.py:Name; not a score's, a/b."""


def read(
    run: Path, config: Config, checkpoint: str, live: bool = False, labels: Collection[str] = ("",)
) -> dict[str, Any]:
    """Return the facts of a checkpoint of a run: of scores those of the `live` or of the averaged weights.

    `labels` are those of the scores that are of the way that is handed over ("way" in their records; "": they have none).
    """
    _, recorded = config_module.read_run(run)
    directory = run / "checkpoints" / checkpoint
    images = store.images_of(checkpoint)
    manifest = format.read_manifest(directory)
    scores = _scores(run, images, live, labels)
    references = [score.get("reference") or {} for score in scores]
    starts = files.read_json_lines(run / "environment.jsonl")
    before = [start for start in starts if _whole(start.get("images")) <= images] or starts
    data = recorded.get("data", "")
    return {
        "name": config.run.name,
        "recipe": _recipe(before),
        "images": images,
        "digest": format.digest(directory, manifest),
        "seed": config.run.seed,
        "data": {
            "digest": data,
            "samples": _samples(config, data, references),
            "resolution": config.data.resolution if not config.data.drawn else None,
            "channels": config.data.channels if not config.data.drawn else None,
            "classes": config.data.classes,
        },
        "training": training(config),
        "gan_dist": recorded.get("version"),
        "commit": before[-1].get("commit") if before else None,
        "torch": (before[-1].get("packages") or {}).get("torch") if before else None,
        "scores": scores,
    }


def training(config: Config) -> dict[str, Any]:
    """Return what decides about the mathematics of a run, by key, without places and what is off."""
    tree = without_places(redaction.redact_all(config.model_dump(mode="json")))
    kept = {
        name: tree[name]
        for name in ("game", "networks", "loss", "penalties", "augment", "optimizers", "average")
        if tree.get(name)
    }
    return {**kept, "training": {name: tree["training"][name] for name in ("batch", "micro_batch", "precision")}}


def without_places(value: Any) -> Any:
    """Return keys with files and folders by their last name alone: where they lie is nobody's business."""
    if isinstance(value, dict):
        return {name: without_places(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(each) for each in value]
    if isinstance(value, str) and _PLACE.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def class_names(config: Config) -> list[str]:
    """Return the names of the classes in their order; empty where the shards do not say them."""
    with contextlib.suppress(InputError, OSError, ValueError):
        names = labels.names_beside(config.data.shards)
        if sorted(names.values()) == list(range(config.data.classes)):
            return sorted(names, key=lambda name: names[name])
    return []


def _samples(config: Config, digest: str, references: list[dict[str, Any]]) -> int | None:
    """Return how many samples the data have: from their index where it is still here, else from what scores say."""
    with contextlib.suppress(InputError, OSError, ValueError, KeyError):
        index = open_index(config)
        if digest in (index.digest, index.old_digest):
            return len(index)
    return next((int(each["of"]) for each in references if each.get("data") == digest and each.get("of")), None)


def _recipe(starts: list[dict[str, Any]]) -> str:
    """Return the file name of the config that the run was started with."""
    for start in reversed(starts):
        for word in start.get("command") or ():
            if str(word).endswith((".yaml", ".yml")):
                return Path(str(word)).name
    return ""


def _scores(run: Path, images: int, live: bool, labels: Collection[str]) -> list[dict[str, Any]]:
    """Return the newest record of each score of a checkpoint, without what names places of a machine."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for line in files.read_json_lines(run / "scores.jsonl"):
        if bool(line.get("average", True)) is live or line.get("way", "") not in labels:
            continue
        if line.get("images") == images and isinstance(line.get("value"), int | float):
            extractor = line.get("extractor") or {}
            found[str(line.get("metric")), str(extractor.get("kind", ""))] = _public(line)
    return list(found.values())


def _public(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _public(each) for name, each in value.items() if name not in _PRIVATE}
    return without_places(redaction.redact_all(value))


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, int | float) else 0
