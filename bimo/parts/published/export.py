"""Writes a system as others read it: a folder for diffusers' pipelines, or a single file for A1111 and ComfyUI.

What was written is read back by the reader of its family before it is put in its place: a system that the layout
cannot say whole is refused, with the field that would be lost.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bimo.core import weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.part import Part, dump
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.parts.published import ldm
from bimo.parts.published.folder import INDEX_FILE, STEMS, recipe_of

_NONE: list[str | None] = [None, None]
_PLAIN: dict[str, Any] = {"safety_checker": _NONE, "feature_extractor": _NONE, "image_encoder": _NONE}
_PLAIN["requires_safety_checker"] = False


@dataclass(frozen=True)
class Form:
    """A pipeline of diffusers: the classes of its denoiser and text towers, the denoiser's component, what is fixed."""

    pipeline: str
    denoiser: str
    towers: tuple[str, ...]
    masked: bool = False
    component: str = "unet"
    fixed: Mapping[str, Any] = field(default_factory=dict[str, Any])


_UNET, _ALT = "UNet2DConditionModel", "RobertaSeriesModelWithTransformation"
FORMS = (
    Form("StableDiffusionPipeline", _UNET, ("BertModel",), fixed=_PLAIN),
    Form("StableDiffusionPipeline", _UNET, ("CLIPTextModel",), fixed=_PLAIN),
    Form("StableDiffusionInpaintPipeline", _UNET, ("BertModel",), masked=True, fixed=_PLAIN),
    Form("StableDiffusionInpaintPipeline", _UNET, ("CLIPTextModel",), masked=True, fixed=_PLAIN),
    Form("StableDiffusionXLPipeline", _UNET, ("CLIPTextModel", "CLIPTextModelWithProjection")),
    # diffusers itself reads this one up to 0.30; its layout is that of the published folders.
    Form("AltDiffusionPipeline", _UNET, (_ALT,), fixed=_PLAIN),
    Form("StableDiffusionXLInpaintPipeline", _UNET, ("CLIPTextModel", "CLIPTextModelWithProjection"), masked=True),
    Form("ZImagePipeline", "ZImageTransformer2DModel", ("Qwen3Model",), component="transformer"),
    Form("CogView4Pipeline", "CogView4Transformer2DModel", ("GlmModel",), component="transformer"),
    Form("Lumina2Pipeline", "Lumina2Transformer2DModel", ("Gemma2Model",), component="transformer"),
)
#: Flow matching: what a folder's reader must find again of its times.
TIMES = ("shift", "dynamic", "curve", "base_length", "max_length", "base_shift", "max_shift", "grid", "terminal")
TOKENIZERS = {"BertModel": "BertTokenizer"}
CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
#: Ids of the end mark in the vocabularies of BERT, whose published configs do not say.
PIECES_END = 102
SETTINGS_FILE = "tokenizer_config.json"
BERT_MARKS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
#: OpenCLIP's encoders, which single files hold under its own names, have another activation than OpenAI's.
OPEN_CLIP_ACTIVATION = "gelu"
#: The logarithm of 100, where contrastive training ends; it is read by nobody and expected by some.
LOGIT_SCALE = 4.6052


