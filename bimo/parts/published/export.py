"""Writes a system as others read it: a folder for diffusers' pipelines, or a single file for A1111 and ComfyUI.

What was written is read back by the reader of its family before it is put in its place: a system that the layout
cannot say whole is refused, with the field that would be lost.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bimo.core import weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.part import Part, dump
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.parts.published import ldm
from bimo.parts.published.folder import INDEX_FILE, STEMS, recipe_of

#: Pipelines by the classes of the denoiser and of the text towers: name, the denoiser's component, what is fixed.
PIPELINES: dict[tuple[str, tuple[str, ...]], tuple[str, str, dict[str, Any]]] = {}
_SD: dict[str, Any] = {
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
}
for _tower in ("BertModel", "CLIPTextModel"):
    PIPELINES["UNet2DConditionModel", (_tower,)] = ("StableDiffusionPipeline", "unet", _SD)
PIPELINES["UNet2DConditionModel", ("CLIPTextModel", "CLIPTextModelWithProjection")] = (
    "StableDiffusionXLPipeline",
    "unet",
    {"feature_extractor": [None, None], "image_encoder": [None, None], "force_zeros_for_empty_prompt": True},
)
TOKENIZERS = {"BertModel": "BertTokenizer"}
CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
SETTINGS_FILE = "tokenizer_config.json"
BERT_MARKS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
#: Widths of OpenCLIP's encoders, which single files hold under its own names.
OPEN_CLIP_ACTIVATION = "gelu"


def to_diffusers(system: System, folder: Path, dtype: torch.dtype | None = None) -> Path:
    """Writes a folder that the ``from_pretrained`` of its pipeline reads; floating tensors as ``dtype``.

    Raises RecipeError for a system that no pipeline of diffusers can draw, WeightsError where the folder is not empty.
    """
    pipeline, denoiser, fixed = _pipeline(system)
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise WeightsError(f"{folder} 已经有东西；请给一个新文件夹", f"{folder} is not empty; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bimo-", dir=folder.parent) as made:
        built = Path(made) / "built"
        index: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": _version(), **fixed}
        for name, model in _components(system, denoiser):
            index[name] = _write_component(built / name, model, dtype)
        for name, tower in zip(("tokenizer", "tokenizer_2"), system.towers, strict=False):
            index[name] = ["transformers", _write_words(built / name, tower)]
        level = system.recipe.levels[0]
        sampler: Any = system.level(level.name).schedule.sampler(level.sampler, 1)
        sampler.save_config(str(built / "scheduler"))
        index["scheduler"] = ["diffusers", type(sampler).__name__]
        (built / INDEX_FILE).write_text(json.dumps(index, indent=2, ensure_ascii=False), encoding="utf-8")
        _whole(system.recipe, recipe_of(built))
        if folder.exists():
            folder.rmdir()
        shutil.move(built, folder)
    return folder


def to_single(system: System, path: Path, dtype: torch.dtype | None = None) -> Path:
    """Writes one .safetensors file in LDM's layout of SD1, SD2 or SDXL, and each tower's words in folders beside it.

    Raises RecipeError for a system of another layout, WeightsError where the file is there.
    """
    pipeline, _, _ = _pipeline(system)
    if path.exists():
        raise WeightsError(f"{path} 已经存在；请换一个名字", f"{path} is there already; name another file")
    level: Any = system.level(system.recipe.levels[0].name)
    unet, vae = level.denoiser.model, level.space.model
    config = unet.config
    depths = config.transformer_layers_per_block
    kinds = [kind.startswith("CrossAttn") for kind in config.down_block_types]
    each = [depths] * len(kinds) if isinstance(depths, int) else list(depths)
    blocks = ldm.Blocks(config.layers_per_block, tuple(d if k else 0 for d, k in zip(each, kinds, strict=True)))
    names = ldm.inverse(ldm.unet_names(blocks))
    state = _under(ldm.UNET, _mapped(unet.state_dict(), names))
    names = ldm.inverse(ldm.vae_names(len(vae.config.block_out_channels), vae.config.layers_per_block))
    state |= _under(ldm.VAE, ldm.vae_to_ldm(_mapped(vae.state_dict(), names)))
    for index, tower in enumerate(system.towers):
        state |= _tower_state(tower, index, pipeline == "StableDiffusionXLPipeline")
    prediction = "v" if getattr(level.schedule, "prediction", "epsilon") == "v_prediction" else "epsilon"
    told = {"modelspec.sai_model_spec": "1.0.0", "modelspec.title": system.recipe.title or system.recipe.name}
    weights.write(path, state, dtype, {**told, "modelspec.prediction_type": prediction})
    for index, tower in enumerate(system.towers):
        _write_words(path.parent / f"{path.stem}.words.{index}", tower)
    return path


def _pipeline(system: System) -> tuple[str, str, dict[str, Any]]:
    recipe = system.recipe
    level: Any = system.level(recipe.levels[0].name)
    key = (_kind(level.denoiser), tuple(_kind(tower) for tower in system.towers))
    if len(recipe.levels) != 1 or recipe.levels[0].hints or key not in PIPELINES:
        parts = " + ".join((*key[1], key[0]))
        raise RecipeError(
            f"diffusers 没有能画 {recipe.name}（{parts}，{len(recipe.levels)} 级）的管线；请用 --to bimo",
            f"no pipeline of diffusers draws {recipe.name} ({parts}, {len(recipe.levels)} levels); use --to bimo",
        )
    return PIPELINES[key]


def _kind(module: Any) -> str:
    """The class of the library's module that a module of ours wraps."""
    return type(getattr(module, "model", module)).__name__


