"""Draws the small pictures by which the page shows the styles, with the bundled model."""

from pathlib import Path

import bimo
from bimo.prompts.styles import STYLES

FOLDER = Path(__file__).resolve().parent.parent / "bimo" / "serve" / "page" / "styles"
PROMPT, SEED, SIDE = "红苹果", 1, 72
#: What says more in black and white than an apple does.
OTHERS = {"silhouette": "一棵树", "line": "一棵树"}


def main() -> None:
    """One WebP a style, of some 2 kB."""
    engine = bimo.load("xiaomo")
    FOLDER.mkdir(exist_ok=True)
    for name in STYLES:
        (picture,) = bimo.draw(engine, OTHERS.get(name, PROMPT), seed=SEED, style=name)
        picture.image.convert("RGB").resize((SIDE, SIDE)).save(FOLDER / f"{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
