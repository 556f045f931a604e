"""Finds recipes and weights: recipes by name, model folders, the bundled model, the hub's local cache."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
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
from bimo.core.weight_formats import SUFFIXES, is_gguf, refuse_absent
from bimo.hub.download import MODELSCOPE, TEXT_ENCODER_FILES, cached, fetch, show_terms
from bimo.models.layouts.layout import Layout, layouts

if TYPE_CHECKING:
    from types import ModuleType

    import torch

    from bimo.diffusion.system import System

DEFAULT_MODEL = "xiaomo"
_XIAOMO = Path(__file__).resolve().parent.parent / "xiaomo"
#: The folders of the models that come with the package.
BUNDLES = {"xiaomo": _XIAOMO / "weights", "xiaomo-2": _XIAOMO / "second"}
RECIPE_FILE = "recipe.json"
WEIGHTS_FILE = "weights.safetensors"
INDEX_FILE = "model_index.json"
#: Names of the denoiser's component in diffusers' folders.
DENOISERS = ("unet", "transformer")
#: The rows of `bimo list`, as importing all recipes takes seconds; written by `make index`.
INDEX = Path(__file__).resolve().parent.parent / "recipes" / "index.json"
LISTED = ("name", "title", "source", "licence", "languages", "weights")
PLACES = ("repo", "modelscope", "vision", "refiner", "bundle")
#: What a second level shares with the first, so that its weights are not fetched again.
SHARED = ("text_encoder",)
#: Suffixes of single-file checkpoints.
_HUB_NAME = re.compile(r"(?:modelscope:)?[A-Za-z0-9][\w.-]*/[\w.-]+")


def recipes() -> dict[str, Recipe]:
    """Every recipe of this package by its name, sorted."""
    import bimo.recipes as package

    names = [f"{package.__name__}.{info.name}" for info in pkgutil.iter_modules(package.__path__)]
    modules = [importlib.import_module(name) for name in (*names, "bimo.xiaomo.recipe", "bimo.xiaomo.second_edition")]
    by_name = {value.name: value for module in modules for value in _values(module)}
    return dict(sorted(by_name.items()))


def listed() -> dict[str, Recipe]:
    """As ``recipes``, but with the fields in the index only; imports no recipe and no torch."""
    rows: list[dict[str, Any]] = json.loads(INDEX.read_text(encoding="utf-8"))
    fields: list[dict[str, Any]] = [part.load(row) | {"weights": Published(**row["weights"])} for row in rows]
    return {values["name"]: Recipe(**values) for values in fields}


def index() -> str:
    """The text of the index, generated from the recipes."""
    rows = [{fact: getattr(recipe, fact) for fact in LISTED} for recipe in recipes().values()]
    for row in rows:
        row["weights"] = {k: v for k, v in dataclasses.asdict(row["weights"]).items() if k in PLACES and v}
    return json.dumps(rows, ensure_ascii=False, indent=1) + "\n"


def recipe(name: str | Path) -> Recipe:
    """The recipe with a name, of ``./mine.py:name``, a JSON file, a model's folder or a single-file checkpoint.

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
    refuse_absent(path, text)
    known = recipes()
    text = text.removeprefix("recipes/")
    if text in known:
        return known[text]
    near = part.meant(text, known)
    raise RecipeError("there is no recipe called {text!r}{near} (all of them: bimo list)", text=text, near=near)


def local_folder(recipe: Recipe) -> Path | None:
    """The local folder of a recipe's weights, in the package or the hub's cache; None if they are not here."""
    if (bundle := bundled(recipe.weights.bundle)) is not None:
        return bundle
    if recipe.weights.vision:
        both = [cached(repo, TEXT_ENCODER_FILES) for repo in (recipe.weights.repo, recipe.weights.vision)]
        return both[0] if all(both) else None
    if recipe.weights.refiner:
        both = [cached(repo) for repo in (recipe.weights.repo, recipe.weights.refiner)]
        return both[0] if all(both) else None
    if recipe.weights.repo:
        return cached(recipe.weights.repo)
    return None


def bundled(name: str) -> Path | None:
    """The folder of a bundled model, None if there is none of that name; imports no recipe."""
    folder = BUNDLES.get(name)
    return folder if folder is not None and (folder / RECIPE_FILE).is_file() else None