def _components(system: System, denoiser: str) -> Iterator[tuple[str, nn.Module]]:
    level: Any = system.level(system.recipe.levels[0].name)
    for name, tower in zip(("text_encoder", "text_encoder_2"), system.text, strict=False):
        yield name, getattr(tower, "model")  # noqa: B009
    yield denoiser, level.denoiser.model
    yield "vae", level.space.model


def _write_component(folder: Path, model: Any, dtype: torch.dtype | None) -> list[str]:
    """Writes a module's config and weights as its library does; answers (library, class)."""
    folder.mkdir(parents=True)
    kind = type(model).__name__
    state = model.state_dict()
    if hasattr(model, "save_config"):
        model.save_config(str(folder))
        weights.write(folder / f"{STEMS[1]}.safetensors", state, dtype)
        return ["diffusers", kind]
    config = json.loads(model.config.to_json_string(use_diff=False)) | {"architectures": [kind]}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    weights.write(folder / f"{STEMS[0]}.safetensors", _published(state) if kind in CLIP else state, dtype)
    return ["transformers", kind]


def _published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLIP's tensors as every version of transformers knows them: below ``text_model``, the projection beside it."""
    plain = ("text_model.", "text_projection.")
    return {name if name.startswith(plain) else f"text_model.{name}": value for name, value in state.items()}


def _write_words(folder: Path, tower: Any) -> str:
    """Writes a tower's tokenizer as transformers reads it; answers its class."""
    tower.save_words(folder)
    path = folder / SETTINGS_FILE
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    cls = str(settings.get("tokenizer_class", TOKENIZERS.get(_kind(tower), "CLIPTokenizer")))
    marks = BERT_MARKS if cls.startswith("Bert") else {}
    settings = {**marks, "tokenizer_class": cls, "model_max_length": tower.part.length} | settings
    path.write_text(json.dumps(settings, indent=1, ensure_ascii=False), encoding="utf-8")
    return cls


def _tower_state(tower: Any, index: int, pair: bool) -> dict[str, Tensor]:
    """A tower's tensors under LDM's names."""
    model = tower.model
    state: dict[str, Tensor] = model.state_dict()
    if type(model).__name__ == "BertModel":
        return _under("cond_stage_model.transformer.", state)
    if not pair and model.config.hidden_act != OPEN_CLIP_ACTIVATION:
        return _under("cond_stage_model.transformer.", _published(state))
    if pair and index == 0:
        return _under("conditioner.embedders.0.transformer.", _published(state))
    layers = model.config.num_hidden_layers
    own = {name.removeprefix("text_model."): value for name, value in state.items()}
    turned = ldm.open_clip_to_ldm(own, layers)
    if pair:
        return _under("conditioner.embedders.1.model.", {**turned, "logit_scale": torch.tensor(4.6055)})
    if not tower.part.penultimate:
        # SD2's own files have one more layer, which nobody reads; those who read them count on it.
        last = f"transformer.resblocks.{layers - 1}."
        more = {n.replace(last, f"transformer.resblocks.{layers}."): v for n, v in turned.items() if n.startswith(last)}
        turned |= more
    return _under("cond_stage_model.model.", {**turned, "text_projection": torch.eye(model.config.hidden_size)})


def _mapped(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    turned = {ldm.renamed(name, names): value for name, value in state.items()}
    if None in turned or len(turned) != len(state):
        absent = [name for name in state if ldm.renamed(name, names) is None]
        raise RecipeError(
            f"单文件布局里没有这些张量的名字：{'、'.join(absent[:6])}",
            f"the layout of single files has no names for {', '.join(absent[:6])}",
        )
    return {str(name): value for name, value in turned.items()}


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def _whole(ours: Recipe, theirs: Recipe) -> None:
    """Raises RecipeError that names the first field which the layout did not keep."""
    pairs: list[tuple[str, Part, Part]] = []
    for index, (one, other) in enumerate(zip(ours.text, theirs.text, strict=True)):
        pairs.append((f"text.{index}", one, other))
    one, other = ours.levels[0], theirs.levels[0]
    for field in ("space", "denoiser"):
        pairs.append((field, getattr(one, field), getattr(other, field)))
    for field in ("betas", "start", "end", "count", "prediction"):
        if getattr(one.schedule, field, None) != getattr(other.schedule, field, None):
            raise _lost(ours, f"schedule.{field}")
    for name, part, read in pairs:
        if part != read:
            kept, found = dump(part), dump(read)
            raise _lost(ours, f"{name}.{next(key for key in kept if kept[key] != found.get(key))}")


def _lost(recipe: Recipe, field: str) -> RecipeError:
    return RecipeError(
        f"diffusers 的布局存不下 {recipe.name} 的 {field}，读回来会画得不同；请用 --to bimo",
        f"diffusers' layout cannot keep {field} of {recipe.name}: read back it would draw otherwise; use --to bimo",
    )


def _version() -> str:
    import diffusers

    return diffusers.__version__
