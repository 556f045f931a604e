"""Draws the thumbnails of styles on the page with the bundled model."""

from pathlib import Path

import bimo
from bimo.prompts.styles import STYLES

FOLDER = Path(__file__).resolve().parent.parent / "bimo" / "serve" / "page" / "styles"
PROMPT, SEED, SIDE = "红苹果", 1, 72
#: Prompts for black-and-white styles, where an apple is hard to recognise.
OTHERS = {"silhouette": "一棵树", "line": "一棵树"}


def main() -> None:
    """Writes one WebP of about 2 kB for each style."""
    engine = bimo.load("xiaomo")
    FOLDER.mkdir(exist_ok=True)
    for name in STYLES:
        (picture,) = bimo.draw(engine, OTHERS.get(name, PROMPT), seed=SEED, style=name)
        picture.image.convert("RGB").resize((SIDE, SIDE)).save(FOLDER / f"{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
