"""Which systems there are and where their weights lie: recipes by name, folders, the bundle, the hub's local cache."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bimo.core import checkpoint_io, part
from bimo.core.errors import BimoError, RecipeError, WeightsError
from bimo.core.messages import Listed
from bimo.core.recipe import Published, Recipe
from bimo.core.weight_formats import is_gguf
from bimo.hub.download import MODELSCOPE, TEXT_ENCODER_FILES, cached, fetch, show_terms
from bimo.models.layouts.layout import Layout, layouts

if TYPE_CHECKING:
    from types import ModuleType

    import torch

    from bimo.diffusion.system import System

DEFAULT_MODEL = "xiaomo"
#: A bundled model lies in the room of its own name.
BUNDLES = Path(__file__).resolve().parent.parent
BUNDLED = "weights"
RECIPE_FILE = "recipe.json"
WEIGHTS_FILE = "weights.safetensors"
INDEX_FILE = "model_index.json"
#: What a denoiser's component is called in diffusers' folders.
DENOISERS = ("unet", "transformer")
#: What `bimo list` says of each recipe, for which importing them all takes seconds: `make index` writes it.
INDEX = Path(__file__).resolve().parent.parent / "recipes" / "index.json"
LISTED = ("name", "title", "source", "licence", "languages", "weights")
PLACES = ("repo", "modelscope", "vision", "bundle")
#: Endings of single files of weights.
FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
_HUB_NAME = re.compile(r"(?:modelscope:)?[A-Za-z0-9][\w.-]*/[\w.-]+")


def recipes() -> dict[str, Recipe]:
    """Every recipe of this package by its name, sorted."""
    import bimo.recipes as room

    names = [f"{room.__name__}.{info.name}" for info in pkgutil.iter_modules(room.__path__)]
    modules = [importlib.import_module(name) for name in (*names, "bimo.xiaomo.recipe", "bimo.xiaomo.second_edition")]
    found = {value.name: value for module in modules for value in _values(module)}
    return dict(sorted(found.items()))


def listed() -> dict[str, Recipe]:
    """As ``recipes`` to look at: of each what the index has of it, without a module of theirs or torch imported."""
    rows: list[dict[str, Any]] = json.loads(INDEX.read_text(encoding="utf-8"))
    fields: list[dict[str, Any]] = [part.load(row) | {"weights": Published(**row["weights"])} for row in rows]
    return {values["name"]: Recipe(**values) for values in fields}


def index() -> str:
    """The text of the index, made of the recipes anew."""
    rows = [{fact: getattr(recipe, fact) for fact in LISTED} for recipe in recipes().values()]
    for row in rows:
        row["weights"] = {k: v for k, v in dataclasses.asdict(row["weights"]).items() if k in PLACES and v}
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"


def recipe(name: str | Path) -> Recipe:
    """The recipe of a name, ``./mine.py:name``, a JSON file, a model's folder or single file of weights.

    Raises RecipeError, WeightsError.
    """
    text = str(name)
    file, _, value = text.rpartition(":") if re.search(r"\.py:[^/\\]*$", text) else (text, "", "")
    if file.endswith(".py"):
        return _of_python(Path(file), value)
    path = Path(text).expanduser()
    if path.is_dir():
        return _of_folder(path)
    if path.suffix.lower() == ".json":
        return _as_recipe(checkpoint_io.read_recipe(path), path)
    if path.is_file() and is_gguf(path):
        return recipe(_gguf(path).recipe)
    if path.is_file():
        return _as_recipe(_single().recipe_of_file(path), path)
    every = recipes()
    text = text.removeprefix("recipes/")
    if text in every:
        return every[text]
    near = part.meant(text, every)
    raise RecipeError("there is no recipe called {text!r}{near} (all of them: bimo list)", text=text, near=near)


def found(recipe: Recipe) -> Path | None:
    """The folder on this machine that holds a recipe's weights: the bundle or the hub's cache; None where none does."""
    bundle = BUNDLES / recipe.weights.bundle / BUNDLED
    if recipe.weights.bundle and (bundle / RECIPE_FILE).is_file():
        return bundle
    if recipe.weights.vision:
        both = [cached(repo, TEXT_ENCODER_FILES) for repo in (recipe.weights.repo, recipe.weights.vision)]
        return both[0] if all(both) else None
    if recipe.weights.repo:
        return cached(recipe.weights.repo)
    return None


def bundled(name: str) -> Path | None:
    """The bundle of a name, None where there is none; no recipe is imported to find it."""
    folder = BUNDLES / name / BUNDLED
    return folder if re.fullmatch(r"[\w-]+", name) and (folder / RECIPE_FILE).is_file() else None


def load(name: str | Path, *, stored: bool = False, denoiser: Path | None = None, blocks: bool = False) -> System:
    """A system ready to draw: a folder, a single file, a recipe's name, or ``owner/name`` on the Hugging Face hub
    (``modelscope:owner/name`` on ModelScope). Its weights become float32, or with ``stored`` stay as in their files.
    ``denoiser`` is a file of GGUF in the place of the model's own; with ``blocks`` its matrices stay in their blocks. A
    ``name`` that is such a file is drawn with the other parts of its family's recipe.

    Looked for in this order: a path, the bundle, the hub's cache on this machine, Hugging Face, ModelScope; nothing is
    fetched while HF_HUB_OFFLINE is set. The terms of a licence are said on first use. Raises WeightsError that says
    which files belong where, RecipeError for a name nobody knows.
    """
    text = str(name)
    path = Path(text).expanduser()
    if denoiser is not None:
        return _with_denoiser(path, text, denoiser, stored, blocks)
    if path.is_dir():
        return _read(path, stored)
    if path.is_file() and is_gguf(path):
        return load(_gguf(path).recipe, stored=stored, denoiser=path, blocks=blocks)
    if path.is_file() and path.suffix.lower() not in (".json", ".py"):
        # Whatever its name ends in: what it is, or is not, stands in its first bytes.
        return _single().read_file(path, _numbers(stored))
    if path.exists() and path.suffix != ".py":
        raise WeightsError(
            "{path} is no model; name a model's folder (with {recipe_file} or {index_file} in it), or a file "
            "that ends in {files}",
            path=path,
            recipe_file=RECIPE_FILE,
            index_file=INDEX_FILE,
            files=" ".join(FILES),
        )
    if not path.exists() and (text.startswith((".", "~", os.sep)) or path.is_absolute()):
        raise WeightsError("there is no folder {text}", text=text)
    if (bundle := bundled(text)) is not None:
        return _read(bundle, stored)
    if _HUB_NAME.fullmatch(text) and ".py" not in text:
        known = next((r for r in recipes().values() if text in _addresses(r)), None)
        if known is not None and known.weights.vision:
            return load(known.name, stored=stored)
        return _read(fetch(text), stored) if known is None else _published(_read(fetch(text), stored), known)
    wanted = recipe(text)
    folder = found(wanted)
    if folder is not None and folder.is_relative_to(BUNDLES):
        return _read(folder, stored)
    if wanted.weights.vision:
        folders = [fetch(repo, indices=TEXT_ENCODER_FILES) for repo in (wanted.weights.repo, wanted.weights.vision)]
        return _published(_taiyi_clip().read_apart(*folders, _numbers(stored)), wanted)
    if address := next(iter(_addresses(wanted)), ""):
        return _published(_read(fetch(address, wanted.weights.modelscope), stored, wanted), wanted)
    raise WeightsError(
        "there are no weights for the recipe {name}; train it (bimo train {name} --data DIR --out RUN) "
        "and name the folder with -m",
        name=wanted.name,
    )


def _with_denoiser(path: Path, text: str, file: Path, stored: bool, blocks: bool) -> System:
    """The system of a folder of diffusers' layout, its denoiser out of a file of GGUF. Weights of its own denoiser are
    not fetched.
    """
    if not file.is_file() or not is_gguf(file):
        raise WeightsError("--denoiser is {file}; expected a file of GGUF", file=file)
    wanted = None if path.is_dir() else next((r for r in recipes().values() if text in (r.name, *_addresses(r))), None)
    address = next(iter(_addresses(wanted)), "") if wanted else text if _HUB_NAME.fullmatch(text) else ""
    folder = path if path.is_dir() else found(wanted) if wanted else None
    if folder is None and address:
        folder = fetch(address, wanted.weights.modelscope if wanted else "", without=DENOISERS)
    if folder is None or not (folder / INDEX_FILE).is_file():
        raise WeightsError(
            "a denoiser of GGUF goes with a folder in diffusers' layout (one with {index_file}), which {name} is not; "
            "name one with -m",
            index_file=INDEX_FILE,
            name=text,
        )
    system = _diffusers().read_folder(folder, _numbers(stored), _gguf(file, blocks))
    return system if wanted is None else _published(system, wanted)


def _read(folder: Path, stored: bool, wanted: Recipe | None = None) -> System:
    layout = _layout(folder)
    return layout.read(folder, *_base(layout, folder, wanted), dtype=_numbers(stored))


def _of_folder(folder: Path) -> Recipe:
    layout = _layout(folder)
    return layout.recipe_of(folder, *_base(layout, folder))


def _layout(folder: Path) -> Layout:
    """The layout of a folder, bimo's own first. Raises WeightsError where it has none."""
    for layout in chain((OWN,), layouts()):
        if layout.claims(folder):
            return layout
    raise _no_model(folder)


