"""Whether this launch computes what one process would: steps by the engine against the same steps by hand.

`by_hand` is a plain loop in double precision that knows no engine, phase or process: what the engine's numbers are
measured by. Both take random images, so no data is needed. comparison.py and the tests use it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gan_dist import games, interfaces, penalties, rng
from gan_dist.checkpoint import tensors
from gan_dist.config import Config
from gan_dist.ema import decay
from gan_dist.engine import Engine
from gan_dist.engine.precision import Lowered
from gan_dist.games import generation
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import batch_norms

State = dict[str, Tensor]
"""Tensors by name (`D/weights/...`, `D/gradient/...`), whole, in float64 on the CPU."""
States = tuple[State, State]
"""After the first step, and after all."""


def images_of(config: Config, step: int, slots: range) -> list[Batch]:
    """Random micro-batches for some slots of a step's global batch: (M, C, H, W) in [-1, 1], in float64."""
    data, found = config.data, []
    for slot in slots[:: config.training.micro_batch]:
        first = step * config.training.batch + slot
        positions = torch.arange(first, first + config.training.micro_batch)
        count = data.channels * data.resolution**2
        pixels = 2 * rng.uniform(rng.key(config.run.seed, "numerics"), positions, count) - 1
        labels = rng.integers(rng.key(config.run.seed, "label"), positions, data.classes) if data.classes else None
        images = pixels.view(-1, data.channels, data.resolution, data.resolution)
        found.append(Batch({"image": images} | ({} if labels is None else {"class": labels}), positions))
    return found


def by_engine(config: Config, steps: int) -> States:
    """The players after the first step in which every phase was due, or after fewer `steps`; and after all of them, as all
    processes of this launch computed them.

    Every process calls it, and gets all of it. What is called gradient is Adam's first moment over 1 - beta1: the gradient
    itself after a player's first update, then a mixture of all.
    """
    engine = Engine(config)
    game = games.build(config)
    enliven([player.network for player in game.players])
    engine.wrap(game)
    # in fp16: a first update that overflows is skipped, as it should be, and would differ from the plain loop's
    engine.restore_loss_scales({player.name: [2.0**10, 0.0] for player in game.players})
    first: State = {}
    compared = min(steps, math.lcm(*(phase.every for phase in game.phases))) - 1
    dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
    for step in range(steps):
        micros = images_of(config, step, engine.slots)
        for micro in micros:
            micro.fields["image"] = micro["image"].to(engine.device, dtype)
            micro.positions = micro.positions.to(engine.device)
            micro.fields = {name: tensor.to(engine.device) for name, tensor in micro.fields.items()}
        joined = interfaces.join(micros, engine.passes)
        for phase in game.due(step):
            with engine.turn(phase):
                for loss, samples in engine.share(joined):
                    engine.backward(loss(samples))
                engine.update()
        game.average(step * config.training.batch, config.training.batch)
        if step == compared:
            first = _with_gradients(gather(engine, game), game)
    last = _with_gradients(gather(engine, game), game)
    engine.release()
    return first, last


def _with_gradients(state: State, game: games.Game) -> State:
    for player in game.players:
        beta = player.optimizer.param_groups[0]["betas"][0]
        for name, _ in player.network.named_parameters():
            moment = state.get(f"{player.name}/exp_avg/{name}")  # none before the player's first update
            weight = state[f"{player.name}/weights/{name}"]
            state[f"{player.name}/gradient/{name}"] = (
                torch.zeros_like(weight) if moment is None else moment / (1 - beta)
            )
    return state


@torch.no_grad()
def enliven(networks: Sequence[nn.Module]) -> None:
    """Weights as large as trained ones: with a deviation of 0.02 a penalty's gradient is 1e-8 of the loss's, and a
    mistake in it would not be seen."""
    for network in networks:
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.mul_((2 / weight[0].numel()) ** 0.5 / weight.std())


def gather(engine: Engine, game: games.Game) -> State:
    """All tensors of the players, whole, on every process. Every process calls it."""
    state = tensors.collect(game.players)
    found: State = {name: torch.empty(shape.numel(), dtype=torch.float64) for name, shape in state.shapes.items()}
    for name, tensor in state.whole.items():
        found[name] = tensor.detach().double().cpu().reshape(-1)
    own = [(piece.name, piece.offset, tensor.detach().double().cpu()) for piece, tensor in state.owned]
    for name, offset, part in (each for rank in engine.gather(own) for each in rank):
        found[name][offset : offset + len(part)] = part
    return {name: tensor.view(state.shapes[name].shape) for name, tensor in found.items()}


