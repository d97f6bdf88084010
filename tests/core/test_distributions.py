import math

import torch
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from econ_pyro.core.distributions import (
    FixedNoiseNormal,
    LayeredNormal,
    MeanBernoulli,
    PixelNoise,
    pixel_errors,
)


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
    d = LayeredNormal(regions, means, PixelNoise(sigma))
    flat = Normal((regions * means).sum(1), sigma).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(d.log_prob(x), flat)
    assert d.sample().shape == (2, 3, 4, 4)


def test_layered_normal_samples_the_composed_mean_with_noise_of_sigma():
    sigma, choice = 0.3, torch.randint(3, (64, 64))
    regions = torch.nn.functional.one_hot(choice, 3).permute(2, 0, 1)[:, None].double()
    means = torch.rand(3, 3, 64, 64).double()
    d = LayeredNormal(regions, means, PixelNoise(sigma))
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
    found = LayeredNormal(regions, means, PixelNoise(sigma)).log_prob(x)
    torch.testing.assert_close(found, expected)


def test_light_is_integrated_out():
    generator = torch.Generator().manual_seed(0)
    x, mean = (torch.rand(2, n, 3, 4, 5, generator=generator).double() for n in (1, 3))
    x, mean[0, 0] = x[:, 0], 0.0  # black: no light changes it
    mean.requires_grad_()
    noise = PixelNoise(0.1, light=0.4)
    colours = mean.movedim(2, -1)
    cov = 0.01 * torch.eye(3).double() + 0.16 * colours[..., :, None] * colours[..., None, :]
    density = MultivariateNormal(colours, cov).log_prob(x.movedim(1, -1)[:, None])
    expected = -density - 1.5 * math.log(2 * math.pi * 0.01)
    errors = pixel_errors(x, mean, noise)
    torch.testing.assert_close(errors[:, :, 0], expected)
    (by_formula,) = torch.autograd.grad(errors.square().sum(), mean)
    (by_covariance,) = torch.autograd.grad(expected.square().sum(), mean)
    torch.testing.assert_close(by_formula, by_covariance)
    # layers of one pixel each, which share the image: binary regions
    regions = torch.nn.functional.one_hot(torch.arange(20).view(4, 5) % 3, 3).movedim(-1, 0)
    regions = regions[None, :, None].expand(2, -1, -1, -1, -1).double()
    layered = LayeredNormal(regions, mean, noise).log_prob(x)
    torch.testing.assert_close(layered, (regions[:, :, 0] * density).sum((1, 2, 3)))


def test_a_shade_costs_less_than_another_colour():
    red, dark_red, green = (torch.tensor(c)[None, :, None, None] for c in (
        (0.8, 0.1, 0.1), (0.4, 0.05, 0.05), (0.5, 0.35, 0.1)
    ))  # fmt: skip
    assert (dark_red - red).norm() > (green - red).norm()
    noise = PixelNoise(0.05, light=0.4)
    shade, other = (pixel_errors(x, red[:, None], noise).item() for x in (dark_red, green))
    assert 1 < shade < 4 and other > 10


def test_pixels_have_the_covariance_of_noise_and_light():
    torch.manual_seed(0)
    mean = torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand(3, 200, 200)
    noise = PixelNoise(0.1, light=0.3)
    regions = torch.ones(1, 1, 200, 200)
    for pixels in (noise.sample(mean), LayeredNormal(regions, mean[None], noise).sample()):
        pixels = pixels.flatten(1)
        torch.testing.assert_close(pixels.mean(1), mean[:, 0, 0], atol=0.006, rtol=0)
        expected = 0.01 * torch.eye(3) + 0.09 * mean[:, 0, :1] * mean[:, 0, :1].T
        torch.testing.assert_close(torch.cov(pixels), expected, atol=0.003, rtol=0)
