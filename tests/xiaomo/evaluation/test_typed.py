"""What people type: the table, and what is counted of what somebody saw."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.xiaomo.evaluation.typed import Typed, alike, counted, draw_typed, typed


class Painter:
    """Draws one colour for every prompt but cats."""

    def draw(self, prompt: str, seed: int) -> list[Any]:
        colour = (200, 40, 40) if "猫" in prompt else (20, 20, 20 + seed)

        class Drawn:
            image = Image.new("RGB", (16, 16), colour)

        return [Drawn()]


PROMPTS = [Typed("thing", "猫"), Typed("thing", "狗"), Typed("verse", "举头望明月")]


def test_the_table_has_three_hundred_different_prompts_of_many_kinds() -> None:
    found = typed()
    assert len({one.prompt for one in found}) == len(found) == 300
    kinds = Counter(one.kind for one in found)
    assert len(kinds) >= 20
    assert min(kinds.values()) >= 6


def test_pictures_that_answer_two_prompts_alike_are_near() -> None:
    images = [Painter().draw(one.prompt, 1)[0].image for one in PROMPTS]
    near = alike(images)
    assert near[1] == near[2] == 0
    assert near[0] > 0.2


def test_what_somebody_saw_is_counted_by_kind_and_kept(tmp_path: Path) -> None:
    path = draw_typed(cast(Any, Painter()), tmp_path, PROMPTS)
    assert {file.name for file in tmp_path.iterdir()} == {"looked.tsv", "thing.png", "verse.png"}
    with pytest.raises(DataError, match="row 1"):
        counted(path)
    lines = path.read_text("utf-8").splitlines()
    filled = [lines[0], *(line + answer for line, answer in zip(lines[1:], ("yes", "no", "smear"), strict=True))]
    path.write_text("\n".join(filled) + "\n", "utf-8")
    draw_typed(cast(Any, Painter()), tmp_path, PROMPTS, seed=2)
    clear, right = counted(path)["all"]
    assert (round(clear.value, 3), round(right.value, 3)) == (0.667, 0.333)
    assert counted(path)["verse"][0].value == 0
    path.write_text("nothing", "utf-8")
    with pytest.raises(DataError, match="have it drawn again"):
        counted(path)
