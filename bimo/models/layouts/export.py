"""Exports a system as a folder for diffusers' pipelines, or as a single file for A1111 and ComfyUI.

The recipe of every export is read back before the files are moved into place. If it differs, the export is refused,
with the name of the field that the layout cannot store.
"""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core import checkpoint_io
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.messages import Listed, Message
from bimo.core.part import Part, dump
from bimo.core.recipe import Recipe
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.system import System
from bimo.models.layouts.diffusers_folder import INDEX_FILE, recipe_of
from bimo.models.layouts.export_text_encoders import kind, published, write_text_encoder, write_tokenizer
from bimo.models.layouts.pipeline_form import ALT, Form
from bimo.models.layouts.pipelines import FAMILIES
from bimo.models.layouts.qwen_vision import write_processor
from bimo.models.layouts.weight_files import STEMS
from bimo.models.qwen_image.layered import LayeredPicture
from bimo.models.qwen_image.references import References
from bimo.models.stable_diffusion import ldm_names
from bimo.models.stable_diffusion.single_file import MARKS, PADS_KEY, recipe_of_file

#: Fields of a flow-matching schedule that must be equal after the export is read back.
TIMES = ("shift", "dynamic", "curve", "base_length", "max_length", "base_shift", "max_shift", "grid", "terminal")
FOLDER = Message("diffusers' layout")
SINGLE = Message("the layout of single files")
CLIP_VOCAB = 49408
#: The activation of OpenCLIP's encoders, whose names in single files differ from those of OpenAI's.
OPEN_CLIP_ACTIVATION = "gelu"
#: ln 100, CLIP's upper bound. No one computes with it, but some loaders require the tensor.
LOGIT_SCALE = 4.6052


def to_diffusers(system: System, folder: Path, dtype: torch.dtype | None = None) -> Path:
    """Writes a folder for ``from_pretrained`` of its pipeline, with floating-point tensors as ``dtype``.

    Raises RecipeError for a system that no pipeline of diffusers can draw, WeightsError if the folder is not empty.
    """
    form = _form(system)
    if folder.exists() and (folder.is_file() or any(folder.iterdir())):
        raise WeightsError("{folder} is not empty; name a new folder", folder=folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bimo-", dir=folder.parent) as made:
        built = Path(made) / "built"
        for place, part in (form.apart(system) if form.apart else {"": system}).items():
            _write(part, _form(part), built / place, dtype)
        _demand_equal(system.recipe, recipe_of(built))
        if folder.exists():
            folder.rmdir()
        shutil.move(built, folder)
    return folder


def to_single(system: System, path: Path, dtype: torch.dtype | None = None) -> Path:
    """Writes one .safetensors file in LDM's layout of SD1, SD2 or SDXL, and the tokenizers in folders next to it.

    Raises RecipeError for a system of another layout, WeightsError if the file exists.
    """
    form = _form(system)
    if not form.single:
        raise _no_single_file(system.recipe, form)
    if path.exists():
        raise WeightsError("{path} is there already; name another file", path=path)
    level: Any = system.level(system.recipe.levels[0].name)
    unet, vae = level.denoiser.model, level.space.model
    config = unet.config
    depths: Any = config.transformer_layers_per_block
    has_attention = [block.startswith("CrossAttn") for block in config.down_block_types]
    depths = [depths] * len(has_attention) if isinstance(depths, int) else list(depths)
    depths = tuple(depth if attention else 0 for depth, attention in zip(depths, has_attention, strict=True))
    blocks = ldm_names.Blocks(config.layers_per_block, depths)
    names = ldm_names.inverse(ldm_names.unet_names(blocks))
    state = _under(ldm_names.UNET, _mapped(unet.state_dict(), names))
    names = ldm_names.inverse(ldm_names.vae_names(len(vae.config.block_out_channels), vae.config.layers_per_block))
    state |= _under(ldm_names.VAE, ldm_names.vae_to_ldm(_mapped(vae.state_dict(), names)))
    for index, encoder in enumerate(system.text_encoders):
        state |= _text_encoder_state(encoder, index, len(form.text_encoders) > 1)
    schedule = cast(Ddpm, level.schedule)  # every form with a single file has it
    prediction = "v" if schedule.prediction == "v_prediction" else "epsilon"
    metadata = {"modelspec.sai_model_spec": "1.0.0", "modelspec.title": system.recipe.title or system.recipe.name}
    metadata |= {"modelspec.prediction_type": prediction}
    metadata |= {PADS_KEY: " ".join(str(encoder.pad) for encoder in system.text_encoders)}
    if schedule.zero_terminal:
        state |= {mark: torch.zeros(0) for mark in MARKS}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bimo-", dir=path.parent) as made:
        checkpoint_io.write(Path(made) / path.name, state, dtype, metadata)
        for index, encoder in enumerate(system.text_encoders):
            write_tokenizer(Path(made) / f"{path.stem}.words.{index}", encoder)
        _demand_equal(system.recipe, recipe_of_file(Path(made) / path.name), SINGLE)
        for built in sorted(Path(made).iterdir()):
            shutil.move(built, path.parent / built.name)
    return path


def _write(system: System, form: Form, folder: Path, dtype: torch.dtype | None) -> None:
    """Writes a system of one pipeline."""
    index: dict[str, Any] = {"_class_name": form.pipeline, "_diffusers_version": _version(), **form.fixed}
    if form.zeros:
        index["force_zeros_for_empty_prompt"] = (
            system.recipe.levels[-1].guidance.unconditional == "zeros_without_negative"
        )
    for name, encoder in zip(form.components, system.text_encoders, strict=False):
        if name:
            index[name] = write_text_encoder(folder / name, encoder, dtype)
    level: Any = system.level(system.recipe.levels[-1].name)
    for name, model in ((form.component, level.denoiser.model), ("vae", level.space.model)):
        index[name] = _write_model(folder / name, model, dtype)
    for name, encoder in zip(form.tokenizers, system.text_encoders, strict=False):
        index[name] = write_tokenizer(folder / name, encoder)
    if form.beside:
        index |= form.beside(system, folder, dtype)
    if form.processor and (form.references or form.layered):
        seeing: Any = system.text_encoders[0]
        write_tokenizer(folder / form.processor, seeing)
        index[form.processor] = write_processor(folder / form.processor, seeing.part.vision)
    guiders: Mapping[str, Any] = form.guiders(level.recipe.guidance) if form.guiders else {}
    for name, guider in guiders.items():
        guider.save_pretrained(str(folder / name))
        index[name] = ["diffusers", type(guider).__name__]
    sampler: Any = level.schedule.sampler(level.recipe.sampler, 2)
    sampler.scheduler.save_config(str(folder / "scheduler"))
    index["scheduler"] = ["diffusers", sampler.name]
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, ensure_ascii=False), encoding="utf-8")


