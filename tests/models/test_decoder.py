"""The spatial broadcast decoder's start."""

import pytest
import torch

from econ_pyro.model_config import ExpertConfig, FreeLatents, PoseLatents
from econ_pyro.models.decoder import SpatialBroadcastDecoder
from econ_pyro.models.object_centred_decoder import ObjectCentredDecoder


def slope(**options):
    """How far latents change what a new decoder draws: norm of the gradient of its logits."""
    torch.manual_seed(0)
    config = ExpertConfig(FreeLatents(dim=2), layers=4, features=16, **options)
    z = torch.randn(8, 2, requires_grad=True)
    logits = SpatialBroadcastDecoder(config, 16).logits(z)
    (gradient,) = torch.autograd.grad((logits * torch.randn_like(logits)).sum(), z)
    return gradient.norm().item()


def test_latents_matter_from_the_start_with_he_initialisation():
    assert slope(kaiming=True) > 5 * slope()


def spread(kaiming, **latents):
    """Standard deviation of the first weights of a decoder of pose latents."""
    torch.manual_seed(0)
    config = ExpertConfig(PoseLatents(dim=5, **latents), features=64, kaiming=kaiming)
    decoder = ObjectCentredDecoder(config, 16)
    stack = decoder.shape if latents else decoder.layers
    return stack.blocks[0].weight.std().item()


@pytest.mark.parametrize(("latents", "inputs"), [({}, 6), ({"shape_dim": 2}, 3)])
def test_decoders_of_pose_latents_have_it_anyway(latents, inputs):
    expected = (2 / (9 * inputs)) ** 0.5
    assert spread(False, **latents) == spread(True, **latents)
    assert abs(spread(False, **latents) / expected - 1) < 0.1  # torch's own: 0.41 of it


@pytest.mark.parametrize("kaiming", [False, True])
def test_shapes_start_at_their_bias(kaiming):
    config = ExpertConfig(FreeLatents(), shape_bias=-3.0, kaiming=kaiming)
    decoder = SpatialBroadcastDecoder(config, 16)
    assert decoder.layers.head.bias[-1] == -3.0
