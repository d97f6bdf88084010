"""What attention begins with where it is salient."""

import dataclasses

import torch

from econ_pyro.config import ExpertConfig
from econ_pyro.guides.attention import SALIENT, AttentionUNet, salience
from econ_pyro.layers import SCOPE_EPS

SMALL = ExpertConfig(features=4, channels=(4, 4), hidden=8, salient=True)


def seen(x, s):
    return torch.cat([x, s.clamp_min(SCOPE_EPS).log()], 1)


def scene():
    """A dark scene with two bright squares, and all of it as scope."""
    x = torch.full((1, 3, 16, 16), 0.2)
    x[:, 0, 2:6, 2:6] = 0.9
    x[:, 1, 8:12, 8:12] = 0.8
    return x, torch.ones(1, 1, 16, 16)


def test_objects_are_salient_and_the_background_is_not():
    x, s = scene()
    value = salience(seen(x, s))[0, 0]
    assert value[2:6, 2:6].min() > 3 and value[8:12, 8:12].min() > 2
    assert value[12:, :].max() < 0.2
    assert value.max() <= SALIENT


def test_what_has_been_taken_does_not_count():
    x, s = scene()
    s[:, :, 2:6, 2:6] = 0
    value = salience(seen(x, s))[0, 0]
    assert value[8:12, 8:12].min() > 3.9
    changed = x.clone()
    changed[:, :, 2:6, 2:6] = 0.5
    others = torch.ones(16, 16, dtype=torch.bool)
    others[2:6, 2:6] = False
    there = salience(seen(changed, s))[0, 0]
    torch.testing.assert_close(there[others], value[others], atol=1e-3, rtol=0)


def test_a_scope_of_one_colour_has_nothing_salient():
    noisy = 0.3 + 0.01 * torch.randn(1, 3, 16, 16)
    assert salience(seen(noisy, torch.ones(1, 1, 16, 16))).max() < 0.3


def test_new_attention_goes_for_what_is_salient():
    torch.manual_seed(0)
    x, s = scene()
    for seed in range(5):
        torch.manual_seed(seed)
        plain = AttentionUNet(dataclasses.replace(SMALL, salient=False), 16)
        ours = AttentionUNet(SMALL, 16)
        ours.load_state_dict(plain.state_dict(), strict=False)
        gain = ours(seen(x, s)) - plain(seen(x, s))
        torch.testing.assert_close(gain, salience(seen(x, s)))
