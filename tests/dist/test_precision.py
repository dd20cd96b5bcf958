"""Every strategy in every precision trains or is refused; fp16's loss scales; what happens when one rank overflows."""

import functools
import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gan_dist import config as config_module, ema, games, rng, trial
from gan_dist.checkpoint.format import read_manifest
from gan_dist.config import Config
from gan_dist.doctor import numerics
from gan_dist.engine import Engine
from gan_dist.engine.precision import HALF, LossScale, Lowered
from gan_dist.errors import InputError
from gan_dist.games import generation
from gan_dist.interfaces import Batch
from gan_dist.networks.statistics import batch_norms
from tests import making, reference
from tests.conftest import REPOSITORY
from tests.launching import run_ranks, start

pytestmark = pytest.mark.dist
ZERO = [pytest.mark.slow, pytest.mark.deepspeed]

STRATEGIES = ("ddp", "exact", "zero1", "zero2", "zero3")
PRECISIONS = ("fp32", "bf16", "fp16", "fp64")
REFUSED = {
    **{(strategy, "fp16"): "needs a GPU" for strategy in STRATEGIES},
    **{(strategy, "fp64"): "has no ZeRO" for strategy in STRATEGIES[2:]},
}
"""On a CPU, with a word of the reason."""


def build(strategy: str, precision: str, **more: Any) -> Config:
    keys = making.tiny(
        "unused", "unused", training__strategy=strategy, training__precision=precision, training__micro_batch=2, **more
    )
    keys |= {"penalties.r1.weight": 1.0, "optimizers.generator.epsilon": 1e-4, "optimizers.discriminator.epsilon": 1e-4}
    return config_module.load(["tests/data/digits.yaml", *making.flags(keys)])


def walk() -> dict[tuple[str, str], str]:
    """What becomes of each combination but those of test_matrix.py: in bf16 its difference from the plain loop, else why it
    is refused."""
    found = {}
    for strategy, precision in itertools.product(STRATEGIES, PRECISIONS):
        if precision == "fp32" or (precision == "fp64" and not strategy.startswith("zero")):
            continue
        try:
            if precision == "bf16":
                wrong = [lowered_difference(strategy, **more) for more in ({}, {"penalties__r1__every": 2})]
            else:
                Engine(build(strategy, precision))
                wrong = ["not refused"]
        except InputError as error:
            wrong = [str(error)]
        if any(wrong):
            found[strategy, precision] = "; ".join(wrong)
    return found


def beyond(limit: float, found: numerics.State, expected: numerics.State, kind: str) -> str:
    worst, where = numerics.difference(found, expected, kind)
    return "" if worst <= limit else f"{where} differs by {worst:.1e}"


SEEN = 160
"""Images before a step in 16 bits, so that the average keeps a part of what it was."""


def samples(config: Config, game: games.Game, slots: range, device: torch.device) -> list[Batch]:
    return [
        micro.to(device, torch.float32, torch.contiguous_format)
        for micro in trial.random_batches(config, game.fields, 0, slots)
    ]


def lowered_step(config: Config, scale: float = 1.0) -> numerics.State:
    """The players after one step of the engine; with a lazy penalty, after its phase alone."""
    engine, game = Engine(config), games.build(config)
    numerics.enliven([player.network for player in game.players])
    engine.wrap(game)
    engine.restore_loss_scales({player.name: [scale, 0.0] for player in game.players})
    lazy = config.penalties.r1.every > 1
    micros = samples(config, game, engine.slots, engine.device)
    for phase in [phase for phase in game.phases if not lazy or phase.loss is None]:
        with engine.turn(phase):
            for loss, micro in engine.share(micros):
                engine.backward(loss(micro))
            engine.update()
    game.average(SEEN, config.training.batch)
    state = numerics.gather(engine, game)
    figures = engine.read_metrics()
    for player, (total, count) in ((name, figures[f"loss/{name}"]) for name in "GD" if not lazy):
        state[f"{player}/loss/mean"] = torch.tensor(total / count, dtype=torch.float64)
    engine.release()
    return state


