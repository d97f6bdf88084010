"""Training steps in which attention is taught: who teaches, who learns, and from what."""

import dataclasses

import pytest
import torch

from econ_pyro.accel.process_group import ProcessGroup
from econ_pyro.config import AugmentConfig, NoTeaching, RecipeConfig
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.infer import taught_svi
from econ_pyro.infer.joint_competition import JointCompetition
from econ_pyro.infer.oracle_competition import OracleCompetition
from econ_pyro.infer.taught_svi import TaughtSVI
from econ_pyro.training.learner import Learner
from helpers.trainers import changed, equal, make_trainer, taught_tiny


def learner_of(config):
    torch.manual_seed(0)
    return Learner(config, Econ(config).double(), torch.device("cpu"), ProcessGroup())


@pytest.fixture
def images():
    return torch.rand(4, 3, 16, 16).double()


def gradients(networks):
    return [all(p.grad is None for p in network.parameters()) for network in networks]


def test_all_experts_attention_is_taught_and_losers_draw_as_before(images):
    learner = learner_of(taught_tiny())
    engine = learner.engine
    assert isinstance(engine, TaughtSVI)
    decoders, attentions, encoders = learner.model.expert_groups()
    engine.competition.expert_bias = torch.tensor([0.0, 1e9, 0.0]).double()
    before = {k: v.clone() for k, v in decoders[1].state_dict().items()}
    result = learner.step(images, None, 0)
    assert 1 not in result.k
    assert gradients(attentions) == [False, False, False]
    assert (
        gradients(decoders) == gradients(encoders) == [0 not in result.k, True, 2 not in result.k]
    )
    assert equal(before, decoders[1].state_dict())
    assert engine.divergence > 0


def test_seeds_leave_training_after_the_step_that_is_stated(images, monkeypatch):
    learner = learner_of(taught_tiny(seeds_until=2))
    asked = []
    seeds = learner.engine.teaching.seeds
    grow = seeds.candidates
    monkeypatch.setattr(seeds, "candidates", lambda *args: asked.append(step) or grow(*args))
    for step in range(4):
        learner.step(images, None, step)
        learner.engine.decompose(images)
    assert asked == [0, 1]


def test_shares_of_the_run_follow_the_horizon(images):
    learner = learner_of(taught_tiny(start="20%", seeds_until="50%"))
    teaching, found = learner.engine.teaching, []
    for step in range(10):
        learner.prepare(step, 10)
        found.append((teaching.weight, teaching.seeded, teaching.first.ordered))
    assert found[0] == found[1] == (0.0, True, False)
    assert found[2] == found[4] == (1.0, True, True)
    assert found[5] == found[9] == (1.0, False, True)


def test_before_it_is_taught_attention_learns_nothing_from_seeds_regions(images):
    learner = learner_of(taught_tiny(start=1))
    learner.step(images, None, 0)
    assert gradients(learner.model.guide.attentions) == [True, True, True]
    learner.step(images, None, 1)
    assert gradients(learner.model.guide.attentions) == [False, False, False]


def test_without_seeds_and_before_it_is_taught_the_step_is_that_of_the_elbo(images):
    taught = learner_of(taught_tiny(start=1, seeds_until=0))
    plain = learner_of(dataclasses.replace(taught_tiny(), teaching=NoTeaching()))
    torch.manual_seed(1)
    a = taught.step(images, None, 0)
    torch.manual_seed(1)
    b = plain.step(images, None, 0)
    assert torch.equal(a.k, b.k)
    torch.testing.assert_close(a.loss, b.loss)
    for p, q in zip(taught.model.parameters(), plain.model.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad)


def test_the_model_that_teaches_itself_learns_at_the_regions_of_the_e_step(images, monkeypatch):
    learner = learner_of(taught_tiny(seeds_until=0))
    engine, seen = learner.engine, []
    terms = engine.elbo.terms
    monkeypatch.setattr(
        engine.elbo, "terms", lambda m, g, *args: seen.append(g.selection) or terms(m, g, *args)
    )
    learner.step(images, None, 0)
    (won,) = seen
    torch.testing.assert_close(won.evidence.sum(1), torch.ones(4, 1, 16, 16).double())
    assert won.evidence is won.region and not won.evidence.requires_grad


def test_networks_see_corrupted_images_and_explain_clean_ones(images, monkeypatch):
    config = dataclasses.replace(
        taught_tiny(), augment=AugmentConfig(share=1.0, noise=0.3, blur=1.0, texture=0.2)
    )
    learner = learner_of(config)
    engine, seen = learner.engine, []
    attended = learner.model.guide.attention_logits
    terms = engine.elbo.terms
    monkeypatch.setattr(
        learner.model.guide, "attention_logits",
        lambda x, s: seen.append(x) or attended(x, s), raising=False,
    )  # fmt: skip
    monkeypatch.setattr(
        engine.elbo,
        "terms",
        lambda m, g, *a: seen.extend([g.selection.seen, a[0]]) or terms(m, g, *a),
    )
    learner.step(images, None, 0)
    encoded, explained, attended_to = seen
    assert encoded is attended_to and not torch.equal(encoded, images)
    assert torch.equal(explained, images)


def lessons_of(learner, monkeypatch):
    """What the attention of a learner is shown and taught from now on."""
    found, divergence = [], taught_svi.divergence
    monkeypatch.setattr(
        taught_svi, "divergence", lambda g, taught: found.append(taught) or divergence(g, taught)
    )
    return found