def _base(layout: Layout, folder: Path, wanted: Recipe | None = None) -> tuple[Recipe, ...]:
    """The recipe with what the files of a folder do not say, nothing where they say all: the wanted one if it is of
    those that the folder may be read as, else the usual one.
    """
    names = layout.bases(folder)
    if wanted is not None and wanted.name.startswith(names):
        return (wanted,)
    return (recipes()[names[0]],) if names else ()


def _own_recipe(folder: Path) -> Recipe:
    return _as_recipe(checkpoint_io.read_recipe(folder / RECIPE_FILE), folder / RECIPE_FILE)


def _read_own(folder: Path, dtype: torch.dtype | None) -> System:
    if not (folder / WEIGHTS_FILE).is_file():
        from bimo.training.unfinished import is_unfinished, read_unfinished

        if is_unfinished(folder):
            return read_unfinished(folder)
    from bimo.diffusion.system import System

    return System.read(folder, dtype)


#: A folder that ``bimo train`` or ``System.save`` wrote.
OWN = Layout(lambda folder: (folder / RECIPE_FILE).is_file(), _own_recipe, _read_own)


def _addresses(recipe: Recipe) -> list[str]:
    """Where a recipe's weights were published, as they are asked for."""
    modelscope = recipe.weights.modelscope
    return [*filter(None, (recipe.weights.repo,)), *(f"{MODELSCOPE}{name}" for name in (modelscope,) if name)]


