"""Define layers whose state moves with the samples, so that it means the same at any number of ranks and forwards."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from gan_dist.networks.flat_statistics import Group


class Statistics(nn.Module):
    """Mixin of everything that has state of its own which no optimizer moves.

    Such state moves once an update of its player, in `commit`, and never in a forward. Forwards only gather, and only while
    `tracking`: a generator's forwards in the discriminator's turn leave no trace. Between gathering and commit the engine
    takes what each rank gathered, forms the mean over all micro-batches of the global batch, and gives that back.
    """

    parts: int = 1
    """Micro-batches in a forward, one after the other: each counts by itself."""
    tracking: bool = False
    in_penalties: bool = False
    """Whether the forwards of a penalty count as well (a path length's mean); BatchNorm's do not."""
    needs_weights: bool = False
    """Whether `commit` reads the weights of its layer, which must then be whole on every rank."""

    @property
    def gathered(self) -> bool:
        """Say whether there is something to take."""
        return False

    def take(self) -> list[Tensor]:
        """Hand out the means of what was gathered since the last commit, and drop it."""
        return []

    def give(self, values: list[Tensor]) -> None:
        """Take these means for what was gathered."""

    def drop(self) -> None:
        """Forget what was gathered."""

    def note(self, other: "Statistics") -> None:
        """Note that a copy of this layer has gathered into its buffers (ZeRO-3 computes penalties by a copy)."""

    def commit(self, good: Tensor | None = None) -> None:
        """Move the state after an update; not where `good` (a boolean scalar on the device) is false."""

    def begin(self) -> None:
        """Prepare the state for weights that were just set; called when the player is placed."""


class Gathering(Statistics):
    """Statistics that sum one or several tensors over forwards, and let a running value follow their mean.

    A running value and its sum are buffers: `running_<name>` is saved, `step_<name>` is empty between updates.
    """

    step_count: Tensor
    momentum: float
    _gathered: bool = False
    _running: tuple[str, ...] = ()
    """Names of the buffers that follow."""
    _sums: tuple[str, ...] = ()
    """Names of the buffers that sum what they follow."""

    def _gather(self, values: tuple[Tensor, ...]) -> None:
        # counted in a tensor: torch.compile would recompile for every value of a Python number
        self._gathered = True
        with torch.no_grad():
            for name, value in zip(self._sums, values, strict=True):
                getattr(self, name).add_(value)
            self.step_count.add_(1)

    @property
    def gathered(self) -> bool:
        return self._gathered

    @torch.no_grad()
    def take(self) -> list[Tensor]:
        taken = [getattr(self, name) / self.step_count for name in self._sums]
        self.drop()
        return taken

    @torch.no_grad()
    def give(self, values: list[Tensor]) -> None:
        for name, value in zip(self._sums, values, strict=True):
            getattr(self, name).copy_(value)
        self.step_count.fill_(1)
        self._gathered = True

    @torch.no_grad()
    def drop(self) -> None:
        for name in (*self._sums, "step_count"):
            getattr(self, name).zero_()
        self._gathered = False

    def note(self, other: Statistics) -> None:
        if isinstance(other, Gathering) and other._gathered:
            self._gathered, other._gathered = True, False

    @torch.no_grad()
    def commit(self, good: Tensor | None = None) -> None:
        if not self._gathered:
            return
        for name, sums in zip(self._running, self._sums, strict=True):
            running, step = getattr(self, name), getattr(self, sums) / self.step_count
            running.lerp_(step if good is None else torch.where(good, step, running), self.momentum)
        self.drop()


class BatchNorm(Gathering):
    """Batch normalisation over (N, C) or (N, C, H, W) (Ioffe and Szegedy, 2015).

    A forward normalises each of its `parts` by the statistics of the samples in it. The running statistics move by the
    mean of the statistics of all tracked forwards since the last update.
    """

    running_mean: Tensor
    running_var: Tensor
    step_mean: Tensor
    step_var: Tensor
    _running = ("running_mean", "running_var")
    _sums = ("step_mean", "step_var")
    group: "Group | None" = None
    """What gathers for this layer and others together."""

    def __init__(self, channels: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        # what a step gathers is not the run's state: between steps it is empty
        self.register_buffer("step_mean", torch.zeros(channels), persistent=False)
        self.register_buffer("step_var", torch.zeros(channels), persistent=False)
        self.register_buffer("step_count", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.epsilon
            )
        if self.parts == 1:
            return self._normalise(x)
        return torch.cat([self._normalise(part) for part in x.chunk(self.parts)])

    def _normalise(self, x: Tensor) -> Tensor:
        if not self.tracking:
            return functional.batch_norm(x, None, None, self.weight, self.bias, True, eps=self.epsilon)
        group = None if torch.compiler.is_compiling() else self.group
        # by a momentum of 1 the statistics themselves are written to where zeros were
        if group is not None:
            mean, variance = group.place_of(self)
            return functional.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.epsilon)
        mean, variance = torch.zeros_like(self.step_mean), torch.zeros_like(self.step_var)
        output = functional.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.epsilon)
        self._gather((mean, variance))
        return output


class RunningMean(Gathering):
    """`value` follows the mean of what is added, once an update: StyleGAN2's w_avg and path-length mean.

    In a step `value` is still that of the step before. `momentum` is the part of the new mean (w_avg: 0.002; path length:
    0.01, with `in_penalties`, as it is added in a penalty).
    """

    value: Tensor
    step_value: Tensor
    _running = ("value",)
    _sums = ("step_value",)

    def __init__(self, shape: tuple[int, ...], momentum: float, in_penalties: bool = False) -> None:
        super().__init__()
        self.momentum, self.in_penalties = momentum, in_penalties
        self.register_buffer("value", torch.zeros(shape))
        self.register_buffer("step_value", torch.zeros(shape), persistent=False)
        self.register_buffer("step_count", torch.zeros(()), persistent=False)

    def add(self, x: Tensor) -> None:
        """Gather samples (N, *shape) of all `parts` micro-batches of a pass; nothing while not `tracking`."""
        if self.tracking and self.training:
            for part in x.detach().to(self.value.dtype).chunk(self.parts):
                self._gather((part.mean(0),))

    def forward(self, x: Tensor) -> Tensor:
        """Add the samples, and return them as they are."""
        self.add(x)
        return x


class SpectralNorm(Statistics):
    """Mixin of a layer whose weight is divided by its largest singular value (Miyato et al., 2018).

    Put it before the layer's class, and let `forward` use `normalised()` for the weight. The singular vectors u and v move
    by one power iteration on the new weight after each update. torch's spectral_norm moves them in each training forward,
    so that its result depends on how many forwards, and so how many ranks, an update has.
    """

    weight: Tensor
    u: Tensor
    v: Tensor
    needs_weights = True

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        matrix = self.weight.detach().flatten(1)
        self.register_buffer("u", functional.normalize(matrix.new_empty(len(matrix)).normal_(), dim=0))
        self.register_buffer("v", functional.normalize(matrix.new_empty(matrix.shape[1]).normal_(), dim=0))
        self.begin()

    def normalised(self) -> Tensor:
        """Return the weight over its largest singular value; the gradient flows through both."""
        u, v = self.u, self.v
        if not self.training:  # in a moving average they are means of unit vectors, which are shorter
            u, v = functional.normalize(u, dim=0), functional.normalize(v, dim=0)
        with torch.autocast(self.weight.device.type, enabled=False):
            return self.weight / torch.dot(u, torch.mv(self.weight.flatten(1), v))

    @torch.no_grad()
    def straighten(self) -> None:
        """Make the vectors as long as 1, which were taken from a moving average."""
        for vector in (self.u, self.v):
            vector.copy_(functional.normalize(vector, dim=0))

    def begin(self) -> None:
        for _ in range(15):  # from random vectors, as torch's spectral_norm does
            self.commit()

    @torch.no_grad()
    def commit(self, good: Tensor | None = None) -> None:
        matrix = self.weight.flatten(1)
        v = functional.normalize(torch.mv(matrix.t(), self.u), dim=0)
        u = functional.normalize(torch.mv(matrix, v), dim=0)
        self.u.copy_(u if good is None else torch.where(good, u, self.u))
        self.v.copy_(v if good is None else torch.where(good, v, self.v))


class SpectralConv2d(SpectralNorm, nn.Conv2d):
    """A convolution with a spectrally normalised weight."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self._conv_forward(x, self.normalised(), self.bias)
        return output


class SpectralLinear(SpectralNorm, nn.Linear):
    """A linear layer with a spectrally normalised weight."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.normalised(), self.bias)


class SpectralEmbedding(SpectralNorm, nn.Embedding):
    """An embedding with a spectrally normalised table."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.embedding(x, self.normalised())


def statistics_of(network: nn.Module) -> list[Statistics]:
    """Return all statistics in a network, in the order of its modules."""
    return [module for module in network.modules() if isinstance(module, Statistics)]


def batch_norms(network: nn.Module) -> list[BatchNorm]:
    return [module for module in network.modules() if isinstance(module, BatchNorm)]


def unmanaged(networks: Mapping[str, nn.Module], play: Callable[[], object]) -> list[str]:
    """Name what changes in a training forward though no engine manages it: one sentence for each such buffer.

    `play` runs a training forward of each network. Buffers outside of Statistics are compared bit by bit before and after;
    all buffers, those of Statistics too, and torch's random state are then as before.
    """
    modules = [
        (player, path, module) for player, network in networks.items() for path, module in network.named_modules()
    ]
    held = [dict(module._buffers) for _, _, module in modules]
    before = [{name: _copied(buffer) for name, buffer in buffers.items()} for buffers in held]
    devices = [device for device in {buffer.device for _, buffer in _all(held)} if device.type == "cuda"]
    try:
        with torch.random.fork_rng(devices=devices):
            play()
        return [
            f"the network of {player}: {f'layer {path} ' if path else ''}({type(module).__name__}) changes its buffer "
            f"{name} in a training forward, so it would depend on the number of ranks; use a layer of "
            f"gan_dist.networks.statistics{_instead(module)}"
            for (player, path, module), buffers in zip(modules, before, strict=True)
            if not isinstance(module, Statistics)
            for name in sorted({*buffers, *module._buffers})
            if not _same(buffers.get(name), module._buffers.get(name))
        ]
    finally:
        for (_, _, module), buffers, copies in zip(modules, held, before, strict=True):
            for name in set(module._buffers) - set(buffers):
                del module._buffers[name]
            for name, buffer in buffers.items():
                module._buffers[name] = buffer
                if buffer is not None:
                    with torch.no_grad():
                        buffer.copy_(copies[name])
            if isinstance(module, Gathering):
                module._gathered = False


def _all(held: list[dict[str, Tensor | None]]) -> list[tuple[str, Tensor]]:
    return [(name, buffer) for buffers in held for name, buffer in buffers.items() if buffer is not None]


def _copied(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.detach().clone()


def _same(before: Tensor | None, after: Tensor | None) -> bool:
    if before is None or after is None:
        return before is after
    if before.shape != after.shape or before.dtype != after.dtype:
        return False
    # bytes: NaN equals NaN, and -0 is not 0
    return torch.equal(
        before.contiguous().view(-1).view(torch.uint8), after.detach().contiguous().view(-1).view(torch.uint8)
    )


def _instead(module: nn.Module) -> str:
    """Return which of our layers does what a layer of torch does."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return ": BatchNorm"
    words = type(module).__name__.lower()
    return (
        ": SpectralConv2d, SpectralLinear or SpectralEmbedding"
        if "spectral" in words
        else ", or derive from Statistics"
    )
