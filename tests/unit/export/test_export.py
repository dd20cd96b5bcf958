"""An export gives what the run gives: by the package, by plain torch where there is no package, for every kind of network."""

import io
import json
import os
import re
import subprocess
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gan_dist
from gan_dist import apply, cli, config as config_module, generate, rng
from gan_dist.checkpoint import format
from gan_dist.config import Config
from gan_dist.config.data_field import DataField
from gan_dist.errors import InputError
from gan_dist.export import card, draw, facts, model, writing
from gan_dist.foreign.writing import write_run
from gan_dist.games import build
from gan_dist.interfaces import Batch, one_hot
from tests.making import encode, picture
from tests.unit.test_recipes import reduced

CONFIGS = Path(__file__).parents[3] / "configs"
RECIPES = {
    "digits": "latents",
    "mnist": "latents, labels",
    "cifar10_sngan": "latents",
    "cifar10_biggan": "latents, labels",
    "stylegan2_ffhq256": "latents, truncation",
    "cifar10_r3gan": "latents, labels",
    "gaussians": "latents",
    "digits_vae": "latents",
    "edges_digits": "images, numbers",
    "horse2zebra": "images",
    "sr_x4_psnr": "images",
}
"""One of each network, and what it takes."""
QUICK = ("digits", "gaussians")


def run_of(recipe: str, folder: Path, **keys: object) -> tuple[Path, Config]:
    """A run of a recipe at reduced size, with weights and statistics as if it had trained."""
    config = reduced(CONFIGS / f"{recipe}.yaml").with_(keys).with_classes(lambda: 3)
    game = build(config)
    for number, player in enumerate(game.players):
        player.place(torch.device("cpu"), torch.float32)
        if player.average is None:
            continue
        random = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for tensor in player.average.network.parameters():
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=random))
            for tensor in player.average.network.buffers():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=random))
    write_run(game, config, folder)
    return folder, config


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of("digits", tmp_path_factory.mktemp("runs") / "digits")[0]


@pytest.fixture(scope="module")
def exported(digits: Path) -> Path:
    folder = digits.parent / "exported"
    writing.export(digits, folder, writing.Options())
    return folder


