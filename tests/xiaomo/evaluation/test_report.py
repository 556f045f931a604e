"""What a report of the evaluation says of the judge."""

from __future__ import annotations

from bimo.xiaomo.evaluation.report import judge_tables


def test_judge_tables_hold_its_accuracies() -> None:
    cells = {"n": 10, "kind top-1": 0.9, "kind top-5": 1.0, "style": 0.8, "both": 0.7}
    facts = {"accuracy": {"overall": cells, "overall by style": {"3d": cells}, "held out": cells},
             "blind accuracy": {"overall": cells, "held out": cells}}  # fmt: skip
    first, second = judge_tables(facts).values()
    assert first[1] == ["all", "10", "90.0 %", "100.0 %", "80.0 %", "70.0 %"]
    assert len(second) == 4
    assert judge_tables({}) == {}
