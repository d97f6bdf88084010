"""Whitening of latents: drawings stay as they are, and the prior becomes what is used."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import RecipeConfig
from econ_pyro.core.whitening import SIZE_SPREAD, Whitening, moments, refit
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.econ import Econ
from econ_pyro.guides.encoder import Encoder, WholeImage
from econ_pyro.guides.object_centred_encoder import Glimpse, ObjectCentredEncoder
from econ_pyro.model_config import FreeLatents, PoseLatents
from econ_pyro.models.decoder import SpatialBroadcastDecoder
from econ_pyro.models.object_centred_decoder import ObjectCentredDecoder
from econ_pyro.training.callbacks import LatentWhitening
from econ_pyro.training.learner import Learner
from econ_pyro.training.load_balancing import copy_expert
from helpers.trainers import make_trainer, small_expert

CPU = torch.device("cpu")


def new_whitening(dim):
    return Whitening(FreeLatents(dim=dim))


def networks(pose, size):
    """View, encoder and decoder of one expert."""
    config = small_expert(5, features=8, pose=pose, size=size)
    kinds = (WholeImage, Encoder, SpatialBroadcastDecoder)
    if pose:
        kinds = (Glimpse, ObjectCentredEncoder, ObjectCentredDecoder)
    return [kind(config, 32).double() for kind in kinds]


def posterior(view, encoder, x, r):
    loc, log_variance = encoder(*view(x, r)).chunk(2, 1)
    return loc, log_variance.exp()


def whitening_of(config, econ):
    learner = Learner(config, econ, CPU, ProcessGroup())
    return learner, LatentWhitening(econ.model, econ.guide, ProcessGroup())


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


@pytest.mark.parametrize(("pose", "size"), [(True, False), (False, False), (True, True)])
def test_whitening_changes_no_drawing_and_makes_the_prior_what_is_used(pose, size):
    torch.manual_seed(0)
    view, encoder, decoder = networks(pose, size)
    x, r = some_images(50)
    with torch.no_grad():
        encoder.head[-1].weight.normal_()
        before = posterior(view, encoder, x, r)
        noise = torch.randn(50, 5).double()
        drawn = [decoder(z) for z in (before[0], before[0] + before[1].sqrt() * noise)]
        for _ in range(2):  # from a whitening that is not the identity, too
            fit(encoder, decoder, *posterior(view, encoder, x, r))
            after = posterior(view, encoder, x, r)
            anew = [decoder(z) for z in (after[0], after[0] + after[1].sqrt() * noise)]
            torch.testing.assert_close(anew, drawn)
    places = 2 if pose else 0
    for now, then in zip(after, before, strict=True):
        torch.testing.assert_close(now[:, :places], then[:, :places])
    learnt = [a[:, places:] for a in after]
    zero = torch.zeros(5 - places).double()
    torch.testing.assert_close(learnt[0].mean(0), zero)
    torch.testing.assert_close((learnt[0].square() + learnt[1]).mean(0), zero + 1)
    assert kl(*after).sum() < kl(*before).sum()


def test_whitening_follows_what_is_used_and_drawings_stay():
    """Twice: of a narrow spread far off, then of another, the second time from a whitened one."""
    torch.manual_seed(0)
    encoder, decoder = new_whitening(3).double(), new_whitening(3).double()
    for shift, spread in ((5.0, 0.05), (-2.0, 3.0)):
        value = shift + spread * torch.randn(50, 3).double()
        variance = (0.5 * spread) ** 2 * torch.ones(50, 3).double()
        z, log_variance = encoder.whiten(value, variance.log())
        fit(
            SimpleNamespace(whitening=encoder),
            SimpleNamespace(whitening=decoder),
            z,
            log_variance.exp(),
        )
        z, log_variance = encoder.whiten(value, variance.log())
        torch.testing.assert_close(z.mean(0), torch.zeros(3).double())
        used = (z.square() + log_variance.exp()).mean(0)
        torch.testing.assert_close(used, torch.ones(3).double())
        torch.testing.assert_close(decoder.unwhiten(z), value)


def test_no_other_affine_map_costs_less():
    torch.manual_seed(0)
    loc, variance = 3 * torch.randn(50, 4).double() + 1, torch.rand(50, 4).double()
    encoder, decoder = new_whitening(4).double(), new_whitening(4).double()
    refit(encoder, decoder, moments(torch.zeros(50).long(), loc, variance, 1)[0])

    def cost(shift, scale):
        tried = new_whitening(4)
        tried.shift, tried.scale = shift, scale
        whitened, log_variance = tried.whiten(loc, variance.log())
        return kl(whitened, log_variance.exp()).sum()

    shift, scale = (a.clone().requires_grad_() for a in (encoder.shift, encoder.scale))
    cost(shift, scale).backward()
    torch.testing.assert_close(shift.grad, torch.zeros(4).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(scale.grad, torch.zeros(4).double(), atol=1e-9, rtol=0)
    assert cost(encoder.shift, encoder.scale) < cost(torch.zeros(4), torch.ones(4))


def test_latents_that_never_move_are_whitened_all_the_same():
    own, same, still = new_whitening(3), new_whitening(3), torch.zeros(9, 3)
    for _ in range(3):
        refit(own, same, moments(torch.zeros(9).long(), still, still, 1)[0])
    assert (own.scale > 0).all()
    assert own.whiten(still, still)[1].isfinite().all()


def test_sizes_keep_a_spread_however_alike_they_are():
    """Objects of another size than those won so far have to stay affordable."""
    latents = PoseLatents(dim=5, size=True)
    own, same = Whitening(latents).double(), Whitening(latents).double()
    torch.manual_seed(0)
    v = 1e-3 * torch.randn(50, 5).double()
    for _ in range(3):
        z, log_variance = own.whiten(v, torch.full_like(v, -14.0))
        refit(own, same, moments(torch.zeros(50).long(), z, log_variance.exp(), 1)[0])
    assert own.scale[2] == SIZE_SPREAD == same.scale[2]
    assert (own.scale[3:] < 0.01).all() and (own.scale[:2] == 1).all()
    half_as_large = own.whiten(v - torch.tensor(2.0).log(), torch.zeros_like(v))[0][:, 2]
    assert half_as_large.abs().max() < 8


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
    expert = small_expert(5, features=8, pose=True, seeded=True)
    sizes = {"num_experts": 1, "num_slots": 4, "size": 32, "expert": expert}
    config = dataclasses.replace(
        tiny,
        model=dataclasses.replace(tiny.model, **sizes),
        scenes=dataclasses.replace(tiny.scenes, size=32),
        gt_masks=True,
    )
    econ = Econ(config)
    learner, whitening = whitening_of(config, econ)
    scenes = GeneratedScenes(config.scenes, 0, 200).scenes(torch.arange(200))
    seen = (scenes.image, scenes.layers(4))
    before, new = learner.engine.decompose(*seen), sampled_colours(econ)
    whitening.after_validation(before, 0.0)
    after = learner.engine.decompose(*seen)
    torch.testing.assert_close(after.mean, before.mean)
    assert after.terms.z.sum() < before.terms.z.sum()

    seen = after.mean[after.area >= 20].mean((2, 3))
    for moment in (torch.mean, torch.std):
        off, off_before = (moment(c, 0) - moment(seen, 0) for c in (sampled_colours(econ), new))
        assert off.abs().max() < 0.1 and off.norm() < off_before.norm()


@pytest.mark.parametrize("whitening", [True, False])
def test_training_whitens_if_asked(tiny, tmp_path, whitening):
    recipe = RecipeConfig(whitening=whitening)
    train = dataclasses.replace(tiny.train, steps=2, valid_scenes=20)
    econ = Econ(dataclasses.replace(tiny, recipe=recipe, train=train))
    make_trainer(econ.config, tmp_path, econ=econ).fit()
    scales = [e.whitening.scale for e in econ.guide.encoders]
    assert any((scale != 1).any() for scale in scales) == whitening


@pytest.mark.parametrize("wins", [9, 10])
def test_whitening_is_of_all_that_an_expert_won_if_that_is_enough_to_see(tiny, wins):
    econ = Econ(tiny)
    learner, whitening = whitening_of(tiny, econ)
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
        learner.engine.decompose(x), k=torch.tensor([0, 1, 2]).expand(12, 3), region=r
    )
    whitening.after_validation(d, 0.0)
    assert (econ.guide.encoders[0].whitening.scale != 1).any() == (wins == 10)
    for k, n in ((0, wins), (1, 12), (2, 12)):
        if n < 10:
            continue
        with torch.no_grad():
            q = econ.guide.encode(x[:n], r[:n, k], torch.full((n,), k)).base_dist
        torch.testing.assert_close(q.loc.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
        used = (q.loc.square() + q.scale.square()).mean(0)
        torch.testing.assert_close(used, torch.ones(2), atol=1e-3, rtol=0)


def test_frozen_and_idle_experts_are_not_whitened_anew_and_copies_are_as_their_source(tiny):
    config = dataclasses.replace(tiny, train=dataclasses.replace(tiny.train, frozen=1))
    econ = Econ(config)
    learner, whitening = whitening_of(config, econ)
    x = torch.rand(12, 3, 16, 16)
    d = learner.engine.decompose(x)
    k = torch.randint(2, d.k.shape)  # the third wins nothing
    whitening.after_validation(dataclasses.replace(d, k=k), 0.0)
    own = [(e.encoder.whitening, e.decoder.whitening) for e in econ.experts]
    for encoder, decoder in own:
        torch.testing.assert_close(encoder.state_dict(), decoder.state_dict())
    new = new_whitening(2).state_dict()
    for encoder, _ in (own[0], own[2]):
        torch.testing.assert_close(encoder.state_dict(), new)
    assert not torch.equal(own[1][0].scale, new["scale"])
    copy_expert([econ.model.decoders, econ.guide.encoders], learner.optim, 1, 2)
    for source, copied in zip(own[1], own[2], strict=True):
        torch.testing.assert_close(source.state_dict(), copied.state_dict())
