"""Runs gan_dist/train.py with a fault planted in the process: `inject.py FAULT CONFIG [--key value ...]`.

FAULT is `name` or `name:setting=value:...`, several are joined by `+`. Nothing of this is in the package: in production there is no fault to plant.

    nan:rank=1:player=G:from=32:to=64    the gradient of a player's first weight is NaN on a rank at these images
    ...:passes=1                         but only until the run goes back
    loss:rank=0:from=32:to=64            the loss is infinite there, its gradient is not
    weight:rank=1:from=32                one bit of one weight flips on a rank, once
    error:rank=1:from=32                 a rank raises
    sleep:rank=1:from=32                 a rank stands still, in Python
    scales:patience=3                    each player has a loss scale, as in fp16; it doubles after so many steps
    slow:seconds=0.1                     every step takes so much longer
    writing:seconds=2                    every part of a checkpoint takes so much longer to write
    full:after=1                         the disk is full for parts of checkpoints after so many
"""

import functools
import os
import runpy
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TRAIN = REPOSITORY / "gan_dist/train.py"
RANK = int(os.environ.get("RANK", "0"))


def plant(fault: str) -> None:
    import torch

    from gan_dist import files
    from gan_dist.engine.engine import Engine
    from gan_dist.engine.precision import LossScale
    from gan_dist.trainer import Trainer

    name, *words = fault.split(":")
    settings = dict(word.split("=") for word in words)
    here = int(settings.get("rank", RANK)) == RANK
    begin, end = int(settings.get("from", 0)), int(settings.get("to", 1 << 60))
    seconds = float(settings.get("seconds", 0))
    passes = int(settings.get("passes", 1 << 30))
    now = {"images": -1, "times": 0, "passes": 1}
    step, backward, wrap, write_new = Trainer.step, Engine.backward, Engine.wrap, files.write_new

    def due() -> bool:
        return here and begin <= now["images"] < end and now["passes"] <= passes

    def counted_step(self, batch):
        now["passes"] += self.images < now["images"]
        now["images"] = self.images
        if name == "slow":
            time.sleep(seconds)
        if due() and name == "error":
            raise ValueError("a planted error")
        if due() and name == "sleep":
            time.sleep(10_000)
        if due() and name == "weight" and not now["times"]:
            now["times"] = 1
            with torch.no_grad():
                self.game.players[1].network.logit.weight.view(torch.int32)[0, 0, 0, 0] ^= 1
        step(self, batch)

    def counted_backward(self, loss):
        # plus a number: infinite, and yet the gradient is the same
        backward(self, loss + float("inf") if due() and name == "loss" else loss)

    def hooked_wrap(self, game):
        wrap(self, game)
        if name == "scales":
            scale = functools.partial(LossScale, self.device, patience=int(settings["patience"]))
            self._scales = {player.name: scale() for player in game.players}
        for player in game.players:
            if name == "nan" and player.name == settings["player"]:
                weight = next(player.network.parameters())
                weight.register_hook(lambda gradient: gradient * float("nan") if due() else gradient)

    def slow_write(path, buffers):
        time.sleep(seconds)
        now["times"] += 1
        if name == "full" and now["times"] > int(settings["after"]):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(path))
        write_new(path, buffers)

    Trainer.step, Engine.backward, Engine.wrap = counted_step, counted_backward, hooked_wrap
    if name in ("writing", "full"):
        files.write_new = slow_write


if __name__ == "__main__":
    sys.path[0] = str(REPOSITORY)
    for each in sys.argv[1].split("+"):
        plant(each)
    sys.argv = [str(TRAIN), *sys.argv[2:]]
    runpy.run_path(str(TRAIN), run_name="__main__")
