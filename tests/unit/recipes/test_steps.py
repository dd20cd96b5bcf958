"""Every recipe that `gan-dist init` writes for GPUs trains: two steps at reduced width, on random samples."""

from pathlib import Path

import pytest

from gan_dist.recipes import choose, initialise, pairs, restoration, text
from gan_dist.recipes.counterparts import Pair
from tests.unit.recipes.test_init import GPU, seen
from tests.unit.test_recipes import reduced, trains

TWO = {"shards": "data/x", "size": (256, 256), "why_size": "", "channels": 3, "count": 500, "gpu": True, "header": [""]}
DIV2K = Pair("HR", "LR/X4", ("{}", "{}x4"), 4, (False, False))


def of_images(count: int, size: tuple[int, int] = (300, 300), channels: int = 3, **classes: int) -> str:
    choice = choose.choose(seen(count, size, channels, **classes), GPU)
    return text.of_generation(choice, "data/x", "", [""])


def of_restoration(pair: Pair | None) -> str:
    choice = restoration.choose("photos", seen(800), pair, True, None)
    return text.join([""], restoration.lines(choice, "data/x", ""))


RECIPES = {
    "r3gan": lambda: of_images(70_000),
    "r3gan of classes": lambda: of_images(70_000, cat=40_000, dog=30_000),
    "r3gan, transparent": lambda: of_images(70_000, channels=4),
    "small_data, wide": lambda: of_images(5_000, (300, 450)),
    "small_data of classes, transparent": lambda: of_images(5_000, channels=4, cat=2_500, dog=2_500),
    "few_shot": lambda: of_images(300),
    "few_shot of classes, grey": lambda: of_images(300, channels=1, cat=150, dog=150),
    "paired": lambda: pairs.text_of(pairs.Pair(("A", "B"), "paired", (False, True)), **TWO),
    "unpaired": lambda: pairs.text_of(pairs.Pair(("A", "B"), "unpaired", (False, True)), **TWO),
    "restoration of pairs": lambda: of_restoration(DIV2K),
    "restoration of photos": lambda: of_restoration(None),
}


QUICK = ("r3gan", "paired", "restoration of pairs")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_two_steps_of_every_recipe_for_gpus(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    initialise.write(path, RECIPES[name]())
    trains(reduced(path))