def to_diffusers(system: System, folder: Path, dtype: torch.dtype | None = None) -> Path:
    """Writes a folder that the ``from_pretrained`` of its pipeline reads; floating tensors as ``dtype``.

    Raises RecipeError for a system that no pipeline of diffusers can draw, WeightsError where the folder is not empty.
    """
    form = _form(system)
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise WeightsError(f"{folder} 已经有东西；请给一个新文件夹", f"{folder} is not empty; name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bimo-", dir=folder.parent) as made:
        built = Path(made) / "built"
        index: dict[str, Any] = {"_class_name": form.pipeline, "_diffusers_version": _version(), **form.fixed}
        if len(form.towers) > 1:
            index["force_zeros_for_empty_prompt"] = system.recipe.levels[0].guide.null == "unsaid"
        for name, tower in zip(("text_encoder", "text_encoder_2"), system.towers, strict=False):
            index[name] = _write_tower(built / name, tower, dtype)
        level: Any = system.level(system.recipe.levels[0].name)
        for name, model in ((form.component, level.denoiser.model), ("vae", level.space.model)):
            index[name] = _write_model(built / name, model, dtype)
        for name, tower in zip(("tokenizer", "tokenizer_2"), system.towers, strict=False):
            index[name] = ["transformers", _write_words(built / name, tower)]
        sampler: Any = level.schedule.sampler(level.recipe.sampler, 1)
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
    form = _form(system)
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
        state |= _tower_state(tower, index, len(form.towers) > 1)
    prediction = "v" if getattr(level.schedule, "prediction", "epsilon") == "v_prediction" else "epsilon"
    told = {"modelspec.sai_model_spec": "1.0.0", "modelspec.title": system.recipe.title or system.recipe.name}
    weights.write(path, state, dtype, {**told, "modelspec.prediction_type": prediction})
    for index, tower in enumerate(system.towers):
        _write_words(path.parent / f"{path.stem}.words.{index}", tower)
    return path


def _form(system: System) -> Form:
    recipe = system.recipe
    level: Any = system.level(recipe.levels[0].name)
    denoiser = type(getattr(level.denoiser, "model", level.denoiser)).__name__
    towers = tuple(_kind(tower) for tower in system.towers)
    masked = any(type(hint).__name__ == "Masked" for hint in recipe.levels[0].hints)
    for form in FORMS:
        if len(recipe.levels) == 1 and (form.denoiser, form.towers, form.masked) == (denoiser, towers, masked):
            return form
    parts = " + ".join((*towers, denoiser))
    raise RecipeError(
        f"diffusers 没有能画 {recipe.name}（{parts}，{len(recipe.levels)} 级）的管线；请用 --to bimo",
        f"no pipeline of diffusers draws {recipe.name} ({parts}, {len(recipe.levels)} levels); use --to bimo",
    )


def _kind(tower: Any) -> str:
    """The class of the library's model that a tower of ours wraps."""
    kind = type(getattr(tower, "model", tower)).__name__
    if kind == "Transformed":
        return _ALT
    return f"{kind}WithProjection" if getattr(tower, "projection", None) is not None else kind


def _write_model(folder: Path, model: Any, dtype: torch.dtype | None) -> list[str]:
    """Writes a module of diffusers as it would itself; answers (library, class)."""
    folder.mkdir(parents=True)
    model.save_config(str(folder))
    weights.write(folder / f"{STEMS[1]}.safetensors", model.state_dict(), dtype)
    return ["diffusers", type(model).__name__]


def _write_tower(folder: Path, tower: Any, dtype: torch.dtype | None) -> list[str]:
    """Writes a tower's config and weights as transformers would; answers (library, class)."""
    folder.mkdir(parents=True)
    kind = _kind(tower)
    state: dict[str, Tensor] = tower.model.state_dict()
    config: dict[str, Any] = _config(tower) | {"architectures": [kind]}
    if kind in CLIP:
        config |= {"bos_token_id": None, "eos_token_id": _end(tower), "pad_token_id": tower.pad}
        if tower.projection is not None:
            config["projection_dim"] = tower.part.project
            state |= {"text_projection.weight": tower.projection.weight}
        state = _published(state)
    if kind in CLIP and tower.part.penultimate is True:
        # diffusers reads the last layer of a folder, so the layer that is not read is not written.
        config["num_hidden_layers"] -= 1
        state = {n: v for n, v in state.items() if f".layers.{config['num_hidden_layers']}." not in n}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    weights.write(folder / f"{STEMS[0]}.safetensors", state, dtype)
    return ["alt_diffusion" if kind == _ALT else "transformers", kind]


