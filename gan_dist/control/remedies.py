"""Say what a suspect signal means, and what this recipe offers against it: one sentence each, from the config alone."""

from collections.abc import Mapping
from typing import Any

from gan_dist.control.collapse import Rule, Trouble

_MEANING: dict[Trouble, str] = {
    "few pictures": "the generator draws few different pictures",
    "classes": "the generator draws nearly one picture a class",
    "other pictures": "generated images differ from each other more than real ones do",
    "labels": "the labels say nothing about the images",
    "sure": "the discriminator is sure of every image",
    "unsure": "the discriminator cannot tell real images from generated ones",
    "remembers": "the discriminator remembers the data",
    "runs away": "the critic's logits run away, as those of a Lipschitz critic cannot",
    "generator fades": "the generator's gradient has nearly gone",
    "discriminator fades": "the discriminator's gradient has nearly gone",
}
_APART = 4.0  # learning rates are further apart than in any recipe


def meaning(rule: Rule) -> str:
    """Return in words what it means that a rule's signal is suspect."""
    return _MEANING[rule.trouble]


def remedy(trouble: Trouble, keys: Mapping[str, Any]) -> str:
    """Return what to try first, in one sentence. `keys` are those of the run: {"loss.kind": "hinge", ...} (Config.flat)."""
    if trouble == "runs away" and any(key.startswith("penalties.wgan") for key in keys):
        return "raise the weight of the critic's gradient penalty, or apply it in every update"
    if trouble == "labels":
        return "look at a few samples of one class, and pack the data again with the right labels"
    if trouble == "classes" and keys.get("networks.generator.conditioning") == "concatenation":
        return "let the BatchNorms learn the classes (networks.generator.conditioning: batch_norm)"
    if apart := _rates_apart(keys):
        return apart
    if keys.get("loss.kind") == "minimax" and trouble in ("sure", "generator fades", "few pictures", "other pictures"):
        return "take the loss whose gradient does not fade when the discriminator is sure (loss.kind: nonsaturating)"
    if "loss.kind" not in keys:
        return "look at the pictures, and lower the learning rate of the player that is ahead"
    gradient_penalty = any(key.startswith("penalties.") and key.endswith(".weight") for key in keys)
    critic = keys.get("loss.kind") == "wasserstein"
    if critic and not any(key.startswith("penalties.wgan") for key in keys):
        return "give the critic its penalty (penalties.wgan_gp.weight: 10)"
    if trouble in ("unsure", "discriminator fades"):
        return _for_the_discriminator(keys, gradient_penalty)
    if trouble == "remembers":
        if not _has(keys, "augment"):
            return "augment what the discriminator sees (augment: {diffaugment: {}}, or ada), or train on more data"
        return "train on more data, or stop here: the augmentations are on already"
    if not gradient_penalty:
        return "hold the discriminator back by a gradient penalty (penalties.r1.weight: 1, or 10 for large images)"
    if trouble == "few pictures" and keys.get("game.pack") == 1 and not keys.get("data.labels"):
        return "let the discriminator judge two images together (game.pack: 2), or raise the weight of its penalty"
    if (keys.get("game.discriminator_steps") or 1) > 1:
        return f"give the discriminator fewer updates (game.discriminator_steps: 1, not {keys['game.discriminator_steps']})"
    return "raise the weight of the discriminator's penalty, or lower its learning rate"


def _rates_apart(keys: Mapping[str, Any]) -> str:
    """Return the remedy for learning rates of the players that are far apart; empty where they are not, or are schedules."""
    found = [(keys.get(f"optimizers.{name}.learning_rate"), name) for name in ("generator", "discriminator")]
    known = sorted((float(rate), name) for rate, name in found if isinstance(rate, int | float) and rate > 0)
    if len(known) < 2 or known[1][0] <= _APART * known[0][0]:
        return ""
    (low, smaller), (high, larger) = known
    return (
        f"bring the learning rates together: the {larger}'s is {high / low:.3g} times the {smaller}'s "
        f"(optimizers.{larger}.learning_rate: {low:g})"
    )


def _for_the_discriminator(keys: Mapping[str, Any], gradient_penalty: bool) -> str:
    if gradient_penalty:
        return "lower the weight of the discriminator's penalty, or raise its learning rate"
    return "lower the generator's learning rate, or give the discriminator more channels or updates (game.discriminator_steps: 2)"


def _has(keys: Mapping[str, Any], section: str) -> bool:
    return any(key.startswith(f"{section}.") for key in keys)
