"""Initial weights of 小墨's second edition: `python tools/carry_over.py OUT.safetensors SCENES THINGS`, then
`bimo train xiaomo-2 --start OUT.safetensors --skip 0 --skip 1 --data SCENES --data THINGS --out RUN`.

OUT has the existing autoencoder, and the first edition's text encoder and first level expanded to the second one's
shapes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save_file

from bimo import load
from bimo.core.checkpoint_io import read
from bimo.core.errors import BimoError
from bimo.data.loader import Pictures
from bimo.diffusion.system import System
from bimo.training.tokenizers import build_tokenizer
from bimo.xiaomo.carry_over import carried_over
from bimo.xiaomo.second_edition import xiaomo_2

AUTOENCODER = Path(__file__).parents[1] / "bimo" / "xiaomo" / "second" / "autoencoder.safetensors"


def main(words: list[str]) -> None:
    """Runs the command line."""
    out, scenes, things = map(Path, words)
    second = System(xiaomo_2).eval()
    autoencoder = read(AUTOENCODER)
    second.load_state_dict(autoencoder, strict=False)
    build_tokenizer(second.text_encoders[0], Pictures(scenes, things))  # in the order of --data
    carried = carried_over(load("xiaomo").system.eval(), second, Pictures(things))
    save_file({name: value.contiguous() for name, value in (autoencoder | carried).items()}, out)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (BimoError, ValueError) as error:
        sys.exit(f"{error}\n{__doc__}")
