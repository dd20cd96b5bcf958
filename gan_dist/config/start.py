"""Define the keys of a run's beginning: whose networks it takes over, and which weights stay as they are."""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from gan_dist.config.section import Section

if TYPE_CHECKING:
    from gan_dist.config.common import Config

    class _From(Section):
        """Has the key `from`, which is a word of Python's."""

else:
    _FROM = """A run directory, or a checkpoint in one, whose networks this run begins with instead of random weights: its newest
    whole checkpoint. The position in images is 0, optimizers are new, and averages do not ramp up (average.ramp). Read at the first
    start alone: its content is part of the run's identity, and its place is not."""
    _key = {"from": Field("", description=" ".join(_FROM.split())), "__annotations__": {"from": str}}
    _From = type(Section)("_From", (Section,), {"__module__": __name__, **_key})


def _words(value: Any) -> Any:
    """Return a list of what is one word, or several with commas."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


Words = Annotated[list[str], BeforeValidator(_words)]


class Start(_From):
    """What the run begins with."""

    networks: Annotated[list[str] | dict[str, str], BeforeValidator(_words)] = Field(default=[])
    """Which networks to take from start.from: names, or {NAME HERE: NAME THERE}. Names are the players' networks: generator,
    discriminator, encoder, decoder. Default: all of this run's."""
    averaged: bool = False
    """Begin with the moving averages of the weights where there are some, instead of the weights that were trained on."""
    optimizers: bool = False
    """Take over the state of the optimizers too, with their counts of steps."""
    strict: bool = True
    """Refuse a network in which a tensor is missing or has another shape. false: those begin at random, and the run says which."""
    skip: Words = Field(default=[])
    """Tensors that are not taken over and begin at random: names or patterns as generator.embedding or discriminator.*.bias. A
    name stands for all below it."""
    freeze: Words = Field(default=[])
    """Weights that are not trained, as in start.skip. FreezeD (Mo et al., 2020) fixes the first layers of a discriminator that
    start.from has trained."""

    @property
    def source(self) -> str:
        """Return start.from."""
        value: str = getattr(self, "from")
        return value

    def pairs(self, roles: Iterable[str]) -> dict[str, str]:
        """Return {name here: name there} of the networks to take, of a game with these."""
        if isinstance(self.networks, dict):
            return dict(self.networks)
        return {name: name for name in self.networks or roles}

    def check(self, config: "Config") -> None:
        roles: Mapping[str, str] = config.game.roles
        if not self.source:
            given = [
                name for name in type(self).model_fields if name != "freeze" and getattr(self, name) != _default(name)
            ]
            if given:
                raise ValueError(
                    f"start.{given[0]} has no effect without start.from; set it, or remove start.{given[0]}"
                )
        elif unknown := [name for name in self.pairs(roles) if name not in roles]:
            raise ValueError(
                f"start.networks: this run has no network {unknown[0]}, it has {', '.join(roles)}; name one of them"
            )
        for key in ("skip", "freeze"):
            for pattern in getattr(self, key):
                if pattern.partition(".")[0] not in roles and not set("*?[") & set(pattern.partition(".")[0]):
                    raise ValueError(
                        f"start.{key}: {pattern} begins with no network of this run; write one of {', '.join(roles)} and a "
                        "layer: discriminator.layers.0"
                    )


def _default(name: str) -> Any:
    return Start.model_fields[name].get_default()


def matches(name: str, patterns: Iterable[str]) -> str:
    """Return the first of some patterns that names a tensor or a module above it; "" where none does."""
    for pattern in patterns:
        if name == pattern or name.startswith(f"{pattern}.") or fnmatch.fnmatchcase(name, pattern):
            return pattern
        if fnmatch.fnmatchcase(name, f"{pattern}.*"):
            return pattern
    return ""
