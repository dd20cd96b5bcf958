"""Define from when to when a player is trained."""

from typing import Annotated

from pydantic import Field, model_validator

from gan_dist.config.section import Section


class Span(Section):
    """Part of the run in which a player is trained."""

    begin: Annotated[int, Field(ge=0)] = 0
    """Position in images of the player's first update."""
    end: Annotated[int, Field(ge=0)] = 0
    """Position in images from which on it is updated no more. 0: the run's end."""

    @model_validator(mode="after")
    def _ordered(self) -> "Span":
        if self.end and self.end <= self.begin:
            raise ValueError(f"it must end after it begins: begin = {self.begin}, end = {self.end}")
        return self
