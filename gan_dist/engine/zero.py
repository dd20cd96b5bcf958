"""Share the work by strategies zero1, zero2 and zero3: one DeepSpeed engine for each player, coupled by the generator's loss.

Rules that were measured (tests/dist/test_matrix.py; docs/many-ranks.md says which other ways fail):
- Losses go through the bare network with stages 1 and 2, which therefore differentiate twice like any network; through
  DeepSpeed's engine with stage 3, whose forward keeps count of accumulated micro-batches. A frozen player is always
  called bare: its engine would answer the generator's backward with a reduction of the discriminator's gradients.
- Stage 3 frees weights between the two derivatives of an exact penalty, and holds none whole outside of a layer's forward,
  where a penalty of the weights would read them. So such a penalty is computed on a copy of the weights
  gathered for the phase, and its gradients are handed to DeepSpeed by a loss that is linear in the weights.
- DeepSpeed clips at 1.0 unless told otherwise; it is always told.
"""

import contextlib
import copy
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from gan_dist.config import Config
from gan_dist.engine import launcher_settings
from gan_dist.engine.health import Health
from gan_dist.engine.precision import LossScale, Lowered
from gan_dist.engine.update import all_reduce_statistics
from gan_dist.errors import AgreedError
from gan_dist.networks.statistics import statistics_of
from gan_dist.optimizer_probe import Kept
from gan_dist.player import Player, Shard


class Zero:
    """One DeepSpeed engine for each player. DeepSpeed waits for the device in each step."""

    def __init__(
        self,
        config: Config,
        device: torch.device,
        health: Health,
        world_size: int,
        parts: int,
        lowered: Lowered | None,
    ) -> None:
        self._config, self._device, self._health, self._world_size = config, device, health, world_size
        self._lowered = lowered
        self.parts = parts
        """Micro-batches of this rank: DeepSpeed averages over ranks."""
        self.stage = int(config.training.strategy.removeprefix("zero"))
        self._engines: dict[str, Any] = {}
        self._gathered: dict[str, _Gathered] = {}
        self._twice = self._last = False

    def wrap(self, player: Player) -> None:
        self._check(player)
        if self._device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
        import deepspeed
        from deepspeed.utils import logger

        logger.setLevel(logging.WARNING)
        bare = self._copy(player.network) if self.stage == 3 else None
        shapes = {name: weight.shape for name, weight in player.network.named_parameters()}
        average = None if player.average is None else dict(player.average.network.named_parameters())
        _as_if_launched(self._device)
        engine, *_ = deepspeed.initialize(
            model=player.network, optimizer=player.optimizer, config=self._settings(player), dist_init_required=False
        )
        if engine.dp_world_size != self._world_size:
            raise AgreedError(
                f"DeepSpeed believes to be one of {engine.dp_world_size} process(es), but {self._world_size} train together: that "
                "would not be one run; start them by torchrun, and set nothing of DeepSpeed's but by training.strategy"
            )
        if type(engine.optimizer.optimizer) is not type(player.optimizer):
            raise AgreedError(
                f"training.strategy = {self._config.training.strategy} would take {type(engine.optimizer.optimizer).__name__} of "
                f"torch for the optimizer of {player.name}, and lose what it adds; set training.strategy: ddp"
            )
        self._engines[player.name] = engine
        player.trained = engine if self.stage == 3 else player.network
        shards = (OfStage3 if self.stage == 3 else OfStages12)(engine, player.kept, shapes, average)
        player.shards = shards
        if player.average is not None:
            _cut_average(player, shards)
        if bare is not None:
            self._gathered[player.name] = _Gathered(player, bare, engine)

    def _check(self, player: Player) -> None:
        """Raise AgreedError for a player that cannot be cut over ranks."""
        strategy = self._config.training.strategy
        if player.kept.why_not_cut:
            raise AgreedError(
                f"training.strategy = {strategy} cannot cut the optimizer of {player.name} "
                f"({type(player.optimizer).__name__}): {player.kept.why_not_cut}; set training.strategy: ddp"
            )
        needs = [type(each).__name__ for each in player.statistics if each.needs_weights]
        if self.stage == 3 and needs:
            raise AgreedError(
                f"training.strategy = {strategy} cuts the weights that {needs[0]} of {player.name} reads between updates; "
                "set training.strategy: zero2"
            )

    def _copy(self, network: nn.Module) -> nn.Module:
        """Return the network's layers without memory, to compute with other weights."""
        bare = copy.deepcopy(network).to("meta")
        if self._lowered is not None:
            for module in bare.modules():
                vars(module).pop("forward", None)  # the original's, by way of precision.py
            self._lowered.lower(bare)
        return bare

    def _settings(self, player: Player) -> dict[str, Any]:
        training = self._config.training
        settings = launcher_settings.deepspeed_config(
            training.strategy, sum(weight.numel() for weight in player.network.parameters())
        )
        return settings | {
            "train_micro_batch_size_per_gpu": training.micro_batch,
            "gradient_accumulation_steps": 1,  # what a loss weighs, and when an update is due, the engine says
            "gradient_clipping": player.clip_norm,
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 2**31,
            "fp16": {"enabled": False},
            "bf16": {"enabled": False},
        }

    @contextlib.contextmanager
    def computing(self, player: Player, last: bool, twice: bool) -> Iterator[None]:
        self._last, self._twice = last, twice and self.stage == 3
        engine = self._engines[player.name]
        engine.set_gradient_accumulation_boundary(last)
        # as its forward does first, which a bare call leaves out: stage 3 counts micro-batches by it
        engine.optimizer.clear_backward_seen_flag()
        if not self._twice:
            yield
            return
        gathered = self._gathered[player.name]
        through, player.trained = player.trained, gathered
        gathered.take()
        try:
            yield
        finally:
            player.trained = through

    def backward(self, player: Player, loss: Tensor) -> None:
        # DeepSpeed skips an update whose gradient is not finite, on all processes; a loss that is not makes it so
        loss = loss * torch.where(torch.isfinite(loss.detach()), 1.0, torch.nan).to(loss.dtype)
        if self._twice:
            loss.backward()  # type: ignore[no-untyped-call]
            if self._last:
                self._gathered[player.name].hand_over()
        else:
            self._engines[player.name].backward(loss, scale_wrt_gas=False)

    def passed(self, player: Player) -> None:
        """Do nothing: DeepSpeed counts backwards, not passes."""

    def shared(self, player: Player) -> None:
        """Do nothing: all ranks have the gradients that they own."""

    def update(self, player: Player, scale: LossScale | None) -> tuple[Tensor, Tensor]:
        engine = self._engines[player.name]
        all_reduce_statistics(player, self._health, self._world_size)
        if scale is not None:  # DeepSpeed takes away what `backward` was given; it must not put it on by itself
            engine.optimizer.override_loss_scale(scale.factor.item())
        engine.step()
        engine.optimizer.custom_loss_scaler = False
        norm = torch.as_tensor(engine.get_global_grad_norm(), device=self._device)
        good = not engine.optimizer.overflow
        if good and player.kept.step is None and player.shards is not None:
            player.shards.steps = 1
        return norm, torch.tensor(good, device=self._device)

    @contextlib.contextmanager
    def averages(self, player: Player) -> Iterator[None]:
        average, shards = player.average, player.shards
        if average is None or shards is None:
            yield
            return
        weights = dict(average.network.named_parameters())
        wholes = {
            name: torch.zeros(shape.numel(), dtype=shards.dtype, device=self._device)
            for name, shape in shards.shapes.items()
        }
        for shard in shards.owned():
            assert shard.average is not None
            wholes[shard.name][shard.offset : shard.offset + len(shard.average)] = shard.average
        for name, whole in wholes.items():
            torch.distributed.all_reduce(whole)
            weights[name].data = whole.view(shards.shapes[name])
        try:
            yield
        finally:
            for weight in weights.values():
                weight.data = weight.data.new_empty(0)

    def forget(self, player: Player) -> None:
        if player.name in self._gathered:
            self._gathered[player.name].drop()

    def release(self) -> None:
        for engine in self._engines.values():
            engine.destroy()
        self._engines.clear()
        self._gathered.clear()


