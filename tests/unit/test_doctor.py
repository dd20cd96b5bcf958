"""`gan-dist doctor` finds what would stop a training, and changes nothing."""

import dataclasses
import errno
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gan_dist import cli, config as config_module, games
from gan_dist.checkpoint import tensors
from gan_dist.config import Config
from gan_dist.data import loader
from gan_dist.doctor import findings, local, numerics, play, ranks
from gan_dist.engine import Engine
from gan_dist.interfaces import Batch
from tests import making
from tests.doctoring import arguments, found
from tests.launching import REPOSITORY


def test_a_new_directory_is_fine(tmp_path: Path) -> None:
    assert all(finding.good for finding in found(tmp_path / "run").values())
    rows = found(tmp_path / "run")
    assert "iB free in " in rows["disk space"].text
    assert "iB/s for 32.00 MiB" in rows["disk speed"].text


def at_work(**keys: object) -> tuple[Config, Engine, games.Game]:
    wanted = making.tiny("unused", "unused", training__strategy="ddp", **keys)
    config = config_module.load([str(REPOSITORY / "configs/digits.yaml"), *making.flags(wanted)])
    engine, game = Engine(config), games.build(config)
    engine.wrap(game)
    return config, engine, game


SELDOM = {"game__discriminator_steps": 5, "penalties__r1__weight": 1.0, "penalties__r1__every": 16}


def test_weights_that_begin_at_zero_are_drawn_before_numbers_are_compared() -> None:
    """Over their own deviation they would be NaN, every update would be skipped, and nothing would be compared."""
    network = torch.nn.Linear(3, 4)
    torch.nn.init.zeros_(network.weight)
    numerics.enliven([network])
    assert network.weight.std().item() == pytest.approx((2 / 3) ** 0.5)


def test_nothing_after_a_nan_is_taken_for_the_largest_difference() -> None:
    expected = {"D/weights/a": torch.tensor([math.nan]), "D/weights/b": torch.ones(1)}
    worst, where = numerics.difference({**expected}, expected, "weights")
    assert math.isnan(worst)
    assert where == "D/weights/a"


@pytest.mark.slow
def test_every_phase_is_played_and_measured_however_seldom_it_is_due() -> None:
    config, engine, game = at_work(**SELDOM)
    played = play.play(config, engine, game)
    times, peaks = played.times, played.peaks
    assert peaks.keys() == {"G every 5 steps", "D", "D's penalty every 16 steps"}
    assert all(seconds > 0 for seconds in times)
    # so large a pass that its memory stands out of the interpreter's
    config, engine, game = at_work(
        **SELDOM,
        training__batch=256,
        training__micro_batch=256,
        networks__generator__base_channels=64,
        networks__discriminator__base_channels=64,
    )
    larger = play.play(config, engine, game).peaks
    assert min(larger.values()) > max(peaks.values()) + 2**24


def test_a_phase_that_takes_nearly_all_memory_is_a_problem() -> None:
    assert ranks.fits("", "D", 89, 100, "").good
    bad = ranks.fits("", "D's penalty", 2**31, 2**31 + 2**20, "try less")
    assert not bad.good
    assert bad.text.endswith(
        "the worst phase, D's penalty, took 2.00 GiB with everything, of 2.00 GiB that there are: try less"
    )


