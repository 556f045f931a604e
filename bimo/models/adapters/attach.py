"""Attaches control networks and IP-Adapters to a built system."""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.hashing import LateDigest
from bimo.core.messages import Listed
from bimo.core.part import Part
from bimo.core.recipe import Level
from bimo.diffusion.conditioner import Conditioner
from bimo.diffusion.system import System
from bimo.models.adapters.control_conditioner import Control
from bimo.models.adapters.control_files import check_widths, read_control
from bimo.models.adapters.controlnet import (
    Controlled,
    ControlNet,
    ControlPart,
    HunyuanControlNet,
    T2iAdapter,
    copy_weights,
)
from bimo.models.adapters.ip_adapter import ImagePrompted, Resampled, adapter_state
from bimo.models.adapters.ip_adapter_conditioner import ImagePrompt
from bimo.models.adapters.lora_merging import (
    adapt,
    adapters,
    carry_over,
    kept_tensors,
    lora_weights,
    stepwise,
    touched,
    unadapt,
)
from bimo.models.adapters.lora_names import root_of
from bimo.models.adapters.lora_tensors import finite
from bimo.models.adapters.transformer_controlnets import (
    MASK_CHANNELS,
    QwenControlNet,
    ZImageControlNet,
    controlnet_for,
)
from bimo.models.hunyuan_dit.denoiser import Hunyuan
from bimo.models.layouts.configs import FORMER_TEXT, NO_EFFECT_TEXT, Config, defaults_of, plain, read_json
from bimo.models.layouts.diffusers_folder import files_of
from bimo.models.qwen_image.denoiser import QwenImage
from bimo.models.spaces import ClipImage
from bimo.models.stable_diffusion.unet import Unet
from bimo.models.z_image.denoiser import ZImage

__all__ = [
    "adapt",
    "adapters",
    "begin_control",
    "control",
    "image_prompt",
    "kept_tensors",
    "lora_weights",
    "stepwise",
    "touched",
    "unadapt",
]

#: Fields of a ControlNet's config that its network does not use.
UNUSED = {
    *("addition_embed_type_num_heads", "activation_fn", "num_attention_heads"),
    # Of Qwen-Image's, copied from its transformer's config.
    *("pooled_projection_dim", "guidance_embeds", "patch_size"),
}
#: The supported diffusers classes, with the denoiser that each belongs to.
KNOWN = (
    *("ControlNetModel", "HunyuanDiT2DControlNetModel", "QwenImageControlNetModel", "ZImageControlNetModel"),
    "T2IAdapter",
)


def control(system: System, folder: Path | str, name: str = "control", level: str = "") -> System:
    """The system with a ControlNet or T2I-Adapter attached to its denoiser, from a diffusers folder or from a file with
    diffusers' or the authors' names. A request passes its picture as ``condition_images[name]`` and, unless it is 1, a
    weight as ``conditions[name]``.

    Tensors are shared with the given system, not copied; a LoRA merged into it stays merged. Raises WeightsError for an
    adapter of another family, RecipeError for an unknown one.
    """
    path = Path(folder)
    within = _innermost(system, level)
    state: dict[str, Tensor] = {}
    if path.is_file():
        read = read_control(checkpoint_io.read(path), within, path)
        files, part, state = [path], read.part, dict(read.state)
    else:
        files = files_of(path)
        part = _adapter(_config(path), within)
        for file in files:
            state |= checkpoint_io.read(file)
    finite(files[0], state)
    return _beside(system, part, name, level, state, files)


def begin_control(system: System, name: str = "control", level: str = "") -> System:
    """The system with a new ControlNet for training, a copy of the denoiser's first half with zero-initialised
    outputs.
    """
    within = _innermost(system, level)
    part: Any = controlnet_for(within)
    if part is None:
        kind = type(within).__name__
        raise RecipeError("there is no ControlNet for a {kind}", kind=kind)
    module = part.build()
    copy_weights(system.get_submodule(root_of(system, level)), module.model)
    return _beside(system, part, name, level, module.model.state_dict(), ())


