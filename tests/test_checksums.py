"""What is not as it was written is noticed; what was written without a checksum is read."""

import json
import random
import struct
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

from econ_pyro.config import FORMAT, to_dict
from econ_pyro.econ import Econ, load, load_expert
from econ_pyro.errors import EconError
from econ_pyro.files import storage
from econ_pyro.files.archive import check_archive
from econ_pyro.io import pretrained
from econ_pyro.io.expert_file import save_expert
from econ_pyro.training import checkpoint, metrics_file
from helpers.scripts import fails
from helpers.trainers import changed, equal, make_trainer

ROWS = [{"step": i, "loss": 1.5 * i, "usage": [0.25, 0.75], "lr": 0.1} for i in range(1, 5)]


def flipped(data, at, bit=0):
    out = bytearray(data)
    out[at] ^= 1 << bit
    return bytes(out)


def test_no_flipped_bit_of_a_checkpoint_changes_what_is_loaded(tmp_path):
    state = {"model": {"a": torch.arange(40.0), "b": torch.ones(3)}, "step": 7, "names": ["x"]}
    path = tmp_path / "last.pt"
    checkpoint.save_checkpoint(path, state)
    data = path.read_bytes()
    refused, luck = 0, random.Random(0)
    directory = data.index(b"PK\1\2")
    # the directory at the end says what torch reads: all of it, the rest here and there
    for at in [*range(directory, len(data)), *range(0, directory, 11)]:
        path.write_bytes(flipped(data, at, luck.randrange(8)))
        try:
            assert equal(checkpoint.load_checkpoint(path), state), at
        except EconError:
            refused += 1
    assert refused > 100
    # an entry that is called a folder: torch gives what is in memory
    path.write_bytes(flipped(data, directory + 38, 4))
    with pytest.raises(EconError, match="an entry that is a folder"):
        checkpoint.load_checkpoint(path)


def test_a_flipped_bit_in_weights_is_noticed_wherever_it_is(tiny, tmp_path):
    econ = Econ(tiny, names=["sky", "red ball", "7"])
    econ.save_pretrained(tmp_path / "w")
    save_expert(tmp_path / "e.safetensors", econ.experts[1])
    for path, read in (
        (tmp_path / "w/model.safetensors", lambda: load(tmp_path / "w")),
        (tmp_path / "e.safetensors", lambda: load_expert(tmp_path / "e.safetensors")),
    ):
        data = path.read_bytes()
        read()
        header = 8 + struct.unpack("<Q", data[:8])[0]
        for at in (header, header + 5001, len(data) - 1, data.index(b'"pt"') + 1):
            path.write_bytes(flipped(data, at))
            with pytest.raises(
                EconError, match=r"safetensors as it was written, got another chec"
            ):
                read()


def test_names_of_configuration_and_experts_are_as_they_were_written(tiny, tmp_path):
    Econ(tiny, names=["sky", "ball", "7"]).save_pretrained(tmp_path)
    for name, old, new in (("config.json", "0.001", "0.003"), ("experts.json", "ball", "bell")):
        path = tmp_path / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(EconError, match='edited it, take the field "sha256" out'):
            load(tmp_path)
        value = json.loads(path.read_text())
        del value["sha256"]
        path.write_text(json.dumps(value))
        load(tmp_path)  # as of earlier versions, or edited on purpose
    assert load(tmp_path).names == ["sky", "bell", "7"]
    assert load(tmp_path).config.train.lr == 0.003


