"""Play one step of a game: the one place where phases, turns, losses and updates come together."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from gan_dist import interfaces
from gan_dist.engine import Engine
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch, Phase


def play_step(
    engine: Engine,
    game: Game,
    batch: Sequence[Batch],
    images: int,
    size: int,
    beat: Callable[[Phase], None] = lambda phase: None,
    around: Callable[[Phase], AbstractContextManager[object]] = lambda phase: contextlib.nullcontext(),
) -> None:
    """Play every phase that is due on one global batch of `size` images, the first at position `images`.

    `batch` has this rank's micro-batches of it. `beat` is told of each micro-batch's turn; each phase is
    played inside of `around`.
    """
    joined = engine.shortcuts.hold(interfaces.join(batch, engine.passes))
    draws = interfaces.draw_together(joined)
    engine.at(images)

    def play(phase: Phase, position: int) -> None:
        draws.forget()
        game.images = position
        for loss, micro in engine.share(joined):
            beat(phase)
            engine.backward(loss(micro))
        engine.update(position)  # sync, finite gate, clip, optimizer

    for phase in game.due(images, size):
        with around(phase), engine.turn(phase):  # only its player's weights take gradients
            engine.shortcuts.play(phase, images, play)  # or what a CUDA graph has recorded of it
    draws.forget()
    game.images = images
    game.average(images, size)
