"""Which systems there are and where their weights lie: recipes by name, folders, the bundle, the hub's local cache."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimo.core import part, weights
from bimo.core.errors import BimoError, RecipeError, WeightsError
from bimo.core.recipe import Recipe

if TYPE_CHECKING:
    from types import ModuleType

    from bimo.diffusion.system import System

DEFAULT_MODEL = "xiaomo"
BUNDLES = Path(__file__).resolve().parent.parent / "bundled"
RECIPE_FILE = "recipe.json"
INDEX_FILE = "model_index.json"
#: What is fetched of a hub repository: everything a diffusers folder needs, nothing twice.
WANTED = ["*.json", "*.txt", "*.model", "*.safetensors", "*.bin"]
UNWANTED = ["*.fp16.*", "*.non_ema.*", "*.msgpack", "*.ckpt", "safety_checker/*", "flax_*", "openvino_*", "*.onnx"]
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def recipes() -> dict[str, Recipe]:
    """Every recipe of this package by its name, sorted."""
    import bimo.recipes as room

    modules = [importlib.import_module(f"{room.__name__}.{info.name}") for info in pkgutil.iter_modules(room.__path__)]
    found = {value.name: value for module in modules for value in _values(module)}
    return dict(sorted(found.items()))


def recipe(name: str | Path) -> Recipe:
    """The recipe of a name, ``./mine.py:name``, a JSON file or a model's folder. Raises RecipeError, WeightsError."""
    text = str(name)
    file, _, value = text.rpartition(":") if re.search(r"\.py:[^/\\]*$", text) else (text, "", "")
    if file.endswith(".py"):
        return _of_python(Path(file), value)
    path = Path(text).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.is_file() or path.suffix == ".json":
        return _as_recipe(weights.read_recipe(path), path)
    every = recipes()
    text = text.removeprefix("recipes/")
    if text in every:
        return every[text]
    zh, en = part.meant(text, every)
    raise RecipeError(f"没有叫 {text!r} 的配方{zh}", f"there is no recipe called {text!r}{en}")


def found(recipe: Recipe) -> Path | None:
    """The folder on this machine that holds a recipe's weights: the bundle or the hub's cache; None where none does."""
    bundle = BUNDLES / recipe.weights.bundle
    if recipe.weights.bundle and (bundle / RECIPE_FILE).is_file():
        return bundle
    if recipe.weights.repo:
        from huggingface_hub import try_to_load_from_cache

        for file in (INDEX_FILE, RECIPE_FILE):
            cached = try_to_load_from_cache(recipe.weights.repo, file)
            if isinstance(cached, str):
                return Path(cached).parent
    return None


def load(name: str | Path, *, stored: bool = False) -> System:
    """A system ready to draw: a folder, a recipe's name, or ``owner/name`` on the Hugging Face hub.

    Its weights are turned to float32; with ``stored`` they stay as they lie in their files.
    A hub repository is taken from the local cache, else fetched unless HF_HUB_OFFLINE is set. Raises WeightsError that
    says which files belong where, RecipeError for a name nobody knows.
    """
    text = str(name)
    path = Path(text).expanduser()
    if path.is_dir():
        return _read(path, stored)
    if path.exists() and path.suffix != ".py":
        raise WeightsError(
            f"{path} 是单个文件；请给出整个模型文件夹（里面有 {RECIPE_FILE} 或 {INDEX_FILE}）",
            f"{path} is a single file; name the whole folder of the model (with {RECIPE_FILE} or {INDEX_FILE} in it)",
        )
    if not path.exists() and (text.startswith((".", "~", os.sep)) or path.is_absolute()):
        raise WeightsError(f"没有文件夹 {text}", f"there is no folder {text}")
    if _HUB_NAME.fullmatch(text) and ".py" not in text:
        known = next((r for r in recipes().values() if r.weights.repo == text), None)
        return _read(fetch(text), stored) if known is None else _published(_read(fetch(text), stored), known)
    wanted = recipe(text)
    folder = found(wanted)
    if folder is not None and folder.is_relative_to(BUNDLES):
        return _read(folder, stored)
    if wanted.weights.repo:
        return _published(_read(fetch(wanted.weights.repo), stored), wanted)
    raise WeightsError(
        f"配方 {wanted.name} 没有可用的权重；请先训练（bimo train {wanted.name} --data 数据 --out 目录），"
        "再用 -m 指定那个文件夹",
        f"there are no weights for the recipe {wanted.name}; train it (bimo train {wanted.name} --data DIR --out RUN) "
        "and name the folder with -m",
    )


