"""Protocol records: what differs is named, and refused."""

import pytest

from bimo.core.errors import DataError, RequestError
from bimo.evaluation.protocol import PRESETS, demand_comparable, differences, machine, preset, versions, with_preset
from bimo.evaluation.suites.readers import FORMATS
from bimo.evaluation.suites.suite import own

RECORD = {"version": 1, "measured": {"suite": "chinese", "n": 300, "asked": {"steps": None}, "seeds": [1, 2]}}


def test_records_that_differ_are_refused_with_the_fields() -> None:
    demand_comparable(RECORD, {**RECORD, "drawn": {"steps": 20}}, ("a", "b"))
    other = {"version": 1, "measured": {"suite": "chinese", "n": 30, "asked": {"steps": 8}, "seeds": (1, 2)}}
    assert differences(RECORD, other) == [("n", 300, 30), ("asked.steps", None, 8)]
    with pytest.raises(DataError, match=r"a and b .* n \(300 / 30\), asked.steps \(None / 8\)"):
        demand_comparable(RECORD, other, ("a", "b"))
    with pytest.raises(DataError, match=r"version \(1 / 2\)"):
        demand_comparable(RECORD, {**RECORD, "version": 2}, ("a", "b"))
    with pytest.raises(DataError, match=r"scorers.clip"):
        demand_comparable(RECORD, {**RECORD, "measured": {**RECORD["measured"], "scorers": {"clip": "x"}}}, ("a", "b"))  # type: ignore[dict-item]


def test_published_protocols_bring_their_settings() -> None:
    assert set(PRESETS) == {"altdiffusion-coco-zh", "viscpm-30k", "coco-cn", "oneig-zh-text"}
    assert {one.suite for one in PRESETS.values()} <= set(FORMATS)
    with pytest.raises(RequestError, match="coco-cn"):
        preset("coco_cn")
    with pytest.raises(RequestError, match="is of the suite coco-cn, not of chinese"):
        with_preset(preset("coco-cn"), "coco-cn", own(), {})


def test_a_setting_that_contradicts_a_protocol_is_refused() -> None:
    from dataclasses import replace

    suite, chosen = replace(own(), name="coco-cn"), preset("altdiffusion-coco-zh")
    assert with_preset(chosen, "alt", suite, {"steps": None})["steps"] == 50
    with pytest.raises(RequestError, match="has steps 50, and 20 is asked for"):
        with_preset(chosen, "alt", suite, {"steps": 20})


def test_what_decides_a_number_is_named() -> None:
    assert {"bimo", "torch"} <= set(versions())
    assert machine()["threads"] >= 1
