"""A decoder whose shape, an L, no angle turns into itself."""

import torch

from econ_pyro.models import pose_search
from econ_pyro.models.object_centred_decoder import ObjectCentredDecoder


def odd_decoder(expert, monkeypatch):
    """The decoder of an expert, in float64, and the shape that searches see as its own."""
    torch.manual_seed(3)
    decoder = ObjectCentredDecoder(expert, 32).double()
    with torch.no_grad():
        decoder.bump.zero_()
    y, x = decoder.wide[:, :2].unbind(1)
    block = (y.abs() < 1) & (x.abs() < 0.7) & ~((y < 0.2) & (x < 0))
    shape = (16.0 * block - 8.0)[:, None].double()
    monkeypatch.setattr(pose_search, "draw_shapes", lambda decoders: [shape])
    return decoder, shape