def by_autocast(config: Config, device: torch.device, scale: float = 1.0) -> numerics.State:
    """The same by one process and a plain loop: forwards under autocast, all else in fp32, and R1 wholly in it."""
    play, rule = config.game, config.penalties.r1
    lazy = rule.every > 1
    micros = samples(config, games.build(config), range(config.training.batch), device)
    lay = torch.contiguous_format if config.training.strategy.startswith("zero") else torch.channels_last
    networks = generation.build_networks(config)
    numerics.enliven(networks)
    generator, discriminator = (network.to(device, memory_format=lay) for network in networks)
    average = {name: tensor.clone() for name, tensor in generator.state_dict().items()}

    def low(network: nn.Module, inputs: Tensor) -> Tensor:
        # one context a forward: within one, forwards share a weight's cast, and gradients meet there in 16 bits
        with torch.autocast(device.type, HALF[config.training.precision]):
            output: Tensor = network(inputs)
        return output.float()

    def penalty(micro: Batch) -> Tensor:
        images = micro["image"].requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
        return rule.every * rule.weight / 2 * slope.square().sum((1, 2, 3)).mean()

    def fool(micro: Batch) -> Tensor:
        latents = rng.normal(rng.key(config.run.seed, "latent"), micro.positions, play.latent)
        fake = low(generator, latents)
        micro.cache["fake"] = fake.detach()
        return softplus(-low(discriminator, fake)).mean()

    def tell_apart(micro: Batch) -> Tensor:
        return (
            softplus(-low(discriminator, micro["image"])) + softplus(low(discriminator, micro.cache["fake"]))
        ).mean()

    found: numerics.State = {}

    def turn(player: str, network: nn.Module, losses: list[Callable[[Batch], Tensor]], part: float = 1.0) -> None:
        for norm in batch_norms(generator) + batch_norms(discriminator):
            norm.tracking = False
        seen = []
        for micro in micros:
            for loss in losses:
                for norm in batch_norms(network):
                    norm.tracking = loss is not penalty
                value = loss(micro)
                (value * scale / len(micros)).backward()
                if loss is not penalty:
                    seen.append(value)
        settings = config.optimizers.generator if player == "G" else config.optimizers.discriminator
        betas = settings.beta1**part, settings.beta2**part
        adam = torch.optim.Adam(network.parameters(), settings.learning_rate * part, betas, settings.epsilon)
        for weight in network.parameters():
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad / scale
        adam.step()
        for norm in batch_norms(network):
            norm.commit()
        if seen:
            found[f"{player}/loss/mean"] = torch.stack(seen).mean()
        found.update({f"{player}/weights/{name}": tensor.clone() for name, tensor in network.state_dict().items()})
        for name, weight in network.named_parameters():
            found.update({f"{player}/{kind}/{name}": adam.state[weight][kind] for kind in ("exp_avg", "exp_avg_sq")})

    if lazy:
        turn("D", discriminator, [penalty], rule.every / (rule.every + 1))
    else:
        discriminator.requires_grad_(False)
        turn("G", generator, [fool])
        turn("D", discriminator.requires_grad_(True), [tell_apart, penalty])
    kept = ema.decay(SEEN, config.training.batch, config.average.half_life)
    for name, tensor in generator.state_dict().items():
        found[f"G/average/{name}"] = kept * average[name] + (1 - kept) * tensor
    return {name: tensor.detach().double().cpu() for name, tensor in found.items()}


def lowered_difference(strategy: str, **more: Any) -> str:
    """Where a step in bf16 differs from the plain loop's: the same forwards are rounded alike, so by fp32's sums alone."""
    config = build(strategy, "bf16", **more)
    state, expected = lowered_step(config), by_autocast(config, torch.device("cpu"))
    return ", ".join(filter(None, (beyond(LIMIT, state, expected, kind) for kind in KINDS)))


LIMIT = 1e-6
KINDS = ("exp_avg", "exp_avg_sq", "weights", "average", "loss")
ROUNDED: dict[str, tuple[str, str]] = {
    "no autocast": ("ddp", "exp_avg"),
    "losses in 16 bits": ("ddp", "loss"),
    "penalties in 16 bits": ("exact", "exp_avg"),
    "penalties in 16 bits, gathered": ("zero3", "exp_avg"),
    "moments in 16 bits": ("ddp", "exp_avg_sq"),
    "weights in 16 bits": ("zero1", "weights"),
    "average in 16 bits": ("ddp", "average"),
}
"""Plausible mistakes, the strategy they are planted in, and where they are to be seen."""


