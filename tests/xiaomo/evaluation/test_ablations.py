"""The bench of what each part is good for: what is withheld, and differences taken question by question."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from bimo.diffusion.system import System
from bimo.engine.engine import Engine
from bimo.xiaomo.conditioners import Earlier
from bimo.xiaomo.layout_condition import LayoutBoxes
from bimo.xiaomo.second_edition import xiaomo_2

BENCH = Path(__file__).parents[3] / "bench" / "ablations.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_ablations", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_what_is_withheld_changes_the_picture_and_comes_back(bench: ModuleType) -> None:
    torch.manual_seed(0)
    system = System(xiaomo_2.tiny()).eval()
    with torch.no_grad():
        for value in system.parameters():  # what begins at zero would pass nothing on
            value.add_(torch.randn(value.shape) * 0.1)
    tower: Any = system.text_encoders[0]
    tower.build_tokenizer(["小桥流水人家"], ["小桥", "流水", "人家"])
    engine = Engine(system)
    request = {"text": "小桥流水人家", "seed": 1, "steps": 2, "draft": 0, "size": (64, 64)}

    def drawn() -> bytes:
        return engine.draw(request)[0].image.tobytes()

    whole = drawn()
    without: dict[Any, bytes] = {}
    for kinds in ((Earlier,), (LayoutBoxes,), (Earlier, LayoutBoxes)):
        with bench.withheld(system, kinds):
            without[kinds] = drawn()
    assert len({whole, *without.values()}) == 4
    assert drawn() == whole
    with pytest.raises(ZeroDivisionError), bench.withheld(system, (Earlier,)):
        raise ZeroDivisionError
    assert drawn() == whole


def test_a_difference_is_that_of_questions(bench: ModuleType) -> None:
    own = [(f"{n}", n < 10) for n in range(20)]
    more = [(f"{n}", n < 16) for n in range(20)]
    found = bench.difference(more, own)
    assert found.value == pytest.approx(0.3)
    assert 0 < found.low < 0.3 < found.high
    # Both languages of a question are one: the same answers twice say no more.
    assert bench.difference([*more, *more], [*own, *own]) == found
    with pytest.raises(ValueError, match="different questions"):
        bench.difference(more, own[1:])


def test_the_table_has_what_there_is_and_marks_what_is_apart(bench: ModuleType, tmp_path: Path) -> None:
    def record(name: str, right: int) -> None:
        found = {f"{group}.{measure}": [] for group, (measure, _) in bench.HEADLINES.items()}
        found["dish.dish"] = [[f"{n}", n < right] for n in range(20)]
        fields = {"setting": name, "model": "m", "weights": "w" * 64, "questions": 20, "answers": found}
        cost = {"core-seconds a picture": 0.5}
        (tmp_path / f"{name.replace(' ', '-')}.json").write_text(json.dumps(fields | cost), encoding="utf-8")

    record(bench.OWN, 10)
    record("4 steps", 2)
    record("8 steps", 10)
    text = bench.table(tmp_path, [bench.OWN, "4 steps", "8 steps", "50 steps"], {"accuracy": {}})
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert "↓" in rows["4 steps"]
    assert rows["4 steps"].split(" | ")[4].startswith("10 [")
    assert not {"↑", "↓"} & {*rows["8 steps"], *rows[bench.OWN]}
    assert "50 steps" not in rows
    with pytest.raises(SystemExit, match="no answers"):
        bench.table(tmp_path / "nothing", [bench.OWN], {})
