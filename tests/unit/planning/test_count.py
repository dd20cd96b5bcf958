"""What is counted of a step without computing it."""

import torch
from torch.nn.functional import conv2d, conv_transpose2d

from gan_dist import config as config_module, games, trial
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.planning import count
from gan_dist.planning.count import Counter
from gan_dist.step import play_step
from tests import making


def load(**keys: object) -> Config:
    made = making.tiny("unused", "unused", **{"training__strategy": "ddp", "training__micro_batch": 4, **keys})
    return config_module.load(["tests/data/digits.yaml", *making.flags(made)])


def test_fake_tensors_count_what_a_real_step_does() -> None:
    config = load(penalties__r1__weight=1.0, training__batch=4)
    counted = count.step(config)
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    for player in game.players:
        count.as_on_a_gpu(player.optimizer)
    for step in range(2):
        batches = trial.on_device(config, engine, trial.random_batches(config, game.fields, step, engine.slots))
        with Counter() as counter:
            play_step(engine, game, batches, step * 4, 4)
    both = counted.once.plus(counted.each_pass, 1)
    assert both.kernels == counter.counts.kernels > 100
    assert both.bytes == counter.counts.bytes
    assert both.operations == counter.counts.operations
    assert [player.weights for player in counted.players.values()] == [
        sum(weight.numel() for weight in player.weights) for player in game.players
    ]
    assert {name: (player.uses.updates, player.uses.backwards) for name, player in counted.players.items()} == {
        "G": (1, 1),
        "D": (1, 1),
    }


def test_a_seldom_penalty_counts_by_its_share() -> None:
    often, seldom = (count.step(load(penalties__r1__weight=1.0, penalties__r1__every=every)) for every in (2, 4))
    assert often.players["D"].uses.updates == 1.5
    assert seldom.players["D"].uses.updates == 1.25
    (penalty,) = [phase for phase in seldom.phases if "penalty" in phase]
    assert penalty == "D's penalty every 4 steps"
    assert seldom.by_phase[penalty].kernels > 0
    assert often.each_pass.operations > seldom.each_pass.operations


def test_operations_of_convolutions_and_of_their_gradients() -> None:
    images, weight = torch.randn(2, 8, 6, 6, requires_grad=True), torch.randn(12, 2, 3, 3, requires_grad=True)
    forward = 2 * 2 * 12 * 2 * 9 * 6 * 6
    with Counter() as counter:
        output = conv2d(images, weight, padding=1, groups=4)
    assert (counter.counts.operations, counter.counts.kernels) == (forward, 1)
    with Counter() as counter:
        output.backward(torch.ones_like(output))
    assert counter.counts.operations == 2 * forward  # of the images, and of the weight: neither grows with the groups
    assert counter.by_name["aten.convolution_backward"] == 2
    with Counter() as counter:
        conv_transpose2d(torch.randn(2, 4, 3, 3), torch.randn(4, 5, 4, 4), stride=2)
    assert counter.counts.operations == 2 * 2 * 4 * 5 * 16 * 9
    with Counter() as counter:
        torch.randn(3, 4) @ torch.randn(4, 5)
    assert counter.counts.operations == 2 * 3 * 4 * 5


def test_what_is_changed_in_place_is_read_and_written_once() -> None:
    weights, others = ([torch.zeros(250) for _ in range(2)] for _ in range(2))
    with Counter() as counter:
        torch._foreach_add_(weights, others)
        weights[0].add_(others[0])
    assert counter.counts.kernels == 2
    assert counter.counts.bytes == (4000 + 2000) + (2000 + 1000)


def test_memory_is_followed_until_it_is_free_and_views_cost_nothing() -> None:
    with Counter() as counter:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second * 2
        views = third.view(10, 100).t()[2:]
    assert counter.counts.peak == 8000
    assert counter.counts.kernels == 3
    assert counter.counts.bytes == 4000 + 8000 + 8000
    del second, third, views
