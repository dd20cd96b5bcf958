"""`gan-dist evaluate` says the same on one process and on two."""

import argparse
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import making
from tests.launching import run_ranks


def scored(folder: str, shards: str, scratch: str) -> list[dict[str, Any]]:
    """The lines of the scores of a folder against shards, on this rank."""
    import os

    from gan_dist.cli.evaluate import Progress
    from gan_dist.engine.joined import Joined
    from gan_dist.scoring import command

    os.environ["GAN_DIST_CACHE"] = f"{scratch}/cache-{os.environ.get('WORLD_SIZE', '1')}"
    chosen = {
        "scores": "kid,prdc,neighbours,pixels",
        "features": None,
        "weights": None,
        "resize": None,
        "classifier": None,
        "n": 0,
        "reals": 0,
    }
    chosen |= {"features": "random", "seed": 0, "checkpoint": "", "what": folder, "against": shards}
    joined = Joined("cpu")
    own = Path(scratch) / str(joined.rank)
    (found,) = command.score(argparse.Namespace(**chosen), joined, own, Progress(False))
    joined.close()
    return [{"metric": line["metric"], "value": line["value"], "error": line["error"]} for line in found.lines]


@pytest.mark.dist
def test_two_processes_give_the_scores_of_one(tmp_path: Path) -> None:
    shards = making.data_set(tmp_path / "shards", 96)
    (tmp_path / "images").mkdir()
    for number in range(150):
        Image.fromarray(making.picture(1000 + number)).save(tmp_path / f"images/{number:04d}.png")
    words = str(tmp_path / "images"), str(shards), str(tmp_path)
    (alone,) = run_ranks(1, scored, *words, forked=True)
    first, other = run_ranks(2, scored, *words, forked=True)
    assert len(alone) == 7
    assert first == alone
    assert other == []
