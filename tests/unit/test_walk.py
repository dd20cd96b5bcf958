"""Walks: they pass through the samples that `generate` draws, in whatever grid, and files hold them whole or not at all."""

import argparse
import contextlib
import importlib
import itertools
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist import cli, config as config_module, games, generate, video, walk
from gan_dist.errors import InputError
from gan_dist.games.base import Game
from gan_dist.interfaces import Batch
from gan_dist.tracking import grid
from tests import making

DIGITS = "tests/data/digits.yaml"
LABELS = {"data__labels": True, "data__classes": 3}
STYLEGAN2 = {
    "data__flip": False,
    "networks__discriminator__minibatch_std": 4,
    "networks__discriminator__channel_base": 64,
    "networks__generator__channel_base": 64,
    "networks__generator__style": 8,
}


def game(recipe: str = DIGITS, **keys: object) -> Game:
    wanted = making.tiny("unused", "unused", training__strategy="ddp", **keys)
    if recipe != DIGITS:
        wanted = {key: value for key, value in wanted.items() if not key.endswith("base_channels")}
    made = games.build(config_module.load([recipe, *making.flags(wanted)]))
    for number, player in enumerate(made.players):
        player.place(torch.device("cpu"), torch.float32)
        if player.average is not None:  # networks as they begin make nearly the same of everything
            with torch.random.fork_rng():
                torch.manual_seed(number)
                for parameter in player.average.network.parameters():
                    parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return made


