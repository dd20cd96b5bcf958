"""Record each phase of a step as one CUDA graph, and replay it: the host launches once instead of a thousand times.

Experimental: no GPU has run it yet. A graph is of one phase and of what earlier phases of the step left for it. It holds all
of an update: zeroing, losses, penalties with their double backward, the sum over ranks, the finite check, clipping and the
optimizer. The moving average, and what the host counts, stay outside.

A graph knows addresses and no names. So the samples are copied into tensors that stay, all that a step changes is changed
in place, and numbers that depend on the position come from tensors that are filled before a replay: the position itself,
learning rates, weights of penalties. What computes with the position on the host is found while recording, and the run goes on
without graphs.

The first steps are played without recording, on the stream of the recording: libraries choose their algorithms there, and
autograd remembers streams (pytorch#180090). They are steps of the run like all others, so the bits are those of a run
without graphs.
"""

import dataclasses
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from gan_dist.engine import update
from gan_dist.interfaces import Batch, Phase
from gan_dist.metrics import Metrics
from gan_dist.player import Player
from gan_dist.schedules import FrozenError, Moving

WARM_UP = 3
"""Steps without recording."""
_NUMBERS = 16
"""Numbers of one phase that depend on the position, at most."""

Play = Callable[[Phase, int], None]
"""Plays a phase of the step at a position."""
Function = Callable[[int], float]


class Recorder(Protocol):
    """Records what a function launches."""

    def record(self, play: Callable[[], None]) -> Callable[[], None]:
        """Record a call of `play`, and return what replays it. Recording runs nothing on the device."""


class CudaRecorder:
    """torch.cuda.graph on one stream, which is also that of all other work; the graphs share one pool of memory.

    They may share it: what one leaves for a later one in a step was alive when that one was recorded.
    """

    def __init__(self, device: torch.device) -> None:
        """Make a stream, and let this thread work on it from now on."""
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))
        torch.cuda.set_stream(self._stream)
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, play: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # thread_local: threads that pin memory, and NCCL's watchdog, may call CUDA meanwhile (pytorch#104555)
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            play()
        replay: Callable[[], None] = graph.replay
        return replay


def recorder_for(device: torch.device) -> Recorder | None:
    """Return what records on the device; None for a CPU."""
    return CudaRecorder(device) if device.type == "cuda" else None


@dataclasses.dataclass
class Graph:
    phase: Phase
    replay: Callable[[], None]
    before: list[dict[str, Tensor]]
    """What earlier phases had left in each batch's cache."""
    after: list[dict[str, Tensor]]
    """What is in the caches after it."""
    numbers: list[tuple[Function, Tensor]]
    counts: dict[str, float]
    """By how much each metric counts, as far as the host knows it."""
    settings: list[dict[str, Any]]
    """Of the optimizer's groups: numbers are part of the graph, tensors are read by it."""
    filled: dict[int, float] = dataclasses.field(default_factory=dict)
    """What `numbers` have now."""


