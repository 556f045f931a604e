"""Reads folders in diffusers' layout: the recipe by the configs, and the weights. Code in a folder is never run."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.hashing import LateDigest, late_table
from bimo.core.messages import Listed, say
from bimo.core.part import meant
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.diffusion.text_encoder import TextEncoder
from bimo.models.layouts.configs import Config, read_json
from bimo.models.layouts.gguf_file import GgufDenoiser
from bimo.models.layouts.layout import Layout
from bimo.models.layouts.pipelines import FAMILIES, family_of, other_task
from bimo.models.layouts.weight_files import files_of, variant_of
from bimo.models.text_encoders.clip import ClipTextEncoder

if TYPE_CHECKING:
    from bimo.models.layouts.gguf_text import GgufTextEncoder

INDEX_FILE = "model_index.json"
#: The subfolder of a second level's pipeline within the first's.
SECOND = "refiner"
#: The component of a denoiser in a folder, and the last part of its module's path in a system.
DENOISERS = ("unet", "transformer")


def same_name(name: str) -> str | None:
    """Keeps a tensor's name."""
    return name


@dataclass(frozen=True)
class Filling:
    """The tensors of a component's folder are for the module at ``module`` ("text.0.model") of the system."""

    component: str
    module: str
    rename: Callable[[str], str | None] = same_name


@dataclass(frozen=True)
class Reading:
    """The result of reading a folder: its recipe, the modules of its weights, and the folder of each text encoder's
    tokenizer, in order. ``configs`` are components of which only configs are read.
    """

    recipe: Recipe
    fillings: tuple[Filling, ...]
    tokenizers: tuple[str, ...]
    configs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Folder:
    """A folder with a model_index.json: component -> (library, class). ``second`` is the folder of a second level if it
    is not a subfolder.
    """

    path: Path
    pipeline: str
    classes: Mapping[str, tuple[str, str]]
    index: Mapping[str, Any]
    second: Path | None = None

    @classmethod
    def at(cls, path: Path) -> Folder:
        """The folder at a path. Raises WeightsError if it has no index."""
        index = read_json(path / INDEX_FILE)
        lists = {name: cast("list[object]", v) for name, v in index.items() if isinstance(v, list)}
        pairs = {name: (str(v[0]), str(v[1])) for name, v in lists.items() if len(v) == 2}
        present = {name: pair for name, pair in pairs.items() if pair[0] != "None"}
        return cls(path, str(index.get("_class_name")), present, index)

    def config(self, component: str) -> Config:
        """A component's config.json. Raises WeightsError if it is missing or damaged."""
        path = self.path / component / "config.json"
        return Config(path, read_json(path))

    def demand(self, component: str, library: str, classes: Sequence[str]) -> str:
        """The class of a component. Raises RecipeError if it is not one of ``classes``."""
        library_and_class = self.classes.get(component, (None, None))
        if library_and_class[0] != library or library_and_class[1] not in classes:
            wanted = " / ".join(f"{library}.{cls}" for cls in classes)
            at = self.path / INDEX_FILE
            raise RecipeError(
                "{component} of {at} is {found}.{found_2}; supported is {wanted}; code of a folder is never run",
                component=component,
                at=at,
                found=library_and_class[0],
                found_2=library_and_class[1],
                wanted=wanted,
            )
        return str(library_and_class[1])


def is_folder(path: Path) -> bool:
    """Whether a folder is in diffusers' layout."""
    return (path / INDEX_FILE).is_file()


def recipe_of(path: Path) -> Recipe:
    """The recipe of a folder, by model_index.json and the configs only; ``note`` is the reason.

    Raises WeightsError for missing or damaged files, RecipeError for an unsupported pipeline. Code in the folder is
    never run.
    """
    return reading_of(path).recipe


