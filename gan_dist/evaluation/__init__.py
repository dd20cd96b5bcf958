"""Score a generator: metrics, and the evaluation that deals its samples over ranks."""

from gan_dist.evaluation.base import METRICS, Metric, check_name
from gan_dist.evaluation.evaluate import Evaluation, ScoreError, check, evaluate

__all__ = ["METRICS", "Evaluation", "Metric", "ScoreError", "check", "check_name", "evaluate"]
