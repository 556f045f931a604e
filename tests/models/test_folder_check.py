"""What `bimo systems --check` says of folders: of those that are drawn, that lack files, and that nobody reads yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bimo.cli.main import run
from bimo.core.errors import RecipeError, RequestError, WeightsError
from bimo.models.layouts.folder_check import FolderCheck, State, check
from tests.support.flow_checkpoints import saved


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "saved"
    saved(folder, "z_image")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "folder")


def index(folder: Path, **changes: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def states(found: FolderCheck) -> dict[str, str]:
    return {component.name: component.state for component in found.components}


def test_a_whole_folder_is_its_recipe(folder: Path) -> None:
    index(folder, feature_extractor=["transformers", "CLIPImageProcessor"])
    found = check(folder)
    assert (found.recipe, found.pipeline, found.exit_status) == ("z-image", "ZImagePipeline", 0)
    needed = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
    assert states(found) == {**dict.fromkeys(needed, State.read), "feature_extractor": State.beside}
    assert "is drawn as the recipe z-image" in found.sentence.en
    assert "按配方 z-image 画" in found.sentence.zh


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae", "tokenizer"])
def test_a_part_without_its_files_is_named(folder: Path, part: str) -> None:
    for file in (folder / part).iterdir():
        if file.name != "config.json" or part == "tokenizer":
            file.unlink()
    found = check(folder)
    assert [component.name for component in found.lacking] == [part]
    assert found.exit_status == WeightsError.exit_status
    assert found.recipe == "z-image"
    assert f"missing of: {part};" in found.sentence.en
    assert str(folder / part) in found.lacking[0].why.en


def test_an_unknown_pipeline_is_reported(folder: Path) -> None:
    """Its text encoder and autoencoder are known, its denoiser is diffusers', one more is of code of its own."""
    index(
        folder,
        _class_name="SomethingNewPipeline",
        transformer=["diffusers", "FluxTransformer2DModel"],
        prior=["something_new", "PriorModel"],
    )
    found = check(folder)
    assert states(found) == {
        **dict.fromkeys(("scheduler", "text_encoder", "tokenizer", "vae"), State.read),
        "transformer": State.unread,
        "prior": State.not_installed,
    }
    assert found.exit_status == RecipeError.exit_status
    assert found.nearest in ("ZImagePipeline", "OvisImagePipeline")
    sentence = found.sentence.en
    assert "SomethingNewPipeline: 4 of its 6 classes are known; missing are: " in sentence
    assert {part.strip() for part in sentence.partition("missing are: ")[2].partition(";")[0].split(",")} == {
        "transformer",
        "prior",
    }
    assert "6 个类里认识 4 个" in found.sentence.zh


def test_known_classes_under_a_new_name(folder: Path) -> None:
    index(folder, _class_name="ZImageSomethingPipeline")
    found = check(folder)
    assert not found.lacking
    assert found.exit_status == RecipeError.exit_status
    assert "all 5 classes of" in found.sentence.en
    assert "ZImageSomethingPipeline, which is not supported" in found.sentence.en


def test_a_folder_that_draws_by_something_else_is_told_so(folder: Path) -> None:
    index(folder, _class_name="CogView4ControlPipeline")
    assert "reads a control picture joined to the noise" in check(folder).sentence.en


def test_another_class_in_a_known_pipeline(folder: Path) -> None:
    index(folder, text_encoder=["transformers", "T5EncoderModel"], vae=[None, None])
    found = check(folder)
    assert states(found)["text_encoder"] == State.other
    assert states(found)["vae"] == State.absent
    settings = {component.name: component.why.en for component in found.lacking}
    assert settings["text_encoder"] == (
        "its pipeline is read with transformers.Qwen3Model or transformers.Qwen3ForCausalLM"
    )
    assert found.exit_status == RecipeError.exit_status


def test_a_config_that_would_draw_wrong_is_said(folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"siglip_feat_dim": 8}))
    found = check(folder)
    assert not found.lacking
    assert "siglip_feat_dim" in found.sentence.en


def test_the_command_says_it_in_both_languages_and_ends_with_its_status(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["systems", "--check", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["recipe"] == "z-image"
    assert {row["state"] for row in facts["components"]} == {"read"}
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert run(["systems", "--check", str(folder), "--language", "zh"]) == WeightsError.exit_status
    out = capsys.readouterr().out
    assert "diffusers.AutoencoderKL" in out
    assert "缺少这些部件的文件：vae" in out
    assert run(["systems", "--check", str(folder / "vae")]) == WeightsError.exit_status
    assert "model_index.json" in capsys.readouterr().err


def test_what_is_no_folder_of_diffusers_is_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    for path, error, told in (
        (file, RequestError, f"is a file.*: -m {file}"),
        (tmp_path / "none", RequestError, "there is no folder"),
        (tmp_path, WeightsError, "has no model_index.json"),
    ):
        with pytest.raises(error, match=told):
            check(path)


def test_the_pipelines_that_are_read_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["systems", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    row = {"pipeline": "ZImagePipeline", "denoiser": "ZImageTransformer2DModel", "text_encoders": "Qwen3Model"}
    assert row in rows
    assert run(["systems"]) == 0
    assert "ZImageTransformer2DModel" in capsys.readouterr().out
