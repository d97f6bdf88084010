"""The page as a visitor has it: served by the script, asked by HTTP, driven in Chromium."""

import http.client
import json
import os
import re
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image

from econ_pyro.data.synthetic.generated import GeneratedScenes
from econ_pyro.errors import EconError
from econ_pyro.io import scene_file
from econ_pyro.io.layer_files import write_image
from econ_pyro.scene_config import SceneConfig
from econ_pyro.ui import browser
from helpers.paths import ROOT
from helpers.pictures import BAD_UPLOADS, whole_png
from helpers.scripts import TINY_ARGS, script

pytestmark = pytest.mark.needs("gradio")


@contextmanager
def serving(weights):
    """Address of the page of a run or of shipped weights."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "scripts/composer.py", weights, "--device", "cpu"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    line = process.stdout.readline()
    found = re.match(r"(http://127\.0\.0\.1:\d+)/? \(Ctrl-C stops\)", line)
    assert found, line + process.stdout.read()
    try:
        yield found[1]
    finally:
        process.terminate()
        rest = process.communicate(timeout=120)[0]
    assert process.returncode == 130 and rest.strip() == "stopped"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Address of the page of a tiny run, and the run's folder."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    # shapes that can be seen without training
    bold = ["--model.expert.shape-bias", 0]
    script("svi_train", "quick", *TINY_ARGS, *bold, "--steps", 1, "--run", run)
    with serving(run) as address:
        yield address, run


def get(address, path, **headers):
    """Status, headers and body of a path, sent as it stands."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    result = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return result


def test_no_file_can_be_read_through_the_server(served):
    address, run = served
    files = ["/etc/passwd", str(run / "config.json"), str(ROOT / "pyproject.toml"),
             "../../../../etc/passwd", "%2e%2e/%2e%2e/%2e%2e/etc/passwd", "....//etc/passwd",
             "%2Fetc%2Fpasswd", "file:///etc/passwd"]  # fmt: skip
    routes = ["/file=", "/gradio_api/file=", "/gradio_api/file/", "/static/", "/assets/",
              "/gradio_api/static/", "/gradio_api/proxy=", "/"]  # fmt: skip
    for route in routes:
        for file in files:
            status, _, body = get(address, route + file)
            assert status >= 400 and b"root:" not in body and b"[project]" not in body, route
    status, headers, _ = get(address, "/gradio_api/file=http://example.org/")
    assert status >= 400 or "example.org" not in headers.get("location", "")


def test_the_page_is_for_this_machine_and_loads_nothing_from_elsewhere(served):
    address, _ = served
    status, headers, _ = get(address, "/")
    assert status == 200
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self'") and "http" not in policy
    assert get(address, "/", Host="elsewhere.example")[0] == 400
    config = json.loads(get(address, "/config")[2])
    assert all(d["api_visibility"] == "private" for d in config["dependencies"])
    assert get(address, "/docs")[0] == 404


@pytest.fixture(scope="module")
def chromium():
    try:
        with browser.chromium() as opened:
            yield opened
    except EconError as error:
        pytest.skip(str(error))


@pytest.fixture
def page(chromium, served):
    with window(chromium, served[0]) as opened:
        yield opened


@contextmanager
def window(chromium, address):
    """The page in a window; it must ask no other host for anything and log no error."""
    opened = chromium.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(20_000)
    asked, errors = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    browser.open_page(opened, address)
    yield opened
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert not elsewhere and not errors
    opened.close()


def source(page, picture):
    """The painted scene, as its address, which is its content."""
    return page.locator(f"{picture} figure.scene img").get_attribute("src")


def changed(page, picture, before):
    """Wait until another scene is painted."""
    page.wait_for_function(
        "([p, b]) => document.querySelector(p + ' figure.scene img')?.src !== b",
        arg=[picture, before],
    )
    return source(page, picture)


def layer_names(page, name):
    return page.locator(f"#{name}-layers figcaption").all_inner_texts()


def press(page, name, words):
    page.locator(f"#{name}").get_by_role("button", name=words).click()


def test_taking_apart(page, tmp_path):
    (tmp_path / "noise.png").write_bytes(whole_png())
    assert not page.locator("#apart").is_visible()  # no dead controls before there is a scene
    page.set_input_files("#upload input[type=file]", tmp_path / "noise.png")
    page.locator("#apart-said [role=status]").wait_for()
    assert "of 3 layers" in page.inner_text("#apart-said")
    before = source(page, "#apart-picture")
    boxes = page.locator("#apart-shown input[type=checkbox]")
    on = [i for i in range(3) if boxes.nth(i).is_checked()]
    boxes.nth(on[0]).focus()
    page.keyboard.press("Space")
    hidden = changed(page, "#apart-picture", before)
    assert "hidden" in layer_names(page, "apart")[on[0]]
    boxes.nth(on[0]).click()
    assert changed(page, "#apart-picture", hidden) == before
    first = layer_names(page, "apart")[0]
    assert page.locator("#apart").get_by_role("button", name="Bring forward").is_disabled()
    press(page, "apart", "Send back")
    page.wait_for_function(
        "document.querySelectorAll('#apart-layers figure')[1].matches('.picked')"
    )
    assert layer_names(page, "apart")[1].split(". ")[1] == first.split(". ")[1]
    press(page, "apart", "Replace layer with a sample")
    page.wait_for_function("document.querySelector('#apart-seed input').value === '2'")
    for words, ending in [("image", "png"), ("layers", "ora"), ("scene.json", "json")]:
        with page.expect_download() as download:
            press(page, "apart", f"Save {words}")
        file = tmp_path / f"saved.{ending}"
        download.value.save_as(file)
        assert download.value.suggested_filename == f"scene.{ending}"
    with Image.open(tmp_path / "saved.png") as picture:
        assert picture.size == (16, 16)
    with zipfile.ZipFile(tmp_path / "saved.ora") as archive:
        assert archive.read("mimetype") == b"image/openraster"
    names = [f"expert-{k}" for k in range(3)]
    assert len(scene_file.read_scene(tmp_path / "saved.json", names).layers) == 3


