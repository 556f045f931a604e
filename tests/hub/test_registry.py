"""Where systems come from: names, files, folders; and what is said where there is none."""

import re
import sys
from pathlib import Path

import pytest

import bimo
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.part import dumps
from bimo.hub import registry

MINE = """
from bimo.core.recipe import Recipe
one = Recipe(name="first")
two = Recipe(name="second")
"""


def test_public_names_are_there() -> None:
    assert sorted(bimo.__all__) == ["Engine", "Picture", "Recipe", "Request", "draw", "load", "recipe"]
    assert all(getattr(bimo, name) is not None for name in bimo.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = bimo.nothing


def test_every_recipe_has_its_own_name() -> None:
    every = registry.recipes()
    assert "xiaomo" in every
    assert all(registry.recipe(name) is recipe for name, recipe in every.items())


def test_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        registry.recipe("xiaomoo")
    assert "did you mean xiaomo, xiaomo-2?" in caught.value.en
    assert "xiaomo" in caught.value.zh
    with pytest.raises(RecipeError, match="xiaomo"):
        registry.load("xiaomoo")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.gguf", "there is no file nowhere.gguf"),
        ("模型/无.ckpt", "there is no file 模型/无.ckpt"),
        ("./nowhere", "there is no folder ./nowhere"),
    ],
)
def test_what_can_only_be_a_path_is_no_name(name: str, said: str) -> None:
    for read in (registry.recipe, registry.load):
        with pytest.raises(WeightsError, match=f"^{re.escape(said)}$"):
            read(name)


def test_recipe_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(MINE, encoding="utf-8")
    assert registry.recipe(f"{file}:one").name == "first"
    assert registry.recipe(f"{file}:second").name == "second"
    for wrong in (f"{file}:three", str(file), f"{tmp_path}/none.py"):
        with pytest.raises(RecipeError):
            registry.recipe(wrong)
    file.write_text("1 / 0", encoding="utf-8")
    with pytest.raises(RecipeError, match="ZeroDivisionError"):
        registry.recipe(f"{file}:one")


def test_recipe_of_json_and_of_a_folder(tmp_path: Path, tiny_folder: Path) -> None:
    wanted = registry.recipe(tiny_folder)
    file = tmp_path / "mine.json"
    file.write_text(dumps(wanted), encoding="utf-8")
    assert registry.recipe(file) == wanted


def test_folder_without_a_model(tmp_path: Path) -> None:
    for read in (registry.load, registry.recipe):
        with pytest.raises(WeightsError, match=r"recipe\.json"):
            read(tmp_path)


def test_file_that_is_no_model(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"name the folder|文件夹"):
        registry.load(tiny_folder / "weights.safetensors")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(WeightsError, match=r"\.safetensors"):
        registry.load(tmp_path / "notes.txt")
    with pytest.raises(WeightsError):
        registry.load("./none/of/this")


def test_folder_with_a_single_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"model\.ckpt"):
        registry.load(tmp_path)


def test_hub_out_of_reach_says_which_files_belong_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        registry.load("nobody/nothing")
    assert "model_index.json" in caught.value.en
    assert "nobody/nothing" in caught.value.zh


def test_a_system_is_loaded_and_draws(tiny_folder: Path) -> None:
    engine = bimo.load(tiny_folder)
    first, second = (bimo.draw(engine, "红苹果", seed=3, steps=2)[0] for _ in range(2))
    assert first.png() == second.png()
    assert first.weights == engine.system.weights_hash != ""


def test_importing_the_package_is_light() -> None:
    import subprocess

    code = "import sys, bimo; bimo.Request; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.slow
def test_published_weights_go_by_the_name_of_their_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import PNDMScheduler

    from tests.support.tiny_checkpoints import checkpoint

    checkpoint(tmp_path / "0123abcd", "bert", PNDMScheduler(skip_prk_steps=True, steps_offset=1))
    monkeypatch.setattr(registry, "fetch", lambda repo, modelscope="": tmp_path / "0123abcd")
    wanted = registry.recipe("taiyi-sd-zh")
    for name in (wanted.name, wanted.weights.repo):
        system = registry.load(name)
        assert (system.recipe.name, system.recipe.request) == (wanted.name, wanted.request)
        assert system.recipe.levels != wanted.levels
    assert registry.load("somebody/else").recipe.weights.repo == ""
