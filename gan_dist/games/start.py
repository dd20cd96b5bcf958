"""Apply `start` and `phases` to a game: match its networks with those of another run, fix weights, limit when players train."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gan_dist import frozen
from gan_dist.config.common import Config
from gan_dist.config.phases import Span
from gan_dist.config.start import Start, matches
from gan_dist.errors import InputError
from gan_dist.games.base import Game

Shapes = Mapping[str, tuple[int, ...]]
"""Of tensors by their names in a checkpoint: G/weights/NAME, G/average/NAME."""
_NAMED = 4  # tensors in one message


def prepare(game: Game, config: Config) -> None:
    """Fix what start.freeze names, limit phases to `phases`, and let averages that go on from another run's not ramp up."""
    start, roles = config.start, config.game.roles
    if start.source:
        taken = {roles[name].partition("/")[0] for name in start.pairs(roles)}
        for player in game.players:
            if player.name in taken:  # there is no random start to forget
                player.average_ramp = 0.0
    if config.phases:
        _limit(game, config)
    if start.freeze:
        _freeze(game, config)


def _limit(game: Game, config: Config) -> None:
    """Limit the phases of each player to its span. Raises InputError where a later one would miss what an earlier one makes."""
    present = {player.name for player in game.players}
    roles = {role: place for role, place in config.game.roles.items() if place in present}
    if unknown := [role for role in config.phases if role not in roles]:
        known = (
            f"the players of this run are {', '.join(roles)}; name one"
            if roles
            else "this run has one player; remove it"
        )
        raise InputError(f"phases.{unknown[0]}: {known}")
    spans = {roles[role]: span for role, span in config.phases.items()}
    limited = []
    for phase in game.phases:
        span = spans.get(phase.player.name, Span())
        ends = [end for end in (phase.end, span.end) if end]
        limited.append(dataclasses.replace(phase, begin=max(phase.begin, span.begin), end=min(ends, default=None)))
    game.phases = tuple(limited)
    for pool in game.pools:
        pool.begin = game.phases[-1].begin
    if not game.in_turn:
        return
    names = {place: role for role, place in roles.items()}
    played = list(dict.fromkeys(phase.player.name for phase in game.phases))
    spans_of = {
        name: (min(phase.begin for phase in own), max(phase.end or math.inf for phase in own))
        for name in played
        for own in [[phase for phase in game.phases if phase.player.name == name]]
    }
    for before, after in itertools.pairwise(played):
        if spans_of[before][0] > spans_of[after][0] or spans_of[before][1] < spans_of[after][1]:
            raise InputError(
                f"phases: the turn of {names.get(after, after)} uses what the turn of {names.get(before, before)} makes in the "
                f"same step; let phases.{names.get(before, before)} begin no later and end no earlier"
            )


