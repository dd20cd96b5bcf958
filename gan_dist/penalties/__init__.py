"""Penalties: terms of a player's loss beside the adversarial one, for logits (N, ...) and images (N, C, H, W)."""

from gan_dist.penalties.base import Adversarial, Logits, Penalty
from gan_dist.penalties.consistency import BalancedConsistency, Consistency, LatentConsistency, LatentDiversity, LeCam
from gan_dist.penalties.gradient import R1, R2, PathLength, WganGp, ZeroGp
from gan_dist.penalties.weights import Orthogonal

__all__ = ["PENALTIES", "Adversarial", "Logits", "Penalty", "in_order"]

PENALTIES: dict[str, type[Penalty]] = {
    "r1": R1,
    "r2": R2,
    "wgan_gp": WganGp,
    "zero_gp": ZeroGp,
    "lecam": LeCam,
    "cr": Consistency,
    "bcr": BalancedConsistency,
    "zcr": LatentConsistency,
    "zcr_generator": LatentDiversity,
    "orthogonal": Orthogonal,
    "path_length": PathLength,
}


def in_order(named: dict[str, Penalty]) -> list[tuple[str, Penalty]]:
    """Return the penalties in the order in which they are added up: built-in ones as listed above, then users' by name."""
    known = list(PENALTIES)
    return sorted(named.items(), key=lambda item: (known.index(item[0]) if item[0] in known else len(known), item[0]))
