"""Ways to play the same phases with less work of the host: CUDA graphs (graphs.py), compiled terms (traced.py)."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from gan_dist.config import Config
from gan_dist.engine import graphs
from gan_dist.engine.precision import LossScale
from gan_dist.interfaces import Batch, Phase
from gan_dist.metrics import Metrics
from gan_dist.player import Player

if TYPE_CHECKING:
    from gan_dist.engine.traced import Played, Traced

Term = Callable[[Batch], Tensor]


def without_graphs(config: Config, is_gpu: bool) -> str:
    """Return what has no CUDA graphs, the strategy or the device; "" where they are to be had."""
    if config.training.strategy.startswith("zero"):
        return f"training.strategy: {config.training.strategy}"
    return "" if is_gpu else "a CPU"


class Turn(Protocol):
    """What a term says to the engine beside its value."""

    phase: Phase
    weight: float
    reported: Tensor | None
    gradients: Sequence[tuple[nn.Parameter, Tensor]] | None


class Shortcuts:
    """What a config wants of them, for one rank. Without them everything is played as it is written."""

    def __init__(self, config: Config, device: torch.device) -> None:
        training = config.training
        self._device, self._compile = device, training.compile
        self._dtype = torch.float64 if training.precision == "fp64" else torch.float32
        self._recorder, self._why_not = None, ""
        if training.graphs == "auto":
            recorder = graphs.recorder_for(device)
            place = without_graphs(config, recorder is not None)
            if place:
                self._why_not = f"training.graphs: the steps run without CUDA graphs, which {place} does not have"
            else:
                self._recorder = recorder
        self.graphs: graphs.Graphs | None = None
        self.traced: Traced | None = None

    @property
    def sums_by_hand(self) -> bool:
        """Say whether gradients must be summed without DDP's hooks."""
        return self._compile or self._recorder is not None

    def begin(
        self,
        game: "Played",
        metrics: Sequence[Metrics],
        gather: Callable[[str], list[str]],
        forget: Callable[[Player], None],
        is_main: bool,
    ) -> None:
        """Begin with a game that is placed. `forget` drops what an update that was broken off has left."""

        def say(text: str) -> None:
            if is_main:
                print(text, file=sys.stderr, flush=True)

        if self._why_not:
            say(self._why_not)
        if self._compile:
            from gan_dist.engine.traced import Traced  # loading the compiler takes seconds

            self.traced = Traced(game, self._device, self._dtype, say)
        if self._recorder is not None:
            self.graphs = graphs.Graphs(self._recorder, self._device, self._dtype, metrics, gather, forget, say)
            for player in game.players:
                self.graphs.prepare(player)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Play all as it is written, in the block: what is recorded or compiled does not show its uses and its memory."""
        held = self.graphs, self.traced
        self.graphs = self.traced = None
        try:
            yield
        finally:
            self.graphs, self.traced = held

    def hold(self, batch: Sequence[Batch]) -> Sequence[Batch]:
        """Return the samples of a step as `play` needs them."""
        return batch if self.graphs is None else self.graphs.hold(batch)

    def play(self, phase: Phase, images: int, play: graphs.Play) -> None:
        """Play a phase of the step whose samples are held, in its turn: by `play`, or by what was recorded of it."""
        if self.graphs is None:
            play(phase, images)
        else:
            self.graphs.play(phase, images, play)

    def reset(self) -> None:
        """Note that weights and optimizer state were loaded."""
        if self.graphs is not None:
            self.graphs.reset()

    def of(self, turn: Turn, number: int, term: Term, scale: LossScale | None) -> Term:
        """Return what computes a term, by its number among the phase's; its gradients come with it where it is compiled."""
        traced = self.traced
        if traced is None:
            return term
        factor = None if scale is None else scale.factor

        def computed(micro: Batch) -> Tensor:
            value, turn.gradients = traced.compute(turn.phase, (number, term), micro, turn.weight, factor, turn)
            return value

        return computed