def drawn(made: Game, routes: list[walk.Route], count: int, **how: object) -> list[np.ndarray]:
    return list(walk.frames(made.latent_space(), routes, count, **how))


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two images are the same up to the rounding of what was drawn beside them."""
    return bool(np.abs(one.astype(int) - other.astype(int)).max() <= 1)


@pytest.mark.parametrize(
    ("recipe", "keys"),
    [
        (DIGITS, {}),
        (DIGITS, {"game__latent_distribution": "uniform"}),
        (DIGITS, LABELS),
        ("configs/stylegan2_ffhq256.yaml", {**STYLEGAN2, **LABELS}),
    ],
)
def test_a_walk_passes_through_the_samples_that_generate_draws(recipe: str, keys: dict[str, object]) -> None:
    made = game(recipe, **keys)
    numbers = [0, 4, 2]
    route = walk.of_samples(made.latent_space(), [(5, number) for number in numbers])
    frames = drawn(made, [route], 48)  # more than one group
    samples = [grid.to_uint8(sample) for sample in generate.generate(made, 5, 5)]
    assert all(near(frames[16 * place], samples[number]) for place, number in enumerate(numbers))
    steps = [int(np.abs(one.astype(int) - other).sum()) for one, other in itertools.pairwise([*frames, frames[0]])]
    assert min(steps) > 0  # it moves all the time
    assert max(steps) < np.abs(samples[0].astype(int) - samples[4]).sum()  # and never jumps, at its end neither


def test_a_walk_is_the_same_beside_others_and_drawn_a_second_time() -> None:
    made = game()
    space = made.latent_space()
    first, second = (walk.of_samples(space, [(seed, 0), (seed, 1)]) for seed in (1, 2))
    alone, both = drawn(made, [first], 40), drawn(made, [first, second], 40, columns=2)
    cells = [grid.sheet([frame])[2:-2, 2:-2] for frame in alone]
    assert all((frame[2:50, 2:50] == cell).all() for frame, cell in zip(both, cells, strict=True))
    assert not (both[0][2:50, 52:100] == cells[0]).all()


def test_between_classes_their_embeddings_are_mixed_or_else_they_change_halfway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = game(**LABELS)
    space = made.latent_space()
    route = walk.of_samples(space, [(0, 0)], labels=[0, 1])
    frames = drawn(made, [route], 16)
    assert len({frame.tobytes() for frame in frames[:8]}) == 8
    of_class = [grid.to_uint8(next(generate.generate(made, 0, 1, label))) for label in (0, 1)]
    assert near(frames[0], of_class[0])
    assert near(frames[8], of_class[1])
    monkeypatch.setattr(walk.nn, "Embedding", type("None", (), {}))  # as if the network had none
    frames = drawn(made, [route], 16)
    assert [near(frame, of_class[0]) for frame in frames[:8]] == [True] * 4 + [False] * 4


def test_truncation_brings_styles_or_latents_to_their_mean_and_leaves_no_trace() -> None:
    for made in (game(), game("configs/stylegan2_ffhq256.yaml", **STYLEGAN2)):
        space = made.latent_space()
        route = walk.of_samples(space, [(0, 0), (0, 1)])
        before = drawn(made, [route], 4)
        assert len({frame.tobytes() for frame in drawn(made, [route], 4, truncation=0.0)}) == 1
        assert not near(drawn(made, [route], 4, truncation=0.5)[0], before[0])
        assert (drawn(made, [route], 4)[0] == before[0]).all()


def test_slerp_keeps_the_length_and_is_finite_between_opposites() -> None:
    part = torch.linspace(0, 1, 5, dtype=torch.float64)
    one, other = (torch.eye(4, dtype=torch.float64)[place].expand(5, -1) for place in (0, 1))
    assert torch.allclose(walk.slerp(one, other, part).norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(
        walk.slerp(one, 3 * other, part)[[0, -1]].round(decimals=12), torch.stack([one[0], 3 * other[0]])
    )
    for end in (one, -one):
        assert walk.slerp(one, end, part).isfinite().all()


def test_an_autoencoder_walks_between_what_it_makes_of_two_images() -> None:
    made = game("configs/digits_vae.yaml")
    images = [torch.from_numpy(making.picture(seed)).float()[None] / 127.5 - 1 for seed in (1, 2)]
    route = walk.of_images(made.latent_space(), images)
    frames = drawn(made, [route], 4)
    for place, image in enumerate(images):
        rebuilt = made.infer(Batch({"input": image[None]}, torch.tensor([0])))
        assert near(frames[2 * place], grid.to_uint8(rebuilt[0]))


def moving(count: int, channels: int = 3) -> Iterator[np.ndarray]:
    for number in range(count):
        yield np.roll(making.picture(3, (21, 195), 3), number, axis=1)[..., :channels]


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "folder"])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_hold_every_frame_and_last_as_long_as_asked(tmp_path: Path, name: str, channels: int) -> None:
    out = tmp_path / name
    video.check(out, 30, replace=False)
    video.write(moving(7, channels), out, 30, 7)
    if out.is_dir():
        assert [path.name for path in sorted(out.iterdir())] == [f"{number:06d}.png" for number in range(7)]
        pixels = np.asarray(Image.open(out / "000006.png"))
        assert (pixels.reshape(21, 195, -1) == list(moving(7, channels))[6]).all()
        return
    with Image.open(out) as picture:
        assert picture.n_frames == 7
        durations = []
        for number in range(7):
            picture.seek(number)
            picture.load()
            durations.append(picture.info["duration"])
    assert sum(durations) == pytest.approx(7000 / 30, abs=5)


@pytest.mark.parametrize("ending", [".webm", ".mp4"])
def test_videos_have_every_frame_and_even_sides(tmp_path: Path, ending: str) -> None:
    av = importlib.import_module("av")
    video.write(moving(7, 1), tmp_path / f"a{ending}", 30, 7)
    with av.open(str(tmp_path / f"a{ending}")) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert [frame.shape for frame in frames] == [(22, 196, 3)] * 7
    wanted = next(moving(1, 1)).repeat(3, axis=2)
    assert np.abs(frames[0][:21, :195].astype(int) - wanted).mean() < 12


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_cannot_be_written_is_one_line_and_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "a.webp"
    out.write_bytes(b"mine")
    with files_of_at_most(100), pytest.raises(InputError, match=r"a.webp cannot be written: File too large"):
        video.write(moving(3), out, 30, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["a.webp"]
    assert out.read_bytes() == b"mine"
    with pytest.raises(InputError, match=r"more than a .webp file should hold: write .webm"):
        video.write(moving(3), out, 30, 1_000_000)
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["a.avi"], "frames are not written as .avi"),
        (["there.webp"], "exists already; add --replace"),
        (["mine"], "holds other files than frames, notes.txt for example"),
        (["a.webp", "--fps", "0"], "--fps 0"),
        (["a.gif", "--fps", "60"], "a GIF has at most 50"),
        (["a.webp", "--seeds", "1,x"], "give whole numbers"),
        (["a.webp", "--seeds", "1,2", "--steps", "3"], "--seeds and --steps both say"),
        (["a.webp", "--grid", "2"], "--grid 2: give rows x columns"),
        (["a.webp", "--numbers", "1,2,3", "--grid", "1x2"], "3 numbers, which are not shared among 2 walks"),
        (["a.webp", "--steps", "1"], "a walk needs two samples or more"),
        (["a.webp", "--frames", "3"], "--frames 3 are fewer than the 6 points"),
        (["a.webp", "--truncation", "-1"], "--truncation -1"),
        (["a.webp", "--classes", "0,1"], "--classes 0: run has no such class; it was trained without labels"),
        (["a.webp", "--images", "there.webp"], "this run has no encoder"),
    ],
)
def test_wrong_words_are_said_before_anything_is_drawn(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.webp").write_text("mine")
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    config = argparse.Namespace(data=argparse.Namespace(classes=0, channels=1))
    monkeypatch.chdir(Path(__file__).parents[2])
    made = game()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(generate, "load", lambda *words, **keys: (made, config, "images-1"))
    assert cli.main(["walk", "run", *words]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "there.webp"]


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (
            "configs/edges_digits.yaml",
            "turns images into images, and has no latents to walk between: use `gan-dist apply",
        ),
        ("configs/gaussians.yaml", "draws points and no images"),
    ],
)
def test_a_run_without_images_of_latents_says_what_to_do(
    recipe: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = games.build(config_module.load([recipe]))
    monkeypatch.setattr(generate, "load", lambda *words, **keys: (made, None, "images-1"))
    assert cli.main(["walk", "run", str(tmp_path / "new/a.webp")]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())
