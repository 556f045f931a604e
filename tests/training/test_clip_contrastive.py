"""Contrast: which pairs are neither right nor wrong."""

from __future__ import annotations

from bimo.training.objectives.reconstruct import Contrast


def test_equal_labels_are_one_picture_and_those_without_are_each_another() -> None:
    rows = [{"kind": "red", "pose": 1}, {}, {"kind": "red", "pose": 2}, {}, {"kind": "blue"}, {"pose": 3}]
    same = Contrast._same(rows)
    assert same.nonzero().tolist() == [[0, 2], [2, 0]]
