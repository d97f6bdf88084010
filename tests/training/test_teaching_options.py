"""What teaching needs of a configuration."""

import dataclasses

import pytest
import torch

from econ_pyro.config import AugmentConfig, Config, TeachingConfig, from_dict, to_dict
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.model_config import SceneModelConfig
from econ_pyro.training.schedules import unfinished
from helpers.trainers import changed, seeded_tiny, taught_tiny


def test_it_goes_through_json():
    config = dataclasses.replace(taught_tiny(), augment=AugmentConfig(noise=0.1))
    assert from_dict(Config, to_dict(config)) == config


def test_seeded_attention_cannot_be_taught():
    with pytest.raises(EconError, match="attention.kind unet"):
        dataclasses.replace(seeded_tiny(), teaching=TeachingConfig())


def test_a_model_without_attention_cannot_be_taught():
    with pytest.raises(EconError, match="kind econ.*leave out --teaching.kind"):
        Config(model=SceneModelConfig(), teaching=TeachingConfig())


def test_true_regions_leave_nothing_to_teach():
    with pytest.raises(EconError, match="gt-masks"):
        dataclasses.replace(taught_tiny(), gt_masks=True)
    # but a taught model explains the layers that it is given
    x, regions = torch.rand(2, 3, 16, 16), torch.ones(2, 3, 1, 16, 16) / 3
    econ = Econ(taught_tiny())
    assert torch.equal(econ.decompose(x, evidence=regions).region, regions)
    assert econ.loss_terms(x, regions).x.shape == (2, 3)


def test_corruptions_without_teaching_would_do_nothing():
    with pytest.raises(EconError, match="augment.noise, augment.jpeg, got teaching.kind none"):
        Config(augment=AugmentConfig(noise=0.1, jpeg=50))
    assert Config(augment=AugmentConfig(share=0.5))  # of no kind
    assert Config(augment=AugmentConfig(share=0.0, noise=0.1))  # of no image


@pytest.mark.parametrize("field", ["start", "seeds_until"])
def test_durations_are_checked(field):
    with pytest.raises(EconError, match=field.replace("_", "-")):
        TeachingConfig(**{field: "soon"})


def test_a_run_that_ends_before_its_seeds_leave_says_so():
    config = changed(taught_tiny(start=2, seeds_until=5), train__steps=10)
    assert unfinished(config, 4, 10) == ["teaching.seeds-until (step 5)"]
    assert unfinished(config, 1, 10) == [
        "teaching.start (step 2)",
        "teaching.seeds-until (step 5)",
    ]
    assert unfinished(config, 6, 10) == []


def test_a_run_that_ends_before_it_sees_corrupted_images_says_so():
    config = changed(taught_tiny(), train__steps=10)
    later = AugmentConfig(start=7, noise=0.1)
    assert unfinished(dataclasses.replace(config, augment=later), 5, 10) == [
        "augment.start (step 7)"
    ]
    of_no_kind = dataclasses.replace(later, noise=None)
    assert unfinished(dataclasses.replace(config, augment=of_no_kind), 5, 10) == []
