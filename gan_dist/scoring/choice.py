"""Say what the command line of `gan-dist evaluate` names: a run or images, scores, and what looks at the images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gan_dist import run_directory
from gan_dist.config import parts as parts_module, read_run
from gan_dist.errors import InputError
from gan_dist.evaluation import EXTRACTORS, METRICS, Extractor, Metric, SetMetric


def is_run(path: Path) -> bool:
    """Say whether a path is a run directory, a checkpoint in one, or a folder of runs.

    A folder of images may hold a config.yaml or a manifest.json of other programs.
    """
    if (path / "manifest.json").exists() and path.resolve().parent.name == "checkpoints":
        return (path.resolve().parent.parent / "config.yaml").exists()
    if (path / "config.yaml").exists():
        return any((path / name).exists() for name in ("checkpoints", "metrics.jsonl", "status.json"))
    return path.is_dir() and bool(run_directory.runs_in(path)) and not any(path.glob("*.*"))


def scores_of(path: Path) -> list[Metric]:
    """Return the scores in a run's own config; none of what is no run."""
    if not is_run(path):
        return []
    return list(dict(read_run(run_directory.locate(path))[0].evaluate.scores).values())


def parts(
    scores: str,
    features: str | None,
    weights: Path | None,
    resize: str | None,
    classifier: Path | None = None,
    own: Sequence[Metric] = (),
) -> tuple[dict[str, Metric], dict[str, Extractor]]:
    """Return the metrics and extractors that the command line names. Raises InputError.

    `own` are the scores of the run: a score that a kind alone does not make, as modes, is taken from them.
    """
    kinds = [name.strip() for name in scores.split(",") if name.strip()]
    if not kinds:
        raise InputError(f"--scores {scores}: name scores, for example fid,kid,prdc; known are {', '.join(METRICS)}")
    kinds = ["inception_score" if kind == "is" else kind for kind in kinds]
    network, _, file = (features or "").partition(":")
    if network.endswith(".py"):  # FILE.py:CLASS
        network, file = features or "", ""
    if file and weights:
        raise InputError(f"--features {features} and --weights {weights} both name a file; give one of them")
    keys = {"weights": str(weights or file)} if weights or file else {}
    keys |= {"resize": resize} if resize else {}
    metrics: dict[str, Metric] = {}
    for kind in kinds:
        metric = _metric(kind, classifier, own)
        if features and isinstance(metric, SetMetric):
            metric = metric.model_copy(update={"features": network})
        name = kind
        if isinstance(metric, SetMetric) and metric.features in EXTRACTORS and EXTRACTORS[metric.features].trend:
            name = f"{kind}_{metric.features}"
        metrics[name] = metric
    if classifier and not any("classifier" in type(metric).model_fields for metric in metrics.values()):
        raise InputError(f"--classifier {classifier} has no effect on {', '.join(kinds)}; remove it, or add modes")
    asked = {metric.features for metric in metrics.values() if isinstance(metric, SetMetric)}
    given = [name for name, value in (("features", features), ("weights", weights), ("resize", resize)) if value]
    if given and not asked:
        raise InputError(
            f"--{given[0]} has no effect on {', '.join(kinds)}, which look at images themselves; remove it"
        )
    if len(asked) > 1 and "weights" in keys:
        with_file = sorted(name for name in asked if name in EXTRACTORS and EXTRACTORS[name].file)
        if len(with_file) != 1:
            raise InputError(
                f"--weights {keys['weights']}: the scores look by {', '.join(sorted(asked))}; name one by --features"
            )
        asked = set(with_file)
    found = {name: _part("features", name, Extractor, EXTRACTORS, keys) for name in asked}
    for extractor in found.values():
        if extractor.weights and not extractor.takes_weights:
            raise InputError(f"--weights {extractor.weights} has no effect on {extractor.kind} features; remove it")
    return metrics, found


def _metric(kind: str, classifier: Path | None, own: Sequence[Metric]) -> Metric:
    """Return a metric by its kind: with the classifier of the command line, else that of the run, where it needs one."""
    needs = kind in METRICS and "classifier" in METRICS[kind].model_fields
    if needs and classifier is None:
        if known := next((metric for metric in own if metric.kind == kind), None):
            return known
        raise InputError(
            f"--scores {kind}: it needs a classifier of digits: add --classifier FILE (`gan-dist digit-classifier MNIST FILE` "
            "makes one)"
        )
    metric: Metric = _part("scores", kind, Metric, METRICS, {"classifier": str(classifier)} if needs else {})
    return metric


def _part(what: str, kind: str, base: Any, kinds: Mapping[str, Any], keys: dict[str, Any]) -> Any:
    """Return a part of the config by its kind alone, and some keys of it."""
    with parts_module.reading(None):
        full, found = parts_module.find(kind, base, kinds, f"--{what}")
    try:
        return found(kind=full, **keys)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"--{what} {kind}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
