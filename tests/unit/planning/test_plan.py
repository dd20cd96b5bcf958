"""What a plan says of numbers of processes: terms, memory, traffic, what limits, and what cannot run."""

import dataclasses
import json
from collections.abc import Callable

import pytest

from gan_dist import cli, config as config_module, footprint
from gan_dist.config import Config
from gan_dist.planning import plan as plan_module
from gan_dist.planning.cards import CARDS, GRAPHS
from gan_dist.planning.count import Counts, Step, Weights
from gan_dist.planning.model import Link, Links, Work
from gan_dist.planning.plan import Plan, given, predicted
from tests import making

LINKS = Links(Link(1e-5, 100e9), Link(1e-4, 10e9))
UPDATES = footprint.Uses(backwards=1, passes=1, looks=0, updates=1)


def load(**keys: object) -> Config:
    made = making.tiny("unused", "unused", **{"training__strategy": "ddp", **keys})
    return config_module.load(["tests/data/digits.yaml", *making.flags(made)])


def make(work: Work, room: float = 80e9, **keys: object) -> Plan:
    """A plan for two players of 10 M weights, on images of 1 kB, batch 64 in micro-batches of 1."""
    few = {"training__batch": 64, "training__micro_batch": 1, "training__micro_batches_per_pass": "auto"}
    config = load(**{**few, **keys})
    players = {name: Weights([10_000_000], 2, name == "G", dataclasses.replace(UPDATES)) for name in ("G", "D")}
    counted = Step(Counts(100, 1e9), Counts(500, 1e9, 1e12, peak=1e6), players, ["G", "D"], {}, 250)
    return Plan(config, counted, work, LINKS, room, CARDS["h100"])


def test_the_step_is_the_slower_of_host_and_device_and_the_links() -> None:
    row = make(Work(fixed=0.002, image=0.001, host=0.01)).row(8)
    assert (row.images, row.passes) == (8, 1)
    sent = 2 * 2 * 40e6 * 7 / 8  # two networks of 40 MB
    assert row.sent == sent
    assert row.links == pytest.approx(4 * 1e-5 + sent / 100e9)
    assert row.seconds == pytest.approx(0.010 + row.links)
    assert row.efficiency == pytest.approx((0.002 + 0.064) / (8 * row.seconds))
    assert row.rate == pytest.approx(64 / row.seconds)
    assert make(Work(fixed=0.002, image=0.001, host=0.01)).row(1).links == 0


@pytest.mark.parametrize(
    ("work", "keys", "processes", "limit", "says"),
    [
        (Work(0.0, 0.001, host=0.02), {}, 8, "host", "training.batch: 256 (another run) or 2 processes for 80%"),
        (Work(0.02, 0.001), {}, 8, "fixed", "training.batch: 1024 (another run) for 80% efficiency"),
        (Work(0.0, 0.001), {}, 8, "images", "training.tf32: true or training.precision: bf16"),
        (Work(0.0, 0.004), {}, 64, "links", "training.batch: 2048 (another run) or 8 processes for 80%"),
        (Work(0.0, 0.004), {"training__strategy": "zero2"}, 64, "links", "training.strategy: ddp, if it fits"),
        (
            Work(0.0, 0.001, host_pass=0.02),
            {"training__strategy": "exact"},
            8,
            "host",
            "training.strategy: ddp and training.micro_batches_per_pass: 8 (one pass instead of 8)",
        ),
    ],
)
def test_the_largest_term_is_named_with_what_to_change(
    work: Work, keys: dict[str, object], processes: int, limit: str, says: str
) -> None:
    row = make(work, **keys).row(processes)
    assert row.limit == limit
    assert says in row.advice


def test_memory_that_does_not_suffice_is_the_limit() -> None:
    row = make(Work(0.0, 0.001), room=0.2e9).row(8)
    assert row.limit == "memory"
    assert "training.strategy: zero3" in row.advice
    assert row.memory == pytest.approx(2 * 4 * 40e6 + 40e6 + 1e6 * 8 / row.passes + 8 * 8 * 250, rel=0.01)


def test_as_many_micro_batches_pass_together_as_fit() -> None:
    work = Work(0.0, 0.001)
    assert make(work).row(1).passes == 1
    held = make(work).row(1).memory - 64 * 1e6
    assert make(work, room=(held + 16.5e6) / plan_module.GOOD).row(1).passes == 4
    assert make(work, training__micro_batches_per_pass=8).row(1).passes == 8
    assert make(work, training__strategy="exact").row(1).passes == 64


def test_given_steps_come_out_again() -> None:
    plan = make(Work(fixed=0.001, image=0.5, host=0.003))
    one = dataclasses.replace(plan, work=given(plan, [(1, 0.065)]))
    assert one.row(1).seconds == pytest.approx(0.065)
    assert (one.work.fixed, one.work.image) == (0.001, pytest.approx(0.001))
    of_eight = dataclasses.replace(plan, work=given(plan, [(8, 0.02)]))
    assert of_eight.row(8).seconds == pytest.approx(0.02)
    two = dataclasses.replace(plan, work=given(plan, [(1, 0.070), (2, 0.040)]))
    assert [two.row(count).seconds for count in (1, 2)] == pytest.approx([0.070, 0.040])