def _as_if_launched(device: torch.device) -> None:
    """Make the process group and LOCAL_RANK that DeepSpeed needs, for a process that nobody launched."""
    os.environ.setdefault("LOCAL_RANK", "0")  # Accelerate, which would take it for a launcher's, has looked before
    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)


def _cut_average(player: Player, shards: "OfStages12 | OfStage3") -> None:
    """Let every rank average its shards alone: the average's own weights are empty except in `averages`."""
    average = player.average
    assert average is not None
    owned = shards.owned()
    averages = [shard.average for shard in owned if shard.average is not None]
    average.follow(
        [*averages, *average.network.buffers()], [*(shard.weight for shard in owned), *player.network.buffers()]
    )
    for weight in average.network.parameters():
        weight.data = weight.data.new_empty(0)


class _Gathered:
    """A player's network over a copy of its weights, whole, for the phase of an exact penalty (stage 3).

    Every rank holds weights and gradients whole during the phase, and at its end once more: what DeepSpeed gathers, and
    the gradients that it is given.
    """

    def __init__(self, player: Player, bare: nn.Module, engine: Any) -> None:
        self._player, self._bare, self._engine = player, bare, engine
        self._statistics = list(zip(statistics_of(player.network), statistics_of(bare), strict=True))
        self._weights: dict[str, Tensor] | None = None

    def take(self) -> None:
        """Gather the weights, unless this phase has already gathered them."""
        for original, copied in self._statistics:
            copied.tracking, copied.parts = original.tracking, original.parts
        if self._weights is not None:
            return
        import deepspeed

        named = dict(self._player.network.named_parameters())
        with deepspeed.zero.GatheredParameters(list(named.values())):
            self._weights = {name: weight.detach().clone().requires_grad_() for name, weight in named.items()}

    @property
    def whole_weights(self) -> dict[str, Tensor]:
        """Return the copy of the weights, by name."""
        assert self._weights is not None
        return self._weights

    def drop(self) -> None:
        """Drop the copy of the weights."""
        self._weights = None

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        assert self._weights is not None
        state = {**self._weights, **dict(self._player.network.named_buffers())}
        output = torch.func.functional_call(self._bare, state, inputs, named)
        for original, copied in self._statistics:
            original.note(copied)
        return output

    def hand_over(self) -> None:
        """Give DeepSpeed the gradients, as those of a loss that is linear in the weights."""
        import deepspeed

        assert self._weights is not None
        named = dict(self._player.network.named_parameters())
        gradients = {name: weight.grad for name, weight in self._weights.items()}
        self._weights = None  # before they are gathered again
        self._engine.optimizer.clear_backward_seen_flag()  # as its forward does: it counts micro-batches by it
        with deepspeed.zero.GatheredParameters(list(named.values())):
            products = [
                torch.dot(named[name].reshape(-1), gradient.reshape(-1))
                for name, gradient in gradients.items()
                if gradient is not None
            ]
            self._engine.backward(torch.stack(products).sum(), scale_wrt_gas=False)


