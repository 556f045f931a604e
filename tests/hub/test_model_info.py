"""What `bimo list` and `bimo show` say of recipes: counted, never made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bimo.cli import main
from bimo.core import part
from bimo.core.recipe import Published, Recipe
from bimo.hub import model_info, registry
from bimo.models.text_encoders.bert import Bert


def test_sizes_of_taiyi_are_the_published_ones() -> None:
    told = model_info.full(registry.recipe("taiyi-sd-zh"))
    found = {row["name"]: row["parameters"] for row in told["parts"]}
    # BERT-base of 21,128 words with its pooler, and Stable Diffusion 1's autoencoder and UNet.
    assert found == {"text.0": 102_267_648, "image.space": 83_653_863, "image.denoiser": 859_520_964}
    assert told["parameters"] == sum(found.values())
    assert told["parts"][0]["tokens"] == 512
    assert told["levels"][0]["shape"] == [4, 64, 64]
    assert told["stages"][0]["parameters"] == found["text.0"]
    assert part.load(told["recipe"]) == registry.recipe("taiyi-sd-zh")


def test_levels_say_what_is_drawn_with() -> None:
    first, last = model_info.full(registry.recipe("xiaomo"))["levels"]
    assert (first["space"], first["schedule"], first["conditioners"]) == ("image", "SingleStepRegression", ["Pose"])
    assert (last["space"], last["sampler"], last["conditioners"]) == ("Compact", "euler", ["Earlier", "Pose"])
    assert model_info.full(registry.recipe("taiyi-sd-en"))["levels"][0]["guidance"] == 10.0


def test_twenty_thousand_million_weights_are_counted_and_not_made() -> None:
    large = Recipe(name="large", text_encoders=(Bert(width=8192, layers=24, heads=64, feed=32768, vocab=100_000),))
    system = model_info.unfilled(large)
    assert sum(model_info.parameters(system).values()) > 20e9
    assert all(parameter.is_meta for parameter in system.parameters())
    assert model_info.full(large)["levels"] == []


def test_where_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = registry.recipe("xiaomo")
    assert model_info.whereabouts(there) == "bundled"
    away = replace(there, weights=Published(repo="someone/something"))
    monkeypatch.setattr(registry, "local_folder", lambda recipe: None)
    assert model_info.whereabouts(away) == "to fetch"
    assert model_info.whereabouts(replace(there, weights=Published())) == "none"
    monkeypatch.setattr(registry, "local_folder", lambda recipe: tmp_path)
    assert model_info.whereabouts(away) == "here"


def test_every_recipe_is_listed_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["list", "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(registry.recipes())
    assert all(row["source"] in model_info.SOURCES for row in rows)
    assert main.run(["list"]) == 0
    assert all(row["name"] in capsys.readouterr().out for row in rows[:1])


def test_terms_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "C")
    strict = replace(registry.recipe("xiaomo"), weights=Published(repo="a/b", terms=("不得商用", "not for sale")))
    (tmp_path / "strict.json").write_text(part.dumps(strict), "utf-8")
    assert main.run(["show", str(tmp_path / "strict.json")]) == 0
    shown = capsys.readouterr().out
    assert "not for sale" in shown
    assert "29,858,731" in shown
