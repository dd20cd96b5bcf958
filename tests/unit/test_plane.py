"""The games in the plane: points that nobody stores, a count of modes, a picture, and the two recipes."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gan_dist import config as config_module, games, trial
from gan_dist.config import Config
from gan_dist.data import index, loader
from gan_dist.engine import Engine
from gan_dist.errors import InputError
from gan_dist.evaluation import METRICS, Ranks, evaluate
from gan_dist.games.plane import centres
from gan_dist.games.scatter import Dots, scatter
from gan_dist.interfaces import Batch
from gan_dist.scoring import command
from gan_dist.step import play_step
from tests.launching import digests, lines, train

RECIPES = ("gaussians", "grid25")


def load(recipe: str = "gaussians", *words: str) -> Config:
    return config_module.load([f"configs/{recipe}.yaml", "--training.device", "cpu", *words])


def test_a_real_point_is_its_positions_whatever_the_rank_that_draws_it() -> None:
    config = load("grid25", "--training.images", "1024", "--training.batch", "256", "--training.micro_batch", "64")
    game = games.build(config)

    def drawn(slots: range) -> list[Batch]:
        steps = loader.micro_batches(index.nothing(), config, 512, slots, torch.device("cpu"))
        return [batch for step in steps for batch in step]

    whole, halves = drawn(range(256)), [*drawn(range(128)), *drawn(range(128, 256))]
    assert [len(batch) for batch in whole] == 8 * [64]
    points = torch.cat([game.real(batch) for batch in sorted(halves, key=lambda batch: int(batch.positions[0]))])
    assert torch.equal(torch.cat([game.real(batch) for batch in whole]), points)
    assert len(points.unique(dim=0)) == 512
    distance = torch.cdist(points.double(), centres("grid25", config.game.scale)).amin(1)
    # of a Gaussian in the plane the mean square distance is 2 deviations squared
    assert distance.square().mean().sqrt().item() == pytest.approx(math.sqrt(2) * config.game.deviation, rel=0.1)


def test_modes_are_counted_by_samples_near_their_centres() -> None:
    game = games.build(load())
    middles, deviation = game.mixture.centres, game.mixture.deviation
    # 2,500 samples: 19 good ones at mode 0, 20 at mode 1, 2,000 at mode 2, bad ones near mode 3, and some that are not finite
    east, counts = torch.tensor([deviation, 0]), [19, 20, 2000]
    good = [middles[mode] + 2.99 * east for mode, count in enumerate(counts) for _ in range(count)]
    bad = [middles[3] + 3.01 * east] * 411 + [torch.full((2,), math.nan)] * 50
    points = torch.stack(good + bad)
    metric = METRICS["plane_modes"]().for_game(game)
    found = evaluate({"plane_modes": metric}, lambda numbers: points[numbers.start : numbers.stop], None, len(points))
    shares = torch.tensor([19, 20, 2000, 411]) / 2450
    assert found.scores == {
        "score/plane_modes/modes": 2,
        "score/plane_modes/good_percent": pytest.approx(100 * 2039 / 2500),
        "score/plane_modes/kl": pytest.approx((shares * (shares * 8).log()).sum().item()),
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--data.shards", "data/digits"),
            r"data\.shards would have no effect, as the game draws its own samples; remove",
        ),
        (("--penalties.bcr.weight", "1"), r"penalties\.bcr mirrors and shifts images, and game\.kind: plane has none"),
        (
            ("--evaluate.scores", "{modes: {classifier: x}}"),
            r"score modes reads digits, and game\.kind: plane has none",
        ),
        (("--evaluate.scores", "pixels"), r"score pixels compares with real images, and game\.kind: plane has none"),
        (
            ("--networks.generator", "{kind: dcgan}"),
            r"dcgan is for images, and game\.kind: plane is played with points",
        ),
    ],
)
def test_what_has_no_effect_in_the_plane_is_refused(words: tuple[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load("gaussians", *words)
    assert "\n" not in str(caught.value)


def test_points_and_their_score_are_refused_where_images_are_played() -> None:
    for words, message in (
        (["--networks.discriminator.kind", "mlp", "--networks.generator.kind", "dcgan"], "mlp is for points"),
        (["--evaluate.scores", "plane_modes", "--evaluate.every", "64"], "counts the modes of game.kind: plane"),
    ):
        with pytest.raises(InputError, match=message):
            config_module.load(["configs/mnist.yaml", *words])


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_plays_and_draws(recipe: str, tmp_path: Path) -> None:
    config = load(recipe, "--penalties.r1.weight", "0.1", "--penalties.wgan_gp.weight", "0.1", "--game.pack", "2")
    engine = Engine(config)
    game = trial.build(config, engine)
    engine.wrap(game)
    # biases aside: that of the logits has no effect on the relativistic loss
    weights = [weight for player in game.players for weight in player.network.parameters() if weight.ndim > 1]
    before = [weight.clone() for weight in weights]
    size = config.training.batch
    for step in range(2):
        batch = trial.on_device(config, engine, trial.random_batches(config, game.fields, step, engine.slots))
        play_step(engine, game, batch, step * size, size)
    assert not any(torch.equal(old, new) for old, new in zip(before, weights, strict=True))
    assert game.pictures(0, 10, Batch({}, torch.arange(0)))["samples"].shape == (1, 3, 512, 512)
    assert torch.equal(game.samples(0, 5, 40), game.samples(0, 0, 45)[5:])


def test_dots_lie_where_their_points_are() -> None:
    points = torch.tensor([[0.5, 1.0], [9.0, -9.0], [math.inf, 0.0]])
    picture = scatter([Dots(points, (1.0, 0.0, 0.0), radius=2.0)], reach=2.0, size=64)
    green = (picture[1] + 1) / 2
    assert picture[0].eq(1).all()  # red on white
    weights = 1 - green
    upper = weights[:32]
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(64.0), indexing="ij")
    place = [(float((upper * each).sum() / upper.sum()) + 0.5) / 32 for each in (column, row)]
    assert place == pytest.approx([1 + 0.5 / 2, 1 - 1.0 / 2], abs=1e-3)  # a point half a pixel off is drawn there
    assert upper.sum().item() == pytest.approx(math.pi * 4, rel=0.03)  # a disc's area
    assert weights[63, 63] == pytest.approx(1)  # what is outside lies on the edge
    assert weights[32:].sum() < math.pi * 4


def test_a_run_without_data_trains(tmp_path: Path) -> None:
    keys = {"training.images": 512, "training.device": "cpu", "sample.count": 4, "track.wandb": "disabled"}
    done = train({**keys, "run.directory": tmp_path / "run"}, config="configs/gaussians.yaml")
    assert done.returncode == 0, done.stderr


@pytest.mark.dist
@pytest.mark.slow
def test_a_run_without_data_goes_on_at_two_ranks_with_the_same_bits(tmp_path: Path) -> None:
    keys = {
        "training.images": 2048,
        "training.device": "cpu",
        "checkpoint.every": 1024,
        "sample.count": 100,
        "track.wandb": "disabled",
    }
    for directory, images, ranks in (("one", 2048, 1), ("two", 1024, 1), ("two", 2048, 2)):
        wanted = {**keys, "run.directory": tmp_path / directory, "training.images": images}
        done = train(wanted, ranks, config="configs/gaussians.yaml")
        assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    (line,) = [line for line in lines(tmp_path / "two/metrics.jsonl") if "score/plane_modes/modes" in line][-1:]
    assert line["images"] == 2048


def test_a_run_of_points_is_scored_by_the_command_without_data(tmp_path: Path) -> None:
    config = load()
    options = SimpleNamespace(against=None)
    task: Any = SimpleNamespace(options=options, ranks=Ranks(), scratch=tmp_path)
    found, real, *_ = command._reals_of_run(task, config, games.build(config))
    assert (len(found), real.count) == (0, 0)
    options.against = "data/faces"
    with pytest.raises(InputError, match="--against data/faces has no effect: plane draws its own samples"):
        command._reals_of_run(task, config, games.build(config))
