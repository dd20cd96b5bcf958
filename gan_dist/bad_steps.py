"""What follows from skipped updates: they are told, a save waits for their end, and too many of them lead back once."""

from collections.abc import Callable
from typing import Any

from gan_dist.config import Config
from gan_dist.control import diagnose
from gan_dist.control.stop import Reason, Requests
from gan_dist.engine import Engine
from gan_dist.errors import RunError
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch
from gan_dist.tracking import Tracker

_PUT_OFF = 16
"""Steps after which a save that is owed asks again whether updates are being skipped: on a GPU the host waits for that."""


class BadSteps:
    """Updates that are skipped because a loss or a gradient is not finite. All ranks see the same ones."""

    def __init__(self, config: Config, engine: Engine, game: Game, requests: Requests) -> None:
        self._config, self._engine, self._game, self._requests = config, engine, game, requests
        self._told: dict[str, int] = {}  # skipped updates of each player
        self._put_off_to = 0
        self._went_back_to = ""
        self.batch: list[Batch] = []
        """Of the last step, one at least of its micro-batches."""

    def resume(self) -> None:
        """Continue from the counts of a checkpoint that was loaded."""
        self._told = {player: found.total for player, found in self._engine.skipped(wait=True).items()}
        self._put_off_to = 0

    def note(self, tracker: Tracker, wait: bool = False) -> None:
        """Report updates that were skipped, and ask to stop for too many in a row; on a GPU as of some steps ago unless `wait`."""
        for player, found in self._engine.skipped(wait).items():
            if found.total > self._told.get(player, 0):
                if self._engine.is_main:
                    tracker.event("skipped a step", found.last, player=player, total=found.total)
                self._told[player] = found.total
            if found.streak >= self._config.control.max_bad_steps:
                self._requests.ask(Reason.BAD_STEPS)

    def are_under_way(self, images: int) -> bool:
        """Say on all ranks whether updates are being skipped now: a checkpoint of such a state is useless."""
        training = self._config.training
        if images >= training.images:
            return False
        if images < self._put_off_to:
            return True
        skips = any(found.streak for found in self._engine.skipped(wait=True).values())
        if skips:
            self._put_off_to = images + _PUT_OFF * training.batch
        return skips

    def go_back(self, name: str | None, images: int) -> str:
        """Return why the run goes back to the checkpoint `name`. Raises RunError where there is none, or it did so before."""
        skipped = self._engine.skipped(wait=True)
        worst = max(skipped, key=lambda player: skipped[player].streak)
        bad = f"{skipped[worst].streak} updates of {worst} in a row were skipped: a loss or gradient was not finite"
        if not name or name == self._went_back_to:
            again = f"again after going back to {name}, " if name else ""
            raise RunError(f"{bad}; {again}at {images:,} images. First to go bad: {self._first_bad()}")
        self._went_back_to = name
        return bad

    def _first_bad(self) -> str:
        """Return which layer or weight of which player goes bad first, in which phase, on which rank."""
        players = self._game.players
        networks = {player.name: player.network for player in players}
        cut = any(player.shards is not None for player in players)
        place = ""
        for phase in self._game.phases:
            for player in players:
                player.network.requires_grad_(player is phase.player)
            loss = phase.loss or phase.penalty
            if loss is None or (cut and phase.loss is None):
                continue
            micro = self.batch[0]
            place = diagnose.first_bad(networks, lambda loss=loss, micro=micro: loss(micro), together=cut)  # type: ignore[misc]
            if any(self._engine.gather(bool(place))):
                place = place and f"{place}, in {_name(loss)} (the turn of {phase.player.name})"
                break
        everyone = [f"{text}, on rank {rank}" for rank, text in enumerate(self._engine.gather(place)) if text]
        return everyone[0] if everyone else "nothing any more in the last batch: check the machine's memory"


def _name(loss: Callable[..., Any]) -> str:
    return str(getattr(loss, "__name__", None) or getattr(loss, "func", loss).__name__)