def _numbers(stored: bool) -> torch.dtype | None:
    import torch

    return None if stored else torch.float32


def _published(system: System, wanted: Recipe) -> System:
    """A system as its recipe names it; how it is built stays as the folder says. Its terms are said on first use."""
    show_terms(wanted.title or wanted.name, wanted.weights.terms)
    facts = ("name", "title", "paper", "licence", "languages", "source", "stages", "weights", "request", "dtypes")
    facts = (*facts, "note")
    system.recipe = dataclasses.replace(system.recipe, **{fact: getattr(wanted, fact) for fact in facts})
    return system


def _taiyi_clip() -> Any:
    return importlib.import_module("bimo.models.clip.taiyi_layout")


def _diffusers() -> Any:
    return importlib.import_module("bimo.models.layouts.diffusers_folder")


def _gguf(path: Path, keep: bool = False) -> Any:
    return importlib.import_module("bimo.models.layouts.gguf_file").GgufDenoiser(path, keep)


def _single() -> Any:
    return importlib.import_module("bimo.models.stable_diffusion.single_file")


def _no_model(folder: Path) -> WeightsError:
    files = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in FILES)
    if files:
        return WeightsError(
            "{folder} is no model's folder (no {recipe_file} or {index_file}), but there is {files}; if that "
            "is a whole model, name it: -m {folder_2}",
            folder=folder,
            recipe_file=RECIPE_FILE,
            index_file=INDEX_FILE,
            files=Listed(files[:4]),
            folder_2=folder / files[0],
        )
    return WeightsError(
        "{folder} holds no model: expected {recipe_file} (a model of bimo) or {index_file} (a model of diffusers)",
        folder=folder,
        recipe_file=RECIPE_FILE,
        index_file=INDEX_FILE,
    )


def functions(name: str) -> dict[str, Callable[..., Any]]:
    """The function of ``./mine.py:name``, or all that ``./mine.py`` defines, by name. Raises RecipeError."""
    file, _, wanted = name.rpartition(":") if re.search(r"\.py:[^/\\]*$", name) else (name, "", "")
    module = _module(Path(file))
    found = {n: v for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__}
    if not wanted:
        return found
    if wanted not in found:
        near = part.meant(wanted, found) if found else ""
        raise RecipeError("{file} has no function {wanted!r}{near}", file=file, wanted=wanted, near=near)
    return {wanted: found[wanted]}


def _of_python(file: Path, name: str) -> Recipe:
    module = _module(file)
    values = [v for v in vars(module).values() if isinstance(v, Recipe)]
    named = {n: v for n, v in vars(module).items() if isinstance(v, Recipe)} | {v.name: v for v in values}
    if not named:
        raise RecipeError("there is no recipe in {file}", file=file)
    if not name and len({id(v) for v in values}) == 1:
        return values[0]
    if name in named:
        return named[name]
    near = part.meant(name, named)
    raise RecipeError("{file} has no recipe {name!r}{near}", file=file, name=name, near=near)


def _module(file: Path) -> ModuleType:
    """A Python file of the user's, run. Raises RecipeError that tells what it raises."""
    if not file.is_file():
        raise RecipeError("there is no file {file}", file=file)
    spec = importlib.util.spec_from_file_location(f"bimo_recipe_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise RecipeError("{file} is not a Python file", file=file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BimoError:
        raise
    # The file is the user's own program: whatever it raises is reported as it is.
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
        raise RecipeError("{file} fails: {told}", file=file, told=raised) from error
    return module


def _as_recipe(value: object, path: Path) -> Recipe:
    if not isinstance(value, Recipe):
        raise RecipeError("{path} is not a recipe", path=path)
    return value


def _values(module: ModuleType) -> Iterator[Recipe]:
    return (value for value in vars(module).values() if isinstance(value, Recipe))
