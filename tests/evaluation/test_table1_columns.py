"""The columns of Table 1 on tiny systems, and on ones that know or ignore what is asked."""

from itertools import permutations
from types import SimpleNamespace

import pytest
import torch

from econ_pyro.config import Config
from econ_pyro.core.compositing import compose, regions_of_shapes
from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.evaluation import coherent_scenes, controlled_recombination, inference_cost
from econ_pyro.evaluation.coherent_scenes import Gallery
from econ_pyro.evaluation.controlled_recombination import (
    ClusterControl,
    requests,
    shown,
    swapped,
)
from econ_pyro.evaluation.efficientnet import NEEDED
from econ_pyro.infer import scene_model
from econ_pyro.infer.decomposition import Decomposition
from econ_pyro.infer.elbo import Terms
from econ_pyro.scene_config import SceneConfig
from helpers.decompositions import TRUE, explained, made_up
from helpers.judges import ByColour
from helpers.small_systems import SYSTEMS

SCENES = SceneConfig(size=16)
CLASSES = SCENES.classes


JUDGE = ByColour()


class Perfect:
    """A system of true layers: latents are class and index of the scene, shapes are true masks.

    Args:
        blind: whether latents say nothing.
        experts: number of experts, which win by class; 0: there are none.
    """

    names = ["model"]
    generative = True

    def __init__(self, blind=False, experts=0):
        self.config, self._blind, self._experts = Config(scenes=SCENES), blind, experts

    def decompose(self, images):
        found = {}
        for seed, split in ((self.config.seed, "train"), (1_000_003, "valid")):
            source = GeneratedScenes(SCENES, seed, len(images), split)
            found[split] = source.scenes(torch.arange(len(images)))
        truth = next(t for t in found.values() if torch.equal(t.image, images))
        shape = torch.cat([truth.mask, torch.ones_like(truth.mask[:, :1])], 1)[:, :, None].float()
        colour = torch.cat([truth.colour, truth.background[:, None]], 1) / 255
        mean = colour[..., None, None].expand(-1, -1, -1, 16, 16)
        label = torch.cat([truth.label, torch.full((len(images), 1), 3)], 1)
        z = torch.nn.functional.one_hot(label, 4).float() + 0.01 * torch.rand(*label.shape, 4)
        if self._blind:
            z = torch.rand_like(z)
        region, none = regions_of_shapes(shape), torch.zeros(*label.shape)
        k = label if self._experts else torch.zeros_like(label)
        losses = torch.zeros(*label.shape, self._experts)
        return Decomposition(
            images, k, region, region, mean, shape, z, Terms(none, none, none), losses, k - 1
        )

    def redraw(self, layers):
        return compose(regions_of_shapes(layers.shape), layers.mean)

    def sample(self, n, seed, experts=None):
        return SimpleNamespace(image=GeneratedScenes(SCENES, seed, n).images(torch.arange(n)))


def test_requests_are_of_different_classes_in_any_order():
    found = requests(CLASSES, 300)
    assert sum(found.values()) == 300 and found == requests(CLASSES, 300)
    assert found != requests(CLASSES, 300, seed=1)
    assert set(found) == {p for n in (1, 2, 3) for p in permutations(CLASSES, n)}
    sizes = [sum(c for asked, c in found.items() if len(asked) == n) for n in (1, 2, 3)]
    assert min(sizes) > 70


def test_layers_show_their_matched_objects():
    boxes = [(4, 4, 10, 10), (1, 1, 7, 7), None]
    shows = shown(explained([boxes[1], boxes[0], None], [0, 1, 3]), TRUE, 3)
    assert shows.tolist() == [[0, 1, 3]]
    extra = explained(
        [(1, 1, 7, 7), (4, 4, 10, 10), (12, 0, 16, 4), (0, 15, 1, 16), None], [0] * 5
    )
    assert shown(extra, TRUE, 3).tolist() == [[0, 1, -1, -2, 3]]


def test_clusters_are_named_and_asked_by_name():
    good = ClusterControl(Perfect(), SCENES, 60)
    assert {name: len(m) for name, m in good.members.items()}.keys() == {*CLASSES, "background"}
    right = controlled_recombination.answered(good.draw, JUDGE, 60)
    rendered = controlled_recombination.references(JUDGE, SCENES, 60)
    ceiling, floor = (row.runs[0] for row in rendered)
    assert right > 0.85 and ceiling["requests"] > 0.9
    blind = ClusterControl(Perfect(blind=True), SCENES, 60)
    assert controlled_recombination.answered(blind.draw, JUDGE, 60) < 0.6
    experts = ClusterControl(Perfect(blind=True, experts=4), SCENES, 60)
    assert controlled_recombination.answered(experts.draw, JUDGE, 60) > 0.85
    assert floor["requests"] < 0.5 < ceiling["swaps"]
    good.members["circle"] = good.members["circle"][:0]
    assert not good.draw(("circle", "square"), 2, 0).any()
    assert good.draw(("square",), 2, 0).any()


def test_a_swap_is_right_if_the_other_object_comes_in():
    n = 40
    ceiling = controlled_recombination._rendered_swaps(JUDGE, SCENES, n)
    assert swapped(Perfect(), JUDGE, SCENES, n) == pytest.approx(
        ceiling, abs=0.1
    )  # hidden objects have no layer

    class Forgets(Perfect):
        def redraw(self, layers):
            return super().redraw(layers.picked(*map(torch.Tensor.long, (
                torch.arange(n)[:, None].repeat(1, 2)[: len(layers)],
                torch.tensor([[0, 3]]).repeat(len(layers), 1),
            ))))  # fmt: skip

    assert swapped(Forgets(), JUDGE, SCENES, n) == 0


