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
    against: str | list[str] | dict[str, str | list[str]] = ""
    """Shards of samples that training does not see, packed as those of data.shards, for scores to be made of and compared with.
    {A: SHARDS, B: SHARDS} for sets without pairs. `gan-dist evaluate` takes them too, unless --against names others. Default: the
    training data."""
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

    def _check_against(self, config: "Config") -> None:
        """Raise ValueError where `against` has no effect, or names other sets than the data."""
        if config.data.drawn:
            raise ValueError(
                f"evaluate.against has no effect, as game.kind: {config.game.kind} draws its own samples; remove it"
            )
        if not dict(self.scores):
            raise ValueError(
                "evaluate.against has no effect without evaluate.scores and evaluate.every; set them, or remove it"
            )
        sets = [name for name in config.data.sets if name]
        named = list(self.against) if isinstance(self.against, dict) else []
        if set(sets) != set(named):
            wanted = f"{{{', '.join(f'{name}: SHARDS' for name in sets)}}}" if sets else "SHARDS"
            found = f"names {', '.join(named)}" if named else "names no sets"
            raise ValueError(
                f"evaluate.against {found}, and data.shards {', '.join(sets) or 'none'}; write evaluate.against: {wanted}"
            )
        if config.data.shards == self.against:
            raise ValueError("evaluate.against is data.shards, which is the default; remove it")

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
        if self.against:
            self._check_against(config)
        if bool(self.every) != bool(scores):
            missing = "evaluate.scores" if self.every else "evaluate.every"
            given = f"evaluate.every = {self.every}" if self.every else f"evaluate.scores = {', '.join(scores)}"
            raise ValueError(f"{given} has no effect without {missing}; set it too, or remove the other")
