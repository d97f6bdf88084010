"""What a user gives to the library: numbers, experts, devices, and images of all types."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

import econ_pyro
from econ_pyro import arguments
from econ_pyro.core.input_images import as_images
from econ_pyro.econ import Econ
from econ_pyro.errors import EconError
from econ_pyro.io import scene_file
from helpers.trainers import TINY, changed, small_expert

NEEDS_ARVIZ = pytest.mark.needs("arviz_base")


@pytest.fixture(scope="module")
def econ():
    return Econ(changed(TINY, model__expert=small_expert(bias=0.0, shape_bias=0.0)))


@pytest.fixture(scope="module")
def x():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


NUMBERS = [
    (0, "at least 1 for {}, got 0"),
    (-1, "at least 1 for {}, got -1"),
    (2.0, "a whole number for {}, got 2.0"),
    (True, "a whole number for {}, got True"),
    ("2", "a whole number for {}, got '2'"),
]


@pytest.mark.parametrize(
    "name",
    ["n", "slots", "experts_n", "batch", "layers", pytest.param("draws", marks=NEEDS_ARVIZ)],
)
@pytest.mark.parametrize(("value", "message"), NUMBERS)
def test_counts_that_make_no_sense(econ, x, name, value, message):
    calls = {
        "n": lambda: econ.sample(value),
        "slots": lambda: econ.sample(1, slots=value),
        "experts_n": lambda: econ.sample_experts(value),
        "batch": lambda: econ.decompose(x, batch=value),
        "layers": lambda: econ.decompose(x, slots=value),
        "draws": lambda: econ_pyro.to_arviz(econ, x, draws=value),
    }
    shown = {"experts_n": "n", "layers": "slots"}.get(name, name)
    with pytest.raises(EconError, match=re.escape(message.format(shown))):
        calls[name]()


@pytest.mark.parametrize("n", [10**10, 10**5000], ids=["large", "larger"])
def test_more_than_memory_holds_is_refused_before_it_is_drawn(econ, n):
    for draw in (econ.sample, econ.sample_experts):
        with pytest.raises(EconError, match="for n, as memory allows .* take fewer at a time"):
            draw(n)
    with pytest.raises(EconError, match="at most 256 for slots"):
        econ.sample(1, slots=n)
    with pytest.raises(EconError, match="at most 256 for experts, got 257"):
        econ.sample(1, experts=[0] * 257)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", True, float("nan")])
def test_seeds_that_torch_has_not(econ, seed):
    for draw in (econ.sample, econ.sample_experts):
        with pytest.raises(EconError, match="for seed, got"):
            draw(2, seed=seed)


def test_whole_numbers_of_numpy_and_torch_will_do(econ, x):
    want = econ.sample(2, experts=[1, 0], seed=3)
    got = econ.sample(np.int64(2), experts=np.array([1, 0]), seed=torch.tensor(3))
    assert torch.equal(got.image, want.image) and torch.equal(got.k, want.k)
    assert len(econ.decompose(x, batch=10**30)) == 2
    assert econ.sample(1, seed=2**64 - 1).k.shape == (1, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"experts": [3]}, "from 0 to 2, got 3: the model has K = 3"),
        ({"experts": [0, -1]}, "from 0 to 2, got -1"),
        ({"experts": [0.0]}, "a whole number for the index of an expert, got 0.0"),
        ({"experts": ["nobody"]}, "experts from expert-0, expert-1, expert-2, got 'nobody'"),
        ({"experts": []}, "at least 1 for experts, got 0"),
        ({"experts": 1}, "a list for experts, got 1"),
        ({"experts": "01"}, "a list for experts, got '01'"),
        ({"experts": [0, 1], "slots": 3}, "2 for slots, the layers of k, got 3"),
        ({"scene": ""}, "at least one expert of the scene, got ''"),
        ({"scene": "expert-0", "experts": [0]}, "a scene or experts, got both"),
    ],
)
def test_experts_that_cannot_paint_a_scene(econ, given, message):
    with pytest.raises(EconError, match=re.escape(message)):
        econ.sample(2, **given)


def test_parts_that_make_no_sense(econ):
    for wrong in (3, -1, 1.0, True, None, [0]):
        for use in (econ.drop, econ.freeze, econ.add, lambda e: econ.put(e, econ.experts[0])):
            with pytest.raises(EconError, match="from 0 to 2, got|a whole number for the index"):
                use(wrong)
    with pytest.raises(EconError, match="an Expert, got 0"):
        econ.put(0, 0)
    for none in ([], "expert-0", 1):
        with pytest.raises(EconError, match="for experts, got"):
            econ.with_experts(none)
    with pytest.raises(EconError, match="at least 1 for experts, got 0"):
        econ.drop(0, 1, 2)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "b"], "abc", ["a", "b", "c", "c"]])
def test_names_are_one_for_each_expert(econ, names):
    with pytest.raises(EconError, match="3 different names"):
        Econ(econ.config, names=names)
    named = Econ(econ.config)
    with pytest.raises(EconError, match="3 different names"):
        named.names = names
    assert named.names == econ.names


@pytest.mark.parametrize("device", ["gpu", "CPU", "", "cuda:x", "cuda:99", "meta", None, True])
def test_devices_that_are_none(device):
    for build in (lambda: econ_pyro.load("quick", device), lambda: arguments.as_device(device)):
        with pytest.raises(EconError, match="a device"):
            build()


def test_the_cpu_is_one_device():
    for name in ("cpu", "cpu:0", torch.device("cpu")):
        assert arguments.as_device(name) == torch.device("cpu")


@NEEDS_ARVIZ
@pytest.mark.parametrize("temperature", [-0.1, float("nan"), float("inf"), "1", True])
def test_temperatures_that_make_no_sense(econ, x, temperature):
    with pytest.raises(EconError, match="a temperature of 0 or more, got"):
        econ_pyro.to_arviz(econ, x, draws=1, temperature=temperature)


def same(a, b):
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in ("k", "z", "region", "mean"))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_all_types_are_the_networks(econ, x, dtype):
    given = x.to(dtype)
    d = econ.decompose(given)
    assert same(d, econ.decompose(given.float()))
    assert {getattr(d, f).dtype for f in ("image", "z", "mean", "competition_losses")} == {
        torch.float32
    }
    k = d.k
    for program in (econ.guide, econ.model):
        program(given, k)
    r, ones = d.region[:, 0], torch.ones(2, 1, 16, 16, dtype=dtype)
    q = econ.guide.encode(given, r.to(dtype), k[:, 0]).base_dist
    assert q.loc.dtype == econ.guide.attend(given, ones, k[:, 0]).dtype == torch.float32
    assert econ.model.decode(d.z[:, 0].to(dtype), k[:, 0]).mean.dtype == torch.float32


@NEEDS_ARVIZ
def test_to_arviz_takes_what_decompose_takes(econ, x):
    for dtype in (torch.float64, torch.bfloat16):
        tree = econ_pyro.to_arviz(econ, x.to(dtype), draws=2, seed=1)
        want = econ_pyro.to_arviz(econ, x.to(dtype).float(), draws=2, seed=1)
        assert tree["observed_data"]["image"].dtype == "float32"
        np.testing.assert_array_equal(tree["posterior"]["z"], want["posterior"]["z"])
    tree = econ_pyro.to_arviz(econ, x + 2e-5, draws=1)
    assert tree["observed_data"]["image"].max() <= 1


def test_strides_and_graphs_do_not_matter(econ, x):
    want = econ.decompose(x)
    nhwc = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    learnt = x.clone().requires_grad_()
    assert not as_images(learnt, 16, torch.float32).requires_grad
    for given in (
        nhwc,
        learnt,
        x.to(memory_format=torch.channels_last),
        x[None].expand(3, -1, -1, -1, -1)[1],
    ):
        d = econ.decompose(given)
        torch.testing.assert_close(d.mean, want.mean)
        assert torch.equal(d.k, want.k) and not d.image.requires_grad


@pytest.mark.parametrize(
    "value",
    [
        torch.full((1, 3, 16, 16), 1.0000001),
        torch.full((1, 3, 16, 16), -1e-7),
        torch.full((1, 3, 16, 16), 1 + 1e-12, dtype=torch.float64),
        torch.full((1, 3, 16, 16), 1.0078125, dtype=torch.bfloat16),
    ],
)
def test_a_rounding_step_outside_is_clamped(econ, value):
    assert (value.min() < 0) | (value.max() > 1)
    d = econ.decompose(value)
    assert same(d, econ.decompose(value.float().clamp(0, 1)))
    assert 0 <= d.image.min() and d.image.max() <= 1


def follow(hint, images):
    """What a user does who reads the advice."""
    for step in hint.split(", then "):
        if found := re.search(r"(?<!torch\.)images[.\[].*", step):
            images = eval(found[0], {"images": images})
        elif found := re.search(r"\((images [+].*)", step):
            images = eval(f"({found[1]}", {"images": images})
        elif found := re.search(r"torch\.[\w.]+\(images.*", step):
            images = eval(found[0], {"images": images, "torch": torch})
        elif found := re.search(r"divide by (\d+)", step):
            images = images / int(found[1])
    return images


BYTES = (torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 255).byte()
FLOATS, NHWC = BYTES / 255, (BYTES / 255).permute(0, 2, 3, 1)
GREY = FLOATS[:, :1].expand(-1, 3, -1, -1)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (BYTES, FLOATS),
        (BYTES.long(), FLOATS),
        (BYTES.float(), FLOATS),
        (BYTES.permute(0, 2, 3, 1), FLOATS),
        (BYTES.int() * 257, FLOATS),
        ((BYTES.int() * 257).to(torch.uint16), FLOATS),
        (BYTES > 127, (BYTES > 127).float()),
        (NHWC, FLOATS),
        (NHWC[0], FLOATS[:1]),
        (FLOATS[0], FLOATS[:1]),
        (FLOATS[None], FLOATS),
        (FLOATS[:, :1], GREY),
        (NHWC[..., :1], GREY),
        (FLOATS[:, 0], GREY),
        (FLOATS[0, 0], GREY[:1]),
        (torch.cat([FLOATS, FLOATS[:, :1]], 1), FLOATS),
        (2 * FLOATS - 1, FLOATS),
        (FLOATS * 1.1 - 0.05, (FLOATS * 1.1 - 0.05).clamp(0, 1)),
        (FLOATS.to_sparse(), FLOATS),
        (FLOATS.repeat_interleave(2, 2).repeat_interleave(2, 3), FLOATS),
    ],
)
def test_who_follows_the_advice_has_the_images(econ, given, want):
    with pytest.raises(EconError) as error:
        econ.decompose(given)
    torch.testing.assert_close(follow(error.value.hint, given), want, atol=1e-6, rtol=0)
    if given.layout == torch.strided and given.shape[-2:] == (16, 16):
        assert "resize" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (FLOATS * 0 + 1.001, r"values from 1.001 to 1.001: use images.clamp\(0, 1\)"),
        (FLOATS * float("nan"), r"not a number \(NaN\)"),
        (FLOATS / 0, "from inf to inf|NaN"),
        (FLOATS * 10 - 5, "undo the normalisation"),
        (FLOATS[:0], "give at least one"),
        (FLOATS.numpy(), "ndarray of float32 .* use torch.from_numpy"),
        (Image.new("RGB", (16, 16)), "got Image: .*numpy.array"),
        ([FLOATS[0]], "got list: .*torch.stack"),
        ("a.png", "got 'a.png': .*read_image"),
        (FLOATS[:, :2], "select three channels"),
        (FLOATS + 0j, "take their real part"),
        (FLOATS.to("meta"), "a meta tensor"),
    ],
)
def test_what_are_no_images(econ, given, message):
    with pytest.raises(EconError, match=message):
        econ.decompose(given)


def test_true_regions_of_all_types(econ, x):
    labels = torch.randint(3, (2, 16, 16), generator=torch.Generator().manual_seed(3))
    masks = one_hot(labels, 3).permute(0, 3, 1, 2)[:, :, None]  # (B, T, 1, H, W)
    want = econ.decompose(x, evidence=masks.float())
    assert torch.equal(want.region, masks.float())
    for given in (masks == 1, masks.double(), masks.bfloat16()):
        assert same(econ.decompose(x, evidence=given), want)
    rounded = econ.decompose(x, evidence=masks + 1e-6, batch=1)
    torch.testing.assert_close(rounded.mean, want.mean, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[:1], r"float32 \(1, 3, 1, 16, 16\)"),
        (lambda r: r[:, :2], r"float32 \(2, 2, 1, 16, 16\)"),
        (lambda r: r[:, :, 0], r"evidence\[:, :, None\]"),
        (lambda r: r.long(), "int64"),
        (lambda r: r * 0.5, "sums from 0.5 to 0.5"),
        (lambda r: 3 * r - 2 / 3, "values from"),
        (lambda r: r * float("nan"), "NaN"),
        (lambda r: r.numpy(), "ndarray"),
    ],
)
def test_what_are_no_regions(econ, x, change, message):
    evidence = torch.rand(2, 3, 1, 16, 16).softmax(1)
    with pytest.raises(EconError, match=message):
        econ.decompose(x, evidence=change(evidence))


def test_float64_models_work_throughout(econ, x):
    wide = Econ(econ.config)
    wide.model.double()
    with pytest.raises(EconError, match="model and guide of one type, got float64 and float32"):
        wide.decompose(x)
    wide.guide.double()
    d, want = wide.decompose(x), econ.decompose(x)
    assert d.mean.dtype == d.image.dtype == torch.float64
    torch.testing.assert_close(d.mean.float(), want.mean, atol=1e-5, rtol=0)
    canvas = wide.sample(2, experts=[0, 2], seed=1)
    assert canvas.image.dtype == wide.sample(1, noisy=True).image.dtype == torch.float64
    mean, _ = wide.sample_experts(2)
    torch.testing.assert_close(mean.float(), econ.sample_experts(2)[0])
    scene = scene_file.of_decomposition(d[0])
    torch.testing.assert_close(wide.render(scene).image.float(), econ.render(scene).image)
    part = wide.with_experts([2, 0])
    assert part.dtype == torch.float64
    assert torch.equal(
        part.experts[1].decoder.layers.head.weight, wide.experts[0].decoder.layers.head.weight
    )
