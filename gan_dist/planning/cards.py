"""Name the figures of cards that a step is predicted from. They are assumptions: none was measured by this project.

Rates are what large networks reach, about half of a datasheet's; convolutions of small ones reach less. GPU machines are
8 cards with NVLink, and one network adapter a card between them.
"""

import dataclasses

from gan_dist.planning.model import Link


@dataclasses.dataclass(frozen=True)
class Card:
    """What a device does, and its connections."""

    name: str
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second that kernels read and write."""
    rates: dict[str, float]
    """Operations a second by number format: fp32, tf32, bf16, fp16, fp64."""
    launch: float
    """Seconds of the host to start a kernel."""
    gap: float
    """Seconds of the device from one kernel to the next."""
    inside: Link
    between: Link

    def rate(self, precision: str, tf32: bool) -> float:
        """Return operations a second in a number format; what the card does not have goes at the rate of fp32."""
        return self.rates.get("tf32" if precision == "fp32" and tf32 else precision, self.rates["fp32"])


_IB = Link(75e-6, 40e9)  # 400 Gbit/s for each card; half of that on older machines
CARDS = {
    card.name: card
    for card in (
        Card(
            "h100",
            80e9,
            3.0e12,
            {"fp32": 50e12, "tf32": 200e12, "bf16": 400e12, "fp16": 400e12, "fp64": 30e12},
            7.5e-6,
            1e-6,
            Link(30e-6, 350e9),
            _IB,
        ),
        Card(
            "a100",
            80e9,
            1.6e12,
            {"fp32": 15e12, "tf32": 75e12, "bf16": 150e12, "fp16": 150e12, "fp64": 8e12},
            7.5e-6,
            1e-6,
            Link(30e-6, 230e9),
            Link(75e-6, 20e9),
        ),
        Card(
            "v100",
            32e9,
            0.75e12,
            {"fp32": 12e12, "fp16": 60e12, "fp64": 6e12},
            10e-6,
            1.5e-6,
            Link(30e-6, 120e9),
            Link(100e-6, 10e9),
        ),
    )
}
CPU = Card(
    "cpu",
    0.0,  # measured where it is used
    10e9,
    {"fp32": 50e9, "fp64": 25e9},
    5e-6,
    0.0,
    Link(500e-6, 1e9),
    Link(1e-3, 1e9),
)
"""A core, and gloo's connections: for steps that are measured or given, as processes on CPUs share what is below them."""
GRAPHS = 1e-4
"""Seconds of the host to start what is captured in CUDA graphs (training.graphs)."""
