"""The losses of both autoencoders are their papers', their noise is keyed, and passes change nothing."""

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from gan_dist import config as config_module, games, trial
from gan_dist.config import Config
from gan_dist.data import index
from gan_dist.engine import Engine
from gan_dist.errors import InputError
from gan_dist.evaluation import METRICS, evaluate
from gan_dist.games.autoencoder import VaeGame, VaeGanGame
from gan_dist.interfaces import Batch, join
from gan_dist.scoring import ImageSet, command
from tests import making
from tests.launching import REPOSITORY

KEYS: dict[str, object] = {
    "networks.encoder.base_channels": 2,
    "networks.decoder.base_channels": 2,
    "game.latent": 3,
    "training.batch": 8,
    "training.micro_batch": 4,
    "training.precision": "fp64",
    "training.device": "cpu",
}
VAE, GAN = "digits_vae", "digits_vae_gan"


def build(recipe: str, **keys: object) -> tuple[Config, VaeGame | VaeGanGame, list[Batch]]:
    chosen = {**KEYS, **{name.replace("__", "."): value for name, value in keys.items()}}
    if recipe == GAN:
        chosen["networks.discriminator.base_channels"] = 2
    config = config_module.load([str(REPOSITORY / f"configs/{recipe}.yaml"), *making.flags(chosen)])
    engine = Engine(config)
    game = trial.build(config, engine)
    engine.wrap(game)
    assert isinstance(game, VaeGame | VaeGanGame)
    return config, game, trial.on_device(config, engine, trial.random_batches(config, game.fields, 0, range(8)))


def test_the_vae_descends_the_elbo_in_nats_a_sample() -> None:
    _, game, (batch, _) = build(VAE, game__beta=0.5, game__deviation=0.2)
    assert isinstance(game, VaeGame)
    x = batch["image"]
    noise = game.normal(batch, "posterior")
    rebuilt, mean, log_variance = game.autoencoder.network(x, noise)
    posterior = Independent(Normal(mean, (log_variance / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    likelihood = Independent(Normal(rebuilt, 0.2), 3)
    constant = likelihood.log_prob(rebuilt)
    wanted = (constant - likelihood.log_prob(x) + 0.5 * kl_divergence(posterior, prior)).mean()
    assert torch.allclose(game.explain(batch), wanted)


@pytest.mark.parametrize(
    ("recipe", "keys"), [(VAE, {}), (GAN, {}), (GAN, {"game__fakes": "samples", "loss": "relativistic_average"})]
)
def test_passes_of_several_micro_batches_have_the_same_losses_and_gradients(
    recipe: str, keys: dict[str, object]
) -> None:
    _, game, batches = build(recipe, training__strategy="ddp", training__micro_batches_per_pass=2, **keys)

    def gradients(joined: list[Batch]) -> list[torch.Tensor]:
        found = []
        for batch in joined:
            batch.cache.clear()
        for phase in game.phases:
            for player in game.players:
                player.network.requires_grad_(player is phase.player).zero_grad()
            for batch in joined:
                for each in (statistics for player in game.players for statistics in player.statistics):
                    each.parts = batch.parts
                assert phase.loss is not None
                (phase.loss(batch) / len(joined)).backward()  # type: ignore[no-untyped-call]
            found += [weight.grad.clone() for weight in phase.player.weights if weight.grad is not None]
        return found

    apart, together = gradients(batches), gradients(join(batches, 2))
    assert all(torch.allclose(*pair, rtol=1e-9, atol=1e-12) for pair in zip(apart, together, strict=True))


def test_the_gan_moves_the_decoder_and_never_the_encoder() -> None:
    _, game, (batch, _) = build(GAN, game__gamma=0)
    assert isinstance(game, VaeGanGame)
    game.encode(batch)
    adversarial = game.decode(batch)
    encoder, decoder = (list(player.network.parameters()) for player in (game.encoder, game.decoder))
    for weight in (*encoder, *decoder):
        weight.requires_grad_(True)
    gradients = torch.autograd.grad(game.decode(batch), [*encoder, *decoder], allow_unused=True)
    assert all(gradient is None for gradient in gradients[: len(encoder)])
    assert all(gradient is not None for gradient in gradients[len(encoder) :])
    real, rebuilt, sample = (
        logits for _, logits in game.judge(batch, batch["image"], batch.cache["rebuilt"], batch.cache["sample"])
    )
    assert torch.allclose(adversarial, (game.loss.generator(rebuilt, real) + game.loss.generator(sample, real)) / 2)


def test_scores_of_pairs_look_at_reconstructions_and_the_others_at_samples() -> None:
    _, game, (batch, _) = build(VAE)
    x, nothing = batch["image"].float().double(), torch.full((4, 1, 16, 16), -1.0).double()
    metrics = {"psnr": METRICS["psnr"](kind="psnr").for_game(game)}
    found = evaluate(metrics, lambda n: nothing[n.start : n.stop], lambda n: x[n.start : n.stop], 4, 4)
    wanted = METRICS["psnr"](kind="psnr")
    rebuilt = game.infer(Batch({"image": x}, batch.positions))
    same = evaluate({"psnr": wanted}, lambda n: rebuilt[n.start : n.stop], lambda n: x[n.start : n.stop], 4, 4)
    assert found.scores == same.scores
    assert torch.equal(game.samples(1, 30, 5), game.samples(1, 0, 40)[30:35])
    assert torch.equal(game.generated(1, range(30, 35), batch), game.samples(1, 30, 5))


@pytest.mark.parametrize(
    ("recipe", "words", "message"),
    [
        (VAE, ["--data.labels", "true"], r"data\.labels has no effect with game\.kind: autoencoder"),
        (VAE, ["--data.resolution", "20"], r"sides from 16 that 8 divides, for example 16"),
        (VAE, ["--networks.decoder", "{kind: mlp}"], r"mlp is for points"),
        (
            VAE,
            ["--networks.decoder", "{kind: patchgan, layers: 1}"],
            r"networks\.decoder\.kind = patchgan has no generator",
        ),
        (GAN, ["--networks.discriminator", "{kind: dcgan}"], r"dcgan gives no features"),
    ],
)
def test_what_will_not_do_is_said_beforehand(recipe: str, words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        games.build(config_module.load([str(REPOSITORY / f"configs/{recipe}.yaml"), *words]))


def test_samples_are_compared_with_images_of_a_folder_too() -> None:
    config, game, _ = build(VAE)
    real = ImageSet(3, (16, 16), 1, lambda number: np.full((16, 16, 1), number, np.uint8), {})
    cpu = torch.device("cpu")
    fake, paired, shown = command.drawn(game, config, 0, index.nothing(), real, cpu)
    assert shown is None
    assert torch.equal(fake(range(1, 3)), game.samples(0, 1, 2))
    assert torch.equal(paired(range(2)), real.draw(range(2), cpu))