def test_an_example_scene(page):
    page.click("#example")
    page.locator("#apart-picture img").nth(1).wait_for()
    assert page.locator("#apart-picture img").count() == 2


def test_weights_whose_attention_has_learnt(chromium, tmp_path):
    # the page's own examples are random, and some objects are all but hidden
    scenes = GeneratedScenes(SceneConfig(kind="random-colours"), 0, 50).scenes(torch.arange(50))
    seen = scenes.region[:, :3].sum((2, 3)) / scenes.mask.sum((2, 3))
    picture = tmp_path / "scene.png"
    write_image(picture, scenes.image[seen.amin(1).argmax()])
    with serving("learnt-random-colours") as address, window(chromium, address) as page:
        page.set_input_files("#upload input[type=file]", picture)
        page.locator("#apart-picture img").nth(1).wait_for()
        assert "of 4 layers" in page.inner_text("#apart-said")
        names = [name.split(". ")[1] for name in layer_names(page, "apart")]
        assert sorted(names) == ["background", "circle", "square", "triangle"]


def test_bad_uploads_get_a_message_and_the_next_good_one_works(page, tmp_path):
    for name, (content, expected) in BAD_UPLOADS.items():
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#upload input[type=file]", tmp_path / name)
        alert = page.locator("#apart-said [role=alert]")
        alert.filter(has_text=name).wait_for()
        assert expected in alert.inner_text() and "Traceback" not in page.inner_text("body")
        assert not page.locator("#apart").is_visible()
        page.locator("#upload").get_by_role(
            "button", name=re.compile("clear|remove", re.I)
        ).first.click()
        alert.wait_for(state="detached")
    (tmp_path / "good.png").write_bytes(whole_png())
    page.set_input_files("#upload input[type=file]", tmp_path / "good.png")
    page.locator("#apart-picture img").first.wait_for()


def test_files_of_other_kinds_and_sizes_are_refused_in_words(page, tmp_path):
    (tmp_path / "picture.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    page.set_input_files("#upload input[type=file]", tmp_path / "picture.svg")
    page.get_by_text(re.compile("invalid file type", re.I)).first.wait_for()
    (tmp_path / "heavy.png").write_bytes(bytes(11_000_000))
    page.set_input_files("#upload input[type=file]", tmp_path / "heavy.png")
    page.get_by_text(re.compile("exceeds|maximum|too large", re.I)).first.wait_for()


def test_composing(page):
    browser.open_tab(page, "Compose")
    zero = source(page, "#compose-picture")
    page.click("#surprise")
    other = changed(page, "#compose-picture", zero)
    assert page.input_value("#seed input") != "0"
    page.fill("#seed input", "0")
    page.keyboard.press("Enter")
    assert changed(page, "#compose-picture", other) == zero
    page.locator("#compose-picked input").nth(2).check()  # the background
    page.wait_for_function(
        "document.querySelectorAll('#compose-layers figure')[2].matches('.picked')"
    )
    page.locator("#compose input[type=range]").last.focus()  # a latent
    page.keyboard.press("End")
    changed(page, "#compose-picture", zero)
    press(page, "compose", "Add a sample in front")
    page.locator("#compose-layers figure").nth(3).wait_for()
    press(page, "compose", "Remove")
    page.locator("#compose-layers figure").nth(3).wait_for(state="detached")
    page.fill("#seed input", "99999999999")
    page.click("#draw")
    page.locator("#compose-said [role=alert]").filter(has_text="a seed from 0").wait_for()


def test_what_the_experts_know(page):
    browser.open_tab(page, "Experts")
    assert page.locator("#wall img").count() == 30
    assert page.locator("#traversals td img").count() == 3 * 7
    wall, rows = page.inner_html("#wall"), page.inner_html("#traversals")
    page.locator("#expert input").nth(1).check()
    page.wait_for_function("b => document.querySelector('#traversals').innerHTML !== b", arg=rows)
    page.click("#more")
    page.wait_for_function("b => document.querySelector('#wall').innerHTML !== b", arg=wall)
    page.wait_for_function("document.querySelector('#wall-seed input').value !== '0'")


def test_a_narrow_window_needs_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 480, "height": 900})
    for tab in browser.TABS:
        browser.open_tab(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= 480, tab
