"""Draws the thumbnails of styles on the page, over drafts by program, with the bundled model that has them."""

from pathlib import Path

import bimo
from bimo.hub.editions import SECOND
from bimo.prompts.styles import STYLES

FOLDER = Path(__file__).resolve().parent.parent / "bimo" / "serve" / "page" / "styles"
PROMPT, SEED, SIDE = "苹果", 1, 72


def main() -> None:
    """Writes one WebP of less than 2 kB for each style."""
    engine = bimo.load(SECOND)
    FOLDER.mkdir(exist_ok=True)
    for name in STYLES:
        (picture,) = bimo.draw(engine, PROMPT, seed=SEED, style=name)
        picture.image.convert("RGB").resize((SIDE, SIDE)).save(FOLDER / f"{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
