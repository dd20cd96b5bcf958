"""Compare what this launch computes with the same game on one rank, in double precision, one micro-batch a pass.

Both play steps on random samples, so no data is needed, and any game will do. `gan-dist doctor --numerics` and the tests use it.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from gan_dist import games
from gan_dist.checkpoint import tensors
from gan_dist.config import Config
from gan_dist.doctor.findings import Finding
from gan_dist.engine import Engine
from gan_dist.engine.precision import HALF
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch, Field, random_batch
from gan_dist.step import play_step

State = dict[str, Tensor]
"""Tensors by name (`D/weights/...`, `D/gradient/...`), whole, in float64 on the CPU."""
States = tuple[State, State]
"""After the first step in which every phase was due, and after all."""

_STEPS = 4
_LINEAR = ("exp_avg", "momentum_buffer")
"""State of optimizers that is a sum of gradients: a wrong gradient shows in it at once."""


def random_batches(config: Config, fields: Mapping[str, Field], step: int, slots: range) -> list[Batch]:
    """Random micro-batches for some slots of a step's global batch, in float64 on the CPU."""
    training = config.training
    found = []
    for slot in slots[:: training.micro_batch]:
        first = step * training.batch + slot
        positions = torch.arange(first, first + training.micro_batch)
        found.append(random_batch(fields, config.run.seed, positions))
    return found


def on_device(config: Config, engine: Engine, batches: Sequence[Batch]) -> list[Batch]:
    """The batches as the loader would give them."""
    dtype = torch.float64 if config.training.precision == "fp64" else torch.float32
    layout = torch.channels_last if config.training.channels_last else torch.contiguous_format
    return [batch.to(engine.device, dtype, layout) for batch in batches]


