"""Words of other tools lead to our keys."""

import pytest

from gan_dist.config.names import MEANINGS, suggest

KEYS = [
    "run.name",
    "run.directory",
    "run.seed",
    "data.shards",
    "data.resolution",
    "data.workers",
    "data.flip",
    "data.labels",
    "training.images",
    "training.batch",
    "training.micro_batch",
    "training.precision",
    "training.device",
    "training.processes",
    "networks.generator.base_channels",
    "networks.discriminator.base_channels",
    "optimizers.generator.learning_rate",
    "optimizers.generator.beta1",
    "optimizers.generator.beta2",
    "optimizers.generator.clip_norm",
    "optimizers.discriminator.learning_rate",
    "optimizers.discriminator.beta1",
    "optimizers.discriminator.beta2",
    "optimizers.discriminator.clip_norm",
    "loss.kind",
    "penalties.r1.weight",
    "penalties.r1.every",
    "average.half_life",
    "game.latent",
    "game.discriminator_steps",
    "checkpoint.every",
    "sample.every",
    "track.every",
    "track.wandb",
]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("--lr", "optimizers.generator.learning_rate or optimizers.discriminator.learning_rate"),
        ("--optimizer.G.lr", "did you mean optimizers.generator.learning_rate?"),
        ("optimizer.D.lr", "did you mean optimizers.discriminator.learning_rate?"),
        ("--lr_d=0.1", "did you mean optimizers.discriminator.learning_rate?"),
        ("--learning-rate", "optimizers.generator.learning_rate"),
        ("--batch_size", "training.batch"),
        ("--batch", "did you mean training.batch?"),
        ("--epochs", "training.images (the number of epochs times the number of samples)"),
        ("--kimg", "training.images (1,000 times that number)"),
        ("--max_steps", "training.images (the number of steps times training.batch)"),
        ("--gpus", "./launch/run.sh CONFIG"),
        ("--resume", "the same command goes on where the run stopped"),
        ("--outdir", "run.directory"),
        ("--seed", "run.seed"),
        ("--num_workers", "data.workers"),
        ("--image_size", "data.resolution"),
        ("--fp16", "training.precision"),
        ("--ngf", "networks.generator.base_channels"),
        ("--nz", "game.latent"),
        ("--gamma", "penalties.r1.weight"),
        ("--n_critic", "game.discriminator_steps"),
        ("--ema_decay", "average.half_life"),
        ("--training.imagse", "did you mean training.images?"),
        ("data.images", "did you mean training.images?"),  # another section
    ],
)
def test_a_foreign_word_names_our_key(word: str, says: str) -> None:
    assert says in suggest(word, KEYS)


def test_only_known_keys_are_named_and_nothing_where_nothing_is_near() -> None:
    assert suggest("--lr", ["game.generator.learning_rate"]) == "did you mean game.generator.learning_rate?"
    assert suggest("--lr", ["training.images"]) == ""
    assert suggest("--zzzz", KEYS) == ""
    assert suggest("--gpus", []) != ""


def test_words_are_written_as_they_are_looked_up() -> None:
    assert [word for word in MEANINGS if word != word.lower().replace("-", "_")] == []
