import math

import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from econ_pyro.core.distributions import FixedNoiseNormal, LayeredNormal, MeanBernoulli


def test_kl_matches_torch_away_from_the_edges():
    q, p = torch.rand(2, 50, dtype=torch.float64).mul(0.98).add(0.01)
    ours = kl_divergence(MeanBernoulli(q), MeanBernoulli(p))
    torch.testing.assert_close(ours, kl_divergence(Bernoulli(q), Bernoulli(p)), atol=1e-3, rtol=0)


def test_kl_is_finite_with_finite_gradient_at_the_edges():
    q = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.5, 0.5], requires_grad=True)
    p = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0], requires_grad=True)
    kl = kl_divergence(MeanBernoulli(q), MeanBernoulli(p))
    assert kl.isfinite().all() and kl[0] == 0 and kl[3] == 0
    kl.sum().backward()
    assert q.grad.isfinite().all() and p.grad.isfinite().all()
    assert p.grad[2] < 0  # a decoder that is sure and wrong learns


def test_mean_bernoulli_samples_its_mean_with_gradient_and_draws_bits():
    probs = torch.rand(4, requires_grad=True)
    d = MeanBernoulli(probs)
    assert d.rsample() is not None and torch.equal(d.rsample(), probs)
    d.rsample().sum().backward()
    assert probs.grad.tolist() == [1.0] * 4
    assert set(d.sample((100,)).unique().tolist()) <= {0.0, 1.0}
    assert d.expand((3, 4)).rsample().shape == (3, 4)


def test_mean_bernoulli_log_prob_of_bits_is_bernoullis():
    probs = torch.rand(20, dtype=torch.float64).mul(0.9).add(0.05)
    bits = torch.bernoulli(probs)
    torch.testing.assert_close(
        MeanBernoulli(probs).log_prob(bits),
        Bernoulli(probs).log_prob(bits),
        atol=1e-4,
        rtol=0,
    )


def test_fixed_noise_is_the_noise_used():
    loc, scale, noise = torch.randn(3), torch.rand(3) + 0.1, torch.randn(3)
    d = FixedNoiseNormal(loc, scale, noise)
    torch.testing.assert_close(d.rsample(), loc + scale * noise)
    torch.testing.assert_close(d.sample(), loc + scale * noise)
    assert d.expand((2, 3)).rsample().shape == (2, 3)


def test_layered_normal_is_eq_6_for_binary_regions():
    sigma, choice = 0.3, torch.randint(3, (2, 4, 4))
    regions = torch.nn.functional.one_hot(choice, 3).permute(0, 3, 1, 2)[:, :, None].double()
    means, x = torch.rand(2, 3, 3, 4, 4).double(), torch.rand(2, 3, 4, 4).double()
    d = LayeredNormal(regions, means, sigma)
    flat = Normal((regions * means).sum(1), sigma).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(d.log_prob(x), flat)
    assert d.sample().shape == (2, 3, 4, 4)


def test_layered_normal_samples_the_composed_mean_with_noise_of_sigma():
    sigma, choice = 0.3, torch.randint(3, (64, 64))
    regions = torch.nn.functional.one_hot(choice, 3).permute(2, 0, 1)[:, None].double()
    means = torch.rand(3, 3, 64, 64).double()
    d = LayeredNormal(regions, means, sigma)
    for i, j in ((0, 0), (5, 40), (63, 63)):
        assert torch.equal(d.mean[:, i, j], means[choice[i, j], :, i, j])
    noise = (d.sample((4,)) - d.mean) / sigma  # 49,152 values
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02
    assert abs((noise.abs() < 1).double().mean() - 0.6827) < 0.01


def test_layered_normal_weighs_soft_regions_pixel_by_pixel():
    sigma = 0.2
    regions = torch.rand(2, 3, 1, 2, 2).double().softmax(1)
    means, x = torch.rand(2, 3, 3, 2, 2).double(), torch.rand(2, 3, 2, 2).double()
    expected = torch.zeros(2, dtype=torch.float64)
    for b in range(2):
        for t in range(3):
            for i in range(2):
                for j in range(2):
                    for c in range(3):
                        error = (x[b, c, i, j] - means[b, t, c, i, j]) ** 2 / (2 * sigma**2)
                        constant = math.log(sigma) + 0.5 * math.log(2 * math.pi)
                        expected[b] -= regions[b, t, 0, i, j] * (error + constant)
    torch.testing.assert_close(LayeredNormal(regions, means, sigma).log_prob(x), expected)
