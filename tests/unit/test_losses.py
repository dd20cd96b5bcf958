"""The losses are the papers' formulas, finite for any logit, with gradients that point the right way."""

import pytest
import torch

from gan_dist import losses

LOGITS = torch.linspace(-12, 12, 97, dtype=torch.float64)


def test_losses_equal_the_papers_formulas() -> None:
    real, fake = LOGITS, LOGITS.flip(0) * 0.7
    d_real, d_fake = torch.sigmoid(real), torch.sigmoid(fake)
    value = torch.log(d_real).mean() + torch.log(1 - d_fake).mean()
    assert losses.discriminator(real, fake) == pytest.approx(float(-value), rel=1e-9)
    assert losses.minimax(fake) == pytest.approx(float(torch.log(1 - d_fake).mean()), rel=1e-9)
    assert losses.nonsaturating(fake) == pytest.approx(float(-torch.log(d_fake).mean()), rel=1e-9)


def test_an_undecided_discriminator_has_the_known_values() -> None:
    zero = torch.zeros(5)
    log2 = float(torch.tensor(2.0).log())
    assert float(losses.discriminator(zero, zero)) == pytest.approx(2 * log2)
    assert float(losses.minimax(zero)) == pytest.approx(-log2)
    assert float(losses.nonsaturating(zero)) == pytest.approx(log2)


@pytest.mark.parametrize("size", [1000.0, 1e30])
@pytest.mark.parametrize("sign", [-1, 1])
def test_losses_and_gradients_are_finite_for_any_logit(size: float, sign: int) -> None:
    for loss in (
        lambda x: losses.discriminator(x, -x),
        lambda x: losses.discriminator(-x, x),
        *losses.GENERATOR.values(),
    ):
        logits = torch.full((4,), sign * size, requires_grad=True)
        value = loss(logits)
        value.backward()
        assert value.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_descending_raises_real_logits_and_lowers_fake_ones() -> None:
    real, fake = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    losses.discriminator(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()


@pytest.mark.parametrize("name", ["minimax", "nonsaturating"])
def test_descending_the_generators_losses_raises_fake_logits(name: str) -> None:
    fake = LOGITS.clone().requires_grad_()
    losses.GENERATOR[name](fake).backward()
    assert fake.grad is not None
    assert (fake.grad < 0).all()


def test_where_the_discriminator_is_sure_only_the_nonsaturating_gradient_stays() -> None:
    gradients = {}
    for name, loss in losses.GENERATOR.items():
        fake = torch.tensor([-10.0], requires_grad=True)
        loss(fake).backward()
        assert fake.grad is not None
        gradients[name] = float(fake.grad)
    assert gradients["nonsaturating"] == pytest.approx(-1, abs=1e-3)
    assert gradients["minimax"] == pytest.approx(0, abs=1e-3)


def test_the_mean_over_samples_is_taken() -> None:
    fake = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for loss in losses.GENERATOR.values():
        assert float(loss(fake)) == pytest.approx(float(torch.stack([loss(each[None]) for each in fake]).mean()))
    assert losses.discriminator(fake, fake).shape == ()