def _form(system: System) -> Form:
    recipe = system.recipe
    last = recipe.levels[-1]
    level: Any = system.level(last.name)
    denoiser = type(level.denoiser.network).__name__
    encoders = tuple(kind(encoder) for encoder in system.text_encoders)
    masked = any(type(conditioner).__name__ == "Masked" for conditioner in last.conditioners)
    counts = [c.count for c in last.conditioners if isinstance(c, References)]
    layered = any(isinstance(c, LayeredPicture) for c in last.conditioners)
    wanted = (denoiser, encoders, masked, min(2, sum(counts)), layered)
    unsupported: Message | str = ""
    for form in forms():
        key = (form.denoiser, form.text_encoders, form.masked, form.references, form.layered)
        if len(recipe.levels) == form.levels and key == wanted:
            if form.unsupported is None:
                return form
            unsupported = form.unsupported
    parts = " + ".join((*encoders, denoiser))
    masking = Message(", with a mask") if masked else ""
    raise RecipeError(
        "no pipeline of diffusers draws {name} ({parts}, {count} levels{masking}){near}; use --to bimo",
        name=recipe.name,
        parts=parts,
        count=len(recipe.levels),
        masking=masking,
        near=unsupported,
    )


def forms() -> list[Form]:
    """The export forms of every family."""
    return [form for module in dict.fromkeys(FAMILIES.values()) for form in importlib.import_module(module).FORMS]


def _write_model(folder: Path, model: Any, dtype: torch.dtype | None) -> list[str]:
    """Writes a diffusers module's config and weights; returns (library, class)."""
    folder.mkdir(parents=True)
    model.save_config(str(folder))
    checkpoint_io.write(folder / f"{STEMS[1]}.safetensors", model.state_dict(), dtype)
    return ["diffusers", type(model).__name__]