class _Cut:
    """What stages 1, 2 and 3 have in common: flat runs of fp32 weights in a torch optimizer (player.Shards)."""

    def __init__(
        self, engine: Any, kept: Kept, shapes: dict[str, torch.Size], average: dict[str, nn.Parameter] | None
    ) -> None:
        self._engine, self._kept, self.shapes = engine, kept, shapes
        self._optimizer: torch.optim.Optimizer = engine.optimizer.optimizer
        self._stepped = 0
        self._names = {id(weight): name for name, weight in engine.module.named_parameters()}
        for flat in self._flats():  # as after a step: so that what is loaded before the first one has its place
            state: dict[str, Any] = kept.first_of(flat.data)
            if kept.step is not None:
                state["step"] = kept.step_of(0)
            self._optimizer.state[flat] = state
        self.dtype: torch.dtype = self._flats()[0].dtype
        self._owned = [
            Shard(
                name=name,
                offset=offset,
                weight=weight,
                state=state,
                average=None
                if average is None
                else average[name].detach().reshape(-1)[offset : offset + len(weight)].to(self.dtype).clone(),
            )
            for name, offset, weight, state in self._find()
            if len(weight)
        ]

    def _flats(self) -> list[Tensor]:
        raise NotImplementedError

    def _find(self) -> Iterator[tuple[str, int, Tensor, dict[str, Tensor]]]:
        raise NotImplementedError

    @property
    def steps(self) -> int:
        if self._kept.step is None:
            return self._stepped
        return int(self._optimizer.state[self._flats()[0]]["step"])

    @steps.setter
    def steps(self, count: int) -> None:
        self._stepped = count
        if self._kept.step is not None:
            for flat in self._flats():
                self._optimizer.state[flat]["step"] = self._kept.step_of(count)

    def owned(self) -> Sequence[Shard]:
        return self._owned


class OfStages12(_Cut):
    def _flats(self) -> list[Tensor]:
        return list(self._engine.optimizer.single_partition_of_fp32_groups)

    def _find(self) -> Iterator[tuple[str, int, Tensor, dict[str, Tensor]]]:
        optimizer = self._engine.optimizer
        optimizer._lazy_init_hp_params_optimizer_state()
        for group in optimizer.bit16_groups:
            for weight in group:
                place = weight._hp_mapping  # None: this process owns nothing of it
                if place is not None:
                    state = {name: place.optim_fragment[name] for name in self._kept.tensors}
                    start = place.lp_fragment_address.start
                    yield self._names[id(weight)], start, place.hp_fragment.data, state

    def refresh(self) -> None:
        self._engine.optimizer.update_lp_params()


class OfStage3(_Cut):
    def _flats(self) -> list[Tensor]:
        return list(self._engine.optimizer.fp32_partitioned_groups_flat)

    def _find(self) -> Iterator[tuple[str, int, Tensor, dict[str, Tensor]]]:
        optimizer = self._engine.optimizer
        for group in optimizer.fp16_groups:
            for weight in group:
                number, position, size = optimizer.grad_position[optimizer.get_param_id(weight)]
                offset = optimizer._get_param_partition_rank(weight) * size
                count = max(0, min(size, weight.ds_numel - offset))  # the rest is padding
                flat = optimizer.fp32_partitioned_groups_flat[number]
                whole = self._optimizer.state[flat]
                state = {name: whole[name].narrow(0, position, count) for name in self._kept.tensors}
                yield self._names[id(weight)], offset, flat.data.narrow(0, position, count), state

    def refresh(self) -> None:
        optimizer = self._engine.optimizer
        optimizer._partition_all_parameters()
        for number in range(len(optimizer.fp16_groups)):
            optimizer._reassign_or_swap_out_partitioned_parameters(number)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
