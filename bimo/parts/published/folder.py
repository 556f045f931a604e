"""Reads a folder in diffusers' layout: what system it is, by what stands in its configs, and its weights as data."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core import weights
from bimo.core.errors import RecipeError, WeightsError, say
from bimo.core.fingerprint import late_table
from bimo.core.part import meant
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.parts.published.configs import Config, read_json

#: Where each pipeline of diffusers is read: a module with ``reading(folder) -> Reading``.
FAMILIES = {
    "StableDiffusionPipeline": "bimo.parts.published.stable_diffusion",
    "AltDiffusionPipeline": "bimo.parts.published.stable_diffusion",
    "HunyuanDiTPipeline": "bimo.parts.published.hunyuan_dit",
    "StableDiffusionInpaintPipeline": "bimo.parts.published.stable_diffusion",
    "StableDiffusionXLPipeline": "bimo.parts.published.stable_diffusion_xl",
    "StableDiffusionXLInpaintPipeline": "bimo.parts.published.stable_diffusion_xl",
    "KolorsPipeline": "bimo.parts.published.kolors",
    "KolorsInpaintPipeline": "bimo.parts.published.kolors",
    "ZImagePipeline": "bimo.parts.published.flow",
    "QwenImagePipeline": "bimo.parts.published.flow",
    "LongCatImagePipeline": "bimo.parts.published.flow",
    "CogView4Pipeline": "bimo.parts.published.flow",
    "Lumina2Pipeline": "bimo.parts.published.lumina",
    "Lumina2Text2ImgPipeline": "bimo.parts.published.lumina",
}
INDEX_FILE = "model_index.json"
STEMS = ("model", "diffusion_pytorch_model", "pytorch_model")
#: What diffusers' pipelines load beside the system, and this package does not.
BESIDE = ("safety_checker", "feature_extractor", "image_encoder", "text_processor")


def same_name(name: str) -> str | None:
    """A tensor's name as it is."""
    return name


@dataclass(frozen=True)
class Filling:
    """The tensors of a component's folder go to the module at ``module`` ("text.0.model") of the system."""

    component: str
    module: str
    rename: Callable[[str], str | None] = same_name


