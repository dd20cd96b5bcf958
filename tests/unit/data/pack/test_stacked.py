"""StackedMNIST: the channels of a packed image are the digits that its label names, whatever the digits came from."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from gan_dist import cli
from gan_dist.data.pack import packing, write
from gan_dist.data.pack.packing import pack
from gan_dist.errors import InputError
from tests.unit.data.pack.test_pack import hashes, samples
from tests.unit.data.pack.test_sources import idx


def mnist(folder: Path, count: int = 20, size: int = 28) -> np.ndarray:
    """Idx files as MNIST's: number n is a digit n % 10, and all its pixels are different from the others'."""
    folder.mkdir(exist_ok=True)
    for part, first in (("train", 0), ("t10k", 100)):
        numbers = np.arange(first, first + count)
        pixels = np.random.default_rng(first).integers(0, 256, (count, size, size)).astype(np.uint8)
        pixels[:, 0, 0] = numbers
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx((numbers % 10).astype(np.uint8)))
        if part == "train":
            train = pixels
    return train


def test_the_channels_are_the_digits_of_the_label_with_a_border_of_zeros(tmp_path: Path) -> None:
    digits = mnist(tmp_path / "mnist")
    report = pack(f"stacked-mnist:{tmp_path / 'mnist'}", tmp_path / "out", count=50, progress=False)
    assert (report.images, len(report.classes), report.classes["037"]) == (50, 1000, 37)
    found = samples(tmp_path / "out")
    used = set()
    for sample in found:
        pixels = np.asarray(sample["png"])
        assert pixels.shape == (32, 32, 3)
        inside = pixels[2:30, 2:30]
        assert pixels.sum(dtype=int) == inside.sum(dtype=int)
        numbers = inside[0, 0]
        assert (inside == digits[numbers].transpose(1, 2, 0)).all()
        assert sample["cls"] == int("".join(str(number % 10) for number in numbers))
        used.update(numbers.tolist())
    assert used == set(range(20))
    assert len({tuple(np.asarray(sample["png"])[2, 2]) for sample in found}) > 45


def test_the_triples_are_frozen(tmp_path: Path) -> None:
    """Counts of modes compare only where the data set is the same."""
    mnist(tmp_path / "mnist")
    pack(f"stacked-mnist:{tmp_path / 'mnist'}", tmp_path / "out", count=4, resolution=28, progress=False)
    found = {sample["__key__"]: np.asarray(sample["png"]) for sample in samples(tmp_path / "out")}
    assert found["00000000"].shape == (28, 28, 3)
    assert [found[key][0, 0].tolist() for key in sorted(found)] == [
        [15, 9, 11],
        [3, 15, 2],
        [13, 4, 11],
        [14, 6, 6],
    ]


def test_idx_files_and_their_shards_give_the_same_bytes(tmp_path: Path) -> None:
    mnist(tmp_path / "mnist")
    pack(str(tmp_path / "mnist"), tmp_path / "shards", shard_size=7, progress=False)
    for source in ("mnist", "shards"):
        pack(f"stacked-mnist:{tmp_path / source}", tmp_path / f"of-{source}", count=30, shard_size=8, progress=False)
    assert len(hashes(tmp_path / "of-mnist")) == 4
    assert hashes(tmp_path / "of-mnist") == hashes(tmp_path / "of-shards")


@pytest.mark.slow
def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_dist.data.pack.write._WORTH_A_POOL", (0, 0))
    mnist(tmp_path / "mnist")
    for processes in (1, 2):
        out, source = tmp_path / str(processes), f"stacked-mnist:{tmp_path / 'mnist'}"
        pack(source, out, count=30, shard_size=8, processes=processes, progress=False)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")


def test_a_pack_that_was_cut_off_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mnist(tmp_path / "mnist")
    source = f"stacked-mnist:{tmp_path / 'mnist'}"
    pack(source, tmp_path / "whole", count=30, shard_size=8, progress=False)
    convert, calls = write.convert, []

    def fails(*given: object, **named: object) -> object:
        calls.append(given)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return convert(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(write, "convert", fails)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "cut", count=30, shard_size=8, progress=False)
    monkeypatch.setattr(write, "convert", convert)
    assert pack(source, tmp_path / "cut", count=30, shard_size=8, progress=False).resumed == 2
    assert hashes(tmp_path / "cut") == hashes(tmp_path / "whole")
    with pytest.raises(InputError, match=r"count .* there, .* now"):
        pack(source, tmp_path / "cut", count=31, shard_size=8, progress=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stacked-mnist", "OUT"], "add --from MNIST"),
        (["stacked-mnist", "OUT", "--from", "nowhere"], "no such source: nowhere"),
        (["stacked-mnist", "OUT", "--from", "small"], "000000 is an image of 8x8 pixels, and no digit of 28x28"),
        (["stacked-mnist", "OUT", "--from", "bare"], "000000 has no label"),
        (["stacked-mnist", "OUT", "--from", "mnist", "--count", "0"], "--count 0: give a number above 0"),
        (["mnist", "OUT", "--count", "3"], "count 3 has no effect on mnist"),
        (["mnist", "OUT", "--from", "mnist"], "--from has no effect on mnist"),
    ],
)
def test_what_is_no_mnist_is_refused_in_one_line(
    tmp_path: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mnist(tmp_path / "mnist")
    mnist(tmp_path / "small", size=8)
    mnist(tmp_path / "bare")
    (tmp_path / "bare/train-labels-idx1-ubyte").unlink()
    assert cli.main(["pack", *words]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "OUT").exists()


def test_the_command_makes_what_data_source_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mnist(tmp_path / "mnist")
    out = tmp_path / "out"
    words = ["pack", "stacked-mnist", str(out), "--from", str(tmp_path / "mnist"), "--count", "12", "--split", "all"]
    assert cli.main(words) == 0
    assert "12 images in 1 shard," in capsys.readouterr().out
    again = pack(f"stacked-mnist:{tmp_path / 'mnist'}", out, count=12, split="all", progress=False)
    assert again.resumed == 1
    assert packing.is_packed(out)