def round_wrongly(mistake: str, patch: pytest.MonkeyPatch) -> None:
    def halve(tensor: Tensor) -> None:
        tensor.copy_(tensor.bfloat16())

    def lower_losses(lowered: Lowered, network: nn.Module) -> None:
        lower(lowered, network)
        network.forward = functools.partial(lambda forward, *inputs: forward(*inputs).bfloat16(), network.forward)

    @torch.no_grad()
    def step_rounded(adam: torch.optim.Adam, closure: None = None) -> None:
        adam_step(adam)
        for weight, state in adam.state.items():
            for tensor in (weight,) if mistake.startswith("weights") else (state["exp_avg"], state["exp_avg_sq"]):
                halve(tensor)

    def follow_rounded(average: ema.Average, images: int, batch: int) -> None:
        follow(average, images, batch)
        for tensor in average.network.parameters():
            halve(tensor)

    lower, adam_step, follow = Lowered.lower, torch.optim.Adam.step, ema.Average.update
    if mistake == "no autocast":
        patch.setattr(Lowered, "lower", lambda lowered, network: None)
    elif mistake == "losses in 16 bits":
        patch.setattr(Lowered, "lower", lower_losses)
    elif mistake.startswith("penalties"):
        patch.setattr(Lowered, "on", property(lambda lowered: True, lambda lowered, on: None), raising=False)
    elif mistake.startswith("average"):
        patch.setattr(ema.Average, "update", follow_rounded)
    else:
        patch.setattr(torch.optim.Adam, "step", step_rounded)


def wrongly_rounded() -> dict[str, float]:
    found = {}
    for mistake, (strategy, kind) in ROUNDED.items():
        config = build(strategy, "bf16")
        expected = by_autocast(config, torch.device("cpu"))
        with pytest.MonkeyPatch.context() as patch:
            round_wrongly(mistake, patch)
            found[mistake] = numerics.difference(lowered_step(config), expected, kind)[0]
    return found


@pytest.mark.slow
@pytest.mark.deepspeed
def test_a_number_kept_or_computed_in_the_wrong_precision_is_seen(walked: tuple[Any, dict[str, float]]) -> None:
    for mistake, difference in walked[1].items():
        assert 10 * LIMIT < difference < math.inf, f"{mistake}: {difference:.1e}"


def walk_right_and_wrong() -> tuple[dict[tuple[str, str], str], dict[str, float]]:
    return walk(), wrongly_rounded()


@pytest.fixture(scope="module")
def walked() -> tuple[dict[tuple[str, str], str], dict[str, float]]:
    found: tuple[dict[tuple[str, str], str], dict[str, float]] = run_ranks(2, walk_right_and_wrong)[0]
    return found


@pytest.mark.slow
@pytest.mark.deepspeed
def test_every_strategy_trains_in_every_precision_or_says_why_not(walked: tuple[dict[Any, str], Any]) -> None:
    found, _ = walked
    assert found.keys() == REFUSED.keys(), found
    for combination, reason in REFUSED.items():
        assert reason in found[combination]


def test_the_documents_have_the_same_table() -> None:
    text = (REPOSITORY / "docs/many-ranks.md").read_text()
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `") and "`fp" not in line]
    table = {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows if len(row) == 5}
    assert table.keys() == set(STRATEGIES)
    for strategy, cells in table.items():
        for precision, cell in zip(PRECISIONS, cells, strict=True):
            refused = (strategy, precision) in REFUSED and precision != "fp16"
            assert cell.startswith({True: "refused", False: "GPU only" if precision == "fp16" else "yes"}[refused])


def with_scales(strategy: str, shared: bool = False) -> dict[str, Any]:
    """Steps with loss scales, as fp16 has them, in fp32; in one of them the loss of rank 1 overflows in D's turn."""
    config = build(strategy, "fp32")
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    engine._scales = {player.name: LossScale(engine.device, 2.0**10, patience=3) for player in game.players}
    if shared:
        engine._scales["D"] = engine._scales["G"]
    seen: dict[str, Any] = {"scales": [], "weights": []}
    for step in range(4):
        micros = trial.random_batches(config, game.fields, step, engine.slots)
        for micro in micros:
            micro.fields["image"] = micro["image"].float()
        for phase in game.due(step * config.training.batch, config.training.batch):
            with engine.turn(phase):
                for loss, samples in engine.share(micros):
                    value = loss(samples)
                    bad = step == 1 and phase.player.name == "D" and engine.rank == 1
                    engine.backward(value * math.inf if bad else value)
                engine.update(step)
        seen["scales"].append([engine._scales[name].factor.item() for name in "GD"])
        seen["weights"].append(numerics.gather(engine, game)["D/weights/logit.weight"])
    seen["skipped"] = {name: found.total for name, found in engine.skipped(wait=True).items()}
    seen["norms"] = {name: figure for name, figure in engine.read_metrics().items() if name.startswith("grad_norm/")}
    seen["kept"] = engine.loss_scales()
    engine.restore_loss_scales({"G": [8.0, 1.0]})
    assert engine.loss_scales()["G"] == [8.0, 1.0]
    engine.release()
    seen["weights"] = [weight.numpy() for weight in seen["weights"]]
    return seen


SCALES = [[1024, 1024], [1024, 512], [2048, 512], [2048, 512]]
"""G's and D's after each step: G's is doubled after three good ones."""