@dataclass(frozen=True)
class Reading:
    """What a folder is: its recipe, where its weights go, and the folder of each tower's words, in their order."""

    recipe: Recipe
    fillings: tuple[Filling, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Folder:
    """A folder with a model_index.json: component -> (library, class)."""

    path: Path
    pipeline: str
    classes: Mapping[str, tuple[str, str]]
    index: Mapping[str, Any]

    @classmethod
    def at(cls, path: Path) -> Folder:
        """The folder at a path. Raises WeightsError where it has no index."""
        index = read_json(path / INDEX_FILE)
        pairs = {name: (str(v[0]), str(v[1])) for name, v in index.items() if isinstance(v, list) and len(v) == 2}
        present = {name: pair for name, pair in pairs.items() if pair[0] != "None"}
        return cls(path, str(index.get("_class_name")), present, index)

    def config(self, component: str) -> Config:
        """A component's config.json. Raises WeightsError where it is missing or damaged."""
        path = self.path / component / "config.json"
        return Config(path, read_json(path))

    def demand(self, component: str, library: str, classes: Sequence[str]) -> str:
        """The class of a component. Raises RecipeError where it is none of those supported."""
        found = self.classes.get(component, (None, None))
        if found[0] != library or found[1] not in classes:
            wanted = " / ".join(f"{library}.{cls}" for cls in classes)
            at = self.path / INDEX_FILE
            raise RecipeError(
                f"{at} 的 {component} 是 {found[0]}.{found[1]}，只支持 {wanted}；目录自带的代码一律不运行",
                f"{component} of {at} is {found[0]}.{found[1]}; supported is {wanted}; code of a folder is never run",
            )
        return str(found[1])


def recipe_of(path: Path) -> Recipe:
    """The recipe of a folder, from model_index.json and the configs alone; ``note`` says why it is taken for that.

    Raises WeightsError for missing or damaged files, RecipeError for what this package cannot draw. Code in the
    folder is never run.
    """
    return reading_of(path).recipe


def read_folder(path: Path, dtype: torch.dtype | None = torch.float32) -> System:
    """The system in a folder, ready to draw; ``weights_hash`` is the SHA-256 over the names and hashes of its files.

    Raises WeightsError for weights that are missing, truncated, misshapen or would run code, RecipeError as
    ``recipe_of``.
    """
    reading = reading_of(path)
    files = {filling.component: files_of(path / filling.component) for filling in reading.fillings}
    with weights.unfilled():
        system = System(reading.recipe)
    # A picture's record needs it, loading does not.
    system.weights_hash = late_table(path, {file for found in files.values() for file in found})
    for filling in reading.fillings:
        state: dict[str, Tensor] = {}
        for file in files[filling.component]:
            state |= weights.renamed(weights.read(file, dtype), filling.rename)
        weights.assign(system.get_submodule(filling.module), state, dtype, files[filling.component][0])
    for tower, folder in zip(system.towers, reading.words, strict=True):
        give_words(tower, path / folder)
    return system.eval()


def give_words(tower: Any, folder: Path) -> None:
    """Reads a tower's words from a published folder. Raises WeightsError as the tower does, and where CLIP's byte
    pairs are fewer than its rows: then the words that were added (Taiyi-XL's 8067 characters) are not there.
    """
    tower.load_words(folder)
    if getattr(tower.part, "words", "") != "pairs":
        return
    count = tower.words.get_vocab_size(with_added_tokens=True)
    if count < tower.part.vocab:
        raise WeightsError(
            f"{folder} 的分词器只有 {count} 个词，文本塔有 {tower.part.vocab} 个；缺少 added_tokens.json（新增的词）",
            f"the tokenizer of {folder} has {count} words, the tower {tower.part.vocab}; added_tokens.json (the words "
            "that were added) is missing",
        )


def files_of(folder: Path) -> list[Path]:
    """The files with a component's weights: one, or the parts that an index names. Raises WeightsError for none."""
    for ending in ("safetensors", "bin"):
        for stem in STEMS:
            if (folder / f"{stem}.{ending}").is_file():
                return [folder / f"{stem}.{ending}"]
            for index in (folder / f"{stem}.{ending}.index.json",):
                if index.is_file():
                    return _parts(index)
    found = sorted(p.name for p in folder.glob("*") if p.is_file())
    wanted = " / ".join(f"{stem}.safetensors" for stem in STEMS[:2])
    raise WeightsError(
        f"{folder} 里没有权重：应有 {wanted}（或 .bin），只有 {found}",
        f"no weights in {folder}: expected {wanted} (or .bin), found {found}",
    )


def _own_file(pipeline: str) -> str | None:
    """The reader of a pipeline with a file of its own name: OvisImagePipeline is read by ovis_image.py, which has it
    among its ``PIPELINES``.
    """
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", pipeline.removesuffix("Pipeline")).lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or not Path(__file__).with_name(f"{name}.py").is_file():
        return None
    place = f"{__package__}.{name}"
    return place if pipeline in getattr(importlib.import_module(place), "PIPELINES", ()) else None


def _parts(index: Path) -> list[Path]:
    table = read_json(index).get("weight_map")
    names = sorted({str(v) for v in cast("dict[str, Any]", table).values()}) if isinstance(table, dict) else []
    # A name in an index must not lead out of its folder.
    files = [index.parent / Path(name).name for name in names]
    absent = [file.name for file in files if not file.is_file()]
    if absent or not files:
        raise WeightsError(
            f"{index} 所列的文件不全，缺 {'、'.join(absent)}；请完整下载",
            f"files that {index} lists are missing: {', '.join(absent)}; download the folder whole",
        )
    return files


def reading_of(path: Path) -> Reading:
    """What a folder is and where its files go. Raises RecipeError and WeightsError as ``recipe_of``."""
    folder = Folder.at(path)
    place = FAMILIES.get(folder.pipeline) or _own_file(folder.pipeline)
    if place is None:
        zh, en = meant(folder.pipeline, FAMILIES)
        at = path / INDEX_FILE
        raise RecipeError(
            f"{at} 是 {folder.pipeline}，不支持{zh}", f"{at} is a {folder.pipeline}, which is not supported{en}"
        )
    family: Any = importlib.import_module(place)
    reading: Reading = family.reading(folder)
    beside = [name for name in BESIDE if name in folder.classes and name not in {f.component for f in reading.fillings}]
    if not beside:
        return reading
    note = say(f"；没有载入 {'、'.join(beside)}", f"; not loaded: {', '.join(beside)}")
    return replace(reading, recipe=replace(reading.recipe, note=reading.recipe.note + note))
