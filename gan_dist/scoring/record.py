"""Say what a score was made of: two scores can be put into one table only if their records agree."""

from collections.abc import Mapping
from typing import Any

import torch

from gan_dist import __version__
from gan_dist.evaluation import Evaluation, Metric, SetMetric, Sets, better
from gan_dist.evaluation.sets import MOST_ROWS
from gan_dist.scoring.images import ImageSet

_ERRORS = ("error", "deviation")


def lines_of(
    found: Evaluation,
    metrics: Mapping[str, Metric],
    sets: Sets | None,
    real: ImageSet | None,
    device: torch.device,
    about: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Return a line of scores.jsonl for each score: {"metric", "value", "error", ...}.

    `about` says what was scored: images, checkpoint, seed and the like.
    """
    lines = []
    for score, value in found.scores.items():
        name = score.removeprefix("score/")
        parent, _, part = name.rpartition("/")
        if part in _ERRORS and f"score/{parent}" in found.scores:
            continue
        error = next((found.scores[f"{score}/{e}"] for e in _ERRORS if f"{score}/{e}" in found.scores), None)
        metric = metrics[name.split("/")[0]]
        keys = metric.model_dump(mode="json", exclude={"kind", "features", "weights", "heads", "classifier"})
        line: dict[str, Any] = {"metric": name, "kind": metric.kind, "value": value, "error": error, **about}
        line["better"] = better(metrics, name)
        line |= {"n_generated": found.samples, "n_real": found.reals, "settings": keys, "quantised": True}
        if isinstance(metric, SetMetric) and sets is not None:
            line |= _of_sets(metric, found, sets, real)
        line["library"] = {"gan_dist": __version__, "torch": str(torch.__version__), "device": device.type}
        lines.append(line)
    return lines


def _of_sets(metric: SetMetric, found: Evaluation, sets: Sets, real: ImageSet | None) -> dict[str, Any]:
    features, reference = sets.features[metric.features], sets.references[metric.features]
    reals = len(reference.rows) if metric.reads_rows else reference.moments.count
    return {
        "n_generated": min(found.samples, MOST_ROWS) if metric.reads_rows else found.samples,
        "n_real": reals if metric.compares else 0,
        "reference": dict(real.facts) if real is not None and metric.compares else None,
        "extractor": dict(features.facts),
        "resize": features.facts.get("resize"),
    }