def _text_encoder_state(encoder: Any, index: int, pair: bool) -> dict[str, Tensor]:
    """A text encoder's tensors under LDM's names."""
    model = encoder.model
    state: dict[str, Tensor] = model.state_dict()
    if kind(encoder) == "BertModel":
        return _under("cond_stage_model.transformer.", state)
    if kind(encoder) == ALT:
        return _under("cond_stage_model.", state)
    if pair and index == 0:
        return _under("conditioner.embedders.0.transformer.", published(state))
    if not pair and model.config.hidden_act != OPEN_CLIP_ACTIVATION:
        return _under("cond_stage_model.transformer.", published(state))
    layers = model.config.num_hidden_layers
    renamed = ldm_names.open_clip_to_ldm(state, layers)
    if pair:
        projection = encoder.projection.weight.T.contiguous()
        more = {"text_projection": projection, "logit_scale": torch.tensor(LOGIT_SCALE)}
        return _under("conditioner.embedders.1.model.", renamed | more)
    if not encoder.part.penultimate:
        # SD2's published files have one more layer, which is unused but required by loaders.
        last, after = (f"transformer.resblocks.{n}." for n in (layers - 1, layers))
        renamed |= {n.replace(last, after): v for n, v in renamed.items() if n.startswith(last)}
    return _under("cond_stage_model.model.", {**renamed, "text_projection": torch.eye(model.config.hidden_size)})


def _mapped(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    renamed = {ldm_names.renamed(name, names): value for name, value in state.items()}
    if None in renamed or len(renamed) != len(state):
        absent = [name for name in state if ldm_names.renamed(name, names) is None]
        raise RecipeError("the layout of single files has no names for {absent}", absent=Listed(absent[:6]))
    return {str(name): value for name, value in renamed.items()}


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def _demand_equal(recipe: Recipe, read_back: Recipe, layout: Message = FOLDER) -> None:
    """Raises RecipeError that names the first field which differs after reading back."""
    level, read_level = recipe.levels[-1], read_back.levels[-1]
    encoders = [_as_read_back(part, layout) for part in recipe.text_encoders]
    denoiser: Any = level.denoiser
    space: tuple[Any, Any] = level.space, read_level.space
    read_denoiser: Any = read_level.denoiser
    if layout == SINGLE:  # does not store the training size and the precision of attention, which do not change output
        denoiser = replace(denoiser, size=read_denoiser.size, upcast=read_denoiser.upcast)
    pairs: list[tuple[str, Part, Part]] = [
        *(
            (f"text.{index}", part, read)
            for index, (part, read) in enumerate(zip(encoders, read_back.text_encoders, strict=True))
        ),
        ("space", *space),
        ("denoiser", denoiser, read_denoiser),
    ]
    for earlier, read in zip(recipe.levels[:-1], read_back.levels[:-1], strict=True):
        pairs += [
            ("space", cast(Part, earlier.space), cast(Part, read.space)),
            ("denoiser", earlier.denoiser, read.denoiser),
            ("schedule", earlier.schedule, read.schedule),
        ]
    schedule, read_schedule = dump(level.schedule), dump(read_level.schedule)
    for name in ("beta_schedule", "beta_start", "beta_end", "count", "prediction", "zero_terminal", *TIMES):
        if schedule.get(name) != read_schedule.get(name):
            raise _lost(recipe, f"schedule.{name}", layout)
    if level.conditioners != read_level.conditioners:
        raise _lost(recipe, "conditioners", layout)
    for name, part, read in pairs:
        if part != read:
            fields, read_fields = dump(part), dump(read)
            field = next(key for key in fields if fields[key] != read_fields.get(key))
            raise _lost(recipe, f"{name}.{field}", layout)


def _as_read_back(part: Any, layout: Message) -> Any:
    """A text encoder as its export is read back: without the last layer if that is not used; in a single file pooled at
    the end-of-text token, the largest id of CLIP's vocabulary.
    """
    if type(part).__name__ != "ClipText":
        return part
    if layout == SINGLE and part.vocab == CLIP_VOCAB:
        part = replace(part, pool="end")
    return replace(part, penultimate=False, layers=part.layers - 1) if part.penultimate is True else part


def _lost(recipe: Recipe, field: str, layout: Message) -> RecipeError:
    return RecipeError(
        "{layout} cannot keep {field} of {name}: read back it would draw otherwise; use --to bimo",
        layout=layout,
        field=field,
        name=recipe.name,
    )


def _no_single_file(recipe: Recipe, form: Form) -> RecipeError:
    parts = " + ".join((*form.text_encoders, form.denoiser))
    return RecipeError(
        "the layout of single files of SD1, SD2 and SDXL has no names for the parts of {name} ({parts}); "
        "use --to diffusers or --to bimo",
        name=recipe.name,
        parts=parts,
    )


def _version() -> str:
    import diffusers

    return diffusers.__version__
