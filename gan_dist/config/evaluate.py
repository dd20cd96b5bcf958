"""Define the keys of scores while training; compose.py adds the scores themselves, and what looks at images for them."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gan_dist.config.section import Positive, Section

if TYPE_CHECKING:
    from gan_dist.config.common import Config


class Evaluate(Section):
    """Scores while training."""

    all_free = True

    every: Annotated[int, Field(ge=0)] = 0
    """Images between two evaluations by evaluate.scores; one more is done at the end. 0: none."""
    samples: Positive = 2048
    """Generated images of an evaluation. Scores that add up images one by one compare as many real ones with them."""
    reals: Annotated[int, Field(ge=0)] = 0
    """Real images whose features generated ones are compared with, looked at once for a data set and kept in data.cache. 0: all."""
    best: str = ""
    """A score, fid or prdc/recall: the checkpoint at which it was best is saved, and kept until a better one."""

    if TYPE_CHECKING:  # compose.py adds them
        scores: Section = Section()
        features: Section = Section()

    def _check_best(self) -> None:
        """Raise ValueError where no evaluation will ever give the score that `best` names."""
        metrics = dict(self.scores)
        name, _, part = self.best.partition("/")
        if name not in metrics:
            raise ValueError(
                f"evaluate.best = {self.best} is none of evaluate.scores ({', '.join(metrics) or 'there are none'}); name one"
            )
        parts = metrics[name].parts()
        if parts is not None and part not in parts:
            values = ", ".join(f"{name}/{each}" if each else name for each in parts)
            raise ValueError(f"evaluate.best = {self.best} is no value of the score {name}; name one: {values}")

    def check(self, config: "Config") -> None:
        scores = list(dict(self.scores))
        asked = {getattr(metric, "features", "") for metric in dict(self.scores).values()}
        if unused := [name for name in dict(self.features) if name not in asked]:
            raise ValueError(
                f"evaluate.features.{unused[0]} has no effect: no score has features: {unused[0]}; add it to one, or remove this"
            )
        if self.reals and not asked - {""}:
            raise ValueError(
                f"evaluate.reals = {self.reals} has no effect: no score looks at features of real images; remove it"
            )
        if self.best:
            self._check_best()
        if bool(self.every) != bool(scores):
            missing = "evaluate.scores" if self.every else "evaluate.every"
            given = f"evaluate.every = {self.every}" if self.every else f"evaluate.scores = {', '.join(scores)}"
            raise ValueError(f"{given} has no effect without {missing}; set it too, or remove the other")
