"""Compare what this launch computes with the same game on one rank, in double precision, one micro-batch a pass.

Both play steps on random samples, so it needs no data and works for any game. `gan-dist doctor --numerics` and the tests use it.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from gan_dist import games, rng, trial
from gan_dist.checkpoint import tensors
from gan_dist.config import Config, tree
from gan_dist.doctor.findings import Finding
from gan_dist.engine import Engine
from gan_dist.engine.precision import HALF
from gan_dist.games.base import Game
from gan_dist.step import play_step

State = dict[str, Tensor]
"""Tensors by name (`D/weights/...`, `D/gradient/...`), whole, in float64 on the CPU."""
States = tuple[State, State]
"""After the first step in which every phase was due, and after all."""

_STEPS = 4
_LINEAR = ("exp_avg", "momentum_buffer")
"""State of optimizers that is a sum of gradients: it shows a wrong gradient at once."""


def by_engine(
    config: Config,
    steps: int,
    alone: bool = False,
    change: Callable[[Game], None] = lambda game: None,
    settings: Mapping[str, float] | None = None,
) -> States:
    """Return the players after the first step in which every phase was due (or after fewer `steps`), and after all steps.

    Every rank calls it, and gets all of it; with `alone` one rank that needs no other. `change` may alter the game before it
    is played, `settings` are least values of the optimizers' settings. `gradient` is a running sum of gradients over
    1 - beta1: after a player's first update the gradient itself. Of an optimizer that keeps no state it is the change of
    the weights; others that keep no sum of gradients have none.
    """
    engine = Engine(config, alone=alone)
    game = games.build(config)
    change(game)
    enliven([player.network for player in game.players])
    engine.place(game)
    for player in game.players:
        for group in player.optimizer.param_groups:
            group |= {name: max(least, group[name]) for name, least in (settings or {}).items() if name in group}
    engine.wrap(game)
    # in fp16: a first update that overflows is skipped, as it should be, and would differ from the reference's
    engine.restore_loss_scales({player.name: [2.0**10, 0.0] for player in game.players})
    begin, first = gather(engine, game), State()
    size = config.training.batch
    compared = min(steps, math.lcm(*(phase.every for phase in game.phases))) - 1
    for step in range(steps):
        batches = trial.on_device(config, engine, trial.random_batches(config, game.fields, step, engine.slots))
        play_step(engine, game, batches, step * size, size)
        if step == compared:
            first = _with_gradients(gather(engine, game), game, begin)
    last = _with_gradients(gather(engine, game), game, begin)
    engine.release()
    return first, last


def _with_gradients(state: State, game: Game, begin: State) -> State:
    for player in game.players:
        beta = player.optimizer.param_groups[0].get("betas", (0.0,))[0]
        linear = next((kind for kind in _LINEAR if kind in player.kept.tensors), "")
        for name, _ in player.network.named_parameters():
            weight, gradient = f"{player.name}/weights/{name}", f"{player.name}/gradient/{name}"
            if linear:  # none before the player's first update
                total = state.get(f"{player.name}/{linear}/{name}", torch.zeros_like(state[weight]))
                state[gradient] = total / (1 - beta)
            elif not player.kept.tensors:
                state[gradient] = begin[weight] - state[weight]
    return state


@torch.no_grad()
def enliven(networks: Sequence[nn.Module]) -> None:
    """Make weights as large as trained ones.

    With a deviation of 0.02 a penalty's gradient is 1e-8 of the loss's, and would hide a mistake in it. Weights that begin
    at zero (R3GAN's blocks) hide all that is before them, and are drawn.
    """
    for network in networks:
        for number, weight in enumerate(network.parameters()):
            if weight.dim() > 1:
                if not weight.any():
                    drawn = rng.normal(rng.key(0, "enliven", number), torch.arange(weight.numel()), 1)
                    weight.copy_(drawn.view(weight.shape))
                weight.mul_((2 / weight[0].numel()) ** 0.5 / weight.std())


def gather(engine: Engine, game: Game) -> State:
    """Return all tensors of the players and the pools, whole, on every rank. Every rank calls it."""
    state = tensors.collect(game.players, pools=game.pools)
    whole: State = {name: torch.empty(shape.numel(), dtype=torch.float64) for name, shape in state.shapes.items()}
    for name, tensor in state.whole.items():
        # a copy: in fp64 on a CPU the tensor itself would change with the next step
        whole[name] = tensor.detach().to("cpu", torch.float64, copy=True).reshape(-1)
    owned = [(piece.name, piece.offset, tensor.detach().double().cpu()) for piece, tensor in state.owned]
    for name, offset, part in (each for rank in engine.gather(owned) for each in rank):
        whole[name][offset : offset + len(part)] = part
    return {name: tensor.view(state.shapes[name].shape) for name, tensor in whole.items()}


def difference(computed: State, expected: State, kind: str) -> tuple[float, str]:
    """Return the largest difference in tensors of a kind (weights, gradient, average), over their largest number, and where.

    The gradient of a bias before a BatchNorm is zero, and what it shows is rounding: no number counts as less than a ten
    thousandth of the player's largest.
    """
    worst, where = 0.0, ""
    largest: dict[str, float] = {}
    for name, right in expected.items():
        if f"/{kind}/" in name:
            player = name.partition("/")[0]
            largest[player] = max(largest.get(player, 0.0), float(right.abs().max()))
    for name, right in expected.items():
        if f"/{kind}/" not in name:
            continue
        scale = max(float(right.abs().max()), 1e-4 * largest[name.partition("/")[0]], 1e-12)
        distance = float((computed[name].double() - right).abs().max()) / scale
        if math.isnan(distance):  # the worst
            return distance, name
        if distance > worst:
            worst, where = distance, name
    return worst, where


def distances(computed: State, expected: State, kind: str) -> dict[str, float]:
    """Return the length of the difference of all tensors of a kind, over their own length, for each player."""
    total: dict[str, tuple[float, float]] = {}
    for name, right in expected.items():
        player = name.partition("/")[0]
        if f"/{kind}/" in name:
            off, size = total.get(player, (0.0, 0.0))
            square = float((computed[name].double() - right).square().sum())
            total[player] = off + square, size + float(right.square().sum())
    return {player: math.sqrt(off / max(size, 1e-24)) for player, (off, size) in total.items()}


@dataclasses.dataclass(frozen=True)
class Compared:
    """How far numbers of the engine are from the reference's, relative to the largest in their tensor, at worst `where`."""

    difference: float
    limit: float
    where: str

    @property
    def fraction(self) -> float:
        """Return the difference as a part of what rounding explains; more than 1 is a mistake."""
        return self.difference / self.limit if math.isfinite(self.difference) else math.inf


def compare(computed: States, expected: States, rounded: States, config: Config) -> dict[str, Compared]:
    """Compare the engine's states with the reference's in double precision; `rounded` is the reference in the engine's precision.

    Kinks (LeakyReLU) and BatchNorm amplify rounding; the engine may amplify it a few times as much as the reference does.
    In 16 bits single numbers are mostly rounding: there all of a player's together are compared, by their L2 norm.
    """
    result = {}
    precision = config.training.precision
    coarse = precision in HALF or config.training.tf32
    limits = {"fp64": (1e-10, 1e-8, 1e-8), "fp32": (1e-5, 1e-5, 1e-3)}.get(precision, (0.0, 0.0, 0.0))
    kinds = ("gradients", 0, "gradient"), ("sums of gradients", 1, "gradient"), ("weights", 1, "weights")
    for (what, number, kind), least in zip(kinds, limits, strict=True):
        if not any(f"/{kind}/" in name for name in expected[number]):
            continue  # optimizers that keep no sum of gradients
        if coarse:
            noise, distance = (distances(states[number], expected[number], kind) for states in (rounded, computed))
            pairs = [Compared(distance[player], max(1e-3, 3 * noise[player]), player) for player in distance]
            result[what] = max(pairs, key=lambda pair: pair.fraction)
            continue
        # a BatchNorm's bias begins at 0: relative to it, the roundings of Adam's first steps are large
        noise_in_one, _ = difference(rounded[number], expected[number], kind)
        worst, where = difference(computed[number], expected[number], kind)
        result[what] = Compared(worst, max(least, 10 * noise_in_one), where)
    return result


def _few(config: Config) -> int:
    """Return the least micro-batch from 4 that its parts can work on: packs and groups of samples must come out whole."""
    whole = config.training.micro_batch
    for count in range(4, whole):
        if whole % count == 0:
            small = config.with_({"training.micro_batch": count})
            with contextlib.suppress(ValueError):
                for section in tree.sections(small):
                    section.check(small)
                return count
    return whole


def findings(config: Config, engine: Engine) -> Iterator[Finding]:
    """Compare steps of the config's game, as launched, with the same on one rank: over all that the engine may split.

    With 1 and 2 micro-batches a rank, 1 and 2 in a pass, over as many steps as play all phases twice. Phases that are
    played seldom are played every 2nd step: it is the same code.
    """
    training = config.training
    micro_batch = _few(config)
    # any number of classes will do, and no data is needed to know it
    streams = {} if config.data.drawn else {"data.streams": 1}
    base = config.with_classes(lambda: 10).with_({**streams, "training.micro_batch": micro_batch})
    strategy = training.strategy
    splits = [(1, 1), (2, 1), *([(2, 2)] if strategy != "exact" else [])]
    reference: dict[tuple[int, str], States] = {}

    def play(case: Config, alone: bool) -> States:
        # without it Adam's first steps are signs, which rounding decides near 0
        return by_engine(case, _STEPS, alone, _often, {"eps": 1e-4})

    def by_one(case: Config, precision: str) -> States:
        key = case.training.batch, precision
        if key not in reference:
            changes = {
                "training.strategy": "exact",
                "training.precision": precision,
                "training.micro_batches_per_pass": "auto",
                "training.tf32": case.training.tf32 and precision != "fp64",
                "training.compile": False,
            }
            reference[key] = play(case.with_(changes), alone=True)
        return reference[key]

    def against(case: Config, states: States) -> dict[str, Compared]:
        return compare(states, by_one(case, "fp64"), by_one(case, case.training.precision), case)

    for precision in dict.fromkeys(["fp32" if strategy.startswith("zero") else "fp64", training.precision]):
        worst: dict[str, Compared] = {}
        for held, size in splits:
            changes = {
                "training.batch": held * engine.world_size * micro_batch,
                "training.micro_batches_per_pass": size if strategy != "exact" else "auto",
                "training.precision": precision,
                "training.tf32": training.tf32 and precision != "fp64",
            }
            case = base.with_(changes)
            states = play(case, alone=False)
            compared = engine.on_main(lambda case=case, states=states: against(case, states))  # type: ignore[misc]
            assert compared is not None
            for kind, result in compared.items():
                worst[kind] = max(worst.get(kind, result), result, key=lambda pair: pair.fraction)
        words = [
            f"{kind} differ by {pair.difference:.1e} ({f'{pair.where}; ' if pair.where else ''}up to {pair.limit:.0e} is rounding)"
            for kind, pair in worst.items()
        ]
        good = all(pair.fraction <= 1 for pair in worst.values())
        text = (
            f"{strategy} in {precision}: compared with one rank in double precision, over {len(splits)} ways to split "
            f"{_STEPS} steps, {', '.join(words)}"
        )
        yield Finding("numerics", good, text if good else f"{text}; do not train like this")


def _often(game: Game) -> None:
    """Play every phase from the start, every 2nd step at least."""
    from_the_start(game)
    game.phases = tuple(dataclasses.replace(phase, every=min(2, phase.every)) for phase in game.phases)


def from_the_start(game: Game) -> None:
    """Play every phase over the whole run, also those that would begin later or end earlier.

    Of two that follow each other the later is played: no step has both.
    """
    followed = [
        any(
            other.player is phase.player and phase.end is not None and other.begin >= phase.end for other in game.phases
        )
        for phase in game.phases
    ]
    game.phases = tuple(
        dataclasses.replace(phase, begin=0, end=None)
        for phase, is_over in zip(game.phases, followed, strict=True)
        if not is_over
    )