def by_hand(
    config: Config,
    steps: int,
    samples: Callable[[int], Sequence[Batch]] | None = None,
    dtype: torch.dtype = torch.float64,
    lively: bool = True,
    half: bool = False,
) -> States:
    """The same states by one process and a plain loop over all micro-batches: those of images_of, or `samples(step)`.

    In single precision, and with the networks' arithmetic in bf16 (`half`), it shows what rounding alone does. Not `lively`:
    from the initial weights as they are.
    """
    play, rule = config.game, config.game.penalty
    nets = list(generation.build_networks(config))
    if lively:
        enliven(nets)
    generator, discriminator = nets = [network.to(dtype) for network in nets]
    lowered = Lowered(torch.device("cpu"), torch.bfloat16)
    if half:
        lowered.lower(generator)
        lowered.lower(discriminator)
    average = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    lazy = rule.every / (rule.every + 1) if rule.weights and rule.every > 1 else 1.0
    adams = []
    for net, own, part in zip(nets, (play.generator, play.discriminator), (1.0, lazy), strict=True):
        betas = own.beta1**part, own.beta2**part
        adams.append(torch.optim.Adam(net.parameters(), own.learning_rate * part, betas, own.epsilon))
    kink = rule.step or penalties.usual_step(discriminator)
    first: State = {}
    compared = min(steps, math.lcm(play.discriminator_steps, rule.every if rule.weights else 1)) - 1

    def descend(turn: int, losses: list[Tensor], clip: float) -> None:
        weights = list(nets[turn].parameters())
        gradients = torch.autograd.grad(torch.stack(losses).mean(), weights, allow_unused=True)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = torch.zeros_like(weight) if gradient is None else gradient
        if clip:
            torch.nn.utils.clip_grad_norm_(weights, clip)
        adams[turn].step()

    def penalty(micro: Batch, fake: Tensor) -> Tensor:
        lowered.on = not rule.full_precision
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
            if rule.method == "exact" and getattr(rule, name):
                total = total + getattr(rule, name) / 2 * gradient(x).mean()
            elif getattr(rule, name):
                noise = rng.normal(rng.key(config.run.seed, f"noise of {name}"), micro.positions, x[0].numel())
                shifted = discriminator(x + kink * noise.to(dtype).view_as(x), micro.get("class"))
                slope = (shifted - discriminator(x, micro.get("class"))) / kink
                total = total + getattr(rule, name) / 2 * slope.square().mean()
        if rule.wgan_gp:
            share = rng.uniform(rng.key(config.run.seed, "between"), micro.positions, 1).to(dtype)[:, :, None, None]
            length = (gradient(micro["image"] + share * (fake - micro["image"])) + 1e-12).sqrt()
            total = total + rule.wgan_gp * (length - 1).square().mean()
        return rule.every * total

    for step in range(steps):
        micros = samples(step) if samples else images_of(config, step, range(config.training.batch))
        for micro in micros:
            micro.fields["image"] = micro["image"].to(dtype)
        draws = [
            rng.normal(rng.key(config.run.seed, "latent"), micro.positions, play.latent).to(dtype) for micro in micros
        ]
        fakes: list[Tensor] = []
        for norm in (every := batch_norms(generator) + batch_norms(discriminator)):
            norm.tracking = norm in batch_norms(generator)
        if (step + 1) % play.discriminator_steps == 0:
            losses = []
            for micro, draw in zip(micros, draws, strict=True):
                fakes.append(generator(draw, micro.get("class")))
                logits = discriminator(fakes[-1], micro.get("class"))
                losses.append((-softplus(logits) if play.loss == "minimax" else softplus(-logits)).mean())
            descend(0, losses, play.generator.clip_norm)
            for norm in batch_norms(generator):
                norm.commit()
        for norm in every:
            norm.tracking = norm in batch_norms(discriminator)
        fakes = fakes or [generator(draw, micro.get("class")) for micro, draw in zip(micros, draws, strict=True)]
        fakes = [fake.detach() for fake in fakes]
        losses = []
        for micro, fake in zip(micros, fakes, strict=True):
            real, made = discriminator(micro["image"], micro.get("class")), discriminator(fake, micro.get("class"))
            losses.append((softplus(-real) + softplus(made)).mean())
        for norm in every:
            norm.tracking = False
        if rule.weights and rule.every == 1:
            pairs = zip(micros, fakes, strict=True)
            losses = [loss + penalty(micro, fake) for loss, (micro, fake) in zip(losses, pairs, strict=True)]
        descend(1, losses, play.discriminator.clip_norm)
        for norm in batch_norms(discriminator):
            norm.commit()
        if rule.weights and rule.every > 1 and (step + 1) % rule.every == 0:
            pairs = zip(micros, fakes, strict=True)
            descend(1, [penalty(micro, fake) for micro, fake in pairs], play.discriminator.clip_norm)
        kept = decay(step * config.training.batch, config.training.batch, play.average.half_life)
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


def difference(found: State, expected: State, kind: str) -> tuple[float, str]:
    """The largest difference in tensors of a kind (weights, gradient, average), over their largest number; and where."""
    worst, where = 0.0, ""
    for name, right in expected.items():
        if f"/{kind}/" not in name:
            continue
        scale = max(float(right.abs().max()), 1e-12)
        distance = float((found[name].double() - right).abs().max()) / scale
        if not distance <= worst:  # NaN is the worst
            worst, where = distance, name
    return worst, where