def image_prompt(
    system: System, file: Path | str, encoder: Path | str | None = None, name: str = "prompt", level: str = ""
) -> System:
    """The system with an IP-Adapter in its UNet (plain, Plus or full), and the image encoder that it needs: a
    transformers folder, or the one next to the file as published. A request passes a picture as
    ``condition_images[name]``, and a weight as ``conditions[name]``. A system may have several with different names.

    As ``control`` in what is shared and what is raised.
    """
    file = Path(file)
    within = _innermost(system, level)
    if not isinstance(within, Unet):
        kind = type(within).__name__
        raise RecipeError("no IP-Adapter goes into a {kind}, only a Unet", kind=kind)
    published = checkpoint_io.read(file)
    finite(file, published)
    words: int = within.settings()["cross_attention_dim"]
    projection = _projection(published, words, file)
    place = encoder_beside(file, published) if encoder is None else Path(encoder)
    image_encoder = _image_encoder(_config(place))
    _check_encoder_width(image_encoder, published, file, place)
    old = system.recipe.level(level or system.recipe.levels[-1].name)
    inside, at = _within_controls(old)
    part = ImagePrompted(denoiser=inside, encoder=image_encoder, name=name, **projection)
    root = root_of(system, level)
    state = adapter_state(system.get_submodule(root), published, f"denoiser.{root.removeprefix(at)}.")
    files = files_of(place)
    for each in files:
        tensors = checkpoint_io.read(each)
        # Older files contain the position ids.
        state |= {f"encoder.model.{key}": value for key, value in tensors.items() if not key.endswith("position_ids")}
    conditioner = ImagePrompt(name=name, level=_home(old))
    return _rebuilt(system, old, _within(old.denoiser, part), conditioner, at, state, (file, *files))


def encoder_beside(file: Path, published: Mapping[str, Tensor]) -> Path:
    """The image encoder published next to an IP-Adapter, with a matching width. Raises WeightsError."""
    above = file.resolve().parent
    places = [above / "image_encoder", above.parent / "image_encoder", above.parent / "models" / "image_encoder"]
    there = [place for place in places if (place / "config.json").is_file()]
    field, width = _encoder_field(published)
    for place in there:
        if read_json(place / "config.json").get(field) == width:
            return place
    raise WeightsError(
        "{file} needs a CLIP image encoder with {field} {width}, which is not in {places}; name its folder with "
        "--image-encoder",
        file=file,
        field=field,
        width=width,
        places=Listed(there or places),
    )


def _encoder_field(published: Mapping[str, Tensor]) -> tuple[str, int]:
    """The output of an image encoder that an IP-Adapter reads: a field of its config, and its width."""
    if "image_proj.proj.weight" in published:
        return "projection_dim", published["image_proj.proj.weight"].shape[1]
    name = "image_proj.proj.0.weight" if "image_proj.proj.0.weight" in published else "image_proj.proj_in.weight"
    return "hidden_size", published[name].shape[1]


def _check_encoder_width(image_encoder: ClipImage, published: Mapping[str, Tensor], file: Path, place: Path) -> None:
    field, width = _encoder_field(published)
    own_width = image_encoder.embed if field == "projection_dim" else image_encoder.width
    if own_width != width:
        raise WeightsError(
            "{field} of {place} is {found}, while {file} needs {width}; name another encoder with --image-encoder",
            field=field,
            place=place,
            found=own_width,
            file=file,
            width=width,
        )


def _config(folder: Path) -> Config:
    return Config(folder / "config.json", read_json(folder / "config.json"))


def _hash(before: Callable[[], str], files: Sequence[Path]) -> Callable[[], str]:
    every = [before, *(LateDigest(file) for file in files)]
    return (lambda: hashlib.sha256("\n".join(one() for one in every).encode()).hexdigest()) if files else before


def _home(level: Level) -> str:
    """The level whose space encodes the pixels of a level."""
    return level.space if isinstance(level.space, str) else level.name


def _innermost(system: System, level: str) -> Part:
    part: Any = system.recipe.level(level or system.recipe.levels[-1].name).denoiser
    while isinstance(part, (Controlled, ImagePrompted)):
        part = part.denoiser
    return part


def _within_controls(level: Level) -> tuple[Any, str]:
    """The denoiser to which control networks are attached, and the prefix of its names."""
    part, at = level.denoiser, f"{level.name}.denoiser."
    while isinstance(part, Controlled):
        part, at = part.denoiser, f"{at}denoiser."
    return part, at