def test_layers_are_picked_from_any_image():
    d = made_up(batch=3)
    rows, layers = torch.tensor([[2, 0], [1, 1]]), torch.tensor([[0, 2], [1, 1]])
    found = d.picked(rows, layers)
    assert torch.equal(found.z[0, 0], d.z[2, 0]) and torch.equal(found.mean[0, 1], d.mean[0, 2])
    assert torch.equal(found.terms.x, d.terms.x[rows, layers])
    assert torch.equal(found.image, d.image[[0, 1]])


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_draws_its_layers_anew(name):
    model = scene_model.build(SYSTEMS[name])
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    x = GeneratedScenes(SCENES, 1, 4).images(torch.arange(4))
    d = model.decompose(x)
    image = model.redraw(d)
    assert image.shape == x.shape and torch.equal(image, model.redraw(d))
    if name not in ("econ", "monet", "mrbm"):  # whose regions are not what layers draw alone
        assert torch.allclose(image, d.reconstruction, atol=1e-5)
    # layers of another image change the image; there may be as many as are wanted
    other = model.redraw(d.picked(torch.tensor([[1, 1, 1]]), torch.arange(3)[None]))
    fewer = model.redraw(d.picked(torch.tensor([[1, 0]]), torch.tensor([[0, 2]])))
    assert fewer.shape == other.shape == (1, 3, 16, 16)
    assert torch.allclose(other, image[1:2], atol=1e-5)
    assert not torch.allclose(other, image[:1], atol=1e-3)


def gallery(features=None):
    n = 6
    flat = features(GeneratedScenes(SCENES, 1_000_003, n, "valid").images(torch.arange(n))) \
        if features else torch.zeros(0, 0)  # fmt: skip
    return Gallery(SCENES, JUDGE, features, flat, n)


def test_samples_are_judged_and_compared():
    scores = coherent_scenes.measure(Perfect(), gallery(lambda x: x.mean((2, 3))))
    drawn = GeneratedScenes(SCENES, 0, 6).images(torch.arange(6))
    lawful = sum(JUDGE.shows(x, CLASSES) for x in drawn) / 6
    assert scores["lawful"] == lawful > 0.5 and scores["whole"] == 1
    assert abs(scores["kid"]) < 0.1 and "lawful_asked" not in scores
    assert coherent_scenes.measure(Perfect(), gallery())["kid"] == NEEDED
    assert coherent_scenes.measure(SimpleNamespace(generative=False), gallery()) == {}


def test_named_experts_are_asked_for_one_of_each():
    asked = []

    class Named(Perfect):
        names = ["square", "background", "triangle", "circle"]

        def sample(self, n, seed, experts=None):
            asked.append(experts)
            return super().sample(n, seed)

    scores = coherent_scenes.measure(Named(), gallery())
    assert scores["lawful_asked"] > 0.5 and len(set(asked)) == 7
    assert all(e is None or (e[0], {*e[1:]}) == ("background", {*CLASSES}) for e in asked)
    assert controlled_recombination.measure(Named(), JUDGE, SCENES, 6)["control"] == "by name"


def test_references_are_ordered():
    rows = coherent_scenes.references(gallery(lambda x: x.mean((2, 3))))
    ceiling, mixed, floor = (row.runs[0] for row in rows)
    assert ceiling["lawful"] >= mixed["lawful"] >= floor["lawful"] == 0
    assert floor["whole"] == 0 < ceiling["whole"]


@pytest.mark.parametrize(
    ("name", "passes", "effort"),
    [
        # T = 3: T - 1 attentions, T encoders, T decoders
        ("monet", 8, "-"),
        # encoder of masks, T - 1 decoders of masks, T encoders and decoders of components
        ("genesis", 9, "-"),
        # one U-Net, T decoders
        ("genesis-v2", 4, "-"),
        ("slot-attention", 4, "-"),
        # R = 2: R + 1 times T decoders, R times T refinements
        ("iodine", 15, "-"),
        ("mrbm", "-", "4 sweeps x 2 orders"),
        ("mrbm-softmax", "-", "4 sweeps x 1 orders"),
    ],
)
def test_passes_are_counted(name, passes, effort):
    model, images = scene_model.build(SYSTEMS[name]), torch.rand(3, 3, 16, 16)
    found = inference_cost.count_passes(model, images)
    assert (found or "-") == passes and (model.sampling_effort() or "-") == effort
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_costs_of_all_systems_in_one_run(monkeypatch):
    monkeypatch.setattr(inference_cost, "BATCHES", (1, 3))
    models = {name: scene_model.build(SYSTEMS[name]) for name in ("monet", "mrbm")}
    images = torch.rand(3, 3, 16, 16)
    found = inference_cost.measure(models, images, torch.device("cpu"), rounds=2)
    assert set(found) == {"monet", "mrbm"}
    assert found["monet"]["ms_1"] > 0 and found["monet"]["ms_3"] > 0
    assert found["monet"]["gflop"] > 1e-5 and found["mrbm"]["passes"] == "-"
    assert found["monet"]["parameters"] == sum(p.numel() for p in models["monet"].parameters())
