"""Say what a config is to take on this machine: measured on a CPU, predicted for GPUs."""

from gan_dist import rank_counts, units
from gan_dist.config import Config
from gan_dist.errors import InputError
from gan_dist.planning import report
from gan_dist.planning.cards import CARDS
from gan_dist.recipes.look import Machine

_NOTHING = (None, None, 8)


def line(config: Config, machine: Machine) -> str:
    """Return speed, hours and memory in a line. The config need not have its data yet."""
    if machine.gpus:
        name, memory = min(machine.gpus, key=lambda gpu: gpu[1])
        card = next((card for card in CARDS if card in name.lower()), "h100")
        training = config.training
        counts = rank_counts.fitting(training.batch // training.micro_batch, training.strategy)
        processes = max((count for count in counts if count <= len(machine.gpus)), default=1)
        plan, _ = report.prepare(config, [processes], card, [], False, _NOTHING, {}, memory / 1e9)
        row = plan.row(processes)
        fits = f" of {units.size(memory)}" + ("" if row.memory <= memory else f", which it does not fit: {row.advice}")
        return (
            f"predicted for {card} x {processes}, not measured: {row.rate:,.0f} images/s, {row.hours:,.1f} hours for "
            f"training.images, {units.size(row.memory)}{fits}"
        )
    try:
        plan, _ = report.prepare(config, [1], "", [], True, _NOTHING, {}, None)
        row = plan.row(1)
    except InputError as error:
        return f"not measured: {error}"
    return f"measured here: {row.rate:,.0f} images/s by one process, {row.hours:,.1f} hours for training.images"
