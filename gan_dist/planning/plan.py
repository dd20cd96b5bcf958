"""Plan a training: what a step takes on each number of processes, what limits it, and what to change."""

import dataclasses
import math
from collections.abc import Sequence

from gan_dist import footprint, rank_counts
from gan_dist.config import Config
from gan_dist.doctor import ranks
from gan_dist.engine import shortcuts
from gan_dist.planning.cards import GRAPHS, Card
from gan_dist.planning.count import Counts, Step
from gan_dist.planning.model import Links, Point, Work, fit_with_host

GOOD = 0.8
"""Efficiency that advice aims at, and part of a memory that a pass may fill (as doctor/autotune.py has it)."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A step on a number of processes. Times are in seconds, memory and traffic in bytes of each process."""

    processes: int
    problem: str = ""
    """Why it cannot run, and what to change; the rest is then 0."""
    images: int = 0
    """Of each process in a step."""
    passes: int = 0
    seconds: float = 0.0
    host: float = 0.0
    """H."""
    fixed: float = 0.0
    """F."""
    work: float = 0.0
    """c b."""
    links: float = 0.0
    rate: float = 0.0
    """Images a second of all processes together."""
    hours: float = 0.0
    """For training.images."""
    efficiency: float = 0.0
    """One process's time over that of all of these together."""
    memory: float = 0.0
    sent: float = 0.0
    limit: str = ""
    """The largest term: host, fixed, images, links or memory."""
    advice: str = ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a plan is computed from."""

    config: Config
    counted: Step
    work: Work
    links: Links
    room: float
    """Bytes of a process's device."""
    card: Card
    joined: int = 0
    """Micro-batches in a pass, as measured; 0: the config's, or the most that fit."""
    cores: int = 0
    """Of a node, which its processes share on a CPU; 0: each process has a device of its own."""

    def row(self, processes: int) -> Row:
        """Return the step on so many processes."""
        training = self.config.training
        if problem := rank_counts.refusal(training.batch, training.micro_batch, training.strategy, processes):
            return Row(processes, problem)
        row = self._timed(processes, training.batch)
        limit = max(("host", "fixed", "images", "links"), key=lambda term: _terms(row)[term])
        row = dataclasses.replace(row, limit="memory" if row.memory > self.room else limit)
        return dataclasses.replace(row, advice=self._advice(row))

    def _timed(self, processes: int, batch: int) -> Row:
        training = self.config.training
        parts = batch // training.micro_batch // processes
        images, passes = parts * training.micro_batch, self.passes(processes, parts)
        sent, collectives = self._sent(processes, passes)
        links = self.links.seconds(collectives, sent, processes)
        work = self._shared(processes)
        seconds = work.seconds(images, passes) + links
        alone = self.work.seconds(batch, self.passes(1, batch // training.micro_batch))
        return Row(
            processes,
            images=images,
            passes=passes,
            seconds=seconds,
            host=work.started(passes),
            fixed=work.kept_busy(passes),
            work=work.image * images,
            links=links,
            rate=batch / seconds,
            hours=training.whole_images / batch * seconds / 3600,
            efficiency=alone / (processes * seconds),
            memory=self._memory(processes, parts, passes),
            sent=sent,
        )

    def _shared(self, processes: int) -> Work:
        """Return the work where more processes than cores take turns."""
        crowd = min(processes, self.links.per_node) / self.cores if self.cores else 1.0
        if crowd <= 1:
            return self.work
        return Work(**{name: crowd * seconds for name, seconds in dataclasses.asdict(self.work).items()})

    def passes(self, processes: int, parts: int) -> int:
        """Return how often a process goes through the networks for a player's update with `parts` micro-batches."""
        training = self.config.training
        if training.strategy == "exact":
            return parts
        asked = training.micro_batches_per_pass
        joined = self.joined or (0 if asked == "auto" else asked)
        return math.ceil(parts / min(parts, joined or self._fitting(processes, parts)))

    def _fitting(self, processes: int, parts: int) -> int:
        """Return how many of `parts` micro-batches may pass together."""
        left = GOOD * self.room - self._memory(processes, parts, parts) + self.counted.each_pass.peak
        return min(parts, max(1, int(left / max(self.counted.each_pass.peak, 1.0))))

    def _memory(self, processes: int, parts: int, passes: int) -> float:
        """Return what a process holds at most: docs/many-ranks.md has the formulas; activations are those of one pass."""
        strategy, total, word = self.config.training.strategy, 0.0, footprint.word(self.config.training.precision)
        for player in self.counted.players.values():
            total += footprint.memory(strategy, player.sizes, processes, player.averaged, 0, player.moments, word).total
            total += footprint.transient(strategy, player.weights, parts, False, word)
        images = parts * self.config.training.micro_batch
        return (
            total + self.counted.each_pass.peak * math.ceil(parts / passes) + 2.0 * word * images * self.counted.pixels
        )

    def _sent(self, processes: int, passes: int) -> tuple[float, float]:
        """Return the bytes that a process sends in a step, and the number of collectives."""
        strategy, sent, collectives = self.config.training.strategy, 0.0, 0.0
        for player in self.counted.players.values():
            once = player.uses
            used = footprint.Uses(once.backwards * passes, once.passes * passes, once.looks * passes, once.updates)
            sent += footprint.traffic(
                strategy, player.weights, processes, used, footprint.word(self.config.training.precision)
            )
            collectives += {
                "ddp": 2 * used.updates,  # gradients, and statistics with the finite check
                "exact": 2 * used.updates,  # all-to-all and all-gather, statistics among them
                "zero1": 4 * used.updates,
                "zero2": 2 * used.backwards + 2 * used.updates,
                "zero3": used.backwards + 2 * used.passes + used.looks + used.updates,
            }[strategy]
        return sent, collectives

    def _advice(self, row: Row) -> str:
        """Return what to change for the term that costs most, in the order of what it costs the user."""
        training, on_gpu = self.config.training, self.card.name != "cpu"
        if row.limit == "memory":
            joined = math.ceil(row.images / training.micro_batch / row.passes)
            return ranks.smaller(self.config, joined, row.processes)
        words, terms = [], _terms(row)
        if row.efficiency >= GOOD and row.limit == "images":
            if on_gpu and training.precision == "fp32" and not training.tf32:
                return "training.tf32: true or training.precision: bf16 (another run) shortens each image's work"
            return ""
        costs = max(("host", "fixed", "links"), key=lambda term: terms[term])
        if costs == "host" and training.graphs == "off" and not _without_graphs(self.config, self.card):
            words.append("training.graphs: auto")
        if costs != "links" and row.passes > 1:
            strategy = "training.strategy: ddp and " if training.strategy == "exact" else ""
            parts = row.images // training.micro_batch
            joined = self._fitting(row.processes, parts)
            if (passes := math.ceil(parts / joined)) < row.passes:
                fewer = "one pass" if passes == 1 else f"{passes} passes"
                words.append(f"{strategy}training.micro_batches_per_pass: {joined} ({fewer} instead of {row.passes})")
        if costs == "links" and training.strategy.startswith("zero"):
            words.append("training.strategy: ddp, if it fits")
        if row.efficiency < GOOD:
            words += self._sizes(row)
        return ", or ".join(words)

    def _sizes(self, row: Row) -> list[str]:
        """Return the batch, and the number of processes, that reach a good efficiency."""
        training, words = self.config.training, []
        for factor in (2, 4, 8, 16, 32):
            if self._timed(row.processes, factor * training.batch).efficiency >= GOOD:
                words.append(f"training.batch: {factor * training.batch} (another run)")
                break
        counts = rank_counts.fitting(training.batch // training.micro_batch, training.strategy)
        good = [
            count for count in counts if count < row.processes and self._timed(count, training.batch).efficiency >= GOOD
        ]
        if good and good[-1] > 1:
            words.append(f"{good[-1]} processes")
        if not words:
            return [
                f"fewer processes: no number above 1 and no batch up to 32 times as large reaches {GOOD:.0%} efficiency"
            ]
        return [f"{' or '.join(words)} for {GOOD:.0%} efficiency"]


def _terms(row: Row) -> dict[str, float]:
    """Return what of a step each term takes: the host only where the device waits for it, the device's only where not."""
    bound = row.host > row.fixed + row.work
    return {
        "host": row.host - row.work if bound else 0.0,
        "fixed": 0.0 if bound else row.fixed,
        "images": row.work,
        "links": row.links,
    }


def predicted(config: Config, counted: Step, card: Card) -> Work:
    """Return the work that a card's figures give for what was counted."""
    captured = captures(config, card)
    launch = 0.0 if captured else card.launch
    once, each = counted.once, counted.each_pass
    return Work(
        fixed=_device(once, config, card) + once.kernels * card.gap,
        fixed_pass=each.kernels * card.gap,
        image=_device(each, config, card) / config.training.micro_batch,
        host=once.kernels * launch + (GRAPHS if captured else 0.0),
        host_pass=each.kernels * launch,
    )


def captures(config: Config, card: Card) -> bool:
    """Say whether the step is started as CUDA graphs."""
    return config.training.graphs == "auto" and not _without_graphs(config, card)


def _without_graphs(config: Config, card: Card) -> str:
    return shortcuts.without_graphs(config, card.name != "cpu" and config.training.device != "cpu")


def _device(counts: Counts, config: Config, card: Card) -> float:
    """Return seconds of the device: products at the card's rates unless their bytes take longer, the rest by its bytes."""
    training = config.training
    half = training.precision if training.precision in ("bf16", "fp16") else "bf16"
    whole = "fp64" if training.precision == "fp64" else "fp32"
    products = (counts.operations - counts.half_operations) / card.rate(whole, training.tf32)
    products += counts.half_operations / card.rate(half, False)
    moved = (counts.bytes - counts.product_bytes) / card.bandwidth
    return moved + max(products, counts.product_bytes / card.bandwidth)


def given(plan: Plan, steps: Sequence[tuple[int, float]]) -> Work:
    """Return the work by which steps of (processes, seconds) come out; `plan` has the predicted work.

    Of one step, or of several with as many images on each process, what does not depend on the images is as predicted,
    and at most the step.
    """
    training, points = plan.config.training, []
    passes = 1
    for processes, seconds in steps:
        parts = training.batch // training.micro_batch // processes
        passes = plan.passes(processes, parts)
        sent, collectives = plan._sent(processes, passes)
        links = plan.links.seconds(collectives, sent, processes)
        points.append(Point(parts * training.micro_batch, seconds, min(links, seconds)))
    if len({point.images for point in points}) > 1:
        return fit_with_host(points)
    total = sum(point.seconds - point.links for point in points) / len(points)
    fixed = min(plan.work.kept_busy(passes), total)
    return Work(fixed, (total - fixed) / points[0].images, min(plan.work.started(passes), total))
