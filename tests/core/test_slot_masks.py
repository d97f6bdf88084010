"""Masks of slots and the mixture of slots at each pixel, against loops and torch's own."""

import math

import pytest
import torch
from pyro.distributions import Bernoulli
from torch.distributions import (
    AffineTransform,
    Categorical,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
    kl_divergence,
)

from econ_pyro.core.compositing import region, scopes, stages
from econ_pyro.core.slot_masks import (
    LogisticMixture,
    PixelMixture,
    SlotMasks,
    break_off,
    fractions,
    slot_divergences,
    stick_breaking,
)

B, T, H, W = 2, 4, 3, 5


@pytest.fixture
def masks():
    return torch.randn(B, T, 1, H, W, dtype=torch.float64).mul(2).softmax(1)


@pytest.fixture
def means():
    return torch.rand(B, T, 3, H, W, dtype=torch.float64)


@pytest.mark.parametrize("size", [1.0, 30.0, 300.0])
def test_stick_breaking_sums_to_one_and_is_that_of_econ(size):
    logits = size * torch.randn(B, T - 1, 1, H, W, dtype=torch.float64)
    m = stick_breaking(logits).exp()
    torch.testing.assert_close(m.sum(1), torch.ones(B, 1, H, W, dtype=torch.float64))
    before = scopes(m)
    torch.testing.assert_close(m[:, :-1], region(before[:, :-1], logits.sigmoid()))
    torch.testing.assert_close(m[:, -1], before[:, -1])
    log_s = torch.zeros(B, 1, H, W, dtype=torch.float64)
    for t in range(T - 1):
        log_m, log_s = break_off(log_s, logits[:, t])
        torch.testing.assert_close(log_m, stick_breaking(logits)[:, t])


def test_masks_that_underflow_still_have_gradients():
    logits = torch.full((1, 3, 1, 1, 1), 60.0, requires_grad=True)
    log_m = stick_breaking(logits)
    assert log_m[0, -1].exp() == 0
    log_m[0, -1].sum().backward()
    torch.testing.assert_close(logits.grad, torch.full_like(logits, -1.0))


def test_a_single_slot_takes_all():
    m = fractions(torch.ones(B, 1, 1, H, W))
    assert torch.equal(m, torch.ones(B, 1, 1, H, W))


def test_painting_the_fractions_gives_the_mixed_image(masks, means):
    painted = stages(fractions(masks), means)[:, -1]
    torch.testing.assert_close(painted, (masks * means).sum(1))


def test_divergence_of_masks_is_that_of_categoricals(masks):
    other = torch.randn(B, T, 1, H, W, dtype=torch.float64).softmax(1)
    q, p = SlotMasks(masks.log()), SlotMasks(other.log())
    wanted = kl_divergence(*(Categorical(probs=m.movedim(1, -1)) for m in (masks, other))).sum(
        (1, 2, 3)
    )
    torch.testing.assert_close(kl_divergence(q, p), wanted)
    torch.testing.assert_close(slot_divergences(q, p).sum(1), wanted)
    # of two slots, the divergences of both Bernoulli variables add up to twice as much
    two, others = (m[:, :2] / m[:, :2].sum(1, keepdim=True) for m in (masks, other))
    both = kl_divergence(Bernoulli(two), Bernoulli(others)).sum((1, 2, 3, 4))
    half = kl_divergence(SlotMasks(two.log()), SlotMasks(others.log()))
    torch.testing.assert_close(both, 2 * half)


