"""Contrast: which pairs are neither right nor wrong."""

from __future__ import annotations

from bimo.training.objectives.reconstruct import Contrast


def test_only_rows_with_equal_labels_are_positives() -> None:
    rows = [{"kind": "red", "pose": 1}, {}, {"kind": "red", "pose": 2}, {}, {"kind": "blue"}, {"pose": 3}]
    same = Contrast._same(rows)
    assert same.nonzero().tolist() == [[0, 2], [2, 0]]