@pytest.mark.parametrize(
    "recipe", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES]
)
def test_the_package_gives_the_bits_of_the_run_and_the_program_gives_them_to_rounding(
    recipe: str, tmp_path: Path
) -> None:
    run, config = run_of(recipe, tmp_path / "run")
    written = writing.export(run, tmp_path / "out", writing.Options()).programs[model.PROGRAM]
    assert written.problem == ""
    assert written.difference <= 1e-6  # at other numbers of inputs and, of images, another size
    loaded = gan_dist.load(tmp_path / "out")
    assert ", ".join(loaded.config["inputs"]) == RECIPES[recipe]
    game, *_ = generate.load(run)
    network, facts = draw.load(tmp_path / "out")
    if not loaded.takes_images:
        wanted = game.samples(7, 30, 5)  # of two groups
        assert float(wanted.std(0).mean()) > 1e-5
        assert torch.equal(loaded.draw(7, 5, first=30), wanted)
        assert torch.allclose(
            draw.draw(network, facts, 7, 5, first=30), wanted, rtol=0, atol=1e-6 * float(wanted.abs().max())
        )
        return
    assert written.any_size
    field = game.fields["A" if "A" in game.fields else "input"]
    content = encode(picture(1, (36, 20), field.channels))
    made = np.asarray(Image.open(io.BytesIO(apply.apply(game, config, content, "name", ""))))
    key = rng.key(config.run.seed, "apply name") >> 2
    seen = draw.from_picture(facts, Image.open(io.BytesIO(content)))
    for each in (loaded, network):
        output = draw.translate(each, facts, seen, [key])
        assert np.abs(draw.to_pixels(output)[0].squeeze().astype(int) - made).max() <= 1
    if "numbers" in facts["inputs"]:
        assert not torch.equal(
            draw.translate(loaded, facts, seen, [key + 1]), draw.translate(loaded, facts, seen, [key])
        )


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of a VAE-GAN, and its export."""
    folder = tmp_path_factory.mktemp("runs")
    run, _ = run_of("digits_vae_gan", folder / "run")
    writing.export(run, folder / "out", writing.Options())
    return run, folder / "out"


def test_an_autoencoder_s_encoder_is_handed_over_too(autoencoder: tuple[Path, Path]) -> None:
    run, out = autoencoder
    game, *_ = generate.load(run)
    images = torch.stack([torch.from_numpy(picture(number, 16)) for number in range(5)])[:, None] / 127.5 - 1
    wanted = game.infer(Batch({"image": images}, torch.arange(5)))
    loaded = gan_dist.load(out)
    assert torch.equal(loaded.reconstruct(images), wanted)
    assert float(loaded.encode(images).std(0).mean()) > 1e-5
    assert torch.equal(loaded.draw(3, 2), game.samples(3, 0, 2))
    network, facts = draw.load(out)
    encoder = draw.load_encoder(out)
    assert torch.allclose(draw.reconstruct(network, encoder, facts, images), wanted, rtol=0, atol=1e-6)
    means, log_variances = encoder(images)
    assert means.shape == log_variances.shape == (5, loaded.config["shape"]["latent"])
    assert not torch.equal(means, log_variances)
    assert draw.to_encode(facts, Image.new("RGB", (40, 30))).shape == (1, 1, 16, 16)
    with pytest.raises(ValueError, match="an image has 20x16 pixels, and this export takes 16x16; resize it"):
        loaded.encode(torch.zeros(1, 1, 16, 20))
    assert facts["files"][model.ENCODER_PROGRAM]["largest_difference"] <= 1e-6


def test_an_export_without_an_encoder_says_so(exported: Path) -> None:
    with pytest.raises(InputError, match="this export has no encoder"):
        gan_dist.load(exported).encode(torch.zeros(1, 1, 16, 16))


@pytest.mark.slow
def test_the_card_of_an_autoencoder_says_how_to_reconstruct(autoencoder: tuple[Path, Path]) -> None:
    _, out = autoencoder
    snippets = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    code = (
        BLOCKED
        + "\n".join(each for each in snippets if "gan_dist" not in each)
        + "assert images.shape == (4, 1, 16, 16)\n"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=out, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = [sys.executable, "draw.py", "--image", "grid.png", "--out", "again.png"]
    subprocess.run(words, cwd=out, env=environment, check=True)
    assert Image.open(out / "again.png").size == (16, 16)
    (out / "again.png").unlink()


def test_both_ways_of_a_run_can_be_exported_and_only_they(tmp_path: Path) -> None:
    run, _ = run_of("horse2zebra", tmp_path / "run")
    game, *_ = generate.load(run)
    handed = [game.hand_over(way).network for way in ("", "AB", "BA")]
    assert handed[0] is handed[1] is not handed[2]
    with pytest.raises(InputError, match="the ways AB and BA"):
        writing.export(run, tmp_path / "out", writing.Options(way="AC"))
    assert not (tmp_path / "out").exists()


BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "gan_dist":
            raise ImportError("gan_dist is not here")
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.slow
def test_the_snippets_of_the_card_run_where_the_package_cannot_be_imported(digits: Path, exported: Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    plain = [each for each in snippets if "gan_dist" not in each]
    assert len(plain) == 2
    code = (
        BLOCKED
        + "\n".join(plain)
        + "assert output.shape == (16, 1, 16, 16)\nimport torch; torch.save(images, 'images.pt')\n"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], cwd=exported, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    images = torch.load(exported / "images.pt")
    (exported / "images.pt").unlink()
    game, *_ = generate.load(digits)
    assert torch.allclose(images, game.samples(0, 0, 16), rtol=0, atol=1e-6)
    done = subprocess.run(
        [sys.executable, "draw.py", "--n", "5", "--seed", "3"], cwd=exported, env=environment, check=True
    )
    (exported / "drawn.png").unlink()


def test_nothing_tells_where_things_lie_on_this_machine(exported: Path, repository: Path) -> None:
    with zipfile.ZipFile(exported / "model.pt2") as program:
        texts = [program.read(name) for name in program.namelist() if name.endswith(".json")]
    texts += [(exported / name).read_bytes() for name in ("config.json", "README.md")]
    assert not any(str(repository).encode() in text or b"stack_trace" in text for text in texts)
    kept = {"kind": "vae", "metric": "miou/real", "layers": ["conv5_4"], "weight": 0.5, "relative": "a b/vgg.pth"}
    told = facts.without_places(
        {**kept, "weights": "/home/me/secret/vgg.pth", "extractor": {"kind": "~/x/net.py:Mine"}}
    )
    assert told == {**kept, "relative": "vgg.pth", "weights": "vgg.pth", "extractor": {"kind": "net.py:Mine"}}


@pytest.mark.parametrize(
    ("way", "live", "names"), [("", False, "kid kid_A"), ("AB", True, "fid"), ("BA", False, "kid_BA kid_B")]
)
def test_a_card_has_the_scores_of_its_own_weights_and_way(way: str, live: bool, names: str, tmp_path: Path) -> None:
    lines = [
        {"metric": "kid"}, {"metric": "kid_A", "way": "A"}, {"metric": "kid_BA", "way": "BA"}, {"metric": "kid_B", "way": "B"},
        {"metric": "fid", "average": False},
    ]  # fmt: skip
    text = "".join(json.dumps({"images": 5, "value": 1.0, **line}) + "\n" for line in lines)
    (tmp_path / "scores.jsonl").write_text(text)
    game: Any = types.SimpleNamespace(ways={"AB": ("A", "B"), "BA": ("B", "A")}, judged="B")
    found = facts._scores(tmp_path, 5, live, writing._labels(game, way))
    assert " ".join(line["metric"] for line in found) == names


def test_a_checkpoint_that_training_deletes_meanwhile_is_read_anew(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, times = facts.read, []

    def gone_once(*given: Any) -> dict[str, Any]:
        times.append(1)
        if len(times) == 1:
            raise format.DamagedError("gone")
        return read(*given)

    monkeypatch.setattr(torch.export, "export", refuse)
    monkeypatch.setattr(facts, "read", gone_once)
    writing.export(digits, tmp_path / "out", writing.Options())
    assert len(times) == 2


def test_live_weights_are_those_that_train(digits: Path, tmp_path: Path) -> None:
    writing.export(digits, tmp_path / "live", writing.Options(live=True))
    live = gan_dist.load(tmp_path / "live")
    game, *_ = generate.load(digits, live=True)
    assert live.config["weights"] == "live"
    assert torch.equal(live.draw(0, 2), game.samples(0, 0, 2))


def test_latents_without_the_package_are_those_of_the_package() -> None:
    numbers = torch.arange(5, 9)
    for which, wanted in (
        ("normal", rng.normal(rng.key(3, "sample"), numbers, 7)),
        ("uniform", (2 * rng.uniform(rng.key(3, "sample"), numbers, 7) - 1).float()),
    ):
        config = {"inputs": {"latents": {"shape": ["N", 7], "distribution": which}}, "dtype": "float32"}
        assert torch.equal(draw.latents(config, 3, numbers), wanted)


def test_a_network_of_the_user_is_exported_as_a_program(tmp_path: Path, repository: Path) -> None:
    flags = ["--data.shards", "x", "--training.device", "cpu"]
    config = config_module.load([str(repository / "tests/growth/network.yaml"), *flags])
    game = build(config)
    for player in game.players:
        player.place(torch.device("cpu"), torch.float32)
    write_run(game, config, tmp_path / "run")
    assert writing.export(tmp_path / "run", tmp_path / "out", writing.Options()).programs[model.PROGRAM].problem == ""
    network, facts = draw.load(tmp_path / "out")
    game, *_ = generate.load(tmp_path / "run")
    assert torch.allclose(draw.draw(network, facts, 0, 2), game.samples(0, 0, 2), rtol=0, atol=1e-6)
    texts = [(tmp_path / "out" / name).read_text() for name in ("config.json", "README.md")]
    assert all(str(repository) not in text and "my_network.py" in text for text in texts)
    with pytest.raises(InputError, match=r"a file of its author's; load model\.pt2"):
        gan_dist.load(tmp_path / "out")


def refuse(*_: object, **__: object) -> None:
    raise ValueError("not today\nbecause")


def test_a_folder_in_use_is_refused_and_an_earlier_export_replaced_where_asked(
    digits: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.export, "export", refuse)
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine").touch()
    for more in ([], ["--replace"]):
        assert cli.main(["export", str(digits), str(used), *more]) == 2
        assert capsys.readouterr().err == f"error: {used} holds files that are no export; give a new folder\n"
    out = tmp_path / "out"
    out.mkdir()  # an empty one will do
    assert cli.main(["export", str(digits), str(out)]) == 0
    assert "model.pt2: left out, ValueError: not today" in capsys.readouterr().out
    assert not (out / "model.pt2").exists()
    assert "torch.export.load" not in (out / "README.md").read_text()
    assert cli.main(["export", str(digits), str(out)]) == 2
    assert "add --replace" in capsys.readouterr().err
    (out / ".git").mkdir()
    assert cli.main(["export", str(digits), str(out), "--replace"]) == 2
    assert "holds .git, which is no file of an export and would be lost" in capsys.readouterr().err
    (out / ".git").rmdir()
    card = out / "README.md"
    card.write_text(card.read_text().replace("license: other", "license: mit"))
    (out / "grid.png").unlink()
    assert cli.main(["export", str(digits), str(out), "--replace"]) == 0
    assert (out / "grid.png").exists()
    text = card.read_text()
    assert "license: mit" in text
    assert "not-chosen-yet" not in text
    assert "No licence" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "used"]  # nothing unfinished


def test_what_fails_in_the_middle_leaves_nothing(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "export", refuse)
    monkeypatch.setattr(writing.card, "write", full)
    with pytest.raises(InputError, match="cannot be written \\(No space left on device\\); nothing was written"):
        writing.export(digits, tmp_path / "out", writing.Options())
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_whole_checkpoint_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, _ = run_of("digits", tmp_path / "run")
    next((run / "checkpoints").glob("images-*/part-*")).write_bytes(b"short")
    assert cli.main(["export", str(run), str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "has no whole checkpoint yet" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_no_export_is_one_line(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "model.safetensors"):
        (broken / name).write_bytes((exported / name).read_bytes())
    (broken / "model.safetensors").write_bytes(b"abc")
    newer = json.loads((exported / "config.json").read_text())
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer/config.json").write_text(json.dumps({**newer, "export_format": 99}))
    for source, sentence in (
        (tmp_path, "is no export"),
        (broken, "do not fit"),
        (tmp_path / "newer", "install a newer gan_dist"),
        ("owner/none", "cannot be had from the hub"),
        ("a/b/c", "no name on the hub"),
    ):
        with pytest.raises(InputError, match=sentence) as raised:
            gan_dist.load(source)
        assert "\n" not in str(raised.value)


def test_onnx_gives_the_same(digits: Path, tmp_path: Path) -> None:
    written = writing.export(digits, tmp_path / "out", writing.Options(onnx=True)).programs[model.ONNX]
    assert written.problem == ""
    assert written.difference <= 1e-6
    assert (tmp_path / "out/model.onnx").exists()


def test_without_its_packages_onnx_is_refused_before_anything_is_written(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        writing.programs.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name
    )
    with pytest.raises(InputError, match=r"--onnx needs onnxscript; pip install 'gan_dist\[onnx\]'"):
        writing.export(digits, tmp_path / "out", writing.Options(onnx=True))
    assert list(tmp_path.iterdir()) == []


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, gan_dist; assert 'torch' not in sys.modules; gan_dist.load; gan_dist.Generator; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_of_the_data_are_no_markup_in_a_card() -> None:
    labels = {"classes": 2, "names": ["a|b", "<img src=x onerror=y>"]}
    network = {"kind": "dcgan"}
    config = {"inputs": {"labels": labels}, "output": {"shape": ["N"]}, "shape": {"points": 0}, "network": network}
    row = next(line for line in card._inputs(config).splitlines() if line.startswith("| labels"))
    assert row == "| labels | (N) | int64, 0..1: 0 a\\|b, 1 \\<img src=x onerror=y\\> |"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"count": 0}, "ask for 1 or more"),
        ({"label": 3}, r"no class 3: they are 0\.\.2"),
        ({"truncation": 0.5}, "has no effect"),
    ],
)
def test_what_cannot_be_drawn_is_said(keys: dict[str, Any], said: str) -> None:
    config = {"inputs": {"latents": {"shape": ["N", 7], "distribution": "normal"}, "labels": {"classes": 3}}}
    with pytest.raises(ValueError, match=said):
        draw.draw(lambda latents, **_: latents, {**config, "dtype": "float32"}, **keys)


PALETTE = ["#000000", "#ff0000", "#00ff00"]


@pytest.mark.parametrize(("palette", "coloured"), [([], False), (PALETTE, True), (PALETTE, False)])
def test_a_label_map_is_read_as_the_run_reads_it(palette: list[str], coloured: bool) -> None:
    numbers = np.random.default_rng(1).integers(0, 3, (5, 7)).astype(np.uint8)
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)
    field = DataField(member="a.png", classes=3, palette=palette)
    content = encode(colours[numbers] if coloured else numbers)
    config = {"inputs": {"images": {"shape": ["N", 3, "H", "W"], "label_map": field.model_dump()}}}
    wanted = one_hot(torch.from_numpy(apply.read(content, 3, field).pixels)[None], 3, torch.float32)
    assert torch.equal(draw.from_picture(config, Image.open(io.BytesIO(content))), wanted)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_picture_is_read_as_the_run_reads_it(channels: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = picture(0, (5, 7))
    config = {"inputs": {"images": {"shape": ["N", channels, "H", "W"], "label_map": None}}}
    for content in (encode(grey.astype(np.uint16) * 200), encode(grey, exif=exif), encode(np.dstack([grey] * 4))):
        wanted = torch.from_numpy(apply.read(content, channels, DataField(member="")).pixels).permute(2, 0, 1)[None]
        found = draw.from_picture(config, Image.open(io.BytesIO(content)))
        assert torch.allclose(found, wanted * 2 - 1, rtol=0, atol=0.01)  # PIL's grey is of 8 bits


def test_draws_are_keyed_as_those_of_the_run(tmp_path: Path) -> None:
    run, _ = run_of("edges_digits", tmp_path / "run")
    game, *_ = generate.load(run)
    handed = game.hand_over()
    network = model.Generator(handed.network, {"inputs": {"images": {}, "numbers": {}}, "draws_key": handed.draws_key})
    images, numbers = torch.rand(2, game.fields["input"].channels, *game.fields["input"].size), torch.tensor([5, 11])
    wanted: Any = game.infer(Batch({"input": images}, numbers))
    assert torch.equal(network(images, numbers=numbers), wanted)