@pytest.mark.parametrize(
    "strategy", ["ddp", "exact", *(pytest.param(f"zero{stage}", marks=ZERO) for stage in (1, 2, 3))]
)
def test_an_overflow_on_one_rank_skips_the_step_on_all_and_halves_that_players_scale_alone(strategy: str) -> None:
    one, other = run_ranks(2, with_scales, strategy)
    for seen in (one, other):
        assert seen["skipped"] == {"G": 0, "D": 1}
        assert seen["scales"] == SCALES
        assert {name: count for name, (_, count) in seen["norms"].items()} == {"grad_norm/G": 4, "grad_norm/D": 3}
        assert all(0 < total < math.inf for total, _ in seen["norms"].values())
        assert (seen["weights"][0] == seen["weights"][1]).all()
        assert (seen["weights"][1] != seen["weights"][2]).any()
        assert seen["kept"] == {"G": [2048.0, 1.0], "D": [512.0, 2.0]}
    assert all((mine == theirs).all() for mine, theirs in zip(one["weights"], other["weights"], strict=True))


def test_a_scale_that_both_players_share_is_seen_by_that() -> None:
    for seen in run_ranks(2, with_scales, "ddp", True):
        assert all(math.isfinite(scale) for scales in seen["scales"] for scale in scales)
        assert seen["scales"] != SCALES


def scaled_equals_unscaled(strategy: str) -> list[float]:
    """How far a run with a loss scale is from the plain loop: powers of two round nothing."""
    config = build(strategy, "fp32", optimizers__discriminator__clip_norm=0.5)
    plain = Engine.place

    def place(engine: Engine, game: games.Game) -> None:
        plain(engine, game)
        engine._scales = {player.name: LossScale(engine.device, 2.0**12) for player in game.players}

    Engine.place = place  # type: ignore[method-assign]
    first, last = numerics.by_engine(config, 4)
    expected = reference.by_hand(build("ddp", "fp64", optimizers__discriminator__clip_norm=0.5), 4)
    return [
        numerics.difference(first, expected[0], "gradient")[0],
        numerics.difference(last, expected[1], "weights")[0],
    ]


@pytest.mark.parametrize(
    "strategy", ["ddp", "exact", pytest.param("zero2", marks=ZERO), pytest.param("zero3", marks=ZERO)]
)
def test_a_loss_scale_changes_no_gradient_and_no_clipping(strategy: str) -> None:
    gradient, weights = run_ranks(2, scaled_equals_unscaled, strategy)[0]
    assert gradient < 1e-5
    assert weights < 1e-4


def test_loss_scales_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    shards = making.data_set(tmp_path / "data", 96)

    def run(name: str, images: int) -> dict[str, list[float]]:
        started = start(making.tiny(shards, tmp_path / name, training__images=images), fault="scales:patience=3")
        try:
            assert started.end() == 0, started.output.read_text()
        finally:
            started.kill()
        kept: dict[str, list[float]] = read_manifest(tmp_path / f"{name}/checkpoints/images-{images:09d}")[
            "loss_scales"
        ]
        return kept

    first = LossScale(torch.device("cpu")).factor.item()
    assert run("cut", 64) == {"G": [2 * first, 1.0], "D": [2 * first, 1.0]}  # of 4 steps
    assert run("cut", 128) == run("whole", 128) == {"G": [4 * first, 2.0], "D": [4 * first, 2.0]}


def test_a_loss_scale_has_bounds() -> None:
    scale = LossScale(torch.device("cpu"))
    for _ in range(100):
        scale.update(torch.tensor(False))
    assert scale.factor.item() == 2.0**-14
    for _ in range(100_000):
        scale.update(torch.tensor(True))
    assert scale.factor.item() == 2.0**24


def compiled() -> list[float]:
    """Differences of a run with training.compile from the plain loop."""
    made = []
    for more in ({"training.compile": True}, {"training.precision": "fp64"}):
        keys = making.tiny("unused", "unused", training__strategy="ddp", training__micro_batch=4)
        keys |= {"optimizers.generator.epsilon": 1e-4, "optimizers.discriminator.epsilon": 1e-4, **more}
        made.append(config_module.load(["tests/data/digits.yaml", *making.flags(keys)]))
    first, last = numerics.by_engine(made[0], 3)
    expected = reference.by_hand(made[1], 3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
    return [
        numerics.difference(first, expected[0], "gradient")[0],
        numerics.difference(last, expected[1], "weights")[0],
    ]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_compiled_networks_compute_the_same() -> None:
    gradient, weights = run_ranks(2, compiled)[0]
    assert gradient < 1e-5
    assert weights < 1e-4