def fetch(repo: str) -> Path:
    """The local snapshot of a hub repository, fetched where it is not in the cache. Raises WeightsError."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        local = Path(snapshot_download(repo, local_files_only=True, allow_patterns=WANTED, ignore_patterns=UNWANTED))
        if (local / INDEX_FILE).is_file() or (local / RECIPE_FILE).is_file():
            return local
    except (LocalEntryNotFoundError, OSError, ValueError):
        pass
    if constants.HF_HUB_OFFLINE:
        raise _unreachable(repo, "HF_HUB_OFFLINE=1")
    try:
        return Path(snapshot_download(repo, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except BimoError:
        raise
    # The hub's client raises whatever its HTTP library of the day does; each means that nothing came.
    except Exception as error:
        raise _unreachable(repo, f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}") from None


def _unreachable(repo: str, why: str) -> WeightsError:
    return WeightsError(
        f"取不到 {repo} 的权重（{why}）；联网后再试，或在别处下载该仓库（{INDEX_FILE} 以及 unet、vae、"
        "text_encoder、tokenizer、scheduler 等文件夹），放进同一个文件夹，再用 -m 文件夹 指定",
        f"cannot get the weights of {repo} ({why}); try again with a network, or download the repository elsewhere "
        f"({INDEX_FILE} and the folders unet, vae, text_encoder, tokenizer, scheduler ...) into one folder and name it "
        "with -m FOLDER",
    )


def _read(folder: Path, stored: bool) -> System:
    import torch

    dtype = None if stored else torch.float32
    if (folder / RECIPE_FILE).is_file():
        from bimo.diffusion.system import System

        return System.read(folder, dtype)
    if (folder / INDEX_FILE).is_file():
        return _diffusers().read_folder(folder, dtype)
    raise _no_model(folder)


def _published(system: System, wanted: Recipe) -> System:
    """A system as its recipe names it; how it is built stays as the folder says."""
    facts = ("name", "title", "paper", "licence", "languages", "source", "stages", "weights", "request", "note")
    system.recipe = dataclasses.replace(system.recipe, **{fact: getattr(wanted, fact) for fact in facts})
    return system


def _of_folder(folder: Path) -> Recipe:
    if (folder / RECIPE_FILE).is_file():
        return _as_recipe(weights.read_recipe(folder / RECIPE_FILE), folder / RECIPE_FILE)
    if (folder / INDEX_FILE).is_file():
        return _as_recipe(_diffusers().recipe_of(folder), folder)
    raise _no_model(folder)


def _diffusers() -> Any:
    return importlib.import_module("bimo.parts.published.folder")


def _no_model(folder: Path) -> WeightsError:
    return WeightsError(
        f"{folder} 里没有模型：应有 {RECIPE_FILE}（bimo 的模型）或 {INDEX_FILE}（diffusers 的模型）",
        f"{folder} holds no model: expected {RECIPE_FILE} (a model of bimo) or {INDEX_FILE} (a model of diffusers)",
    )


def _of_python(file: Path, name: str) -> Recipe:
    if not file.is_file():
        raise RecipeError(f"没有文件 {file}", f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(f"bimo_recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise RecipeError(f"{file} 不是 Python 文件", f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BimoError:
        raise
    # The file is the user's own program: whatever it raises is told as it is.
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        raise RecipeError(f"配方 {file} 运行出错：{told}", f"the recipe {file} fails: {told}") from error
    values = [v for v in vars(module).values() if isinstance(v, Recipe)]
    named = {n: v for n, v in vars(module).items() if isinstance(v, Recipe)} | {v.name: v for v in values}
    if not named:
        raise RecipeError(f"{file} 里没有配方", f"there is no recipe in {file}")
    if not name and len({id(v) for v in values}) == 1:
        return values[0]
    if name in named:
        return named[name]
    zh, en = part.meant(name, named)
    raise RecipeError(f"{file} 里没有配方 {name!r}{zh}", f"{file} has no recipe {name!r}{en}")


def _as_recipe(value: object, path: Path) -> Recipe:
    if not isinstance(value, Recipe):
        raise RecipeError(f"{path} 不是配方", f"{path} is not a recipe")
    return value


def _values(module: ModuleType) -> Iterator[Recipe]:
    return (value for value in vars(module).values() if isinstance(value, Recipe))
