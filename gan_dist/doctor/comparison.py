"""Whether the engine computes a config's own networks as a plain loop does: what `gan-dist doctor --numerics` says."""

import dataclasses
import math
from collections.abc import Iterator

import torch

from gan_dist.config import Config
from gan_dist.doctor.findings import Finding
from gan_dist.doctor.numerics import State, States, by_engine, by_hand, difference
from gan_dist.engine import Engine
from gan_dist.engine.precision import HALF

_STEPS = 4


@dataclasses.dataclass(frozen=True)
class Compared:
    """How far numbers of the engine are from the plain loop's: relative to the largest in their tensor, at worst `where`."""

    difference: float
    limit: float
    where: str

    @property
    def fraction(self) -> float:
        """Of what rounding explains; more than 1 is a mistake."""
        return self.difference / self.limit if math.isfinite(self.difference) else math.inf


def compare(found: States, expected: States, rounded: States, config: Config) -> dict[str, Compared]:
    """The engine's states against the plain loop's in double precision; `rounded` are the plain loop's in the engine's.

    Kinks (LeakyReLU) and BatchNorm make much of a rounding; the engine may make a few times as much of it as a plain loop.
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


def findings(config: Config, engine: Engine) -> Iterator[Finding]:
    """Steps of the config's own networks by the engine against a plain loop in double precision: all that it may split.

    With 1 and 2 micro-batches a process, 1 and 2 in a pass, over as many steps as it takes to play all phases twice.
    Phases that are played seldom are played every 2nd step: it is the same code.
    """
    training, game = config.training, config.game
    classes = {"classes": config.data.classes or (10 if config.data.labels else 0), "streams": 1}
    penalty = game.penalty.model_copy(update={"every": min(2, game.penalty.every)})
    often: dict[str, object] = {"discriminator_steps": min(2, game.discriminator_steps), "penalty": penalty}
    for player in ("generator", "discriminator"):  # Adam's first steps are else signs, which rounding decides near 0
        adam = getattr(game, player)
        often[player] = adam.model_copy(update={"epsilon": max(1e-4, adam.epsilon)})
    micro_batch = min(training.micro_batch, 4)
    base = config.model_copy(
        update={
            "data": config.data.model_copy(update=classes),
            "game": game.model_copy(update=often),
            "training": training.model_copy(update={"micro_batch": micro_batch}),
        }
    )
    strategy = training.strategy
    splits = [(1, 1), (2, 1), *([(2, 2)] if strategy != "exact" else [])]
    plain: dict[tuple[int, torch.dtype, bool], States] = {}

    def by_loop(case: Config, dtype: torch.dtype, half: bool = False) -> States:
        key = case.training.batch, dtype, half
        if key not in plain:
            plain[key] = by_hand(case, _STEPS, dtype=dtype, half=half)
        return plain[key]

    def against(case: Config, found: States) -> dict[str, Compared]:
        dtype = torch.float64 if case.training.precision == "fp64" else torch.float32
        half = case.training.precision in HALF or case.training.tf32
        return compare(found, by_loop(case, torch.float64), by_loop(case, dtype, half), case)

    for precision in dict.fromkeys(["fp32" if strategy.startswith("zero") else "fp64", training.precision]):
        worst: dict[str, Compared] = {}
        for own, size in splits:
            changes = {
                "batch": own * engine.world_size * micro_batch,
                "micro_batches_per_pass": size if strategy != "exact" else "auto",
                "precision": precision,
                "tf32": training.tf32 and precision != "fp64",
            }
            case = base.model_copy(update={"training": base.training.model_copy(update=changes)})
            found = by_engine(case, _STEPS)
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
            f"{strategy} in {precision}: from a plain loop's in double precision, over {len(splits)} ways to split "
            f"{_STEPS} steps, {', '.join(words)}"
        )
        yield Finding("numerics", good, text if good else f"{text}: do not train like this")