@pytest.mark.parametrize("seeds_until", [0, 9])
def test_a_share_of_the_lessons_is_of_recomposed_scenes(images, monkeypatch, seeds_until):
    config = taught_tiny(recomposed=0.25, seeds_until=seeds_until)
    corrupted = AugmentConfig(share=1.0, noise=0.3, contrast=0.5, blur=2.0)
    learner = learner_of(dataclasses.replace(config, augment=corrupted))
    taught, made = lessons_of(learner, monkeypatch), []
    recompose = taught_svi.recomposed
    monkeypatch.setattr(
        taught_svi, "recomposed", lambda *args: made.append(recompose(*args)) or made[-1]
    )
    selected, terms = [], learner.engine.elbo.terms
    monkeypatch.setattr(
        learner.engine.elbo,
        "terms",
        lambda m, g, *a: selected.append(g.selection) or terms(m, g, *a),
    )
    for step in range(8):
        learner.step(images, None, step)
    corruptions = 0
    for lesson, scenes, won in zip(taught, made, selected, strict=True):
        assert scenes.k.shape == (4, 5)  # T + 1 objects at most
        assert lesson.seen.shape == images.shape
        assert torch.equal(lesson.seen[:3], won.seen[1:])
        corruptions += not torch.equal(lesson.seen[3], scenes.image[0])
        layers = (lesson.region[3] * (1 - scenes.region[0, :, None])).sum((2, 3, 4))
        asked = lesson.region[3].sum((1, 2, 3)) > 0  # for one layer of the new scene
        assert (layers.amin(0)[asked] < 1e-9).all()
    assert corruptions > 2


def attention_gradient(images, **teaching):
    learner = learner_of(taught_tiny(**teaching))
    torch.manual_seed(1)
    learner.step(images, None, 0)
    parameters = learner.model.guide.attentions.parameters()
    return torch.cat([p.grad.flatten() for p in parameters]), learner.engine.divergence


def test_the_weight_multiplies_what_attention_learns(images):
    one, divergence = attention_gradient(images)
    three, same = attention_gradient(images, weight=3.0)
    assert one.abs().max() > 0 and torch.equal(divergence, same)
    torch.testing.assert_close(three, 3 * one)


def test_the_divergence_of_a_step_is_a_mean_over_scenes(images, monkeypatch):
    learner = learner_of(taught_tiny())
    monkeypatch.setattr(
        taught_svi, "divergence", lambda *_: torch.tensor([1.0, 2.0, 3.0, 6.0]).requires_grad_()
    )
    learner.step(images, None, 0)
    assert learner.metrics()["teaching"] == 3.0


def test_seeds_layers_compete_at_the_temperature_and_with_the_bias_of_the_step(
    images, monkeypatch
):
    learner, found = learner_of(taught_tiny()), []
    contest = JointCompetition.contest
    monkeypatch.setattr(
        JointCompetition, "contest", lambda self, *args: found.append(self) or contest(self, *args)
    )
    own = learner.engine.competition
    own.expert_bias = torch.tensor([0.0, 3.0, 0.0]).double()
    learner.step(images, None, 0)
    assert (found[0].temperature, found[0].expert_bias) == (5.0, own.expert_bias)


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_model_that_teaches_itself_refines_in_so_many_rounds(images, monkeypatch, rounds):
    learner, found = learner_of(taught_tiny(seeds_until=0, rounds=rounds)), []
    explain = OracleCompetition.explain
    monkeypatch.setattr(
        OracleCompetition, "explain", lambda self, *a: found.append(self) or explain(self, *a)
    )
    bias = learner.engine.competition.expert_bias = torch.tensor([0.0, 3.0, 0.0]).double()
    learner.step(images, None, 0)
    assert [(o.temperature, o.expert_bias is bias) for o in found] == rounds * [(5.0, True)]


@pytest.mark.parametrize("seeds_until", [0, 9])
def test_encoders_see_layers_of_the_corrupted_images_partly_hidden(
    images, monkeypatch, seeds_until
):
    config = dataclasses.replace(
        changed(taught_tiny(seeds_until=seeds_until), recipe=RecipeConfig(occlusion=1.0)),
        augment=AugmentConfig(share=1.0, contrast=0.0, blur=1.0, noise=0.3, jpeg=10, shading=0.5),
    )
    learner, found = learner_of(config), []
    draw = taught_svi.draw_occluders
    monkeypatch.setattr(
        taught_svi,
        "draw_occluders",
        lambda *args: found.append((args, draw(*args))) or found[-1][1],
    )
    selected, terms = [], learner.engine.elbo.terms
    monkeypatch.setattr(
        learner.engine.elbo,
        "terms",
        lambda m, g, *a: selected.append(g.selection) or terms(m, g, *a),
    )
    learner.step(images, None, 0)
    ((seen, region, _, share), occluder), (won,) = found[0], selected
    assert seen is won.seen and not torch.equal(seen, images)
    assert region is won.region and won.occluder is occluder and share == 1.0


def test_true_regions_are_refused(images):
    with pytest.raises(EconError, match="true regions"):
        learner_of(taught_tiny()).engine.update(images, torch.ones(4, 3, 1, 16, 16))


@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_resumes_bit_equal_before_and_after_seeds_leave(tmp_path, stop):
    config = changed(taught_tiny(), train__validate_every=1)
    whole = make_trainer(config, tmp_path / "whole", steps=4)
    whole.fit()
    first = make_trainer(config, tmp_path / "part", steps=4)
    first.fit(stop=lambda: first.step == stop)
    assert first.step == stop
    second = make_trainer(config, tmp_path / "part", steps=4)
    second.resume()
    second.fit()
    assert equal(whole.learner.state(), second.learner.state())
