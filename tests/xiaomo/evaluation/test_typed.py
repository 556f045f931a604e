"""What people type: the table, and what is counted of what somebody saw."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.core.request import Request
from bimo.xiaomo.evaluation.typed import Typed, alike, counted, draw_typed, typed


class Painter:
    """Draws one colour for every prompt but cats, and knows nothing of chains."""

    def prepare(self, request: dict[str, Any]) -> Any:
        nothing = "never learned" if "链" in request["text"] else ""
        return SimpleNamespace(request=Request(**request, size=(16, 16)), nothing_known=nothing)

    def draw(self, prepared: Any) -> list[Any]:
        request = prepared.request
        colour = (200, 40, 40) if "猫" in request.text else (20, 20, 20 + request.seed)
        return [SimpleNamespace(image=Image.new("RGB", (16, 16), colour))]


def painter(prompt: str) -> Any:
    return Painter()


PROMPTS = [Typed("thing", "猫"), Typed("thing", "狗"), Typed("verse", "举头望明月"), Typed("verse", "区块链")]


def test_the_table_has_three_hundred_different_prompts_of_many_kinds() -> None:
    found = typed()
    assert len({one.prompt for one in found}) == len(found) == 300
    kinds = Counter(one.kind for one in found)
    assert len(kinds) >= 20
    assert min(kinds.values()) >= 6


def test_pictures_that_answer_two_prompts_alike_are_near() -> None:
    ours = Painter()
    images = [ours.draw(ours.prepare({"text": one.prompt, "seed": 1}))[0].image for one in PROMPTS[:3]]
    near = alike(images)
    assert near[1] == near[2] == 0
    assert near[0] > 0.2


def test_what_somebody_saw_is_counted_by_kind_and_kept(tmp_path: Path) -> None:
    path = draw_typed(painter, tmp_path, PROMPTS)
    assert {file.name for file in tmp_path.iterdir()} == {"looked.tsv", "thing.png", "verse.png"}
    with pytest.raises(DataError, match="row 1"):
        counted(path)
    lines = path.read_text("utf-8").splitlines()
    assert lines[-1].endswith("\trefused")
    filled = [lines[0], *(line + answer for line, answer in zip(lines[1:], ("yes", "no", "smear", ""), strict=True))]
    path.write_text("\n".join(filled) + "\n", "utf-8")
    draw_typed(painter, tmp_path, PROMPTS, seed=2)
    shares = counted(path)["all"]
    assert (shares.clear.value, shares.right.value, shares.refused.value) == (0.5, 0.25, 0.25)
    assert counted(path)["verse"].clear.value == 0
    path.write_text("nothing", "utf-8")
    with pytest.raises(DataError, match="have it drawn again"):
        counted(path)
