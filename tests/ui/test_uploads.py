"""The folder of uploads: what goes when."""

import os

from econ_pyro.ui import uploads


def put(root, name, size, changed):
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, (changed, changed))
    return path


def names(root):
    return {p.name for p in root.rglob("*") if p.is_file()}


def test_the_oldest_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BYTES", 1000)
    for i in range(10):
        put(tmp_path, f"{i}/{i}.png", 300, 100 + i)
    uploads.sweep(tmp_path, now=120)
    assert names(tmp_path) == {"9.png", "8.png", "7.png"}
    monkeypatch.setattr(uploads, "MAX_FILES", 2)
    uploads.sweep(tmp_path, now=120)
    assert names(tmp_path) == {"9.png", "8.png"}
    uploads.sweep(tmp_path, now=108 + uploads.MAX_AGE + 0.5)
    assert names(tmp_path) == {"9.png"}


def test_folders_that_are_being_filled_and_empty_files_stay_a_while(tmp_path):
    put(tmp_path, "empty", 0, 100)
    (tmp_path / "a").mkdir()
    os.utime(tmp_path / "a", (100, 100))
    uploads.sweep(tmp_path, now=110)
    assert {p.name for p in tmp_path.iterdir()} == {"empty", "a"}
    uploads.sweep(tmp_path, now=100 + uploads.MIN_AGE + 1)
    assert not list(tmp_path.iterdir())


def test_nothing_is_removed_where_links_lead(tmp_path):
    elsewhere = put(tmp_path, "elsewhere/mine", 10, 0)
    root = tmp_path / "root"
    root.mkdir()
    (root / "folder").symlink_to(elsewhere.parent)
    (root / "file").symlink_to(elsewhere)
    uploads.sweep(root, now=1e6)
    assert elsewhere.exists()


def test_the_folder_goes_with_the_page(monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "before")
    with uploads.folder() as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        put(folder, "a/b", 1, 0)
    assert not folder.exists() and os.environ["GRADIO_TEMP_DIR"] == "before"
