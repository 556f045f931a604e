"""Draws prompts that people typed and evaluates what a person saw in the pictures: `python tools/typed.py MODEL OUT
[SEED]`, fill in OUT/looked.tsv (yes, no, smear), then `python tools/typed.py --count OUT/looked.tsv`. MODEL "auto" is
for each prompt the bundled model that `bimo draw` takes.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from bimo import load
from bimo.core.errors import BimoError
from bimo.hub.editions import edition_for
from bimo.xiaomo.evaluation.typed import counted, draw_typed, typed


def main(words: list[str]) -> None:
    """Runs the command line."""
    if words[:1] == ["--count"]:
        for name, shares in counted(Path(words[1])).items():
            each = (shares.clear, shares.right, shares.refused)
            clear, right, refused = (f"{100 * s.value:.0f} [{100 * s.low:.0f}, {100 * s.high:.0f}] %" for s in each)
            print(f"{name} ({shares.clear.n}): no smear {clear}, what was asked {right}, refused {refused}")
        return
    model, out, *seed = words
    engines = cache(load)
    print(
        draw_typed(
            lambda prompt: engines(edition_for(prompt) if model == "auto" else model),
            Path(out),
            typed(),
            int(seed[0]) if seed else 1,
            print,
        )
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (BimoError, ValueError, IndexError) as error:
        sys.exit(f"{error}\n{__doc__}")
