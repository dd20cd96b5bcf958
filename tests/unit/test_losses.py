"""The losses are the paper's formulas, and finite where the formulas are not."""

import torch

from gan_dist import losses


def test_they_are_the_formulas_of_the_paper() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 50, dtype=torch.float64) * 3
    d_real, d_fake = real.sigmoid(), fake.sigmoid()
    assert torch.allclose(losses.discriminator(real, fake), -(d_real.log().mean() + (1 - d_fake).log().mean()))
    assert torch.allclose(losses.minimax(fake), (1 - d_fake).log().mean())
    assert torch.allclose(losses.nonsaturating(fake), -d_fake.log().mean())


def test_they_are_finite_where_a_sigmoid_saturates() -> None:
    for sign in (-1, 1):
        logits = torch.full((4,), sign * 1000.0, requires_grad=True)
        for loss in (losses.discriminator(logits, logits), losses.minimax(logits), losses.nonsaturating(logits)):
            assert loss.isfinite()
            assert torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_the_players_pull_in_opposite_directions() -> None:
    fake = torch.zeros(3, requires_grad=True)
    real = torch.zeros(3, requires_grad=True)
    down_d = torch.autograd.grad(losses.discriminator(real, fake), (real, fake))
    assert (down_d[0] < 0).all()  # descending raises D on real images
    assert (down_d[1] > 0).all()  # and lowers it on fakes
    for loss in losses.GENERATOR.values():
        assert (torch.autograd.grad(loss(fake), fake)[0] < 0).all()  # the generator raises D on fakes


def test_only_minimax_fades_where_the_discriminator_is_sure() -> None:
    fake = torch.full((1,), -8.0, requires_grad=True)
    gradients = {name: torch.autograd.grad(loss(fake), fake)[0].abs().item() for name, loss in losses.GENERATOR.items()}
    assert gradients["minimax"] < 1e-3
    assert gradients["nonsaturating"] > 0.99
