"""Whitening of latents: drawings stay as they are, and the prior becomes what is used."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.core.whitening import Whitening, moments, refit
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import Econ
from econ_pyro.guides.encoder import Encoder
from econ_pyro.guides.object_centred_encoder import Look
from econ_pyro.model_config import ExpertConfig
from econ_pyro.models.decoder import SpatialBroadcastDecoder
from econ_pyro.training.learner import Learner
from econ_pyro.training.load_balancing import copy_expert
from helpers.trainers import make_trainer

CONFIG = ExpertConfig(latent=5, layers=2, features=8, channels=(4, 4), hidden=8, pose=True)


def new_units(latents):
    return Whitening(ExpertConfig(latent=latents))


def posterior(config, encoder, x, r):
    loc, log_variance = encoder(*Look(config, 32).to(x)(x, r)).chunk(2, 1)
    return loc, log_variance.exp()


def kl(loc, variance):
    return 0.5 * (loc.square() + variance - 1 - variance.log())


def some_images(n):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 3, 32, 32, generator=generator).double()
    r = 0.9 * torch.rand(n, 1, 32, 32, generator=generator).double() + 0.1
    return x * torch.rand(n, 3, 1, 1, generator=generator).double(), r


def fit(encoder, decoder, loc, variance):
    sums = moments(torch.zeros(len(loc), dtype=torch.long), loc, variance, 1)
    refit(encoder.whitening, decoder.whitening, sums[0])


def sampled_colours(econ):
    return econ.sample_experts(2000)[0][0].mean((2, 3))


@pytest.mark.parametrize(("centred", "scaled"), [(True, False), (False, False), (True, True)])
def test_new_units_change_no_drawing_and_make_the_prior_what_is_used(centred, scaled):
    torch.manual_seed(0)
    config = dataclasses.replace(CONFIG, pose=centred, size=scaled)
    encoder = Encoder(config, 32).double()
    decoder = SpatialBroadcastDecoder(config, 32).double()
    x, r = some_images(50)
    with torch.no_grad():
        encoder.head[-1].weight.normal_()
        before = posterior(config, encoder, x, r)
        noise = torch.randn(50, 5).double()
        drawn = [decoder(z) for z in (before[0], before[0] + before[1].sqrt() * noise)]
        for _ in range(2):  # from units that are not the first ones, too
            fit(encoder, decoder, *posterior(config, encoder, x, r))
            after = posterior(config, encoder, x, r)
            anew = [decoder(z) for z in (after[0], after[0] + after[1].sqrt() * noise)]
            torch.testing.assert_close(anew, drawn)
    places = 2 if centred else 0
    for now, then in zip(after, before, strict=True):
        torch.testing.assert_close(now[:, :places], then[:, :places])
    learnt = [a[:, places:] for a in after]
    zero = torch.zeros(5 - places).double()
    torch.testing.assert_close(learnt[0].mean(0), zero)
    torch.testing.assert_close((learnt[0].square() + learnt[1]).mean(0), zero + 1)
    assert kl(*after).sum() < kl(*before).sum()


def test_units_follow_what_is_used_and_drawings_stay():
    """Twice: of a narrow spread far off, then of another, both in units that are not the first."""
    torch.manual_seed(0)
    encoder, decoder = new_units(3).double(), new_units(3).double()
    for shift, spread in ((5.0, 0.05), (-2.0, 3.0)):
        value = shift + spread * torch.randn(50, 3).double()
        variance = (0.5 * spread) ** 2 * torch.ones(50, 3).double()
        z, log_variance = encoder.count(value, variance.log())
        fit(SimpleNamespace(units=encoder), SimpleNamespace(units=decoder), z, log_variance.exp())
        z, log_variance = encoder.count(value, variance.log())
        torch.testing.assert_close(z.mean(0), torch.zeros(3).double())
        used = (z.square() + log_variance.exp()).mean(0)
        torch.testing.assert_close(used, torch.ones(3).double())
        torch.testing.assert_close(decoder.value(z), value)


def test_no_other_units_cost_less():
    torch.manual_seed(0)
    loc, variance = 3 * torch.randn(50, 4).double() + 1, torch.rand(50, 4).double()
    encoder, decoder = new_units(4).double(), new_units(4).double()
    refit(encoder, decoder, moments(torch.zeros(50).long(), loc, variance, 1)[0])

    def cost(shift, scale):
        tried = new_units(4)
        tried.shift, tried.scale = shift, scale
        counted, log_variance = tried.count(loc, variance.log())
        return kl(counted, log_variance.exp()).sum()

    shift, scale = (a.clone().requires_grad_() for a in (encoder.shift, encoder.scale))
    cost(shift, scale).backward()
    torch.testing.assert_close(shift.grad, torch.zeros(4).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(scale.grad, torch.zeros(4).double(), atol=1e-9, rtol=0)
    assert cost(encoder.shift, encoder.scale) < cost(torch.zeros(4), torch.ones(4))


def test_latents_that_never_move_have_units_all_the_same():
    units, same, still = new_units(3), new_units(3), torch.zeros(9, 3)
    for _ in range(3):
        refit(units, same, moments(torch.zeros(9).long(), still, still, 1)[0])
    assert (units.scale > 0).all()
    assert units.count(still, still)[1].isfinite().all()


def test_moments_of_shares_add_up_and_are_each_experts_own():
    torch.manual_seed(0)
    k, loc, variance = torch.randint(3, (20,)), torch.randn(20, 2), torch.rand(20, 2)
    whole = moments(k, loc, variance, 4)
    parts = [moments(k[i::2], loc[i::2], variance[i::2], 4) for i in range(2)]
    torch.testing.assert_close(parts[0] + parts[1], whole)
    own = k == 1
    assert whole[1, 0] == own.sum() and whole[3].eq(0).all()
    torch.testing.assert_close(whole[1, 1:3], loc[own].double().sum(0))


def test_samples_of_a_new_expert_have_the_colours_that_were_seen(tiny):
    expert = dataclasses.replace(CONFIG, seeded=True)
    config = dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, experts=1, steps=4, size=32, expert=expert),
        scenes=dataclasses.replace(tiny.scenes, size=32),
    )
    econ = Econ(config)
    learner = Learner(config, econ.model, econ.guide, torch.device("cpu"), ProcessGroup())
    scenes = GeneratedScenes(config.scenes, 0, 200).scenes(torch.arange(200))
    before, new = learner.engine.explain(scenes.image, scenes.layers(4)), sampled_colours(econ)
    learner.fit_units(before)
    after = learner.engine.explain(scenes.image, scenes.layers(4))
    torch.testing.assert_close(after.mean, before.mean)
    assert after.terms.z.sum() < before.terms.z.sum()

    seen = after.mean[after.area >= 20].mean((2, 3))
    for moment in (torch.mean, torch.std):
        off, off_before = (moment(c, 0) - moment(seen, 0) for c in (sampled_colours(econ), new))
        assert off.abs().max() < 0.1 and off.norm() < off_before.norm()


@pytest.mark.parametrize("units", [True, False])
def test_training_fits_units_if_asked(tiny, tmp_path, units):
    objective = dataclasses.replace(tiny.objective, units=units)
    train = dataclasses.replace(tiny.train, steps=2, valid_scenes=20)
    trainer = make_trainer(dataclasses.replace(tiny, objective=objective, train=train), tmp_path)
    trainer.fit()
    scales = [e.whitening.scale for e in trainer.learner.guide.encoders]
    assert any((scale != 1).any() for scale in scales) == units


@pytest.mark.parametrize("wins", [9, 10])
def test_units_are_of_all_that_an_expert_won_if_that_is_enough_to_see(tiny, wins):
    econ = Econ(tiny)
    learner = Learner(tiny, econ.model, econ.guide, torch.device("cpu"), ProcessGroup())
    g = torch.Generator().manual_seed(0)
    x = torch.rand(12, 3, 16, 16, generator=g)
    with torch.no_grad():  # of what it sees, whatever it is, each latent says something
        for encoder in econ.guide.encoders:
            encoder.head[-1].weight.normal_(generator=g)
    # six pixels of 256 are to be seen, five are hardly a thing
    r = torch.zeros(12, 3, 1, 16, 16)
    r[:wins, 0, :, 3, :6], r[wins:, 0, :, 3, :5] = 1, 1
    r[:, 1, :, 8:, :8] = 1
    r[:, 2] = 1 - r[:, :2].sum(1)
    d = dataclasses.replace(
        learner.engine.explain(x), k=torch.tensor([0, 1, 2]).expand(12, 3), region=r
    )
    learner.fit_units(d)
    assert (econ.guide.encoders[0].whitening.scale != 1).any() == (wins == 10)
    for k, n in ((0, wins), (1, 12), (2, 12)):
        if n < 10:
            continue
        with torch.no_grad():
            q = econ.guide.encode(x[:n], r[:n, k], torch.full((n,), k)).base_dist
        torch.testing.assert_close(q.loc.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
        used = (q.loc.square() + q.scale.square()).mean(0)
        torch.testing.assert_close(used, torch.ones(2), atol=1e-3, rtol=0)


def test_frozen_and_idle_experts_keep_their_units_and_copies_take_them(tiny):
    config = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, frozen=1))
    econ = Econ(config)
    learner = Learner(config, econ.model, econ.guide, torch.device("cpu"), ProcessGroup())
    x = torch.rand(12, 3, 16, 16)
    d = learner.engine.explain(x)
    k = torch.randint(2, d.k.shape)  # the third wins nothing
    learner.fit_units(dataclasses.replace(d, k=k))
    units = [(e.encoder.whitening, e.decoder.whitening) for e in econ.experts]
    for encoder, decoder in units:
        torch.testing.assert_close(encoder.state_dict(), decoder.state_dict())
    new = new_units(2).state_dict()
    for encoder, _ in (units[0], units[2]):
        torch.testing.assert_close(encoder.state_dict(), new)
    assert not torch.equal(units[1][0].scale, new["scale"])
    copy_expert([econ.model.decoders, econ.guide.encoders], learner.optim, 1, 2)
    for own, copied in zip(units[1], units[2], strict=True):
        torch.testing.assert_close(own.state_dict(), copied.state_dict())