def load(
    name: str | Path,
    *,
    stored: bool = False,
    denoiser: Path | None = None,
    text_encoder: Path | None = None,
    blocks: bool = False,
) -> System:
    """Loads a system from a folder, a single file, a recipe's name, or ``owner/name`` on the Hugging Face hub
    (``modelscope:owner/name`` on ModelScope). Weights are converted to float32, with ``stored`` kept in their dtype.
    ``denoiser`` and ``text_encoder`` are GGUF files that replace the model's own; with ``blocks`` their weights stay
    quantised. If ``name`` is a GGUF file of a denoiser, the other components are those of its family's recipe.

    Tried in this order: a path, the bundled model, the hub's local cache, Hugging Face, ModelScope; nothing is
    downloaded while HF_HUB_OFFLINE is set. Licence terms are shown on first use. Raises WeightsError that says which
    files belong where, RecipeError for an unknown name.
    """
    text = str(name)
    path = Path(text).expanduser()
    if path.is_file() and is_gguf(path):
        if denoiser is not None:
            raise WeightsError(
                "-m {path} is a denoiser, and so is --denoiser {file}; name one", path=path, file=denoiser
            )
        return load(_gguf(path).recipe, stored=stored, denoiser=path, text_encoder=text_encoder, blocks=blocks)
    if denoiser is not None or text_encoder is not None:
        return _with_gguf(path, text, denoiser, text_encoder, stored, blocks)
    if path.is_dir():
        return _read(path, stored)
    if path.is_file() and path.suffix.lower() not in (".json", ".py"):
        # The format is detected by the first bytes, not by the suffix.
        return _single().read_file(path, _numbers(stored))
    if path.exists() and path.suffix != ".py":
        raise WeightsError(
            "{path} is no model; name a model's folder (with {recipe_file} or {index_file} in it), or a file "
            "that ends in {files}",
            path=path,
            recipe_file=RECIPE_FILE,
            index_file=INDEX_FILE,
            files=" ".join(SUFFIXES),
        )
    refuse_absent(path, text)
    if (bundle := bundled(text)) is not None:
        return _read(bundle, stored)
    if _HUB_NAME.fullmatch(text) and ".py" not in text:
        known = next((r for r in recipes().values() if text in _addresses(r)), None)
        if known is not None and known.weights.vision:
            return load(known.name, stored=stored)
        return _read(fetch(text), stored) if known is None else _published(_read(fetch(text), stored), known)
    target = recipe(text)
    folder = local_folder(target)
    if folder is not None and folder in BUNDLES.values():
        return _read(folder, stored)
    if target.weights.vision:
        folders = [fetch(repo, indices=TEXT_ENCODER_FILES) for repo in (target.weights.repo, target.weights.vision)]
        return _published(_taiyi_clip().read_apart(*folders, _numbers(stored)), target)
    if target.weights.refiner:
        first, second = fetch(target.weights.repo), fetch(target.weights.refiner, without=SHARED)
        return _published(_diffusers().read_folder(first, _numbers(stored), second=second), target)
    if address := next(iter(_addresses(target)), ""):
        return _published(_read(fetch(address, target.weights.modelscope), stored, target), target)
    raise WeightsError(
        "there are no weights for the recipe {name}; train it (bimo train {name} --data DIR --out RUN) "
        "and name the folder with -m",
        name=target.name,
    )


def _with_gguf(
    path: Path, text: str, denoiser: Path | None, text_encoder: Path | None, stored: bool, blocks: bool
) -> System:
    """Loads a diffusers folder with the denoiser or a text encoder of a GGUF file. Weights of the folder's own ones are
    not downloaded.
    """
    for option, file in (("--denoiser", denoiser), ("--text-encoder", text_encoder)):
        if file is not None and not (file.is_file() and is_gguf(file)):
            raise WeightsError("{option} is {file}; expected a file of GGUF", option=option, file=file)
    target = None if path.is_dir() else next((r for r in recipes().values() if text in (r.name, *_addresses(r))), None)
    address = next(iter(_addresses(target)), "") if target else text if _HUB_NAME.fullmatch(text) else ""
    second = None
    if target is not None and target.weights.refiner:
        address, second = target.weights.repo, fetch(target.weights.refiner, without=SHARED)
    folder = path if path.is_dir() else local_folder(target) if target else None
    words = None if text_encoder is None else _gguf_text(text_encoder, blocks)
    if folder is None and address:
        without = DENOISERS if denoiser is not None else ()
        if words is not None and target is not None:
            without = (*without, *_component(words, target))
        folder = fetch(address, target.weights.modelscope if target else "", without=without)
    if folder is None or not (folder / INDEX_FILE).is_file():
        raise WeightsError(
            "files of GGUF go with a folder in diffusers' layout (one with {index_file}), which {name} is not; name "
            "one with -m",
            index_file=INDEX_FILE,
            name=text,
        )
    network = None if denoiser is None else _gguf(denoiser, blocks)
    system = _diffusers().read_folder(folder, _numbers(stored), network, second, words)
    return system if target is None else _published(system, target)


