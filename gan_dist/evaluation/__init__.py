"""Score a generator: metrics, and the evaluation that deals its samples over ranks."""

from gan_dist.evaluation.base import Metric, Pixels, check_name
from gan_dist.evaluation.evaluate import Evaluation, ScoreError, check, evaluate
from gan_dist.evaluation.modes import Modes
from gan_dist.evaluation.plane import PlaneModes

__all__ = ["METRICS", "Evaluation", "Metric", "ScoreError", "check", "check_name", "evaluate"]

METRICS: dict[str, type[Metric]] = {"pixels": Pixels, "modes": Modes, "plane_modes": PlaneModes}
"""Built-in metrics by kind."""
