"""Score a generator: metrics, extractors of features, and the evaluation that deals its samples over ranks."""

from gan_dist.evaluation.base import Examples, Metric, Pixels, SetMetric, better, check_name
from gan_dist.evaluation.classifier import Classifier
from gan_dist.evaluation.distances import Cmmd, Fd, Frechet, InceptionScore, Kid
from gan_dist.evaluation.evaluate import Evaluation, Sets, check, collect, evaluate
from gan_dist.evaluation.features import Extractor, Features, Labelled, Pixels16, RandomNetwork
from gan_dist.evaluation.inception import Inception
from gan_dist.evaluation.modes import Modes
from gan_dist.evaluation.neighbours import Authenticity, Neighbours, Prdc
from gan_dist.evaluation.paired import Lpips, Psnr, Ssim
from gan_dist.evaluation.plane import PlaneModes
from gan_dist.evaluation.ranks import Ranks, ScoreError
from gan_dist.evaluation.segmentation import Segmentation
from gan_dist.evaluation.sets import reference
from gan_dist.evaluation.vision import Clip, DinoV2, Vgg16

__all__ = [
    "EXTRACTORS",
    "METRICS",
    "Evaluation",
    "Examples",
    "Extractor",
    "Features",
    "Labelled",
    "Metric",
    "Ranks",
    "ScoreError",
    "SetMetric",
    "Sets",
    "better",
    "check",
    "check_name",
    "collect",
    "evaluate",
    "extractors",
    "reference",
]

METRICS: dict[str, type[Metric]] = {
    "pixels": Pixels,
    "modes": Modes,
    "plane_modes": PlaneModes,
    "fid": Frechet,
    "fd": Fd,
    "kid": Kid,
    "cmmd": Cmmd,
    "inception_score": InceptionScore,
    "prdc": Prdc,
    "authenticity": Authenticity,
    "neighbours": Neighbours,
    "psnr": Psnr,
    "ssim": Ssim,
    "lpips": Lpips,
    "segmentation": Segmentation,
}
"""Built-in metrics by kind."""

EXTRACTORS: dict[str, type[Extractor]] = {
    "inception": Inception,
    "vgg16": Vgg16,
    "dinov2": DinoV2,
    "clip": Clip,
    "classifier": Classifier,
    "random": RandomNetwork,
    "pixels": Pixels16,
}
"""Built-in extractors of features by kind."""


def extractors(metrics: "dict[str, Metric]", named: "dict[str, Extractor]") -> "dict[str, Extractor]":
    """Return the extractors that metrics of sets ask for, by name: those that the config names, else built-in kinds.

    Raises InputError for a name that is neither, and for a score that shows a trend only and does not say so.
    """
    from gan_dist.errors import InputError

    found: dict[str, Extractor] = {}
    for name, metric in metrics.items():
        if not isinstance(metric, SetMetric):
            continue
        asked = metric.features
        if asked in named:
            found[asked] = named[asked]
        elif asked in EXTRACTORS:
            found[asked] = EXTRACTORS[asked](kind=asked)
        else:
            raise InputError(
                f"evaluate.scores.{name}.features = {asked} is no name of evaluate.features and no kind; known are "
                f"{', '.join([*named, *EXTRACTORS])}"
            )
        if found[asked].trend and found[asked].kind not in name:
            raise InputError(
                f"evaluate.scores.{name} is by {found[asked].kind} features, which show a trend and measure nothing: call "
                f"it {name}_{found[asked].kind}: {{kind: {metric.kind}, features: {asked}}}"
            )
    return found
