"""What checkpoints cost: the loop's stall, the run's slow-down, the writer's bandwidth, resuming, memory.

    python benchmarks/checkpoint.py --folder /where/runs/live

All ratios are of things measured in turn in one run. The state: two networks of 20 million weights each, average and
Adam's moments (560 MB).
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import nn

from gan_dist.checkpoint import Store, Writer, format, tensors
from gan_dist.data import order
from gan_dist.networks import dcgan
from gan_dist.optimizers import Adam
from gan_dist.player import Player

LAYERS, WIDTH = 20, 1000
LARGE = 160  # channels of the DCGAN pair at the image


def players(width: int) -> list[Player]:
    torch.manual_seed(0)
    pair = []
    for name, half_life in (("G", 1000), ("D", None)):
        network = nn.Sequential(*(layer for _ in range(LAYERS) for layer in (nn.Linear(width, width), nn.ReLU())))
        player = Player(name, network, Adam(learning_rate=1e-4).build, average_half_life=half_life)
        player.place(torch.device("cpu"), torch.float32)
        pair.append(player)
    return pair


def step(pair: list[Player], images: int, width: int) -> None:
    """Something with the cost and the memory traffic of a training step."""
    for player in pair:
        player.optimizer.zero_grad()
        player.network(torch.randn(64, width)).square().mean().backward()
        player.optimizer.step()
        if player.average is not None:
            player.average.update(images, 64)


def size_of(named: dict[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in named.values())


def stall_and_bandwidth(pair: list[Player], folder: Path, rounds: int) -> None:
    state = tensors.collect(pair)
    named = state.whole
    size = size_of(named)
    writer = Writer(Store(folder / "checkpoints", 2))
    copies, stalls, saves, plain = [], [], [], []
    buffers = {name: torch.empty_like(tensor, memory_format=torch.contiguous_format) for name, tensor in named.items()}
    content = [buffer.view(-1).view(torch.uint8).numpy().data for buffer in buffers.values()]
    for number in range(rounds + 1):
        os.sync()
        began = time.perf_counter()
        for name, tensor in named.items():
            buffers[name].copy_(tensor)
        copies.append(time.perf_counter() - began)
        began = time.perf_counter()
        writer.save(1000 + number, state, {})
        stalls.append(time.perf_counter() - began)
        (outcome,) = writer.wait()
        assert not outcome.problem, outcome.problem
        saves.append(time.perf_counter() - began)
        os.sync()
        began = time.perf_counter()
        with (folder / "plain").open("wb", buffering=0) as file:
            for buffer in content:
                file.write(buffer)
            os.fsync(file.fileno())
        plain.append(time.perf_counter() - began)
        (folder / "plain").unlink()
    copies, stalls, saves, plain = (values[1:] for values in (copies, stalls, saves, plain))  # the first makes buffers
    over = [(stall - copy) / save for stall, copy, save in zip(stalls, copies, saves, strict=True)]
    print(f"state {size / 2**20:,.0f} MiB; medians of {rounds}: copy {statistics.median(copies):.3f} s, "
          f"stall {statistics.median(stalls):.3f} s, whole save {statistics.median(saves):.3f} s, "
          f"plain write and fsync {statistics.median(plain):.3f} s")  # fmt: skip
    print(f"RATIO stall beyond the copy, over a synchronous save: {show(over)}   (at most 0.03)")
    written = writer_seconds(folder, state, rounds)
    rates = [theirs / mine for theirs, mine in zip(plain, written, strict=True)]
    print(f"RATIO bandwidth of the writer (hashed, synced, named) over plain writes: {show(rates)}   (at least 0.70)")


def writer_seconds(folder: Path, state: tensors.State, rounds: int) -> list[float]:
    """Seconds until a checkpoint has its name, without the copy before and the reading back after."""
    store, found = Store(folder / "timed", 2), []
    named, (pieces,) = state.whole, format.deal(state.whole, 1)
    held = [(piece, named[piece.name].detach().clone().view(-1)) for piece in pieces]
    for number in range(rounds):
        os.sync()
        began = time.perf_counter()
        part = store.begin(number)
        written = format.write_part(part, held, 0, 1)
        format.write_manifest(part, [written], named, {"steps": state.steps, "images": number})
        store.publish(part, number)
        found.append(time.perf_counter() - began)
        store.retire()
    return found


def slow_down(folder: Path, every: int, channels: int) -> None:
    """A DCGAN pair of 40 million weights with a save every `every` steps, against the same without."""
    torch.manual_seed(0)
    networks = dcgan.Generator(64, 3, 100, channels), dcgan.Discriminator(64, 3, channels)
    pair = [
        Player(name, network, Adam().build, average_half_life=1000 if name == "G" else None)
        for name, network in zip("GD", networks, strict=True)
    ]
    for player in pair:
        player.place(torch.device("cpu"), torch.float32)
    generator, discriminator = pair
    real = torch.rand(16, 3, 64, 64).to(memory_format=torch.channels_last) * 2 - 1

    def one(images: int) -> None:
        fake = generator.network(torch.randn(16, 100))
        for player, loss in ((generator, -1), (discriminator, 1)):
            generator.network.requires_grad_(player is generator)
            discriminator.network.requires_grad_(player is discriminator)
            player.optimizer.zero_grad()
            shown = fake if player is generator else fake.detach()
            score = loss * discriminator.network(shown).mean()
            (score if player is generator else score - discriminator.network(real).mean()).backward()
            player.optimizer.step()
        assert generator.average is not None
        generator.average.update(10_000 + images, 16)

    generator.network.requires_grad_(True)
    one(0)
    writer = Writer(Store(folder / "pair", 2))
    weights = sum(weight.numel() for player in pair for weight in player.network.parameters())
    ratios, done = [], 0
    for number in range(3):
        seconds = {}
        for saving in (True, False) if number % 2 else (False, True):
            writer.wait()
            began = time.perf_counter()
            for _ in range(2):  # what the first save leaves undone falls into the second interval, as in a run
                if saving:
                    writer.save(done, tensors.collect(pair), {})
                for _ in range(every):
                    generator.network.requires_grad_(True)
                    one(done)
                    done += 16
            seconds[saving] = time.perf_counter() - began
        ratios.append(seconds[True] / seconds[False])
    writer.wait()
    print(f"RATIO time of a pair of {weights / 1e6:.0f} million weights with a save every {every} steps over without: "
          f"{show(ratios)}   (at most 1.05; a step takes {seconds[False] / 2 / every:.2f} s)", flush=True)  # fmt: skip


def resuming(rounds: int) -> None:
    """Position in the order is all that a resume computes: there is no other data state."""
    import numpy as np

    slots, ratios = np.arange(64), []
    for _ in range(rounds):
        seconds = []
        for images in (1024, 1_000_000_000 // 64 * 64):
            began = time.perf_counter()
            for _ in range(200):
                order.samples(0, 1_000_000, 64, 1, images, slots)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[1] / seconds[0])
    print(f"RATIO time to find a batch's samples at image 10^9 over 10^3: {show(ratios)}   (under 1.1)")


def loading(folder: Path, width: int) -> None:
    """Peak memory of a process that loads the state, over the state."""
    name = Store(folder / "timed", 2).names()[-1]
    code = (
        "import sys; sys.path[:0] = [sys.argv[2], sys.argv[3]]; import checkpoint as c, psutil\n"
        "from pathlib import Path; from gan_dist.checkpoint import format, tensors\n"
        "directory = Path(sys.argv[1]); manifest = format.read_manifest(directory); format.verify(directory, manifest)\n"
        "before = psutil.Process().memory_info().rss; pair = c.players(int(sys.argv[4])); c.reset_peak()\n"
        "with format.Reader(directory, manifest) as read: tensors.restore(pair, read, manifest['steps'])\n"
        "print((c.peak() - before) / c.size_of(tensors.collect(pair).whole))\n"
    )
    here = Path(__file__).resolve().parent
    command = [sys.executable, "-c", code, str(folder / "timed" / name), str(here), str(here.parent), str(width)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    print(f"RATIO peak memory of building and loading over the state: {float(done.stdout):.3f}   (under 1.3)")


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def show(ratios: list[float]) -> str:
    return f"median {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the system's temporary folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--every", type=int, default=20, help="steps between saves")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the networks; a state of 560 MB has 1,000")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="checkpoint-benchmark-", dir=options.folder))
    try:
        pair = players(options.width)
        step(pair, 1000, options.width)
        stall_and_bandwidth(pair, folder, options.rounds)
        resuming(options.rounds)
        loading(folder, options.width)
        slow_down(folder, options.every, max(8, LARGE * options.width // WIDTH))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