def test_a_card_s_figures_give_the_work() -> None:
    plan = make(Work(0.0, 0.0))
    work = predicted(plan.config, plan.counted, CARDS["h100"])
    assert work.started(1) == pytest.approx(600 * 7.5e-6)
    assert work.kept_busy(1) == pytest.approx(600e-6 + 1e9 / 3e12)
    assert work.image == pytest.approx(1e9 / 3e12 + 1e12 / 50e12)  # fp32 without TF32
    tf32 = load(training__micro_batch=1, training__tf32=True, training__device="auto")
    assert predicted(tf32, plan.counted, CARDS["h100"]).image == pytest.approx(1e9 / 3e12 + 1e12 / 200e12)


def test_graphs_are_foretold_and_advised_only_where_a_training_has_them() -> None:
    plan = make(Work(0.0, 0.001, host=0.02))
    for strategy, device, has in (("ddp", "auto", True), ("zero2", "auto", False), ("ddp", "cpu", False)):
        keys: dict[str, object] = {"training__strategy": strategy, "training__device": device}
        work = predicted(load(training__graphs="auto", **keys), plan.counted, CARDS["h100"])
        assert (work.started(1) == GRAPHS) is has
        advice = make(Work(0.0, 0.001, host=0.02), **keys).row(8).advice
        assert ("training.graphs: auto" in advice) is has


def test_advised_passes_are_micro_batches_that_fit() -> None:
    work = Work(0.0, 0.001, host_pass=0.02)
    row = make(work, training__micro_batches_per_pass=8).row(2)
    assert "training.micro_batches_per_pass: 32 (one pass instead of 4)" in row.advice
    held = row.memory - 8 * 1e6
    tight = make(work, room=(held + 16.5e6) / plan_module.GOOD, training__micro_batches_per_pass=8).row(2)
    assert "training.micro_batches_per_pass: 16 (2 passes instead of 4)" in tight.advice


def test_numbers_of_fp64_are_twice_as_large() -> None:
    single, double = (make(Work(0.0, 0.001), training__precision=name).row(8) for name in ("fp32", "fp64"))
    assert double.sent == 2 * single.sent
    assert double.memory - 1e6 * 8 / double.passes == 2 * (single.memory - 1e6 * 8 / single.passes)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str, **keys: object) -> tuple[int, str, str]:
        made = making.tiny(
            "unused", "unused", training__batch=16, training__micro_batch=4, **{"training__strategy": "ddp", **keys}
        )
        code = cli.main(["plan", "tests/data/digits.yaml", *words, *making.flags(made)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_the_command_prints_a_line_for_each_number_and_refuses_the_rest_in_one(
    command: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, err = command("--processes", "1,2,3", "--step", "40@1,25@2", "--link", "50,1")
    assert code == 2
    assert "step: given: 40 ms on 1, 25 ms on 2" in out
    assert [line.split()[:3] for line in out.splitlines() if line.split()[:1] in (["1"], ["2"])] == [
        ["1", "16", "40.00"],
        ["2", "8", "25.00"],
    ]
    assert err.count("\n") == 1
    assert "3 processes cannot run: training.batch = 16 is 4 micro-batches of 4" in err
    assert "or set training.batch: 12" in err


def test_a_step_is_measured_on_this_device(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = command("--processes", "1,4", "--measure", "--json", training__strategy="exact")
    assert (code, err) == (0, "")
    made = json.loads(out)
    assert made["sources"]["step"].startswith("measured on CPU")
    assert [row["processes"] for row in made["rows"]] == [1, 4]
    assert all(row["seconds"] > 0 and row["memory"] > 0 for row in made["rows"])
    assert made["rows"][1]["sent"] > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--processes", "1,two"], "give numbers of processes"),
        (["--processes", "0"], "give numbers of processes"),
        (["--step", "fast"], "give milliseconds"),
        (["--step", "0@1"], "more than 0 ms"),
        (["--step", "40@3"], "--step ...@3: training.batch = 16"),
        (["--link", "30"], "give microseconds and GB/s"),
        (["--card", "rtx"], "there are figures for h100, a100, v100"),
        (["--node-gpus", "0"], "a node has at least one"),
        (["--fixed", "-1"], "give a number that is not negative"),
        (["--memory", "nan"], "give a number that is not negative"),
        (["--step", "nan"], "more than 0 ms"),
        (["--link", "30,inf"], "microseconds are not negative"),
    ],
)
def test_wrong_words_are_one_line(command: Callable[..., tuple[int, str, str]], words: list[str], says: str) -> None:
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_processes_on_a_cpu_share_its_cores() -> None:
    plan = dataclasses.replace(make(Work(0.0, 0.001)), cores=2)
    seconds = [plan.row(count).seconds - plan.row(count).links for count in (1, 2, 4, 8, 16)]
    assert seconds == pytest.approx([0.064, 0.032, 0.032, 0.032, 0.016])  # 16 are two nodes of 8
