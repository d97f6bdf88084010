import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from econ_pyro.errors import EconError
from econ_pyro.viz import figures, panels, training_curves
from helpers.decompositions import made_up

NAMES = ["circle", "square", "background"]


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        return np.asarray(image).copy()


def places(sheet: np.ndarray, data: torch.Tensor, scale: int) -> list[tuple[int, int]]:
    """Where a sheet holds data, every pixel a flat square of exactly its value."""
    levels = (data.expand(3, -1, -1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    want = np.kron(levels, np.ones((scale, scale, 1), dtype=np.uint8))
    h, w = want.shape[:2]
    corner = (sheet[: -h + 1, : -w + 1] == want[0, 0]).all(-1)
    return [
        (int(y), int(x))
        for y, x in np.argwhere(corner)
        if np.array_equal(sheet[y : y + h, x : x + w], want)
    ]


@pytest.mark.parametrize("layers", [1, 3, 5])
def test_strip_holds_the_data_itself(tmp_path, layers):
    d = made_up(layers=layers)
    path = figures.decomposition_strip(d, NAMES, tmp_path / "strip.png")
    sheet, scale = read(path), 8  # 16 pixels make a panel of 128
    at = {}
    for name in ("scope", "region", "mean", "shape"):
        found = [places(sheet, a, scale) for a in getattr(d, name)[0]]
        assert [len(f) for f in found] == [1] * layers, name
        at[name] = [f[0] for f in found]
        assert len({x for _, x in at[name]}) == 1  # a column
        ys = [y for y, _ in at[name]]
        assert ys == sorted(ys)  # front to back, downwards
    rows = zip(*at.values(), strict=True)
    assert all(len({y for y, _ in row}) == 1 for row in rows)
    order = [at[name][0][1] for name in ("scope", "region", "mean", "shape")]
    assert order == sorted(order)
    assert len(places(sheet, d.image[0], scale)) == 1
    assert len(places(sheet, d.reconstruction[0], scale)) == 1
    assert not places(sheet, d.image[1], scale)  # one scene only


def test_seen_part_is_composed_over_the_checkerboard():
    image, alpha = torch.rand(3, 16, 16), torch.zeros(1, 16, 16)
    alpha[:, :, :8] = 1
    out = panels.over_checker(image, alpha, 1)
    assert np.array_equal(out[:, :8], panels.panel(image, 1)[:, :8])
    greys = {round(255 * level) for level in panels.CHECKER}
    assert set(np.unique(out[:, 8:]).tolist()) == greys
    again = panels.over_checker(alpha * image, alpha, 1, premultiplied=True)
    assert np.array_equal(out, again)


def test_grid_shows_every_scene_up_to_the_limit(tmp_path):
    d = made_up(batch=3)
    sheet = read(figures.decomposition_grid(d, NAMES, tmp_path / "grid.png", limit=2))
    found = [places(sheet, d.image[b], 6) for b in range(3)]
    assert [len(f) for f in found] == [1, 1, 0]
    assert found[0][0][0] == found[1][0][0] and found[0][0][1] < found[1][0][1]
    assert all(len(places(sheet, d.shape[b, t], 6)) == 1 for b in (0, 1) for t in range(3))
    with pytest.raises(EconError, match="at least one image"):
        figures.decomposition_grid(d[:0], NAMES, tmp_path / "none.png")


def test_segments_have_their_experts_colours(tmp_path):
    d = made_up()
    layer = torch.zeros(1, 1, 16, 16, dtype=torch.long)
    layer[..., 8:] = 2
    region = torch.nn.functional.one_hot(layer, 3).permute(0, 4, 1, 2, 3).float()
    d = dataclasses.replace(d[:1], region=region)
    sheet = read(figures.decomposition_strip(d, NAMES, tmp_path / "strip.png"))
    for k in (0, 2):
        area = (sheet == panels.expert_colour(k)).all(-1).sum()
        assert area >= 128 * 63  # half a panel, less the line between
    chip = (sheet == panels.expert_colour(1)).all(-1).sum()
    assert 0 < chip < 300


def test_expert_samples_stand_in_rows_under_training_data(tmp_path):
    mean, training = torch.rand(3, 4, 3, 32, 32), torch.rand(6, 3, 32, 32)
    shape = torch.ones(3, 4, 1, 32, 32)
    path = figures.expert_samples(mean, shape, NAMES, tmp_path / "samples.png", training)
    sheet = read(path)
    at = [[places(sheet, x, 3)[0] for x in row] for row in [training[:4], *mean]]
    assert all(len({y for y, _ in row}) == 1 for row in at)
    assert all(len({row[j][1] for row in at}) == 1 for j in range(4))  # columns line up
    assert [row[0][0] for row in at] == sorted(row[0][0] for row in at)
    assert not places(sheet, training[4], 3)


def test_build_up_goes_down_in_order(tmp_path):
    scenes, k = torch.rand(2, 3, 3, 16, 16), torch.tensor([[2, 0, 1], [2, 1, 1]])
    plain = read(figures.build_up(scenes, tmp_path / "plain.png"))
    barred = read(figures.build_up(scenes, tmp_path / "barred.png", k, NAMES))
    for sheet in (plain, barred):
        at = [[places(sheet, x, 6)[0] for x in scene] for scene in scenes]
        assert [y for y, _ in at[0]] == sorted(y for y, _ in at[0])
        assert [y for y, _ in at[0]] == [y for y, _ in at[1]]
    for b, t in np.ndindex(2, 3):  # a bar in the colour of the expert that came last
        y, x = places(barred, scenes[b, t], 6)[0]
        assert tuple(barred[y + 96 + 4, x + 48]) == panels.expert_colour(int(k[b, t]))


def test_contact_sheet_size(tmp_path):
    sheet = read(figures.contact_sheet(torch.rand(7, 3, 32, 32), tmp_path / "a.png", columns=4))
    step = 96 + panels.GAP
    edge = 2 * panels.MARGIN - panels.GAP + 1
    assert sheet.shape == (2 * step + edge, 4 * step + edge, 3)
    assert (
        read(figures.contact_sheet(torch.rand(5, 1, 256, 256), tmp_path / "b.png")).shape[1] > 700
    )


def test_rows_of_a_contact_sheet_have_names_on_the_left(tmp_path):
    images = torch.rand(6, 3, 8, 8)
    plain = read(figures.contact_sheet(images, tmp_path / "a.png", 3))
    named = read(figures.contact_sheet(images, tmp_path / "b.png", 3, names=["clean", "noise"]))
    wider = named.shape[1] - plain.shape[1]
    assert (
        wider > 20
        and (named[:, -plain.shape[1] + panels.MARGIN :] == plain[:, panels.MARGIN :]).all()
    )
    for rows in (slice(0, 100), slice(120, None)):  # a name beside each row
        assert (named[rows, :wider] < 128).any()


def test_values_outside_the_range_are_clamped():
    out = panels.panel(torch.tensor([-0.5, 0.5, 1.5]).view(1, 1, 3), 1)
    assert out[0, :, 0].tolist() == [0, 128, 255]


ROWS = [
    {"step": 100 * i, "loss": 100 / (i + 1), "x": 80 / (i + 1), "z": 5.0, "r": 15 / (i + 1),
     "valid_loss": 90 / (i + 1) if i % 2 else None, "lr": 5e-4 * 10 ** (-0.5 * (i // 4)),
     "usage": [0.2, 0.3, 0.5]}
    for i in range(12)
]  # fmt: skip


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_training_curves_as_pixels_and_as_vectors(tmp_path, ending):
    path = training_curves.training_curves(ROWS, tmp_path / f"curves{ending}", NAMES)
    head = path.read_bytes()[:8]
    assert head.startswith({".png": b"\x89PNG", ".svg": b"<?xml"}[ending])


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:1],
        [{"step": 1}],
        [{"step": i, "loss": -1.0 * i} for i in range(3)],
        [{"step": i, "lr": 1e-3 / (i + 1)} for i in range(30)],
        [{"step": i, "lr": 0.0} for i in range(3)],
    ],
)
def test_training_curves_make_do_with_what_there_is(tmp_path, rows):
    assert training_curves.training_curves(rows, tmp_path / "curves.png").stat().st_size > 1000


def test_training_curves_of_nothing_is_a_users_error(tmp_path):
    with pytest.raises(EconError, match="train first"):
        training_curves.training_curves([], tmp_path / "curves.png")


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "figure.png"
    figures.contact_sheet(torch.zeros(1, 3, 8, 8), path)
    before = path.read_bytes()

    def fail(part):
        part.write_bytes(b"half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        panels.write_figure(path, (".png",), fail)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(EconError, match="ends in .png"):
        figures.contact_sheet(torch.zeros(1, 3, 8, 8), tmp_path / "figure.jpg")
    with pytest.raises(EconError, match="ends in .png or .pdf or .svg"):
        training_curves.training_curves(ROWS, tmp_path / "curves.jpg")


def test_experts_have_different_colours():
    colours = [panels.expert_colour(k) for k in range(25)]
    assert tuple(colours[:8]) == panels.PALETTE and colours[24] == colours[0]
    apart = np.abs(np.array(colours[:24])[:, None] - np.array(colours[:24])).sum(2)
    assert apart[~np.eye(24, dtype=bool)].min() >= 40