def test_the_checksum_is_what_the_documentation_says():
    import hashlib

    sealed = storage.add_checksum({"b": 1, "a": ["ü", 0.5, None]})
    text = '{"a":["\\u00fc",0.5,null],"b":1}'
    assert sealed["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_shipped_weights_have_checksums_and_load_without_them(tmp_path):
    for name in pretrained.shipped():
        folder = pretrained.SHIPPED / name
        assert "sha256" in json.loads((folder / "config.json").read_text())
        assert "sha256" in json.loads((folder / "experts.json").read_text())
        data = (folder / "model.safetensors").read_bytes()
        assert b'"sha256":"' in data[:20000]
    old = tmp_path / "old"
    old.mkdir()
    for file in ("config.json", "experts.json"):
        value = json.loads((folder / file).read_text())
        del value["sha256"]
        (old / file).write_text(json.dumps(value))
    save_file(
        load_file(folder / "model.safetensors"), old / "model.safetensors", {"flat": "false"}
    )
    a, b = load(name).model.state_dict(), load(old).model.state_dict()
    assert all(torch.equal(a[n], b[n]) for n in a)


# --- metrics


def write_rows(path):
    path.write_text(metrics_file.to_text(ROWS))
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[:20] + b"\n",
        lambda line: line.replace(b"3.0", b"9.0"),  # a number that might be one
        lambda line: b"\0" * len(line) + b"\n",
        lambda line: b"[1]\n",
        lambda line: b'{"loss": 1}\n',
        lambda line: b'{"step": true}\n',
        lambda line: b'{"step": 2, "usage": [1.0]}\n',
        lambda line: b'{"step": 2, "lr": "a"}\n',
        lambda line: b"[" * 100_000 + b"\n",
        lambda line: b'{"step": ' + b"9" * 5000 + b"}\n",
    ],
)
def test_rows_after_a_damaged_one_count(tmp_path, spoil):
    path = tmp_path / "metrics.jsonl"
    lines = write_rows(path)
    lines[1] = spoil(lines[1])
    path.write_bytes(b"".join(lines))
    with pytest.warns(UserWarning, match=r"skipped a line of .*metrics.jsonl, line 2") as warned:
        assert metrics_file.read_rows(path) == [ROWS[0], *ROWS[2:]]
    assert len(warned) == 1


def test_a_last_row_cut_short_is_dropped_and_a_whole_one_counts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    data = b"".join(write_rows(path))
    last = len(data) - len(data.splitlines()[-1])
    for end in range(last, len(data) - 1, 7):
        path.write_bytes(data[:end])
        assert metrics_file.read_rows(path) == ROWS[:3]
    path.write_bytes(data[:-1])  # all but the line end
    assert metrics_file.read_rows(path) == ROWS
    path.write_text('{"step": 1, "loss": NaN, "usage": [NaN, 1]}\n{"step": 2}\n')  # earlier ones
    assert metrics_file.read_rows(path) == [
        {"step": 1, "loss": None, "usage": [None, 1]}, {"step": 2}
    ]  # fmt: skip


def test_a_run_goes_on_with_a_damaged_row(tiny, tmp_path):
    run = tmp_path / "run"
    make_trainer(tiny, run, 6).fit()
    path = run / checkpoint.METRICS
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 3
    path.write_text(lines[0] + lines[1][:30] + "\n" + lines[2])
    resumed = make_trainer(tiny, run, 8)
    with pytest.warns(UserWarning, match="line 2"):
        resumed.resume()
    resumed.fit()
    assert [row["step"] for row in metrics_file.read_rows(path)] == [2, 6, 8]


# --- archives of torch.save that are not ours


def test_archives_are_looked_at_before_torch_reads_them(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    check_archive(path, "a checkpoint", "")
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}

    def refused(match, **settings):
        out = tmp_path / "b.pt"
        with zipfile.ZipFile(out, "w", **settings) as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        with pytest.raises(EconError, match=match):
            checkpoint.load_checkpoint(out)

    refused("a compressed entry", compression=zipfile.ZIP_DEFLATED)
    pickled = next(name for name in entries if name.endswith("data.pkl"))
    entries[pickled] = b"cbuiltins\nbytearray\n(J\xff\xff\xff\x7ftR."  # two GiB of zeros
    refused("it holds 'builtins bytearray'")
    entries[pickled] = b"\x80\x02" + b"0" * (17 << 20)
    refused("a pickle of 17,825,794 bytes")


PROBS = "model.class_probs"