def _config(tower: Any) -> dict[str, Any]:
    """The config of a tower's model. BERT's and AltDiffusion's are our own and have none."""
    kind = _kind(tower)
    if kind not in ("BertModel", _ALT):
        return json.loads(tower.model.config.to_json_string(use_diff=False))
    from transformers import BertConfig

    part = tower.part
    config = BertConfig(
        vocab_size=part.vocab,
        hidden_size=part.width,
        num_hidden_layers=part.layers,
        num_attention_heads=part.heads,
        intermediate_size=part.feed,
        max_position_embeddings=part.positions,
        type_vocab_size=part.types,
        hidden_dropout_prob=part.dropout,
        attention_probs_dropout_prob=part.dropout,
    )
    more: dict[str, Any] = {}
    if kind == _ALT:
        more = {"model_type": "xlm-roberta", "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        more |= {"use_attention_mask": True, "project_dim": part.project, "has_pre_transformation": part.penultimate}
        more["layer_norm_eps"] = part.eps
    return json.loads(config.to_json_string(use_diff=False)) | more


def _end(tower: Any) -> int:
    """The id where CLIP pools: 2 stands for the largest token of a text, as configs of before 2023 have it."""
    if getattr(tower.part, "pool", "end") == "largest":
        return 2
    found = tower.words.token_to_id("<|endoftext|>") if tower.words is not None else None
    return PIECES_END if found is None else found


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
    if _kind(tower) == "BertModel":
        return _under("cond_stage_model.transformer.", state)
    if _kind(tower) == _ALT:
        return _under("cond_stage_model.", state)
    if pair and index == 0:
        return _under("conditioner.embedders.0.transformer.", _published(state))
    if not pair and model.config.hidden_act != OPEN_CLIP_ACTIVATION:
        return _under("cond_stage_model.transformer.", _published(state))
    layers = model.config.num_hidden_layers
    turned = ldm.open_clip_to_ldm(state, layers)
    if pair:
        projection = tower.projection.weight.T.contiguous()
        more = {"text_projection": projection, "logit_scale": torch.tensor(LOGIT_SCALE)}
        return _under("conditioner.embedders.1.model.", turned | more)
    if not tower.part.penultimate:
        # SD2's own files have one more layer, which nobody reads; those who read them count on it.
        last, after = (f"transformer.resblocks.{n}." for n in (layers - 1, layers))
        turned |= {n.replace(last, after): v for n, v in turned.items() if n.startswith(last)}
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
    one, other = ours.levels[0], theirs.levels[0]
    towers = [_read_alike(part) for part in ours.text]
    pairs: list[tuple[str, Part, Part]] = [
        *((f"text.{index}", part, read) for index, (part, read) in enumerate(zip(towers, theirs.text, strict=True))),
        *((field, getattr(one, field), getattr(other, field)) for field in ("space", "denoiser")),
    ]
    for name in ("betas", "start", "end", "count", "prediction", *TIMES):
        if getattr(one.schedule, name, None) != getattr(other.schedule, name, None):
            raise _lost(ours, f"schedule.{name}")
    if one.hints != other.hints:
        raise _lost(ours, "hints")
    for name, part, read in pairs:
        if part != read:
            kept, found = dump(part), dump(read)
            raise _lost(ours, f"{name}.{next(key for key in kept if kept[key] != found.get(key))}")


def _read_alike(part: Any) -> Any:
    """A tower as a folder holds it: without the last layer where that is not read."""
    if getattr(part, "penultimate", False) is True and type(part).__name__ == "ClipText":
        return replace(part, penultimate=False, layers=part.layers - 1)
    return part


def _lost(recipe: Recipe, field: str) -> RecipeError:
    return RecipeError(
        f"diffusers 的布局存不下 {recipe.name} 的 {field}，读回来会画得不同；请用 --to bimo",
        f"diffusers' layout cannot keep {field} of {recipe.name}: read back it would draw otherwise; use --to bimo",
    )


def _version() -> str:
    import diffusers

    return diffusers.__version__
