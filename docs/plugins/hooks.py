"""Hooks of mkdocs: the package laid out as installed, links to code, formulas as MathML."""

import html
import logging
import re
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "build/docs/econ_pyro"
OUTSIDE = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
log = logging.getLogger("mkdocs.hooks.links")


def on_startup(**_: Any) -> None:
    """Lay the package out as it is installed, so that econ_pyro.models is found."""
    PACKAGE.mkdir(parents=True, exist_ok=True)
    for old in PACKAGE.iterdir():
        old.unlink()
    for path in [*(ROOT / "econ_pyro").iterdir(), ROOT / "models", ROOT / "guides"]:
        if path.name != "__pycache__":
            (PACKAGE / path.name).symlink_to(path)


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Point relative links that leave docs/ to the repository; warn if they lead nowhere."""

    def repository(found: re.Match[str]) -> str:
        folder = PurePosixPath("docs", page.file.src_uri).parent
        path = normpath(str(folder / found[1]))
        if path.startswith("docs/"):
            return found[0]
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which does not exist", page.file.src_uri, path)
        return f"]({config.extra['repository']}/blob/main/{path}{found[2] or ''})"

    return OUTSIDE.sub(repository, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Write formulas as MathML, which browsers show without a script."""

    def mathml(found: re.Match[str]) -> str:
        return convert(html.unescape(found[3]), "block" if found[1] == "div" else "inline")

    return FORMULA.sub(mathml, content)
