"""Penalties: terms of a player's loss beside the adversarial one."""

from gan_dist.penalties.base import Adversarial, Logits, Penalty
from gan_dist.penalties.consistency import (
    BalancedConsistency,
    Consistency,
    LatentConsistency,
    LatentDiversity,
    LeCam,
    shifted,
)
from gan_dist.penalties.gradient import R1, R2, PathLength, WganGp, ZeroGp, gradient_length, squared_gradient
from gan_dist.penalties.orthogonal import Orthogonal

PENALTIES: dict[str, type[Penalty]] = {
    "r1": R1,
    "r2": R2,
    "wgan_gp": WganGp,
    "path_length": PathLength,
    "zero_gp": ZeroGp,
    "lecam": LeCam,
    "cr": Consistency,
    "bcr": BalancedConsistency,
    "zcr": LatentConsistency,
    "zcr_generator": LatentDiversity,
    "orthogonal": Orthogonal,
}

__all__ = [
    "PENALTIES",
    "R1",
    "R2",
    "Adversarial",
    "BalancedConsistency",
    "Consistency",
    "LatentConsistency",
    "LatentDiversity",
    "LeCam",
    "Logits",
    "Orthogonal",
    "PathLength",
    "Penalty",
    "WganGp",
    "ZeroGp",
    "gradient_length",
    "in_order",
    "shifted",
    "squared_gradient",
]


def in_order(named: dict[str, Penalty]) -> list[tuple[str, Penalty]]:
    """Return the penalties in the order in which they are added up: built-in ones as listed above, then users' by name."""
    known = list(PENALTIES)
    return sorted(named.items(), key=lambda item: (known.index(item[0]) if item[0] in known else len(known), item[0]))
