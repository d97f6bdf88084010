"""Folders named after files: where they lie, and that no two are one."""

import os
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from econ_pyro.files.folder_names import NAMELESS, folder_names, safe_name

# what Windows refuses, from its documentation of file names
FORBIDDEN = set('<>:"/\\|?*') | {chr(c) for c in range(32)}
DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
DEVICES |= {f"{d}{n}" for d in ("COM", "LPT") for n in "0123456789\u00b9\u00b2\u00b3"}

# names of files: bytes that are no text, marks that are not seen, long ones, and few letters, so
# that some are alike
NAMES = st.one_of(
    st.text("aAbß\u0130 .-2:\\\u0301\u00e1\u200d\u202e\x00\udcff\U0001f438", max_size=6),
    st.text(max_size=300),
    st.sampled_from(sorted(DEVICES)).map(str.lower),
).map(lambda name: name.replace("/", "_"))


@pytest.mark.parametrize(
    ("files", "folders"),
    [
        (["photo.png"], ["photo"]),
        (["My photo (1).JPG", "été.webp", "蛙.gif"], ["My photo (1)", "été", "蛙"]),
        (["v1.2.png", "archive.tar.gz"], ["v1.2", "archive.tar"]),
        (["a.png", "a.jpg", "a-2.png"], ["a", "a-3", "a-2"]),
        (["a-2.png", "a.png", "a.jpg", "b/a.png"], ["a-2", "a", "a-3", "a-4"]),
        (["A.png", "a.png"], ["A", "a-2"]),
        (["x/1.png", "y/1.png"], ["1", "1-2"]),
        (["...png", "..", ".png", "/", ""], [NAMELESS, "image-2", "png", "image-3", "image-4"]),
        (["con.png", "COM1.tar.gz", "conger.png"], ["_con", "_COM1.tar", "conger"]),
        (["a:b.png", "a_b.png"], ["a_b-2", "a_b"]),
        (["a .png", "a..png", " a.png"], ["a", "a-2", "a-3"]),
        ([os.fsdecode(b"\xff\xfe.png"), "new\nline.png"], ["__", "new_line"]),
        (["e\u0301.png", "\u00e9.png"], ["e\u0301", "\u00e9-2"]),
    ],
)
def test_names(files, folders):
    assert folder_names(files) == folders


@example([(stem, ".png") for stem in ("K", "\u212a", "ss", "ß", "SS", "con", "CON.x", "_con")])
@given(st.lists(st.tuples(NAMES, st.sampled_from([".png", ".jpg", ""])), max_size=12))
def test_every_file_has_a_folder_of_its_own_directly_in_the_output(files):
    names = folder_names([stem + ending for stem, ending in files])
    assert len(names) == len(files)
    assert len({name.upper() for name in names}) == len({n.lower() for n in names}) == len(files)
    for name in names:
        for kind in (PurePosixPath, PureWindowsPath):
            assert kind("out", name).parts == ("out", name)
        assert name not in (".", "..") and not FORBIDDEN & set(name)
        assert not {unicodedata.category(c) for c in name} & {"Cc", "Cs"}
        assert not name.endswith((" ", ".")) and not name.startswith((" ", "."))
        assert name.split(".")[0].strip().upper() not in DEVICES
        assert len(name.encode()) < 200  # encoding fails for bytes that are no text


@given(NAMES)
def test_a_safe_name_is_kept(name):
    assert safe_name(safe_name(name)) == safe_name(name)


def test_a_folder_can_be_made_of_every_odd_name(tmp_path):
    odd = ["..", "", ".", " ", "a" * 255, "蛙" * 85, "a/..", "-rf", "~", "$HOME", "\x7f", "%2e%2e"]
    files = [*(f"x/{name}.png" for name in odd), *odd]
    for name in folder_names(files):
        Path(tmp_path, name).mkdir()
    assert len(list(tmp_path.iterdir())) == len(files)


def test_thousands_of_one_name_take_no_time():
    names = folder_names([f"{i}/frame.png" for i in range(20_000)])
    assert names[:2] == ["frame", "frame-2"] and names[-1] == "frame-20000"
