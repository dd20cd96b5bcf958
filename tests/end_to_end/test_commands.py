"""The commands of the README and the files of the contract, as a user meets them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from gan_dist import cli, generate
from gan_dist.checkpoint import format
from gan_dist.errors import InputError
from tests import making
from tests.launching import REPOSITORY, TRAIN, command, digests, gan_dist, lines, train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return making.data_set(tmp_path_factory.mktemp("data"), 96, classes=3)


@pytest.fixture(scope="module")
def run(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, with W&B offline."""
    directory = tmp_path_factory.mktemp("runs") / "first"
    done = train(making.tiny(shards, directory, data__labels=True, track__wandb="offline"))
    assert done.returncode == 0, done.stderr
    for word in ("finished at 64 images", f"Pictures: {directory}/samples", f"wandb leet {directory}/wandb"):
        assert word in done.stdout
    return directory


def test_a_run_has_every_file_of_the_contract(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["gan_dist"].keys() >= {"version", "fingerprint", "wandb_id", "data"}
    assert config["data"]["classes"] == 3  # resolved from the labels
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["images"], status["checkpoint"]) == ("finished", 64, "images-000000064")
    metrics = lines(run / "metrics.jsonl")
    assert [line["images"] for line in metrics] == [16, 32, 48, 64]
    assert metrics[0].keys() >= {
        *("images", "step", "loss/G", "loss/D", "score/real", "score/fake", "grad_norm/G", "grad_norm/D"),
        "speed/images_per_second",
    }
    assert [line["event"] for line in lines(run / "events.jsonl")] == ["started", "saved", "saved", "finished"]
    grids = ["images-000000032.png", "images-000000064.png"]
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["classes", *grids, "live", "reals.png"]
    assert [sorted(path.name for path in (run / "samples" / each).iterdir()) for each in ("classes", "live")] == [
        grids
    ] * 2
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["images-000000032", "images-000000064"]
    assert sorted(path.name for path in (run / "checkpoints/images-000000064").iterdir()) == [
        "manifest.json",
        "part-00000-of-00001.safetensors",
    ]
    assert (run / "logs/rank-0.txt").read_text()
    assert len(list((run / "wandb").glob("offline-run-*/*.wandb"))) == 1


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.rglob("*") if path.is_file()}


def test_the_same_command_again_says_finished_and_trains_nothing(run: Path, shards: Path) -> None:
    before = {
        name: state
        for name, state in snapshot(run).items()
        if "checkpoints" in name or "metrics" in name or "wandb" in name
    }
    done = train(making.tiny(shards, run, data__labels=True, track__wandb="offline"))
    assert done.returncode == 0
    assert "already finished at 64 images" in done.stdout
    after = snapshot(run)
    assert all(after[name] == state for name, state in before.items())
    assert not after.keys() - before.keys() - {name for name in after if "/wandb/" not in name}


@pytest.mark.slow
def test_more_images_go_on_and_equal_a_run_in_one_piece(shards: Path, tmp_path: Path) -> None:
    whole = making.tiny(shards, tmp_path / "whole", training__images=96)
    assert train(whole).returncode == 0
    for images in (48, 96):  # 48 is no multiple of checkpoint.every
        assert train(making.tiny(shards, tmp_path / "cut", training__images=images)).returncode == 0
    assert digests(tmp_path / "cut")["images-000000096"] == digests(tmp_path / "whole")["images-000000096"]
    rows = [lines(tmp_path / name / "metrics.jsonl") for name in ("cut", "whole")]
    for cut, straight in zip(*rows, strict=True):
        for key in ("images", "step", "loss/G", "loss/D", "score/real"):
            assert cut[key] == straight[key]
    assert [line["event"] for line in lines(tmp_path / "cut/events.jsonl")].count("resumed") == 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_stop_and_one_goes_on_with_the_same_samples(shards: Path, tmp_path: Path, workers: int) -> None:
    keys = {"data__workers": workers, "training__precision": "fp64"}
    assert train(making.tiny(shards, tmp_path / "whole", training__images=96, **keys)).returncode == 0
    assert train(making.tiny(shards, tmp_path / "cut", training__images=48, **keys), processes=2).returncode == 0
    parts = sorted(path.name for path in (tmp_path / "cut/checkpoints/images-000000048").glob("part-*"))
    assert parts == ["part-00000-of-00002.safetensors", "part-00001-of-00002.safetensors"]
    done = train(making.tiny(shards, tmp_path / "cut", training__images=96, **keys))
    assert done.returncode == 0, done.stderr
    rows = [lines(tmp_path / name / "metrics.jsonl") for name in ("cut", "whole")]
    for cut, straight in zip(*rows, strict=True):
        for key in ("loss/G", "loss/D", "score/real"):
            assert cut[key] == pytest.approx(straight[key], rel=1e-6)


