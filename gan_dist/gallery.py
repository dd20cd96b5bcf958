"""Draw what stands beside the sample grid: real images, the generator as it trains, a row for each class."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from gan_dist.config import Config
from gan_dist.data import labels
from gan_dist.games import Game
from gan_dist.interfaces import Batch
from gan_dist.run_directory import Run
from gan_dist.tracking import Tracker, save_grid

_log = logging.getLogger("gan_dist")
_ROWS = 20  # classes shown at most: more are too small to look at
_EACH = 10


@dataclasses.dataclass(frozen=True)
class Picture:
    """A grid to write."""

    images: Tensor
    """(N, C, H, W) in [-1, 1]."""
    columns: int = 0
    """0: about a square."""
    caption: str = ""
    beside: Sequence[str] = ()
    """Names of the rows."""


class Gallery:
    """The pictures that a run's game names in `galleries`. Files: RUN/samples/reals.png, RUN/samples/NAME/images-N.png."""

    def __init__(
        self, config: Config, game: Game, run: Run, tracker: Tracker, reals: Callable[[int], Batch | None]
    ) -> None:
        """`reals` returns so many samples of the data set in a fixed shuffled order; None where it has none."""
        self._config, self._game, self._run, self._tracker, self._reals = config, game, run, tracker, reals
        self._left = list(game.galleries)
        """Pictures that no attempt to draw has failed of."""

    def show(self, images: int) -> None:
        """Draw all that is due beside the grid of a position. Rank 0 calls it, while the moving averages are whole.

        A picture that cannot be drawn is reported, and not tried again before the next start: a picture ends no training.
        """
        for name in list(self._left):
            path = self._path(name, images)
            if name == "reals" and path.exists():
                continue
            try:
                with _own_random_numbers(), torch.no_grad():
                    picture = self._draw(name)
            except Exception as error:  # a game may be a user's
                self._left.remove(name)
                _log.error("samples/%s:", name, exc_info=error)
                reason = f"{type(error).__name__}: {error}"
                self._tracker.event("picture failed", images, picture=f"samples/{name}", reason=reason)
                continue
            if picture is not None:
                self._write(name, picture, path, images)

    def _path(self, name: str, images: int) -> Path:
        samples = self._run.samples
        return samples / "reals.png" if name == "reals" else samples / name / f"images-{images:09d}.png"

    def _write(self, name: str, picture: Picture, path: Path, images: int) -> None:
        def write() -> None:
            path.parent.mkdir(exist_ok=True)
            save_grid(picture.images, path, picture.columns, picture.caption, beside=picture.beside)

        if self._tracker.guard("samples", write):
            self._tracker.picture(path, images, f"samples/{name}")

    def _draw(self, name: str) -> Picture | None:
        """Return a picture; None where this rank cannot draw it."""
        count, seed, game = self._config.sample.count, self._config.run.seed, self._game
        if name == "reals":
            shown = self._reals(count)
            return None if shown is None else Picture(shown[game.judged], caption="real images")
        if name == "samples":
            return Picture(game.samples(seed, 0, count), caption="decoded from random latents")
        if name == "live":
            # whole micro-batches, and at least as many as the grid has
            micro = min(count, self._config.training.micro_batch)
            drawn = game.live(seed, -(-count // micro) * micro)
            return None if drawn is None else Picture(drawn[:count], caption="not averaged")
        if name == "classes":
            rows = spread(self._config.data.classes, _ROWS)
            known = labels.names(self._config.data.shards, self._config.data.classes)
            names = [known[row] for row in rows]
            return Picture(
                game.of_classes(seed, rows, _EACH), _EACH, f"a row for each class: {', '.join(names)}", names
            )
        raise ValueError(
            f"galleries of {type(game).__name__} names {name!r}; there are reals, live, classes and samples"
        )


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers 0..count-1, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _own_random_numbers() -> AbstractContextManager[object]:
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    return torch.random.fork_rng(devices)