def by_engine(
    config: Config,
    steps: int,
    alone: bool = False,
    change: Callable[[Game], None] = lambda game: None,
    settings: Mapping[str, float] | None = None,
) -> States:
    """The players after the first step in which every phase was due (or after fewer `steps`), and after all of them.

    Every rank calls it, and gets all of it. `alone`: by one rank that needs no other. `change` may alter the game before it
    is played, `settings` are least values of the optimizers' settings. What is called gradient is a running sum of gradients
    over 1 - beta1: the gradient itself after a player's first update.
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
    first: State = {}
    size = config.training.batch
    compared = min(steps, math.lcm(*(phase.every for phase in game.phases))) - 1
    for step in range(steps):
        batches = on_device(config, engine, random_batches(config, game.fields, step, engine.slots))
        play_step(engine, game, batches, step * size, size)
        if step == compared:
            first = _with_gradients(gather(engine, game), game)
    last = _with_gradients(gather(engine, game), game)
    engine.release()
    return first, last


def _with_gradients(state: State, game: Game) -> State:
    for player in game.players:
        beta = player.optimizer.param_groups[0].get("betas", (0.0,))[0]
        for name, _ in player.network.named_parameters():
            weight = state[f"{player.name}/weights/{name}"]
            # none before the player's first update
            sums = [state[key] for kind in _LINEAR if (key := f"{player.name}/{kind}/{name}") in state]
            state[f"{player.name}/gradient/{name}"] = sums[0] / (1 - beta) if sums else torch.zeros_like(weight)
    return state


@torch.no_grad()
def enliven(networks: Sequence[nn.Module]) -> None:
    """Weights as large as trained ones.

    With a deviation of 0.02 a penalty's gradient is 1e-8 of the loss's, and a mistake in it would not be seen.
    """
    for network in networks:
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.mul_((2 / weight[0].numel()) ** 0.5 / weight.std())


def gather(engine: Engine, game: Game) -> State:
    """All tensors of the players, whole, on every rank. Every rank calls it."""
    state = tensors.collect(game.players)
    found: State = {name: torch.empty(shape.numel(), dtype=torch.float64) for name, shape in state.shapes.items()}
    for name, tensor in state.whole.items():
        found[name] = tensor.detach().double().cpu().reshape(-1)
    own = [(piece.name, piece.offset, tensor.detach().double().cpu()) for piece, tensor in state.owned]
    for name, offset, part in (each for rank in engine.gather(own) for each in rank):
        found[name][offset : offset + len(part)] = part
    return {name: tensor.view(state.shapes[name].shape) for name, tensor in found.items()}


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


def distances(found: State, expected: State, kind: str) -> dict[str, float]:
    """The length of the difference of all tensors of a kind, over their own length, of each player."""
    total: dict[str, tuple[float, float]] = {}
    for name, right in expected.items():
        player = name.partition("/")[0]
        if f"/{kind}/" in name:
            off, size = total.get(player, (0.0, 0.0))
            square = float((found[name].double() - right).square().sum())
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
        """Of what rounding explains; more than 1 is a mistake."""
        return self.difference / self.limit if math.isfinite(self.difference) else math.inf


def compare(found: States, expected: States, rounded: States, config: Config) -> dict[str, Compared]:
    """The engine's states against the reference's in double precision; `rounded` is the reference in the engine's precision.

    Kinks (LeakyReLU) and BatchNorm amplify rounding; the engine may amplify it a few times as much as the reference does.
    In 16 bits single numbers are mostly rounding: there all of a player's together are compared, by their L2 norm.
    """
    result = {}
    precision = config.training.precision
    coarse = precision in HALF or config.training.tf32
    for what, number, kind in (("gradients", 0, "gradient"), ("moments", 1, "gradient"), ("weights", 1, "weights")):
        if coarse:
            noise, distance = (distances(states[number], expected[number], kind) for states in (rounded, found))
            pairs = [Compared(distance[player], max(1e-3, 3 * noise[player]), player) for player in distance]
            result[what] = max(pairs, key=lambda one: one.fraction)
            continue
        # a BatchNorm's bias begins at 0: relative to it, the roundings of Adam's first steps are large
        least = {"fp64": (1e-10, 1e-8, 1e-8), "fp32": (1e-5, 1e-5, 1e-3)}[precision][len(result)]
        noise_in_one, _ = difference(rounded[number], expected[number], kind)
        worst, where = difference(found[number], expected[number], kind)
        result[what] = Compared(worst, max(least, 10 * noise_in_one), where)
    return result


def findings(config: Config, engine: Engine) -> Iterator[Finding]:
    """Steps of the config's own game as launched against the same on one rank: all that the engine may split.

    With 1 and 2 micro-batches a rank, 1 and 2 in a pass, over as many steps as it takes to play all phases twice. Phases
    that are played seldom are played every 2nd step: it is the same code.
    """
    training = config.training
    micro_batch = min(training.micro_batch, 4)
    classes = config.data.classes or (10 if config.data.labels else 0)
    base = config.with_({"data.classes": classes, "data.streams": 1, "training.micro_batch": micro_batch})
    strategy = training.strategy
    splits = [(1, 1), (2, 1), *([(2, 2)] if strategy != "exact" else [])]
    reference: dict[tuple[int, str], States] = {}

    def play(case: Config, alone: bool) -> States:
        # Adam's first steps are else signs, which rounding decides near 0
        return by_engine(case, _STEPS, alone, _often, {"eps": 1e-4})

    def by_one(case: Config, precision: str) -> States:
        key = case.training.batch, precision
        if key not in reference:
            changes = {
                "training.strategy": "exact",
                "training.precision": precision,
                "training.micro_batches_per_pass": "auto",
                "training.tf32": case.training.tf32 and precision != "fp64",
            }
            reference[key] = play(case.with_(changes), alone=True)
        return reference[key]

    def against(case: Config, found: States) -> dict[str, Compared]:
        return compare(found, by_one(case, "fp64"), by_one(case, case.training.precision), case)

    for precision in dict.fromkeys(["fp32" if strategy.startswith("zero") else "fp64", training.precision]):
        worst: dict[str, Compared] = {}
        for own, size in splits:
            changes = {
                "training.batch": own * engine.world_size * micro_batch,
                "training.micro_batches_per_pass": size if strategy != "exact" else "auto",
                "training.precision": precision,
                "training.tf32": training.tf32 and precision != "fp64",
            }
            case = base.with_(changes)
            found = play(case, alone=False)
            compared = engine.on_main(lambda case=case, found=found: against(case, found))  # type: ignore[misc]
            assert compared is not None
            for kind, result in compared.items():
                worst[kind] = max(worst.get(kind, result), result, key=lambda one: one.fraction)
        words = [
            f"{kind} differ by {one.difference:.1e} ({one.where}; up to {one.limit:.0e} is rounding)"
            for kind, one in worst.items()
        ]
        good = all(one.fraction <= 1 for one in worst.values())
        text = (
            f"{strategy} in {precision}: from one rank's in double precision, over {len(splits)} ways to split "
            f"{_STEPS} steps, {', '.join(words)}"
        )
        yield Finding("numerics", good, text if good else f"{text}: do not train like this")


def _often(game: Game) -> None:
    """Play every phase from the start, every 2nd step at least."""
    game.phases = tuple(
        dataclasses.replace(phase, every=min(2, phase.every), begin=0, end=None) for phase in game.phases
    )