def test_where_it_does_not_fit_what_changes_speed_alone_is_named_first() -> None:
    config, _, _ = at_work()
    assert ranks.smaller(config, 4, 2).startswith(
        "try training.micro_batches_per_pass: 2, or training.strategy: zero3, or training.micro_batch: 2 (another run"
    )
    assert "zero" not in ranks.smaller(config, 1, 1)
    config, _, _ = at_work(training__micro_batch=1)
    assert ranks.smaller(config, 1, 1) == "try more processes, or smaller networks"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_is_timed_at_what_it_keeps_up_and_not_at_what_it_had_ready(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = making.data_set(tmp_path / "data", 48, size=256)
    keys = {"data__workers": workers, "training__images": 16}  # a training of one step, too
    config = config_module.load(arguments(tmp_path / "run", data__shards=shards, **keys))
    loader.prepare(config, progress=False)
    index, engine = loader.open_index(config), Engine(config)
    ready = math.ceil(loader.ahead(config) * config.training.micro_batch / config.training.batch)
    clock, given, plain = [0.0], [0], loader.micro_batches

    def micro_batches(*arguments: object) -> Iterator[list[Batch]]:
        """What is decoded ahead is there at once, each later step takes a second."""
        for batch in plain(*arguments):  # type: ignore[arg-type]
            given[0] += 1
            clock[0] += given[0] > ready
            yield batch

    monkeypatch.setattr(loader, "micro_batches", micro_batches)
    monkeypatch.setattr(ranks.time, "perf_counter", lambda: clock[0])
    text = ranks._loading(config, engine, index, 1.0).text
    assert text.startswith(f"{config.training.batch} images/s, ")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fault", ["none", "a lazy penalty is too weak", "passes are joined for BatchNorm too"])
def test_numerics_sees_a_mistake_in_a_seldom_phase_and_in_a_wide_pass(
    fault: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, engine, _ = at_work(**SELDOM, training__precision=precision)
    plain = Engine.backward

    def weaker(engine: Engine, loss: torch.Tensor) -> None:
        launched = engine.accelerator is not None  # the reference is an engine that is alone
        plain(engine, loss / 2 if launched and engine.is_in_penalty else loss)

    if fault == "a lazy penalty is too weak":
        monkeypatch.setattr(Engine, "backward", weaker)
    elif fault != "none":
        monkeypatch.setattr(Engine, "see_parts", lambda engine, parts: None)
    found = list(numerics.findings(config, engine))
    assert [finding.text.split(":")[0] for finding in found] == ["ddp in fp64", f"ddp in {precision}"]
    assert [finding.good for finding in found] == [fault == "none"] * 2, found


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("fault", [False, True])
def test_numerics_compares_gradients_of_sgd_and_the_weights_of_any_optimizer(
    monkeypatch: pytest.MonkeyPatch, momentum: float, fault: bool
) -> None:
    kinds = {"optimizers__generator": "sgd", "optimizers__generator__momentum": momentum}
    config, engine, _ = at_work(**kinds, optimizers__discriminator="rmsprop")
    plain = Engine.backward

    def wrong(engine: Engine, loss: torch.Tensor) -> None:
        plain(engine, loss if engine.accelerator is None else 1.001 * loss)

    if fault:
        monkeypatch.setattr(Engine, "backward", wrong)
    for finding in numerics.findings(config, engine):
        assert finding.good is not fault, finding.text
        assert "gradients differ" in finding.text
        assert "D/gradient" not in finding.text  # RMSprop keeps no sum of gradients
        found, where, limit = re.search(r"gradients differ by (\S+) \((\S+); up to (\S+) is", finding.text).groups()
        assert where.startswith("G/gradient/")
        assert float(limit) < 3e-4
        assert (float(found) > 9e-4) is fault


def test_numerics_compares_weights_only_where_no_optimizer_keeps_a_sum_of_gradients() -> None:
    config, engine, _ = at_work(optimizers__generator="rmsprop", optimizers__discriminator="rmsprop")
    for finding in numerics.findings(config, engine):
        assert finding.good
        assert "gradients differ" not in finding.text
        assert "weights differ by" in finding.text


def test_disk_space_is_that_of_the_tensors_that_a_checkpoint_has(tmp_path: Path) -> None:
    growth = REPOSITORY / "tests/growth"
    for part in ("optimizer", "augmentation", "network"):
        words = making.flags({"run.directory": tmp_path, "data.shards": "unused", "training.device": "cpu"})
        config = config_module.load([str(growth / f"{part}.yaml"), *words])
        engine, game = Engine(config), games.build(config)
        engine.wrap(game)
        play.play(config, engine, game)
        state = tensors.collect(game.players, game.state())
        size = sum(tensor.numel() * tensor.element_size() for tensor in state.shapes.values())
        assert local.checkpoint_bytes(config) == size, part


def test_a_phase_that_begins_later_is_measured_too() -> None:
    config, engine, game = at_work()
    first, second = game.phases
    later = dataclasses.replace(second, begin=10**6)
    game.phases = (dataclasses.replace(first, end=10**6), later)
    played = play.play(config, engine, game)
    assert played.peaks.keys() == {"G", "D"}
    assert all(map(math.isfinite, played.times))  # what is never played has an infinite time


def test_the_moments_are_those_of_the_players_optimizer() -> None:
    _, _, game = at_work(optimizers__generator="sgd", optimizers__discriminator="sgd")
    sizes = [weight.numel() for weight in game.players[0].weights]
    one = ranks._Weights(sizes, len(game.players[0].kept.tensors), averaged=True).memory("ddp", 1)
    assert one.moments == one.weights == one.average


def test_a_finding_passes_through_a_line_of_output() -> None:
    finding = local.Finding("data", False, "no .tar file", ("node1", "node2"), fatal=True)
    assert findings.of_line(f"[rank0]: {finding.line()}") == finding
    assert findings.of_line("a library's words") is None
    assert findings.of_line(finding.line()[:-5]) is None
    assert finding.row(10) == "PROBLEM  data        no .tar file"


def test_too_little_room_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        f_bavail, f_frsize = 10, 512

    monkeypatch.setattr(local.os, "statvfs", lambda _: Full())
    finding = found(tmp_path / "run")["disk space"]
    assert not finding.good
    assert "make room, or lower checkpoint.keep" in finding.text


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOSYS, errno.ENOLCK])
def test_a_disk_without_locks_is_no_reason_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / ".lock").touch()
    monkeypatch.setattr(local.fcntl, "flock", refuse)
    finding = local._lock(tmp_path)
    assert (finding.good, finding.text) == (True, f"cannot be found out ({os.strerror(number)})")


def test_the_node_of_a_rank_that_died_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "ranks with a space.sh"
    script.write_text('echo "srun: error: node2: task 1: Segmentation fault"; echo "a late warning"; exit 139')
    monkeypatch.setenv(local.RANKS, f"bash\n{script}")
    (finding,) = local._processes(["config.yaml"], 0, False)
    assert finding.text == "ended with code 139: a late warning; srun: error: node2: task 1: Segmentation fault"


def test_an_unknown_key_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *arguments(tmp_path), "--training.bacth", "4"]) == 2
    assert "--training.batch" in capsys.readouterr().err
    assert cli.main(["checkpoints", str(tmp_path), "--verfiy"]) == 2
    assert "unknown argument --verfiy" in capsys.readouterr().err
