"""Define what every section of the config has in common: frozen, no unknown keys, a docstring under each key."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

if TYPE_CHECKING:
    from gan_dist.config.common import Config


class _Free:
    """Mark a key that decides about speed, places and reports, and not about the mathematics of a run."""

    def __repr__(self) -> str:
        return "FREE"


FREE = _Free()
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Keys under one name in the YAML file. Write a docstring under each key: `--help` prints it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    all_free: ClassVar[bool] = False
    """Whether all keys of the section are FREE."""
    in_order: ClassVar[bool] = False
    """Whether the order of its parts is mathematics."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_another_value(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        kind = cls.model_fields[name].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            for word in ("no", "off"):  # what YAML reads as false
                if value is False and word in get_args(kind):
                    return word
            raise ValueError(f"{name} must not be true or false (what YAML also writes yes, no, on, off)")
        return value

    def check(self, config: "Config") -> None:
        """Raise ValueError where keys of this section contradict each other or the rest of the config.

        The message says what is wrong and what to change.
        """

    def digests(self) -> Iterator[tuple[str, str]]:
        """Yield (key, SHA-256) of files whose content decides about the mathematics, wherever they lie. Raises InputError."""
        yield from ()

    @classmethod
    def is_free(cls, name: str) -> bool:
        """Whether a key may change when a run goes on."""
        return cls.all_free or any(isinstance(mark, _Free) for mark in cls.model_fields[name].metadata)


class Part(Section):
    """A section that its `kind` chooses: a network, a loss, an optimizer, ... It makes what it describes."""

    kind: str = ""
    """What it is: a name from the list, or FILE.py:CLASS for your own."""


class One:
    """A place in the config for one part: `loss: {kind: hinge, ...}`, or `loss: hinge`."""

    def __init__(self, base: type[Part], kinds: Mapping[str, type[Part]], default: str) -> None:
        """`kinds` are the built-in parts by name; a user's own inherits `base`."""
        self.base, self.kinds, self.default = base, kinds, default


class Steps:
    """A place for a list of parts, done one after the other: `degrade: [{kind: blur, sigma: 2}, grey]`."""

    def __init__(self, base: type[Part], kinds: Mapping[str, type[Part]], description: str) -> None:
        self.base, self.kinds, self.description = base, kinds, description


class Many:
    """A place for any number of parts by name: `penalties: {r1: {weight: 1}}`; the kind is the name unless it is given."""

    def __init__(
        self,
        base: type[Part],
        kinds: Mapping[str, type[Part]],
        description: str,
        check_name: Callable[[str], object] = lambda name: None,
        in_order: bool = False,
    ) -> None:
        """`check_name` raises InputError for a name that will not do; `in_order`: the order of the parts is mathematics too."""
        self.in_order = in_order
        self.base, self.kinds, self.description, self.check_name = base, kinds, description, check_name
