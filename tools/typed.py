"""Draws what people type and counts what somebody saw: `python tools/typed.py MODEL OUT [SEED]`, fill in
OUT/looked.tsv (yes, no, smear), then `python tools/typed.py --count OUT/looked.tsv`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bimo import load
from bimo.core.errors import BimoError
from bimo.xiaomo.evaluation.typed import counted, draw_typed, typed


def main(words: list[str]) -> None:
    """Does what the words say."""
    if words[:1] == ["--count"]:
        for name, (clear, right) in counted(Path(words[1])).items():
            shares = [f"{100 * s.value:.0f} [{100 * s.low:.0f}, {100 * s.high:.0f}]" for s in (clear, right)]
            print(f"{name} ({clear.n}): no smear {shares[0]} %, what was asked {shares[1]} %")
        return
    model, out, *seed = words
    print(draw_typed(load(model), Path(out), typed(), int(seed[0]) if seed else 1, print))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (BimoError, ValueError, IndexError) as error:
        sys.exit(f"{error}\n{__doc__}")
