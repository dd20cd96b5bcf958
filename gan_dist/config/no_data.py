"""The `data` section of a game that draws its samples itself: no key, and one line for each that is given all the same."""

from typing import Any, ClassVar

from pydantic import model_validator

from gan_dist.config.section import Section


class NoData(Section):
    """Nothing: the game draws its own samples. A game says so by {"data": NoData} in its `parts`."""

    drawn: ClassVar[bool] = True
    # what is asked of any run's data
    labels: ClassVar[bool] = False
    classes: ClassVar[int] = 0
    max_bad_fraction: ClassVar[float] = 0.0
    cache: ClassVar[str] = ""
    resident: ClassVar[str] = "no"
    patience: ClassVar[float] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _takes_nothing(cls, given: Any) -> Any:
        if isinstance(given, dict) and given:
            keys = ", ".join(f"data.{key}" for key in given)
            raise ValueError(
                f"{keys} would have no effect, as the game draws its own samples; remove every key of data"
            )
        return given
