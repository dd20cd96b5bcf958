"""A plain loop of the generation game: what the engine's numbers are measured by.

It knows no engine, phase or rank, and plays in double precision unless it is asked for less.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gan_dist import games, rng, trial
from gan_dist.config import Config
from gan_dist.doctor.numerics import State, States, enliven, gather
from gan_dist.ema import decay
from gan_dist.engine import Engine
from gan_dist.engine.precision import Lowered
from gan_dist.games import generation
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import BatchNorm


def batch_norms(network: torch.nn.Module) -> list[BatchNorm]:
    return [module for module in network.modules() if isinstance(module, BatchNorm)]


def gradients(game: Game, batches: Sequence[Batch]) -> list[Tensor]:
    """Those of every phase's loss, the mean over batches, by the weights of its player."""
    found = []
    for phase in game.phases:
        for player in game.players:
            player.network.requires_grad_(player is phase.player).zero_grad()
        for batch in batches:
            assert phase.loss is not None
            (phase.loss(batch) / len(batches)).backward()
        found += [weight.grad.clone() for weight in phase.player.weights if weight.grad is not None]
    return found


def digest(engine: Engine, game: Game) -> str:
    """A hash of all that the players hold."""
    state = hashlib.sha256()
    for name, tensor in sorted(gather(engine, game).items()):
        state.update(name.encode() + tensor.cpu().numpy().tobytes())
    return state.hexdigest()


def by_hand(
    config: Config,
    steps: int,
    samples: Callable[[int], Sequence[Batch]] | None = None,
    dtype: torch.dtype = torch.float64,
    lively: bool = True,
    half: bool = False,
    layout: torch.memory_format = torch.contiguous_format,
) -> States:
    """The states of numerics.by_engine by one process over all micro-batches: random ones, or `samples(step)`.

    In single precision, and with the networks' arithmetic in bf16 (`half`), it shows what rounding alone does; the networks'
    `layout` moves that. Not `lively`: from the initial weights as they are.
    """
    fields = games.build(config).fields
    play, optimizers = config.game, config.optimizers
    rules = {name: getattr(config.penalties, name) for name in type(config.penalties).model_fields}
    every = max([rule.every for rule in rules.values()], default=1)
    full_precision = all(rule.full_precision for rule in rules.values())
    nets = list(generation.build_networks(config))
    if lively:
        enliven(nets)
    generator, discriminator = nets = [network.to(dtype=dtype, memory_format=layout) for network in nets]
    lowered = Lowered(torch.device("cpu"), torch.bfloat16)
    if half:
        lowered.lower(generator)
        lowered.lower(discriminator)
    average = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    lazy = every / (every + 1) if every > 1 else 1.0
    adams = []
    for net, own, part in zip(nets, (optimizers.generator, optimizers.discriminator), (1.0, lazy), strict=True):
        betas = own.beta1**part, own.beta2**part
        adams.append(torch.optim.Adam(net.parameters(), own.learning_rate * part, betas, own.epsilon))
    first: State = {}
    compared = min(steps, math.lcm(play.discriminator_steps, every)) - 1

    def descend(turn: int, losses: list[Tensor], clip: float) -> None:
        weights = list(nets[turn].parameters())
        gradients = torch.autograd.grad(torch.stack(losses).mean(), weights, allow_unused=True)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = torch.zeros_like(weight) if gradient is None else gradient
        if clip:
            torch.nn.utils.clip_grad_norm_(weights, clip)
        adams[turn].step()

    def penalty(micro: Batch, fake: Tensor) -> Tensor:
        lowered.on = not full_precision
        value = penalties_of(micro, fake)
        lowered.on = True
        return value

    def penalties_of(micro: Batch, fake: Tensor) -> Tensor:
        def gradient(x: Tensor) -> Tensor:
            x = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(discriminator(x, micro.get("class")).sum(), x, create_graph=True)
            return found.square().sum((1, 2, 3))

        total = torch.zeros((), dtype=dtype)
        for name, x in (("r1", micro["image"]), ("r2", fake)):
            if name in rules:
                total = total + rules[name].weight / 2 * gradient(x).mean()
        if "wgan_gp" in rules:
            share = rng.uniform(rng.key(config.run.seed, "between"), micro.positions, 1).to(dtype)[:, :, None, None]
            length = (gradient(micro["image"] + share * (fake - micro["image"])) + 1e-12).sqrt()
            total = total + rules["wgan_gp"].weight * (length - 1).square().mean()
        return every * total

    for step in range(steps):
        micros = samples(step) if samples else trial.random_batches(config, fields, step, range(config.training.batch))
        for micro in micros:
            micro.fields["image"] = micro["image"].to(dtype)
        draws = [
            rng.normal(rng.key(config.run.seed, "latent"), micro.positions, play.latent).to(dtype) for micro in micros
        ]
        fakes: list[Tensor] = []
        for norm in (norms := batch_norms(generator) + batch_norms(discriminator)):
            norm.tracking = norm in batch_norms(generator)
        if (step + 1) % play.discriminator_steps == 0:
            losses = []
            for micro, draw in zip(micros, draws, strict=True):
                fakes.append(generator(draw, micro.get("class")))
                logits = discriminator(fakes[-1], micro.get("class"))
                losses.append((-softplus(logits) if config.loss.kind == "minimax" else softplus(-logits)).mean())
            descend(0, losses, optimizers.generator.clip_norm)
            for norm in batch_norms(generator):
                norm.commit()
        for norm in norms:
            norm.tracking = norm in batch_norms(discriminator)
        fakes = fakes or [generator(draw, micro.get("class")) for micro, draw in zip(micros, draws, strict=True)]
        fakes = [fake.detach() for fake in fakes]
        losses = []
        for micro, fake in zip(micros, fakes, strict=True):
            real, made = discriminator(micro["image"], micro.get("class")), discriminator(fake, micro.get("class"))
            losses.append((softplus(-real) + softplus(made)).mean())
        for norm in norms:
            norm.tracking = False
        if rules and every == 1:
            pairs = zip(micros, fakes, strict=True)
            losses = [loss + penalty(micro, fake) for loss, (micro, fake) in zip(losses, pairs, strict=True)]
        descend(1, losses, optimizers.discriminator.clip_norm)
        for norm in batch_norms(discriminator):
            norm.commit()
        if rules and every > 1 and (step + 1) % every == 0:
            pairs = zip(micros, fakes, strict=True)
            descend(1, [penalty(micro, fake) for micro, fake in pairs], optimizers.discriminator.clip_norm)
        kept = decay(step * config.training.batch, config.training.batch, config.average.half_life)
        for name, tensor in generator.state_dict().items():
            average[name] = average[name] * kept + tensor * (1 - kept)
        if step == compared:
            first = _named(nets, adams, average)
    return first, _named(nets, adams, average)


def _named(nets: list[Any], adams: list[torch.optim.Adam], average: State) -> State:
    found = {f"G/average/{name}": tensor.clone() for name, tensor in average.items()}
    for player, net, adam in zip("GD", nets, adams, strict=True):
        found |= {f"{player}/weights/{name}": tensor.detach().clone() for name, tensor in net.state_dict().items()}
        for name, weight in net.named_parameters():
            moment = adam.state[weight].get("exp_avg", torch.zeros_like(weight))
            found[f"{player}/gradient/{name}"] = moment.clone() / (1 - adam.param_groups[0]["betas"][0])
    return found