@pytest.mark.slow
@pytest.mark.deepspeed
def test_a_run_goes_on_under_other_strategies_and_process_counts(shards: Path, tmp_path: Path) -> None:
    from gan_dist.train import main

    keys = {"penalties__r1__weight": 1.0, "penalties__r1__every": 2, "checkpoint__every": 1000}
    epsilons = {
        "optimizers__generator__epsilon": 1e-4,
        "optimizers__discriminator__epsilon": 1e-4,
    }  # else signs of roundings
    whole = making.tiny(shards, tmp_path / "whole", training__images=96, training__strategy="ddp", **keys, **epsilons)
    assert main(["tests/data/digits.yaml", *making.flags(whole)]) == 0
    cut = tmp_path / "cut"
    for images, strategy, processes in ((32, "ddp", 2), (64, "zero2", 2), (96, "exact", 1)):
        wanted = {**whole, "run.directory": cut, "training.images": images, "training.strategy": strategy}
        done = train(wanted, processes)
        assert done.returncode == 0, done.stderr
        status = json.loads((cut / "status.json").read_text())
        assert (status["state"], status["images"]) == ("finished", images)
        assert status["checkpoint"] == f"images-{images:09d}"
    begun = [
        (line["event"], line["images"], line["processes"])
        for line in lines(cut / "events.jsonl")
        if "processes" in line
    ]
    assert begun == [("started", 0, 2), ("resumed", 32, 2), ("resumed", 64, 1)]
    rows = [lines(directory / "metrics.jsonl") for directory in (cut, tmp_path / "whole")]
    for found, straight in zip(*rows, strict=True):
        assert found["images"] == straight["images"]
        for key in ("loss/G", "loss/D", "grad_norm/D"):
            assert found[key] == pytest.approx(straight[key], rel=1e-4), (found["images"], key)
        if "grad_norm/D_penalty" in straight:
            assert found["grad_norm/D_penalty"] == pytest.approx(straight["grad_norm/D_penalty"], rel=1e-4)
    assert sum("grad_norm/D_penalty" in row for row in rows[0]) == 3


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_newest_checkpoint_to_the_same_bits(shards: Path, tmp_path: Path) -> None:
    keys = {"training__images": 1600, "checkpoint__every": 160, "sample__every": 10_000}
    assert train(making.tiny(shards, tmp_path / "whole", **keys)).returncode == 0
    words = [
        sys.executable,
        str(TRAIN),
        "tests/data/digits.yaml",
        *making.flags(making.tiny(shards, tmp_path / "cut", **keys)),
    ]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    while not list((tmp_path / "cut/checkpoints").glob("images-*")) and process.poll() is None:
        pass
    process.kill()
    assert process.wait() == -9
    assert train(making.tiny(shards, tmp_path / "cut", **keys)).returncode == 0
    assert digests(tmp_path / "cut")["images-000001600"] == digests(tmp_path / "whole")["images-000001600"]
    seen = [line["images"] for line in lines(tmp_path / "cut/metrics.jsonl")]
    assert seen == sorted(set(seen)) == list(range(16, 1601, 16))