class Graphs:
    """The recorded phases of a game."""

    def __init__(
        self,
        recorder: Recorder,
        device: torch.device,
        dtype: torch.dtype,
        metrics: Sequence[Metrics],
        gather: Callable[[str], list[str]],
        forget: Callable[[Player], None],
        say: Callable[[str], None],
    ) -> None:
        """`dtype` is that of losses. `forget` drops what an update that was broken off has left."""
        self._recorder, self._device, self._dtype, self._metrics = recorder, device, dtype, metrics
        self._gather, self._forget, self._say = gather, forget, say
        self.why_not = ""
        """Why nothing is recorded any more."""
        self._held: list[Batch] = []
        self.reset()

    def reset(self) -> None:
        """Drop what was recorded: weights or optimizer state may be at other addresses now. It is recorded again."""
        self.recorded: list[Graph] = []
        self._played: set[tuple[int, tuple[tuple[str, ...], ...]]] = set()
        self._steps = 0

    def prepare(self, player: Player) -> None:
        """Let a player's optimizer read its learning rate from a tensor where that gives the same bits: torch's fused ones."""
        for group in player.optimizer.param_groups:
            if group.get("fused"):
                # torch's kernels for GPUs want float32, those for CPUs convert
                dtype = torch.float32 if self._device.type == "cuda" else torch.float64
                group["lr"] = torch.tensor(float(group["lr"]), dtype=dtype, device=self._device)
                if "capturable" in group and self._device.type == "cuda":
                    group["capturable"] = True  # else a step refuses to be recorded
                    player.optimizer._warned_capturable_if_run_uncaptured = True

    def hold(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Return the samples of the step in tensors that stay."""
        if self.why_not:
            return batches
        if [_form(batch) for batch in batches] != [_form(batch) for batch in self._held]:
            self.reset()
            self._held = [
                Batch(
                    {name: tensor.clone() for name, tensor in batch.fields.items()},
                    batch.positions.clone(),
                    batch.parts,
                )
                for batch in batches
            ]
        else:
            _copy(
                [tensor for batch in self._held for tensor in _tensors(batch)],
                [t for b in batches for t in _tensors(b)],
            )
            for batch in self._held:
                batch.cache = {}
        self._steps += 1
        return self._held

    def play(self, phase: Phase, images: int, play: Play) -> None:
        """Play a phase of the step whose samples are held, by its graph where there is one, otherwise by `play`."""
        if self.why_not:
            play(phase, images)
            return
        before = [dict(batch.cache) for batch in self._held]
        graph = next((each for each in self.recorded if each.phase is phase and _same(each.before, before)), None)
        if graph is None and self._is_ready(phase, before):
            graph = self._record(phase, images, play, before)
        elif graph is None:
            self._played.add(_kind(phase, before))
        if graph is not None:
            phase.player.schedule(images)
            if changed := _changed(graph.settings, _settings(phase.player)):
                self._give_up(f"{changed} of the optimizer of {phase.player.name} changes over the run")
                graph = None
        if graph is None:
            play(phase, images)
            return
        for place, (function, tensor) in enumerate(graph.numbers):
            value = function(images)
            if graph.filled.get(place) != value:
                tensor.fill_(value)
                graph.filled[place] = value
        graph.replay()
        for batch, cache in zip(self._held, graph.after, strict=True):
            batch.cache = dict(cache)
        for name, count in graph.counts.items():
            self._metrics[0].counts[name] = self._metrics[0].counts.get(name, 0.0) + count

    def _is_ready(self, phase: Phase, before: list[dict[str, Tensor]]) -> bool:
        """Say whether a phase was played without recording, on such samples, after which nothing is made any more."""
        left = {id(tensor) for graph in self.recorded for cache in graph.after for tensor in cache.values()}
        return (
            self._steps > WARM_UP
            and _kind(phase, before) in self._played
            and update.has_state(phase.player)
            and all(id(tensor) in left for cache in before for tensor in cache.values())
        )

    def _record(self, phase: Phase, images: int, play: Play, before: list[dict[str, Tensor]]) -> Graph | None:
        """Record a phase on all ranks, or on none."""
        graph, problem = None, ""
        phase.player.schedule(images)
        try:
            graph = self._recording(phase, play, before)
        except Exception as error:  # whatever CUDA or a part of the user's refuses: played as it is, it may do
            problem = said(error)
            for batch, cache in zip(self._held, before, strict=True):
                batch.cache = cache
            self._forget(phase.player)
        problems = [each for each in self._gather(problem) if each]
        if problems:
            self._give_up(f"the turn of {phase.player.name} {problems[0]}")
            return None
        assert graph is not None
        self.recorded.append(graph)
        return graph

    def _recording(self, phase: Phase, play: Play, before: list[dict[str, Tensor]]) -> Graph:
        player, numbers = phase.player, list[tuple[Function, Tensor]]()
        places = iter(torch.zeros(_NUMBERS, dtype=self._dtype, device=self._device).unbind())

        def number(function: Function) -> Tensor:
            place = next(places, None)
            if place is None:
                raise FrozenError(f"has more than {_NUMBERS} numbers that change over the run")
            numbers.append((function, place))
            return place

        if name := _on_host(player, self._device):
            raise FrozenError(
                f"has an optimizer ({type(player.optimizer).__name__}) that keeps its state {name} on the host"
            )
        own, settings = self._metrics[0], _settings(player)
        counts, names = dict(own.counts), [each.names for each in self._metrics]
        own.counts.clear()
        try:
            replay = self._recorder.record(lambda: play(phase, cast(int, Moving(number))))
            counted = dict(own.counts)
        finally:
            own.counts.clear()
            own.counts.update(counts)
            # their memory is the graph's; others may use it after it
            player.optimizer.zero_grad(set_to_none=True)
        if names != [each.names for each in self._metrics]:
            raise FrozenError("records metrics that it had not recorded before")
        if changed := _changed(settings, _settings(player)) or _on_host(player, self._device):
            raise FrozenError(f"has an optimizer that changes its {changed} on the host")
        after = [dict(batch.cache) for batch in self._held]
        return Graph(phase, replay, before, after, numbers, counted, settings)

    def _give_up(self, why: str) -> None:
        """Go on without graphs."""
        self.why_not = why
        self.reset()
        self._held = []
        self._say(f"training.graphs: the steps run without CUDA graphs from here on, as {why}")


def _form(batch: Batch) -> tuple[Any, ...]:
    shapes = {name: (tensor.shape, tensor.stride(), tensor.dtype) for name, tensor in batch.fields.items()}
    return shapes, batch.positions.shape, batch.parts


def _tensors(batch: Batch) -> list[Tensor]:
    return [*batch.fields.values(), batch.positions]


def _copy(held: list[Tensor], fresh: list[Tensor]) -> None:
    for dtype in dict.fromkeys(tensor.dtype for tensor in held):
        pairs = [pair for pair in zip(held, fresh, strict=True) if pair[0].dtype == dtype]
        torch._foreach_copy_([own for own, _ in pairs], [other for _, other in pairs])


def _same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    """Say whether the caches hold the same tensors, and not equal ones."""
    return len(one) == len(other) and all(
        left.keys() == right.keys() and all(left[name] is right[name] for name in left)
        for left, right in zip(one, other, strict=True)
    )


def _kind(phase: Phase, before: list[dict[str, Tensor]]) -> tuple[int, tuple[tuple[str, ...], ...]]:
    return id(phase), tuple(tuple(sorted(cache)) for cache in before)


def _settings(player: Player) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in group.items() if name != "params"} for group in player.optimizer.param_groups
    ]


def _changed(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of a setting that has another value; of tensors, which are read by the graph, another tensor."""
    for old, new in zip(before, after, strict=True):
        for name, value in new.items():
            known = old.get(name)
            if value is not known and (isinstance(value, Tensor) or isinstance(known, Tensor) or value != known):
                return name
    return ""


def _on_host(player: Player, device: torch.device) -> str:
    """Return the name of a state of the optimizer that is no tensor on the device; "" where there is none."""
    for state in player.optimizer.state.values():
        for name, value in state.items():
            if value is not None and not (isinstance(value, Tensor) and value.device.type == device.type):
                return str(name)
    return ""


def said(error: BaseException, what: str = "cannot be recorded") -> str:
    """Return in one line why something was not recorded (or compiled), and where."""
    while error.__context__ is not None and not isinstance(error, FrozenError):
        error = error.__context__  # the end of a recording that failed raises once more
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if os.path.basename(frame.filename) != "schedules.py"), None)
    where = f" ({os.path.basename(place.filename)}:{place.lineno})" if place else ""
    if isinstance(error, FrozenError):
        return f"{error}{where}"
    text = str(error).strip().partition("\n")[0]
    return f"{what}: {type(error).__name__}: {text}{where}"
