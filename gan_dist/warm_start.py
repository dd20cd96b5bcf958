"""Begin a run with the networks of another run (start.from), and know by their content what it began with."""

import dataclasses
from pathlib import Path
from typing import Any

from gan_dist import config as config_module, run_directory
from gan_dist.checkpoint import format, tensors
from gan_dist.checkpoint.store import names
from gan_dist.config import Config, tree
from gan_dist.engine import AgreedError, Engine
from gan_dist.errors import InputError, RunError
from gan_dist.games import start
from gan_dist.games.base import Game
from gan_dist.games.check import refuse_alike
from gan_dist.generate import locate
from gan_dist.tracking import Tracker

KEY = "start.from"


def with_contents(config: Config, engine: Engine) -> Config:
    """Return the config with the digests of what its keys name and that counts by its content. All ranks call it.

    The run to begin from is read by one rank, and not at all where this run has begun from it already.
    """
    source = engine.on_main(lambda: _source_digest(config))
    found, problem = dict[str, str](), ""
    try:
        found = {f"{path}.{name}": digest for path, section in tree.named(config) for name, digest in section.digests()}
    except InputError as error:
        problem = str(error)
    refuse_alike(engine.gather(problem))
    if where := engine.who_differs(tuple(sorted(found.items()))):
        raise AgreedError(
            f"{', '.join(found)}: the files have other contents {where}; give all machines the same files"
        )
    return config.with_contents({**found, **({KEY: source} if source else {})})


def _source_digest(config: Config) -> str:
    if not config.start.source:
        return ""
    return _recorded(config) or _digest(*_newest(config))


def _recorded(config: Config) -> str:
    """Return the digest of what this run began from, where its directory says so of the same path; "" otherwise."""
    if not (config.directory / "config.yaml").exists() or run_directory.starts_fresh(config):
        return ""
    before, _ = config_module.read_run(config.directory)
    return before.contents.get(KEY, "") if before.start.source == config.start.source else ""


def _newest(config: Config) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint that start.from names, whole, and its manifest."""
    source = Path(config.start.source)
    try:
        run, name = locate(source)
        if run.resolve() == config.directory.resolve():
            raise InputError(f"{source} is this run itself, which goes on by itself; name another run")
        directory = run / "checkpoints" / name
        return directory, format.read_manifest(directory)
    except (InputError, format.DamagedError) as error:
        raise InputError(f"start.from: {error}") from None


def _digest(directory: Path, manifest: dict[str, Any]) -> str:
    try:
        return format.digest(directory, manifest)
    except format.DamagedError as error:
        raise InputError(f"start.from: {error}; name another checkpoint") from None


@dataclasses.dataclass(frozen=True)
class Beginning:
    """The checkpoint of another run that a run begins with, and what is taken of it."""

    directory: Path
    taken: start.Taken

    @property
    def facts(self) -> dict[str, Any]:
        """Return what is taken, in words."""
        taken = self.taken
        count = sum("/weights/" in name for name in taken.tensors)
        facts = {"checkpoint": str(self.directory), "tensors": f"{count} tensors of {', '.join(taken.networks)}"}
        if taken.left:
            facts["at_random"] = f"{len(taken.left)}: {start.some(taken.left)}"
        return facts


def find(config: Config, engine: Engine, game: Game) -> Beginning | None:
    """Return what a run that has no checkpoint begins with; None where that is nothing. All ranks call it.

    The game is placed, and not wrapped yet. Raises AgreedError where the networks do not fit.
    """
    if not config.start.source:
        return None
    own = {name: tuple(shape.shape) for name, shape in tensors.collect(game.players).shapes.items()}

    def matched() -> Beginning | None:
        if not run_directory.starts_fresh(config) and names(config.directory / "checkpoints"):
            return None
        directory, manifest = _same(config)
        other, _ = config_module.read_run(directory.parent.parent)
        return Beginning(directory, start.match(game, own, config, other, manifest))

    return engine.on_main(matched)


def _same(config: Config) -> tuple[Path, dict[str, Any]]:
    """Return the checkpoint whose digest the config has: the newest, unless the run has been started before."""
    wanted = config.contents[KEY]
    directory, manifest = _newest(config)
    if not _recorded(config) or _digest(directory, manifest) == wanted:
        return directory, manifest
    for name in reversed(names(directory.parent)):
        try:
            manifest = format.read_manifest(other := directory.parent / name)
            if format.digest(other, manifest) == wanted:
                return other, manifest
        except format.DamagedError:
            continue
    raise InputError(
        f"start.from: this run began from a checkpoint of {config.start.source} that is gone (digest {wanted[:12]}), and has no "
        "checkpoint of its own; begin again with --run.fresh true"
    )


def load(beginning: Beginning | None, engine: Engine, game: Game) -> None:
    """Put what is taken into the game's players. All ranks call it, after the game is wrapped."""
    if beginning is None:
        return
    directory = beginning.directory
    if where := engine.who_differs(format.find(directory)):
        raise AgreedError(f"start.from: {directory} is another {where}; it must be on a disk that all machines share")
    try:
        manifest = format.read_manifest(directory)
        with format.Reader(directory, manifest) as read:
            tensors.take_over(game.players, read, beginning.taken.tensors, beginning.taken.steps)
    except format.DamagedError as error:  # a run that trains meanwhile has deleted it
        raise RunError(f"start.from: {error}; start again, from a checkpoint that is kept") from None
    engine.shortcuts.reset()


def report(beginning: Beginning | None, config: Config, game: Game, tracker: Tracker) -> None:
    """Note what the run began with, and what its config asks for and it will never do."""
    if beginning is not None:
        tracker.event("began", 0, **beginning.facts, digest=config.contents[KEY])
    for line in start.never(game, config):
        tracker.say(line)