def never(game: Game, config: Config) -> list[str]:
    """Return a line for each phase that is never played in a run of this length."""
    last = (config.training.whole_images // config.training.batch - 1) * config.training.batch
    size, lines = config.training.batch, []
    for phase in game.phases:
        first = -(-phase.begin // size) * size
        if first > last or (phase.end is not None and phase.end <= first):
            end = last + size if phase.end is None else min(phase.end, last + size)
            lines.append(
                f"a phase of {phase.player.name} is never played: it begins at {phase.begin:,} images and ends at {end:,}"
            )
    return lines


def _freeze(game: Game, config: Config) -> None:
    start, roles = config.start, config.game.roles
    unused, known = set(start.freeze), list[str]()
    for player in game.players:
        labels = {
            name: f"{role}.{name[len(inner) :]}"
            for role, place in roles.items()
            for inner in [_inner(place)]
            if place.partition("/")[0] == player.name
            for name, _ in player.network.named_parameters()
            if name.startswith(inner)
        }
        known += labels.values()
        found = {name: pattern for name, label in labels.items() if (pattern := matches(label, start.freeze))}
        unused -= {pattern for pattern in start.freeze if any(matches(label, [pattern]) for label in labels.values())}
        frozen.fix(player.network, found)
        player.weights = tuple(player.network.parameters())
        if found and not player.weights:
            raise InputError(
                f"start.freeze fixes all weights of {player.name}, so that nothing of it is left to train; remove "
                f"{next(iter(found.values()))}, or another pattern"
            )
    if unused:
        first = min(unused)
        near = [label for label in known if label.partition(".")[0] == first.partition(".")[0]]
        raise InputError(f"start.freeze: no weight is called {first}; there are {some(near or known)}")


def _inner(place: str) -> str:
    """Return what begins the names of a network's tensors in its player's."""
    _, slash, module = place.partition("/")
    return f"{module}." if slash else ""


def some(names: Sequence[str]) -> str:
    """Return the first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


@dataclasses.dataclass(frozen=True)
class Taken:
    """What a run takes over of another one's checkpoint."""

    tensors: dict[str, str]
    """Name here -> name there."""
    steps: dict[str, int]
    """Of the players whose optimizer's state is among them."""
    left: tuple[str, ...]
    """Tensors that begin at random, as a user names them."""
    networks: tuple[str, ...]
    """Whose."""


def match(game: Game, own: Shapes, config: Config, other: Config, manifest: Mapping[str, Any]) -> Taken:
    """Return what to take of a checkpoint of another run, by that run's config and its manifest.

    `own` are the shapes of the game's tensors. Raises InputError where it does not fit.
    """
    start: Start = config.start
    present = {player.name for player in game.players}
    theirs: Shapes = {name: tuple(entry["shape"]) for name, entry in manifest["tensors"].items()}
    roles = {role: place for role, place in config.game.roles.items() if place.partition("/")[0] in present}
    pairs = start.pairs(roles)
    tensors, unfit, left = dict[str, str](), dict[str, str](), list[str]()
    unused = set(start.skip)
    for here, there in pairs.items():
        if here not in roles:
            raise InputError(
                f"start.networks: this run has no network {here}, it has {', '.join(roles)}; name one of them"
            )
        held = [role for role, each in other.game.roles.items() if _below(theirs, _prefix(each, "weights"))]
        if there not in held:
            raise InputError(
                f"start.from = {start.source} has no network {there}, but {', '.join(held)}; name those to take: "
                f"start.networks: [{held[0] if held else there}], or {{NAME HERE: NAME THERE}}"
            )
        _same_class(config, here, other, there)
        place, source = roles[here], other.game.roles[there]
        averaged = any(name.startswith(_prefix(source, "average")) for name in theirs)
        of_here, of_there = _below(own, _prefix(place, "weights")), _below(theirs, _prefix(source, "weights"))
        for name in dict.fromkeys([*of_here, *of_there]):
            label = f"{here}.{name}"
            unused -= (skipping := {pattern for pattern in start.skip if matches(label, [pattern])})
            if skipping:
                left += [label] if name in of_here else []
            elif problem := _problem(of_here.get(name), of_there.get(name)):
                unfit[label] = problem
                left += [label] if name in of_here else []
            else:
                best = f"{_prefix(source, 'average' if averaged else 'weights')}{name}"
                tensors[f"{_prefix(place, 'weights')}{name}"] = (
                    best if start.averaged else f"{_prefix(source, 'weights')}{name}"
                )
                if (average := f"{_prefix(place, 'average')}{name}") in own:
                    tensors[average] = best
    if unused:
        raise InputError(f"start.skip: no tensor is called {min(unused)}; fix the name, or remove it")
    if not tensors:
        raise InputError(f"start.from = {start.source}: no tensor of it is taken; make the keys of networks.* alike")
    if unfit and start.strict:
        label, problem = next(iter(unfit.items()))
        raise InputError(
            f"start.from = {start.source}: {label} {problem} ({len(unfit)} in all that do not fit); make the keys of networks.* "
            f"alike, set start.skip: [{label}] to begin these at random, or start.strict: false to begin all that do not fit at random"
        )
    steps = _optimizers(game, config, other, pairs, tensors, manifest) if start.optimizers else {}
    return Taken(tensors, steps, tuple(left), tuple(pairs))


def _prefix(place: str, kind: str) -> str:
    """Return what begins the names of a network's tensors in a checkpoint."""
    return f"{place.partition('/')[0]}/{kind}/{_inner(place)}"


def _below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _problem(here: tuple[int, ...] | None, there: tuple[int, ...] | None) -> str:
    if here == there:
        return ""
    if there is None:
        return f"{_sizes(here)} here is not there"
    if here is None:
        return f"{_sizes(there)} there is not in this run"
    return f"is {_sizes(there)} there and {_sizes(here)} here"


def _sizes(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape)) if shape else "one number"


def _same_class(config: Config, here: str, other: Config, there: str) -> None:
    """Raise InputError where a network has another class there."""
    source = config.start.source
    kinds = []
    for run, role in ((config, here), (other, there)):
        part = getattr(getattr(run, "networks", None), role, None)
        kinds.append(str(getattr(part, "kind", "")).rpartition(":")[2])
    if kinds[0] != kinds[1]:
        raise InputError(
            f"start.from = {source}: networks.{there}.kind is {kinds[1] or 'none'} there, and networks.{here}.kind is "
            f"{kinds[0] or 'none'} here; set networks.{here}.kind: {kinds[1]}, or leave it out of start.networks"
        )


def _optimizers(
    game: Game,
    config: Config,
    other: Config,
    pairs: Mapping[str, str],
    tensors: dict[str, str],
    manifest: Mapping[str, Any],
) -> dict[str, int]:
    """Add the state of the optimizers to `tensors`; returns their counts of steps."""
    steps, players = {}, {player.name: player for player in game.players}
    for here, there in pairs.items():
        place, source = config.game.roles[here], other.game.roles[there]
        trained = [name for name, _ in players[place.partition("/")[0]].network.named_parameters()]
        if "/" in place + source or any(f"{place}/weights/{name}" not in tensors for name in trained):
            raise InputError(
                f"start.optimizers: the state of an optimizer is taken over with all weights of its player, and those of {here} "
                "are not taken as a whole; set start.optimizers: false"
            )
        steps[place] = int(manifest["steps"][source])
        for kind in players[place].kept.tensors if steps[place] else ():
            for name in trained:
                if f"{source}/{kind}/{name}" not in manifest["tensors"]:
                    raise InputError(
                        f"start.optimizers: the optimizer of {there} in {config.start.source} keeps no {kind} of {name}, as this "
                        "run's does; set the same optimizer, or start.optimizers: false"
                    )
                tensors[f"{place}/{kind}/{name}"] = f"{source}/{kind}/{name}"
    return steps
