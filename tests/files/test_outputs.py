"""Output folders: all or nothing, and what others put there stays."""

import os

import pytest

from econ_pyro.errors import EconError
from econ_pyro.files.outputs import OutputLayout, merged_folder

EACH = OutputLayout("*/scene.json", r"(full/)?layer-\d+\.png|scene\.json")
FLAT = OutputLayout("build-up.*", r"build-up\.gif|scene-\d+\.png")


def write(out, overwrite, layout, files):
    with merged_folder(out, overwrite, layout) as folder:
        for name in files:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("new")


def content(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


def fill(folder, files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")


@pytest.mark.parametrize("before", ["nothing", "empty"])
def test_all_at_once_or_nothing(tmp_path, before):
    out = tmp_path / "a/out"
    if before == "empty":
        out.mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), merged_folder(out, False, FLAT) as folder:
        (folder / "build-up.gif").write_text("new")
        _ = 1 / 0
    assert not content(tmp_path)
    write(out, False, FLAT, ["build-up.gif", "sub/x"])
    assert content(tmp_path) == {"a/out/build-up.gif": "new", "a/out/sub/x": "new"}
    assert os.stat(out).st_mode & 0o755 == 0o755
    assert {p.name for p in out.iterdir()} == {"build-up.gif", "sub"}


def test_what_is_ours_goes_and_what_is_not_stays(tmp_path):
    others = ["notes.txt", "a/notes.txt", "a/layer-1-mine.png", "holiday/layer-1.png", "a/full/x",
              "b/scene.json", "b/full/layer-1.png"]  # fmt: skip
    fill(tmp_path, [*others, "a/scene.json", "a/layer-1.png", "a/layer-2.png",
                    "a/full/layer-1.png"])  # fmt: skip
    (tmp_path / "nothing").mkdir()
    write(tmp_path, True, EACH, ["a/scene.json", "a/layer-1.png", "c/scene.json"])
    old, new = dict.fromkeys(others, "old"), ["a/scene.json", "a/layer-1.png", "c/scene.json"]
    assert content(tmp_path) == old | dict.fromkeys(new, "new")
    # b may have been edited, as nothing new comes there
    names = {"notes.txt", "a", "b", "c", "holiday", "nothing"}
    assert {p.name for p in tmp_path.iterdir()} == names


def test_a_failure_while_overwriting_changes_nothing(tmp_path):
    fill(tmp_path, ["build-up.gif", "scene-000.png", "notes.txt"])
    before = content(tmp_path)
    with pytest.raises(ZeroDivisionError), merged_folder(tmp_path, True, FLAT) as folder:
        (folder / "build-up.gif").write_text("new")
        _ = 1 / 0
    assert content(tmp_path) == before


def test_folders_that_are_not_ours_are_left_alone(tmp_path):
    fill(tmp_path, ["scene-000.png"])
    for overwrite, words in ((False, "add --overwrite"), (True, "without one")):
        with pytest.raises(EconError, match=words):
            write(tmp_path, overwrite, FLAT, ["build-up.gif"])
    (tmp_path / "file").write_text("")
    (tmp_path / "nowhere").symlink_to("none")
    for name, words in (("file", "the file"), ("nowhere", "a broken link")):
        with pytest.raises(EconError, match=words):
            write(tmp_path / name, True, FLAT, ["build-up.gif"])
    assert {p.name for p in tmp_path.iterdir()} == {"scene-000.png", "file", "nowhere"}


def test_nothing_is_written_or_removed_where_links_lead(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    fill(elsewhere, ["scene.json", "layer-1.png", "layer-2.png"])
    fill(out, ["b/scene.json"])
    (out / "a").symlink_to(elsewhere)
    (out / "b/layer-1.png").symlink_to(elsewhere / "layer-1.png")
    (out / "b/full").symlink_to(elsewhere)
    write(out, True, EACH, ["a/scene.json", "a/layer-1.png", "b/scene.json", "b/layer-1.png",
                            "b/full/layer-2.png"])  # fmt: skip
    assert set(content(elsewhere).values()) == {"old"} and len(content(elsewhere)) == 3
    assert not (out / "a").is_symlink() and not (out / "b/layer-1.png").is_symlink()
    assert content(out)["b/full/layer-2.png"] == "new"


def test_a_link_to_the_output_folder_is_followed(tmp_path):
    fill(tmp_path / "real", ["build-up.gif"])
    (tmp_path / "out").symlink_to("real")
    write(tmp_path / "out", True, FLAT, ["build-up.gif"])
    assert content(tmp_path / "real") == {"build-up.gif": "new"}
    assert (tmp_path / "out").is_symlink()


@pytest.mark.parametrize(
    ("there", "new"), [("a", "a/scene.json"), ("a/scene.json/x", "a/scene.json")]
)
def test_a_file_where_a_folder_has_to_be(tmp_path, there, new):
    fill(tmp_path, ["z/scene.json", "z/layer-1.png", there])
    before = content(tmp_path)
    with pytest.raises(EconError, match="move it elsewhere"):
        write(tmp_path, True, EACH, [new])
    assert content(tmp_path) == before