@pytest.mark.slow
def test_accelerate_launch_works_uninstalled_from_another_folder(shards: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    keys = making.flags(making.tiny(shards, tmp_path / "run"))
    done = command([*launcher, str(TRAIN), str(REPOSITORY / "tests/data/digits.yaml"), *keys], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/status.json").read_text())["state"] == "finished"


def test_generate_gives_the_same_image_for_a_seed_whatever_n(run: Path, tmp_path: Path) -> None:
    for count, folder in ((3, "few"), (40, "many")):
        done = gan_dist("generate", run, "--n", count, "--out", tmp_path / folder, "--seed", 5)
        assert done.returncode == 0, done.stderr
    for number in range(3):
        name = f"{number:06d}.png"
        assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()
    assert len(list((tmp_path / "many").glob("0*.png"))) == 40
    assert Image.open(tmp_path / "many/grid.png").width > 300
    again = gan_dist("generate", run, "--n", 3, "--out", tmp_path / "few")
    assert again.returncode == 2
    assert "holds files already; add --replace" in again.stderr


def test_generate_has_a_folder_of_its_own_and_replaces_only_what_it_wrote(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = tmp_path / "run"
    shutil.copytree(run, ours)
    assert cli.main(["generate", str(ours), "--n", "3", "--seed", "4"]) == 0
    assert cli.main(["generate", str(ours), "--n", "2", "--class", "1"]) == 0
    folders = {path.name: len(list(path.iterdir())) for path in (ours / "generated").iterdir()}
    assert folders == {"seed-4": 4, "seed-0-class-1": 3}
    assert cli.main(["generate", str(ours), "--n", "2", "--seed", "4"]) == 2
    assert cli.main(["generate", str(ours), "--n", "2", "--seed", "4", "--replace"]) == 0
    seed = ours / "generated/seed-4"
    assert sorted(path.name for path in seed.iterdir()) == ["000000.png", "000001.png", "grid.png"]
    (seed / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert cli.main(["generate", str(ours), "--n", "2", "--seed", "4", "--replace"]) == 2
    assert "did not write, notes.txt for example" in capsys.readouterr().err
    assert (seed / "notes.txt").read_text() == "mine"


def test_status_and_runs_tell_of_a_finished_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(run), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["state"], report["alive"], report["images"], report["of"]) == ("finished", False, 64, 64)
    assert (report["checkpoint"], report["starts"], report["failure"]) == ("images-000000064", 1, [])
    assert report["events"][-1]["event"] == "finished"
    assert cli.main(["runs", str(run.parent)]) == 0
    assert f"{run}  finished  64 (100 %)" in capsys.readouterr().out


def test_the_status_of_a_job_s_run_needs_no_cluster(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.setenv("PATH", "/nowhere")
    assert cli.main(["slurm", "--status", str(tmp_path / "run"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["state"], report["images"], report["of"]) == ("finished", 64, 64)
    assert report["checkpoint"] == "images-000000064"
    assert (report["job"], report["starts"], report["failure"], report["eta_seconds"]) == ("", 0, [], None)
    (tmp_path / "run/status.json").write_text('{"state": "run')  # torn
    assert cli.main(["slurm", "--status", str(tmp_path / "run")]) == 0
    assert "run: unknown" in capsys.readouterr().out
    assert cli.main(["slurm", "--status", str(tmp_path)]) == 2
    assert "is no run directory" in capsys.readouterr().err


def test_gan_dist_train_trains_and_its_exit_code_is_training_s(shards: Path, tmp_path: Path) -> None:
    keys = making.flags(making.tiny(shards, tmp_path / "run"))
    (tmp_path / "run").mkdir()
    done = gan_dist("train", "tests/data/digits.yaml", *keys)
    assert (done.returncode, "finished at 64 images" in done.stdout) == (0, True), done.stderr
    (tmp_path / "run/STOP").touch()
    stopped = gan_dist("train", "tests/data/digits.yaml", *keys, "--training.images", 640_000)
    assert stopped.returncode == 75, stopped.stderr


def test_generate_draws_a_class_from_a_chosen_checkpoint(run: Path, shards: Path, tmp_path: Path) -> None:
    (shards / "classes.json").write_text('{"cat": 1, "dog": 0}')
    pictures = []
    for label in (0, 1, "cat"):
        options = ("--n", 2, "--class", label, "--checkpoint", "images-000000032", "--out", tmp_path / str(label))
        assert gan_dist("generate", run, *options).returncode == 0
        pictures.append(np.asarray(Image.open(tmp_path / str(label) / "000000.png")))
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[2] == pictures[1]).all()
    for wrong, says in ((3, "its classes are 0..2"), ("cats", "near: cat")):
        bad = gan_dist("generate", run, "--class", wrong, "--out", tmp_path / "x")
        assert (bad.returncode, says in bad.stderr) == (2, True)
    assert not (tmp_path / "x").exists()


def test_a_walk_passes_through_generate_s_images_of_named_classes(
    run: Path, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(command: str, *words: object) -> int:
        return cli.main([command, str(run), *(str(word) for word in words)])

    (shards / "classes.json").write_text('{"cat": 1, "dog": 0}')
    options = ("--seed", 3, "--checkpoint", "images-000000032")
    frames = tmp_path / "frames"
    assert call("walk", frames, "--steps", 1, "--classes", "cat,0", "--frames", 4, *options) == 0
    for frame, label in ((0, "cat"), (2, "0")):
        assert call("generate", "--n", 1, "--class", label, "--out", tmp_path / label, *options) == 0
        image = np.asarray(Image.open(tmp_path / label / "000000.png")).astype(int)
        scale = Image.open(frames / "000000.png").width // image.shape[1]
        shown = np.asarray(Image.open(frames / f"{frame:06d}.png")).astype(int)[::scale, ::scale]
        assert np.abs(shown - image).max() <= 1
    assert call("walk", tmp_path / "live.webp", "--frames", 8, "--live") == 0
    assert call("walk", tmp_path / "own.webp", "--frames", 8) == 0
    assert (tmp_path / "live.webp").read_bytes() != (tmp_path / "own.webp").read_bytes()
    assert call("film", tmp_path / "film.webp", "--gallery", "classes") == 0
    assert "2 grids, up to 64 images" in capsys.readouterr().out
    assert call("walk", tmp_path / "x.webp", "--classes", "cats") == 2
    assert call("walk", tmp_path / "own.webp", "--frames", 8) == 2
    wrong, again = capsys.readouterr().err.splitlines()
    assert "--classes cats" in wrong
    assert "near: cat" in wrong
    assert "add --replace" in again


def test_generate_takes_the_next_newest_where_training_deletes_what_it_reads(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "run"
    shutil.copytree(run, ours)
    whole, read = sorted((ours / "checkpoints").iterdir()), format.read_tensors

    def deleted(directory: Path, *rest: object) -> object:
        if directory.name == whole[-1].name:
            shutil.rmtree(directory)
        return read(directory, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(format, "read_tensors", deleted)
    assert generate.load(ours)[2] == whole[-2].name
    with pytest.raises(InputError, match="has no checkpoint images-000000064"):
        generate.load(ours, whole[-1].name)


def test_checkpoints_are_listed_with_digests_and_damage_is_found(run: Path, tmp_path: Path) -> None:
    import shutil

    rows = json.loads(gan_dist("checkpoints", run, "--json").stdout)
    assert [row["name"] for row in rows] == ["images-000000032", "images-000000064"]
    assert all(row.keys() >= {"name", "images", "bytes", "whole", "digest"} and row["whole"] for row in rows)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    part = copy / "checkpoints/images-000000064/part-00000-of-00001.safetensors"
    content = bytearray(part.read_bytes())
    content[-7] ^= 1
    part.write_bytes(content)
    table = gan_dist("checkpoints", copy, "--verify").stdout
    assert "images-000000032" in table
    assert "damaged" in table.splitlines()[1]
    assert "SHA-256" in table.splitlines()[1]
    assert gan_dist("generate", copy, "--n", 1, "--out", tmp_path / "out").stdout.startswith(
        "1 images of images-000000032"
    )


def test_index_says_what_shards_hold(shards: Path) -> None:
    found = json.loads(gan_dist("index", shards, "--json").stdout)
    assert (found["samples"], found["classes"], found["bad"]) == (96, {"0": 32, "1": 32, "2": 32}, [])
    assert "96 in 3 shards" in gan_dist("index", shards).stdout


KEYS = """
run.name run.directory run.seed run.deadline run.fresh
data.shards data.allow_pipe data.remote data.patience data.source data.image data.fields data.resolution data.crop
data.load_size data.channels data.labels data.classes data.flip data.workers data.resident data.streams data.order data.block
data.window data.max_bad_fraction data.cache data.cache_limit data.cache_local
training.images training.batch training.micro_batch training.micro_batches_per_pass training.strategy
training.precision training.tf32 training.device training.processes training.threads training.deterministic
training.channels_last training.graphs training.compile
start.from start.networks start.averaged start.optimizers start.strict start.skip start.freeze phases
checkpoint.every checkpoint.keep checkpoint.milestones checkpoint.max_missed
control.hang_seconds control.max_bad_steps control.desync_every control.margin_seconds control.collapse
control.limits.readings control.limits.warm_up control.limits.warm_up_live control.limits.warm_up_steps
control.limits.diversity control.limits.diversity_in_class control.limits.diversity_high control.limits.diversity_of_best control.limits.diversity_live
control.limits.duplicates control.limits.duplicates_live control.limits.cells control.limits.labels control.limits.gap
control.limits.level control.limits.accuracy control.limits.good control.limits.sign_real
control.limits.sign_real_images control.limits.ratio
track.every track.wandb track.project
sample.every sample.count
evaluate.every evaluate.samples evaluate.reals evaluate.against evaluate.best
game.kind game.latent game.latent_distribution game.discriminator_steps game.first game.fakes game.batches
game.generator_batch game.pack game.top_k
networks.generator.kind networks.generator.base_channels networks.generator.normalisation
networks.generator.conditioning
networks.discriminator.kind networks.discriminator.base_channels networks.discriminator.normalisation
networks.discriminator.conditioning
loss.kind
optimizers.generator.kind optimizers.generator.learning_rate optimizers.generator.clip_norm
optimizers.generator.clip_weights optimizers.generator.lookahead_every optimizers.generator.lookahead_rate
optimizers.generator.beta1 optimizers.generator.beta2 optimizers.generator.epsilon
optimizers.discriminator.kind optimizers.discriminator.learning_rate optimizers.discriminator.clip_norm
optimizers.discriminator.clip_weights optimizers.discriminator.lookahead_every optimizers.discriminator.lookahead_rate
optimizers.discriminator.beta1 optimizers.discriminator.beta2 optimizers.discriminator.epsilon
average.half_life average.ramp
"""
"""Of a config that names no kinds."""


def test_the_keys_of_a_config_are_these_and_help_lists_them_with_defaults() -> None:
    from gan_dist.config import fields, load

    listed = list(fields(type(load(["tests/data/digits.yaml"]))))
    assert [key for key, _ in listed] == KEYS.split()  # to add a key is a decision: change it here too
    text = " ".join(command([sys.executable, str(TRAIN), "tests/data/digits.yaml", "--help"]).stdout.split())
    for key, field in listed:
        assert f"--{key} " in text
        assert field.description
    assert "default: 0.0002" in text
