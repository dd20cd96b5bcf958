"""Put a plan together from what is measured, given or predicted, and write it for a person."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from gan_dist import rank_counts, units
from gan_dist.config import Config
from gan_dist.errors import InputError
from gan_dist.games.check import naming
from gan_dist.planning import count, measure
from gan_dist.planning.cards import CARDS, CPU, Card
from gan_dist.planning.model import Link, Links
from gan_dist.planning.plan import Plan, Row, given, predicted

_SOME_CLASSES = 10  # where only the data knows how many
_HEAD: tuple[str, ...] = (
    "processes",
    "images each",
    "step ms",
    "host",
    "fixed",
    "images",
    "links",
    "images/s",
    "hours",
    "efficiency",
    "memory",
    "sent",
    "limit",
)
_Pair = tuple[float, float] | None


def prepare(
    config: Config,
    processes: Sequence[int],
    card_name: str,
    steps: Sequence[tuple[int, float]],
    measures: bool,
    connections: tuple[_Pair, _Pair, int],
    flags: Mapping[str, float | None],
    memory: float | None,
) -> tuple[Plan, dict[str, str]]:
    """Return the plan, and where its figures are from: {"step": "measured on ...", "links": "predicted for h100", ...}.

    `flags` are given ms of the host, the fixed ones, and those of an image; `memory` is in GB.
    """
    config = config.with_classes(lambda: _SOME_CLASSES)
    training = config.training
    card = _card(card_name, config, measures)
    for number, _ in steps:
        if problem := rank_counts.refusal(training.batch, training.micro_batch, training.strategy, number):
            raise InputError(f"--step ...@{number}: {problem}")
    with naming(config):
        counted = count.step(config)
    sources = {"step": f"predicted for {card.name} from what was counted", "links": f"predicted for {card.name}"}
    inside, between, per_node = connections
    if inside or between:
        sources["links"] = "given" if inside and between else f"given, and predicted for {card.name}"
    links = Links(Link(*inside) if inside else card.inside, Link(*between) if between else card.between, per_node)
    plan = Plan(config, counted, predicted(config, counted, card), links, card.memory, card)
    sources["memory"] = f"predicted; a card has {units.size(card.memory)}"
    if measures:
        shares = [training.batch // training.micro_batch // number for number in processes if number <= training.batch]
        measured = measure.steps(config, [1, *shares])
        room = card.memory if card_name else measured.room
        plan = dataclasses.replace(plan, work=measured.work, joined=measured.joined, room=room, cores=measured.cores)
        points = ", ".join(f"{point.images:.0f} images {point.seconds * 1e3:.1f} ms" for point in measured.points)
        sources["step"] = f"measured on {measured.device}, one process: {points}"
        sources["memory"] = (
            f"predicted; {units.size(measured.peak)} measured with {measured.points[-1].images:.0f} images here; "
            f"{units.size(room)} are there"
        )
        if measured.cores:
            sources["step"] += f"; processes share {measured.cores} cores"
    elif steps:
        plan = dataclasses.replace(plan, work=given(plan, steps))
        points = ", ".join(f"{seconds * 1e3:g} ms on {number}" for number, seconds in steps)
        sources["step"] = f"given: {points}"
    if memory is not None:
        plan = dataclasses.replace(plan, room=memory * 1e9)
        sources["memory"] = f"predicted; {memory:g} GB given"
    return _with(plan, flags, sources), sources


def _with(plan: Plan, flags: Mapping[str, float | None], sources: dict[str, str]) -> Plan:
    """Return the plan with the terms that were given in ms."""
    changes = {name: value / 1e3 for name, value in flags.items() if value is not None}
    if changes:
        sources["step"] += f"; given: {', '.join(f'{name} {value * 1e3:g} ms' for name, value in changes.items())}"
    for name in ("host", "fixed"):
        if name in changes:
            changes[f"{name}_pass"] = 0.0
    return dataclasses.replace(plan, work=dataclasses.replace(plan.work, **changes))


def _card(name: str, config: Config, measures: bool) -> Card:
    """Return the card of this name, or the one that this device is; "" without a GPU to measure: h100."""
    if name and name not in CARDS:
        raise InputError(f"--card {name}: there are figures for {', '.join(CARDS)}; give --step and --link for another")
    if name or not measures:
        return CARDS[name or "h100"]
    import torch

    if config.training.device == "cpu" or not torch.cuda.is_available():
        return CPU
    words = torch.cuda.get_device_name().lower()
    return next((card for card in CARDS.values() if card.name in words), CARDS["h100"])


def facts(plan: Plan, sources: Mapping[str, str]) -> dict[str, Any]:
    """Return what all rows share, for JSON."""
    once, each = plan.counted.once, plan.counted.each_pass
    return {
        "sources": dict(sources),
        "work": dataclasses.asdict(plan.work),
        "links": dataclasses.asdict(plan.links),
        "counted": {"update": dataclasses.asdict(once), "pass": dataclasses.asdict(each)},
        "weights": {name: player.weights for name, player in plan.counted.players.items()},
    }


def lines(plan: Plan, sources: Mapping[str, str], rows: Sequence[Row]) -> list[str]:
    """Return the plan for a person."""
    training, once, each = plan.config.training, plan.counted.once, plan.counted.each_pass
    weights = ", ".join(f"{name} {player.weights:,}" for name, player in plan.counted.players.items())
    operations = each.operations / 1e9
    head = [
        f"batch {training.batch} in micro-batches of {training.micro_batch}, {training.strategy}, {training.precision}"
        f"{' with TF32' if training.tf32 else ''}; weights: {weights}; phases: {', '.join(plan.counted.phases)}",
        f"counted: {once.kernels:,.0f} kernels a step and {each.kernels:,.0f} a pass; a micro-batch moves "
        f"{units.size(each.bytes)} and takes {operations:,.1f} GFLOP",
        *(f"{name}: {text}" for name, text in sources.items()),
        "the step is max(host, fixed + images) + links",
        "",
    ]
    table = [_HEAD]
    after: list[str] = []
    for row in rows:
        if row.problem:
            continue
        parts = (row.seconds, row.host, row.fixed, row.work, row.links)
        table.append(
            (
                f"{row.processes}",
                f"{row.images}",
                *(_milliseconds(part) for part in parts),
                f"{row.rate:,.0f}",
                f"{row.hours:,.2f}" if row.hours < 10 else f"{row.hours:,.0f}",
                f"{row.efficiency:.0%}",
                units.size(row.memory),
                units.size(row.sent),
                row.limit,
            )
        )
        if row.advice:
            after.append(f"{row.processes}: {row.advice}")
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    body = ["  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in table]
    wrapped = [line for text in after for line in textwrap.wrap(text, 120, subsequent_indent="    ")]
    refused = [f"{row.processes}: cannot run: {row.problem}" for row in rows if row.problem]
    return [*head, *(body if len(body) > 1 else []), *(["", "to change:", *wrapped] if wrapped else []), *refused]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.2f}"