def _component(words: Any, target: Recipe) -> tuple[str, ...]:
    """The component that a text encoder's file replaces; none if the folder's has pictures' half to give."""
    place: int = words.place(target.text_encoders)
    if getattr(target.text_encoders[place], "vision", None) is not None:
        return ()
    return ("text_encoder" if place == 0 else f"text_encoder_{place + 1}",)


def _read(folder: Path, stored: bool, target: Recipe | None = None) -> System:
    layout = _layout(folder)
    return layout.read(folder, *_base(layout, folder, target), dtype=_numbers(stored))


def _of_folder(folder: Path) -> Recipe:
    layout = _layout(folder)
    return layout.recipe_of(folder, *_base(layout, folder))


def _layout(folder: Path) -> Layout:
    """The layout of a folder, bimo's own first. Raises WeightsError if no layout claims it."""
    for layout in chain((OWN,), layouts()):
        if layout.claims(folder):
            return layout
    raise _no_model(folder)


def _base(layout: Layout, folder: Path, target: Recipe | None = None) -> tuple[Recipe, ...]:
    """The recipe that supplies what a folder's files do not contain, empty if they contain everything: ``target`` if
    the layout accepts it, else the layout's default.
    """
    names = layout.bases(folder)
    if target is not None and target.name.startswith(names):
        return (target,)
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
    """The addresses of a recipe's weights, as ``load`` takes them; none where they are made of two repositories, each
    of which is a system by itself.
    """
    if recipe.weights.refiner:
        return []
    modelscope = recipe.weights.modelscope
    return [*filter(None, (recipe.weights.repo,)), *(f"{MODELSCOPE}{name}" for name in (modelscope,) if name)]


def _numbers(stored: bool) -> torch.dtype | None:
    import torch

    return None if stored else torch.float32


def _published(system: System, target: Recipe) -> System:
    """Gives a loaded system the metadata of its recipe, and shows the licence terms on first use."""
    show_terms(target.title or target.name, target.weights.terms)
    facts = ("name", "title", "paper", "licence", "languages", "source", "stages", "weights", "request", "dtypes")
    facts = (*facts, "note")
    system.recipe = dataclasses.replace(system.recipe, **{fact: getattr(target, fact) for fact in facts})
    return system


def _taiyi_clip() -> Any:
    return importlib.import_module("bimo.models.clip.taiyi_layout")


def _diffusers() -> Any:
    return importlib.import_module("bimo.models.layouts.diffusers_folder")


def _gguf(path: Path, keep: bool = False) -> Any:
    return importlib.import_module("bimo.models.layouts.gguf_file").GgufDenoiser(path, keep)


def _gguf_text(path: Path, keep: bool = False) -> Any:
    return importlib.import_module("bimo.models.layouts.gguf_text").GgufTextEncoder(path, keep)


def _single() -> Any:
    return importlib.import_module("bimo.models.stable_diffusion.single_file")


def _no_model(folder: Path) -> WeightsError:
    files = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
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
    """The function ``./mine.py:name``, or all functions that ``./mine.py`` defines, by name. Raises RecipeError."""
    file, _, function = name.rpartition(":") if re.search(r"\.py:[^/\\]*$", name) else (name, "", "")
    module = _module(Path(file))
    defined = {n: v for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__}
    if not function:
        return defined
    if function not in defined:
        near = part.meant(function, defined) if defined else ""
        raise RecipeError("{file} has no function {function!r}{near}", file=file, function=function, near=near)
    return {function: defined[function]}


def _of_python(file: Path, name: str) -> Recipe:
    module = _module(file)
    values = [v for v in vars(module).values() if isinstance(v, Recipe)]
    by_name = {n: v for n, v in vars(module).items() if isinstance(v, Recipe)} | {v.name: v for v in values}
    if not by_name:
        raise RecipeError("there is no recipe in {file}", file=file)
    if not name and len({id(v) for v in values}) == 1:
        return values[0]
    if name in by_name:
        return by_name[name]
    near = part.meant(name, by_name)
    raise RecipeError("{file} has no recipe {name!r}{near}", file=file, name=name, near=near)


def _module(file: Path) -> ModuleType:
    """Imports a Python file of the user's. Raises RecipeError with the exception that it raises."""
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
    # The file is the user's own program: any exception is reported.
    except Exception as error:
        description = f"{type(error).__name__}: {error}"
        raise RecipeError("{file} fails: {reason}", file=file, reason=description) from error
    return module


def _as_recipe(value: object, path: Path) -> Recipe:
    if not isinstance(value, Recipe):
        raise RecipeError("{path} is not a recipe", path=path)
    return value


def _values(module: ModuleType) -> Iterator[Recipe]:
    return (value for value in vars(module).values() if isinstance(value, Recipe))