def read_folder(
    path: Path,
    dtype: torch.dtype | None = torch.float32,
    denoiser: GgufDenoiser | None = None,
    second: Path | None = None,
    text_encoder: GgufTextEncoder | None = None,
) -> System:
    """The system in a folder; ``weights_hash`` is the SHA-256 over the names and hashes of its files. The folder needs
    no weights for what comes from another file, ``denoiser`` or ``text_encoder``. ``second`` is the folder of a second
    level, if that is not the subfolder ``refiner``.

    Raises WeightsError for weights that are missing, truncated, misshapen or contain code, RecipeError as
    ``recipe_of``.
    """
    reading = reading_of(path, second)
    fillings = [f for f in reading.fillings if denoiser is None or f.component not in DENOISERS]
    place = None if text_encoder is None else text_encoder.place(reading.recipe.text_encoders)
    fillings = [f for f in fillings if f.module != f"text.{place}.model"]
    files = {filling.component: files_of(path / filling.component) for filling in fillings}
    with module_weights.unfilled():
        system = System(reading.recipe)
    # Hashing is done on demand: drawing's metadata needs it, loading does not.
    system.files = tuple(dict.fromkeys(file for found in files.values() for file in found))
    system.weights_hash = late_table(path, system.files, {} if second is None else {SECOND: second})
    if denoiser is not None:
        module = next(f.module for f in reading.fillings if f.component in DENOISERS)
        denoiser.fill(system.get_submodule(module), dtype)
        _add_file(system, denoiser.path)
    if text_encoder is not None and place is not None:
        text_encoder.fill(system.text_encoders[place], dtype)
        _add_file(system, text_encoder.path)
    for filling in fillings:
        state: dict[str, Tensor] = {}
        for file in files[filling.component]:
            state |= checkpoint_io.renamed(checkpoint_io.read(file, dtype), filling.rename)
        modules = {filling.module: state}
        if filling.module == f"text.{place}":
            modules = _but_model(system.get_submodule(filling.module), filling.module, state)
        for module, own in modules.items():
            module_weights.assign(system.get_submodule(module), own, dtype, files[filling.component][0])
    for encoder, folder in zip(system.text_encoders, reading.tokenizers, strict=True):
        load_tokenizer(encoder, path / folder)
    return system.eval()


def _but_model(encoder: nn.Module, path: str, state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of a text encoder's modules except the language model (that is, of its vision encoder), if the
    language model comes from another file.
    """
    children = [name for name, _ in encoder.named_children() if name != "model"]
    return {
        f"{path}.{child}": {n.removeprefix(f"{child}."): v for n, v in state.items() if n.startswith(f"{child}.")}
        for child in children
    }


def _add_file(system: System, file: Path) -> None:
    """Adds a file to a system's files and their hash."""
    before, digest = system.hashed, LateDigest(file)
    system.weights_hash = lambda: hashlib.sha256(f"{before()}\n{digest()}".encode()).hexdigest()
    system.files = (*system.files, file)


def load_tokenizer(encoder: TextEncoder, folder: Path) -> None:
    """Loads a text encoder's tokenizer from a published folder. Raises WeightsError as the encoder does, and if CLIP's
    BPE vocabulary has fewer tokens than the embedding has rows: then added tokens (Taiyi-XL's 8067 characters) are
    missing.
    """
    encoder.load_tokenizer(folder)
    if not isinstance(encoder, ClipTextEncoder) or encoder.part.words != "pairs":
        return
    count = encoder.tokenizer.get_vocab_size(with_added_tokens=True)
    if count < encoder.part.vocab:
        raise WeightsError(
            "the tokenizer of {folder} has {count} words, the text encoder {vocab}; added_tokens.json (the words "
            "that were added) is missing",
            folder=folder,
            count=count,
            vocab=encoder.part.vocab,
        )


def reading_of(path: Path, second: Path | None = None) -> Reading:
    """The recipe of a folder and the modules of its files. Raises RecipeError and WeightsError as ``recipe_of``."""
    folder = replace(Folder.at(path), second=second)
    named, family = folder.pipeline, family_of(folder.pipeline)
    if family is None:
        raise _unsupported(folder)
    reader: Any = importlib.import_module(FAMILIES[family])
    reading: Reading = reader.reading(replace(folder, pipeline=family))
    note = reading.recipe.note
    if named != family:
        note += say("; its index says {named}, it draws as a {family}", named=named, family=family)
    used = {"scheduler", *(f.component for f in reading.fillings), *reading.tokenizers, *reading.configs}
    if beside := [name for name in folder.classes if name not in used]:
        note += say("; not loaded: {beside}", beside=Listed(beside))
    variants = [(f.component, variant_of(path / f.component)) for f in reading.fillings]
    if listed := ", ".join(f"{component} {variant}" for component, variant in variants if variant):
        note += say("; of variants, as there is nothing else: {listed}", listed=listed)
    return replace(reading, recipe=replace(reading.recipe, note=note))


def _unsupported(folder: Folder) -> RecipeError:
    at, named = folder.path / INDEX_FILE, folder.pipeline
    if purpose := other_task(named):
        return RecipeError(
            "{at} is a {named}, which {purpose}: weights like that do not draw from words here; name a folder "
            "of the same family that draws from words",
            at=at,
            named=named,
            purpose=purpose,
        )
    near = meant(named, FAMILIES)
    return RecipeError("{at} is a {named}, which is not supported{near}", at=at, named=named, near=near)


LAYOUT = Layout(is_folder, recipe_of, read_folder)