def test_drawn_masks_are_one_hot_and_as_likely_as_they_say(masks):
    q = SlotMasks(masks[:1].log()).expand((3000,))
    m = q.sample()
    assert set(m.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(m.sum(1), torch.ones_like(m[:, 0]))
    torch.testing.assert_close(m.mean(0), masks[0], atol=0.04, rtol=0)
    one = SlotMasks(masks.log())
    assert torch.equal(one.rsample(), masks.log().exp())
    drawn = m[: len(masks)]
    wanted = [math.log(masks[b][drawn[b] > 0].prod()) for b in range(B)]
    torch.testing.assert_close(one.log_prob(drawn), torch.tensor(wanted, dtype=torch.float64))


def gaussian(away):
    return math.exp(-(away**2) / 2) / math.sqrt(2 * math.pi)


def logistic(away):
    return math.exp(-away) / (1 + math.exp(-away)) ** 2


@pytest.mark.parametrize(
    ("kind", "density"), [(PixelMixture, gaussian), (LogisticMixture, logistic)]
)
@pytest.mark.parametrize("sigma", [[0.2] * T, [0.05, 0.2, 0.3, 0.1]])
def test_mixture_is_that_of_a_loop_over_pixels(masks, means, sigma, kind, density):
    x = torch.rand(B, 3, H, W, dtype=torch.float64)
    masks[0, :, 0, 0, 0] = torch.tensor([1.0, 0.0, 0.0, 0.0])  # zeros have no logarithm
    x[0, :, 0, 0] = means[0, 0, :, 0, 0] + 0.1
    mixture = kind(masks, means, torch.tensor(sigma, dtype=torch.float64))
    wanted, constant = [], 3 * math.log(density(0.0) / min(sigma))
    for b in range(B):
        total = 0.0
        for h in range(H):
            for w in range(W):
                likelihood = 0.0
                for t in range(T):
                    of_slot = float(masks[b, t, 0, h, w])
                    for c in range(3):
                        away = float(x[b, c, h, w] - means[b, t, c, h, w]) / sigma[t]
                        of_slot *= density(away) / sigma[t]
                    likelihood += of_slot
                total += math.log(likelihood)
        wanted.append(total)
    found = mixture.log_prob(x)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))
    shares = mixture.slot_losses(x)
    torch.testing.assert_close(shares.sum(1), constant * H * W - found)
    torch.testing.assert_close(mixture.mean, (masks * means).sum(1))


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [(PixelMixture, 3 / (2 * 0.01**2)), (LogisticMixture, 3 * (100 - 2 * math.log(2)))],
)
def test_mixture_of_pixels_far_from_every_slot_is_finite(kind, wanted):
    """exp(-errors) underflows here, as it does without the logarithm of a sum of exponentials."""
    means = torch.zeros(1, 2, 3, 1, 1, requires_grad=True)
    m = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1, 1).requires_grad_()
    loss = kind(m, means, torch.tensor([0.01, 0.01])).slot_losses(torch.ones(1, 3, 1, 1))
    assert loss.sum().item() == pytest.approx(wanted, rel=1e-4)
    loss.sum().backward()
    assert means.grad.isfinite().all() and m.grad.isfinite().all()


def test_shares_of_the_loss_have_the_gradient_of_the_whole(masks, means):
    x = torch.rand(B, 3, H, W, dtype=torch.float64)
    leaves = masks.requires_grad_(), means.requires_grad_()
    mixture = PixelMixture(*leaves, torch.full((T,), 0.2, dtype=torch.float64))
    by_share = torch.autograd.grad(mixture.slot_losses(x).sum(), leaves, retain_graph=True)
    whole = torch.autograd.grad(mixture.pixel_losses(x).sum(), leaves)
    for a, b in zip(by_share, whole, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("kind", "variance"), [(PixelMixture, 1.0), (LogisticMixture, math.pi**2 / 3)]
)
def test_sampled_pixels_have_the_mean_and_spread_of_the_mixture(masks, means, kind, variance):
    sigma = torch.tensor([0.05, 0.1, 0.2, 0.3], dtype=torch.float64)
    mixture = kind(masks[:1], means[:1], sigma / math.sqrt(variance))
    x = mixture.expand((4000,)).sample()
    assert x.shape == (4000, 3, H, W)
    torch.testing.assert_close(x.mean(0), mixture.mean[0], atol=0.05, rtol=0)
    second = (masks[0] * (means[0].square() + sigma.square()[:, None, None, None])).sum(0)
    torch.testing.assert_close(x.square().mean(0), second, atol=0.06, rtol=0)


def test_logistic_density_is_that_of_torch(masks, means):
    """A sigmoid of a uniform variable, transformed."""
    x = torch.rand(B, 3, H, W, dtype=torch.float64)
    scale = 0.03
    flat = Uniform(torch.zeros_like(means), 1.0)
    away = [SigmoidTransform().inv, AffineTransform(means, scale)]
    log_p = TransformedDistribution(flat, away).log_prob(x[:, None]).sum(2, keepdim=True)
    wanted = (masks.log() + log_p).logsumexp(1).sum((1, 2, 3))
    sigma = torch.full((T,), scale, dtype=torch.float64)
    torch.testing.assert_close(LogisticMixture(masks, means, sigma).log_prob(x), wanted)