def _within(outer: Part, part: Part) -> Part:
    """Replaces the denoiser to which control networks are attached in a part."""
    return replace(outer, denoiser=_within(outer.denoiser, part)) if isinstance(outer, Controlled) else part


def _beside(
    system: System, part: ControlPart, name: str, level: str, state: Mapping[str, Tensor], files: Sequence[Path]
) -> System:
    old = system.recipe.level(level or system.recipe.levels[-1].name)
    conditioner = part.conditioner(name, _home(old))
    denoiser = Controlled(denoiser=old.denoiser, adapter=part, name=name)
    named = {f"adapter.model.{key}": value for key, value in state.items()}
    return _rebuilt(system, old, denoiser, conditioner, f"{old.name}.denoiser.", named, files)


def _rebuilt(
    system: System,
    old: Level,
    denoiser: Part,
    conditioner: Control | ImagePrompt,
    at: str,
    state: Mapping[str, Tensor],
    files: Sequence[Path],
) -> System:
    """The system with another denoiser: the parameters below ``at`` move below its ``denoiser.``, ``state`` is
    added, from ``files`` if it was read. Its LoRAs and its small decoder stay.
    """
    if conditioner.name in {each.name for each in cast("tuple[Conditioner, ...]", old.conditioners)}:
        raise RecipeError("there is a condition {name!r} already; name the adapter otherwise", name=conditioner.name)
    new = replace(old, denoiser=denoiser, conditioners=(*old.conditioners, conditioner))
    levels = tuple(new if each is old else each for each in system.recipe.levels)
    with module_weights.unfilled():
        rebuilt = System(replace(system.recipe, levels=levels))
    rebuilt.files, rebuilt.tiny_space = system.files, system.tiny_space
    dtype = next(iter(system.parameters())).dtype

    def below(key: str) -> str:
        return f"{at}denoiser.{key.removeprefix(at)}" if key.startswith(at) else key

    state_ = {below(key): value for key, value in system.state_dict().items()}
    if isinstance(conditioner, ImagePrompt):
        # Attention to an earlier IP-Adapter's picture is nested within the new processors.
        state_ = {key.replace(".attn2.processor.", ".attn2.processor.own."): value for key, value in state_.items()}
    state_ |= {f"{at}{key}": value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    module_weights.assign(rebuilt, state_, None, files[0] if files else Path(conditioner.name))
    rebuilt.text = system.text  # including tokenizers
    rebuilt.weights_hash = _hash(system.hashed, files)
    carry_over(system, rebuilt, below, lambda before: _hash(before, files))
    return rebuilt.train(system.training)


def _adapter(config: Config, within: Part) -> ControlPart:
    """The part for a denoiser by an adapter's config."""
    import diffusers

    kind = str(config.fields.get("_class_name"))
    expected: dict[str, Any]
    if kind == "ControlNetModel" and isinstance(within, Unet):
        expected = {**within.settings(), "in_channels": within.channels}
        own = {"picture": "conditioning_channels", "embedding": "conditioning_embedding_out_channels"}
        own |= {"order": "controlnet_conditioning_channel_order", "pooled": "global_pool_conditions"}
        read = _read(config, diffusers.ControlNetModel, expected, own)
        return ControlNet(unet=within, **read)
    if kind == "HunyuanDiT2DControlNetModel" and isinstance(within, Hunyuan):
        expected = {**within.settings(), "transformer_num_layers": within.layers}
        _read(config, diffusers.HunyuanDiT2DControlNetModel, expected, {"": "conditioning_channels"})
        return HunyuanControlNet(hunyuan=within)
    if kind == "QwenImageControlNetModel" and isinstance(within, QwenImage):
        own = {"layers": "num_layers", "extra": "extra_condition_channels"}
        read = _read(config, diffusers.QwenImageControlNetModel, within.settings(), own)
        if read["extra"] not in (0, MASK_CHANNELS):
            raise RecipeError(
                "{path} looks at {found} channels besides those of x; a ControlNet of Qwen-Image has 0, or 4 of a mask",
                path=config.path,
                found=read["extra"],
            )
        return QwenControlNet(qwen=within, layers=read["layers"], masked=bool(read["extra"]))
    if kind == "ZImageControlNetModel" and isinstance(within, ZImage):
        own = {"places": "control_layers_places", "channels": "control_in_dim"}
        own |= {"refiner": "add_control_noise_refiner", "refiner_places": "control_refiner_layers_places"}
        read = _read(config, diffusers.ZImageControlNetModel, within.control_settings(), own)
        settings: dict[str, Any] = {**read, "refiner": read["refiner"] or "", "channels": read["channels"] or 16}
        settings["refiner_places"] = read["refiner_places"] or ()
        return ZImageControlNet(z_image=within, **settings)
    if kind == "T2IAdapter" and isinstance(within, Unet):
        own = {"picture": "in_channels", "blocks": "num_res_blocks", "factor": "downscale_factor"}
        read = _read(config, diffusers.T2IAdapter, {}, own | {"kind": "adapter_type", "widths": "channels"})
        fields: dict[str, Any] = {**read, "widths": tuple(read["widths"])}
        part = T2iAdapter(**fields)
        check_widths(part, within, config.path)
        return part
    known = " / ".join(KNOWN)
    name = type(within).__name__
    raise RecipeError(
        "{path} is a {kind}, which cannot stand beside a {name}; supported are {known}, each beside its own",
        path=config.path,
        kind=kind,
        name=name,
        known=known,
    )


def _read(config: Config, cls: type, expected: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, Any]:
    """The adapter's own fields; those that it shares with its denoiser must be equal."""
    defaults = defaults_of(cls)
    values = {name: plain(config.fields.get(name, defaults.get(name))) for name in expected}
    wrong = [
        f"{name} {values[name]}≠{plain(value)}" for name, value in expected.items() if values[name] != plain(value)
    ]
    # Sample sizes have no effect, and neither do heads that are given twice.
    wrong = [each for each in wrong if not each.startswith("sample_size ")]
    if wrong:
        listed = "; ".join(wrong)
        raise WeightsError("{path} is an adapter of another family: {listed}", path=config.path, listed=listed)
    carried = {*expected, *own.values(), "sample_size"}
    read = config.of(defaults, carried, UNUSED)
    return {name: read[field] for name, field in own.items() if name}


def _projection(state: Mapping[str, Tensor], words: int, file: Path) -> dict[str, Any]:
    """The number of tokens of an IP-Adapter for a picture, and its projection, by the shapes of its tensors."""
    plain, latents = state.get("image_proj.proj.weight"), state.get("image_proj.latents")
    if plain is not None:
        return {"tokens": plain.shape[0] // words}
    if "image_proj.proj.3.weight" in state:
        return {"full": True}
    others = {"image_proj.perceiver_resampler.": "FaceID Plus", "image_proj.proj.0.": "FaceID"}
    others["image_proj.pulid"] = "PuLID"
    for begins, kind in others.items():
        if any(name.startswith(begins) for name in state):
            raise RecipeError(
                "{file} is an IP-Adapter {kind}, which needs a network that recognises faces; it is not read",
                file=file,
                kind=kind,
            )
    try:
        assert latents is not None
        depth = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("image_proj.layers."))
        inner = state["image_proj.layers.0.0.to_q.weight"].shape[0]
        feed = state["image_proj.layers.0.1.1.weight"].shape[0] // latents.shape[2]
    except (AssertionError, KeyError, ValueError):
        raise WeightsError(
            "{file} is no IP-Adapter, plain or Plus: it has neither image_proj.proj nor image_proj.latents", file=file
        ) from None
    head = 64 if inner % 64 == 0 else inner
    plus = Resampled(width=latents.shape[2], depth=depth, heads=inner // head, head=head, feed=feed)
    return {"tokens": latents.shape[1], "plus": plus}


def _image_encoder(config: Config) -> ClipImage:
    """The image encoder of a CLIPVisionModelWithProjection's config. Raises RecipeError."""
    from transformers import CLIPVisionConfig

    own = {
        "embed": "projection_dim",
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "feed": "intermediate_size",
        "size": "image_size",
        "patch": "patch_size",
        "activation": "hidden_act",
    }
    read = config.of({**FORMER_TEXT, **CLIPVisionConfig().to_dict()}, own.values(), NO_EFFECT_TEXT - {"projection_dim"})
    return ClipImage(**{name: read[field] for name, field in own.items()})