def moments(state):
    return next(iter(state["optim"]["state"].values()))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("weights"), "no weights, but a NoneType"),
        (lambda s: s["weights"].popitem(), "without "),
        (lambda s: s["weights"].update(more=torch.zeros(1)), "with 'more' as well"),
        (lambda s: s["weights"].update({PROBS: torch.zeros(3, 3, dtype=torch.long)}), "of type"),
        (lambda s: s["weights"].update({PROBS: torch.zeros(3, 2)}), "is 3x2, not 3x3"),
        (lambda s: s["weights"][PROBS].fill_(torch.nan), f"NaN or infinity in {PROBS}"),
        (lambda s: moments(s).update(exp_avg=torch.zeros(7, 7)), "kind of 'optim'"),
        (lambda s: moments(s).update(step=3), "kind of 'optim'"),
        (lambda s: s["optim"]["state"].update({10**6: moments(s)}), "kind of 'optim'"),
        (
            lambda s: s["optim"]["param_groups"][0].update(params=[torch.ones(2)]),
            "kind of 'optim'",
        ),
        (lambda s: s["optim"]["param_groups"][0].update(params=[0]), "kind of 'optim'"),
        (lambda s: s["optim"]["param_groups"][0].update(lr=float("nan")), "kind of 'optim'"),
        (lambda s: s.update(optim=None), "kind of 'optim'"),
        (lambda s: s["callbacks"]["schedule"].update(step=1), "kind of 'schedule'"),
        (lambda s: s["callbacks"]["schedule"].update(mode="?"), "kind of 'schedule'"),
        (
            lambda s: s["callbacks"]["restarts"].update(wins=torch.zeros(9, 9).long()),
            "kind of 'restarts.wins'",
        ),
        (
            lambda s: s["callbacks"]["load_balancing"].update(bias=[0.0]),
            "kind of 'load_balancing.bias'",
        ),
        (lambda s: s["callbacks"].update(restarts=3), "kind of 'restarts'"),
        (lambda s: s["callbacks"]["restarts"].update(more=torch.zeros(1)), "kind of 'restarts'"),
        (lambda s: s["callbacks"].pop("restarts"), "kind of 'callbacks'"),
        (lambda s: s["callbacks"].update(more={}), "kind of 'callbacks'"),
        (lambda s: s.update(callbacks=None), "kind of 'callbacks'"),
        (lambda s: s.update(horizon=-1), "kind of 'horizon'"),
        (lambda s: s.update(step="3"), "kind of 'step'"),
        (lambda s: s.update(best=float("nan")), "kind of 'best'"),
        (lambda s: s.update(seconds=-1), "kind of 'seconds'"),
        (lambda s: s.update(rng=torch.zeros(7, dtype=torch.uint8)), "kind of 'rng'"),
        (lambda s: s.update(cuda_rng=None), "kind of 'cuda_rng'"),
    ],
)
def test_a_checkpoint_of_something_else_is_no_start(tiny, tmp_path_factory, change, match):
    tiny = changed(tiny, recipe__load_balancing=0.5, recipe__restart_below=0.1)
    run = tmp_path_factory.getbasetemp() / "start"
    if not run.exists():
        make_trainer(tiny, run, 2).fit()
    state = checkpoint.load_checkpoint(run / checkpoint.BEST)
    change(state)
    checkpoint.save_checkpoint(run / checkpoint.LAST, state)
    trainer = make_trainer(tiny, run, 4)
    with pytest.raises(EconError, match=match):
        trainer.resume()


def test_why_there_is_no_checkpoint(tiny, tmp_path, capsys):
    run = tmp_path / "run"
    make_trainer(tiny, run, 2).fit()
    storage.write_json(run / checkpoint.CONFIG, {"format": FORMAT, "config": to_dict(tiny)})
    (run / checkpoint.BEST).unlink()
    line = fails(capsys, "evaluate", run, "--n", 2)
    assert "before its first validation" in line and f"PRESET --run {run} --resume" in line
    (run / checkpoint.LAST).unlink()
    line = fails(capsys, "sample", run, "--out", tmp_path / "o")
    assert "before its first checkpoint" in line and "--overwrite" in line
